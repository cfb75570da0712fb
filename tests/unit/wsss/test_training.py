import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wsss.config import Training
from wsss.data import open_samples
from wsss.training import (
    Descent,
    Silent,
    chosen_device,
    classifier_example,
    classifier_examples,
    descend,
    drawn,
    fit,
    mixed,
    seeded,
)

CONFIG = Training(steps=6, epochs=3, batch=4, crop=32, long_side=(32, 48), momentum=0.5, seed=3)


class Kept(Silent):
    """A monitor that keeps checkpoints in a folder, and everything it hears."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.reports, self.notes = {}, []

    def progress(self, done, total, note=""):
        self.notes.append((done, total, note))

    def report(self, step, metrics):
        self.reports[step] = metrics

    def save(self, step, write):
        folder = self.folder / f"step{step}"
        folder.mkdir(parents=True)
        write(folder)

    def restore(self):
        folders = sorted(self.folder.glob("step*"))
        return (int(folders[-1].name[4:]), folders[-1]) if folders else None


def small_net():
    with seeded(0):
        body = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU())
        return nn.ModuleDict({"body": body, "head": nn.Conv2d(8, 8, 1)})


def train(monitor, config=CONFIG, rates=None, scale=1.0, evaluate=dict):
    net = small_net()

    def objective(images, labels, valid):
        z = net["head"](net["body"](images)).mean((2, 3))
        return {"loss": scale * F.multilabel_soft_margin_loss(z, labels), "double": 2 * z.mean()}

    samples = open_samples("scenes:images=14", "train")
    half = (0.5, 0.5, 0.5)
    fit(
        net,
        rates or {"body": 0.5, "head": 1.0},
        objective,
        classifier_examples(samples, config, half, half),
        config,
        monitor=monitor,
        evaluate=evaluate,
    )
    return net


def same(one, other):
    return all(torch.equal(p, other.state_dict()[n]) for n, p in one.state_dict().items())


KILLED = """
import os, signal, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_training as t
torch.set_num_threads(int(sys.argv[3]))
class Killed(t.Kept):
    def progress(self, done, total, note=""):
        if done == 5:
            os.kill(os.getpid(), signal.SIGKILL)
t.train(Killed(Path(sys.argv[2])))
"""


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, request):
    whole = train(Silent())
    kept, here = tmp_path / "kept", str(request.path.parent)
    threads = str(torch.get_num_threads())
    killed = subprocess.run([sys.executable, "-c", KILLED, here, str(kept), threads], timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert sorted(f.name for f in kept.iterdir()) == ["step2", "step4"]
    monitor = Kept(kept)
    assert same(train(monitor), whole)
    assert [done for done, _, _ in monitor.notes] == [5, 6]
    assert list(monitor.reports) == [6]


def test_a_checkpoint_holds_no_pickle_and_the_optimiser_s_memory(tmp_path):
    train(Kept(tmp_path / "kept"))
    folder = tmp_path / "kept" / "step2"
    names = {"net.safetensors", "momentum.safetensors", "step.json"}
    assert {f.name for f in folder.iterdir()} == names
    plain, whole = tmp_path / "plain", train(Silent())
    shutil.copytree(folder, plain / "step2")
    assert same(train(Kept(plain)), whole)
    (plain / "step4" / "momentum.safetensors").unlink()
    shutil.rmtree(plain / "step6")
    with pytest.raises(ValueError, match=r"momentum\.safetensors does not exist"):
        train(Kept(plain))


def test_a_finished_training_is_not_trained_again(tmp_path):
    first = train(Kept(tmp_path))
    monitor = Kept(tmp_path)
    assert same(train(monitor), first)
    assert not monitor.notes
    assert not monitor.reports


def test_the_number_of_epochs_and_threads_changes_no_weight():
    whole = train(Silent())
    fewer = Training(steps=6, epochs=1, batch=4, crop=32, long_side=(32, 48), momentum=0.5, seed=3,
                     workers=1)  # fmt: skip
    assert same(train(Silent(), fewer), whole)


def test_the_seed_changes_the_weights():
    other = Training(steps=6, epochs=3, batch=4, crop=32, long_side=(32, 48), momentum=0.5, seed=4)
    assert not same(train(Silent(), other), train(Silent()))


def test_each_epoch_reports_means_and_what_was_evaluated(tmp_path):
    monitor = Kept(tmp_path)
    train(monitor, evaluate=lambda: {"probe": 0.25})
    assert list(monitor.reports) == [2, 4, 6]
    notes = [float(note.removeprefix("loss ")) for _, _, note in monitor.notes]
    for n, step in enumerate((2, 4, 6)):
        metrics = monitor.reports[step]
        assert set(metrics) == {"loss", "double", "probe"}
        assert metrics["loss"] == pytest.approx((notes[2 * n] + notes[2 * n + 1]) / 2, abs=1e-4)
        assert metrics["probe"] == 0.25
    assert [(done, total) for done, total, _ in monitor.notes] == [(n, 6) for n in range(1, 7)]


def test_what_report_raises_ends_the_training_before_its_checkpoint(tmp_path):
    class Pruned(Kept):
        def report(self, step, metrics):
            if step == 4:
                raise RuntimeError("pruned")

    with pytest.raises(RuntimeError, match="pruned"):
        train(Pruned(tmp_path))
    assert [f.name for f in tmp_path.glob("step*")] == ["step2"]


def test_only_the_parts_that_have_a_rate_are_trained():
    before = small_net()
    after = train(Silent(), rates={"head": 1.0})
    assert torch.equal(after["body"][0].weight, before["body"][0].weight)
    assert not torch.equal(after["head"].weight, before["head"].weight)


def test_a_loss_that_is_not_finite_stops_at_its_step():
    message = "loss is nan at step 1 of 6: lower the learning rates"
    with pytest.raises(FloatingPointError, match=message):
        train(Silent(), scale=float("nan"))
    with pytest.raises(FloatingPointError, match=r"at step [2-6] of 6"):
        train(Silent(), rates={"body": 1e20, "head": 1e20})


def test_a_batch_larger_than_the_split_is_refused():
    with pytest.raises(ValueError, match="batch is 16 but the split has 14 images"):
        train(Silent(), Training(steps=1, epochs=1))


def test_a_pass_shows_each_image_once_and_drops_the_remainder():
    passes = [[i for s in range(3) for i in drawn(14, 4, 7, 3 * p + s)] for p in range(6)]
    for shown in passes:
        assert len(set(shown)) == len(shown) == 12
    assert len({tuple(shown) for shown in passes}) == 6
    assert len(Counter(i for shown in passes for i in shown)) == 14
    assert drawn(14, 4, 7, 5) == drawn(14, 4, 7, 5) != drawn(14, 4, 8, 5)


def test_seeded_draws_repeat_and_leave_the_global_state_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with seeded(5):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), state)
    with seeded(5):
        assert torch.equal(torch.rand(3), first)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_products_are_made_in_the_precision_asked_for(precision):
    with mixed(precision, torch.device("cpu")):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == getattr(torch, precision)


def test_auto_takes_an_accelerator_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen_device("auto") == torch.device("cuda")
    assert chosen_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == torch.device("cpu")


def test_a_clipped_gradient_moves_the_weights_by_its_norm_at_most():
    config = replace(CONFIG, steps=1, epochs=1, momentum=0.0, weight_decay=0.0, clip=0.01)
    rates = {"body": 1.0, "head": 1.0}
    before, after = small_net().state_dict(), train(Silent(), config, rates, scale=1e3).state_dict()
    moved = torch.cat([(after[name] - before[name]).flatten() for name in before])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)
    free = train(Silent(), replace(config, clip=None), rates, scale=1e3).state_dict()
    assert torch.cat([(free[name] - before[name]).flatten() for name in before]).norm() > 1


def test_an_example_is_valid_where_its_image_was_pasted():
    samples = open_samples("scenes:images=14", "train")
    config = replace(CONFIG, crop=64)
    view, label, valid = classifier_example(samples, 2, 5, config, (0.0,) * 3, (1.0,) * 3)
    assert view.shape == (3, 64, 64)
    assert label.tolist() == samples.labels[2].tolist()
    assert set(valid.unique().tolist()) == {0.0, 1.0}
    assert not (view * (1 - valid)).any()
    rows, columns = valid[0].amax(1), valid[0].amax(0)
    assert torch.equal(valid[0], torch.outer(rows, columns))
    assert 32 <= max(rows.sum(), columns.sum()) <= 48
    again = classifier_example(samples, 2, 5, config, (0.0,) * 3, (1.0,) * 3)
    other = classifier_example(samples, 2, 6, config, (0.0,) * 3, (1.0,) * 3)
    assert torch.equal(view, again[0])
    assert not torch.equal(view, other[0])


def descended(monitor, passes=1, made=torch.optim.SGD, steps=6, advice="think"):
    """A linear map learns to double eight numbers of each step, in so many passes."""
    net = nn.ModuleDict({"head": nn.Linear(1, 1)})
    with torch.no_grad():
        net["head"].weight.fill_(0.5)
        net["head"].bias.fill_(0.1)
    seen = []

    def objective(x):
        seen.append(len(x))
        error = net["head"](x) - 2 * x
        return {"loss": error.square().mean(), "error": error.detach().mean()}

    def set_rates(optimiser, step):
        optimiser.param_groups[0]["lr"] = 0.1 / (step + 1)

    descend(
        net,
        Descent(
            optimiser=lambda n: made(n.parameters()),
            set_rates=set_rates,
            passes=passes,
            advice=advice,
        ),
        objective,
        lambda step: [lambda i=i: (torch.tensor([float(step + i)]),) for i in range(8)],
        replace(CONFIG, steps=steps, epochs=3),
        monitor=monitor,
    )
    return net, seen


def test_passes_share_a_step(tmp_path):
    plain, parts = Kept(tmp_path / "plain"), Kept(tmp_path / "parts")
    (whole, once), (split, four) = descended(plain), descended(parts, passes=4)
    assert (once, four) == ([8] * 6, [2] * 24)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(split.state_dict()[name], value)
    assert [done for done, _, _ in parts.notes] == [1, 2, 3, 4, 5, 6]
    for step, metrics in plain.reports.items():
        assert parts.reports[step] == pytest.approx(metrics, rel=1e-5)


def test_any_optimiser_s_memory_is_kept(tmp_path):
    whole, _ = descended(Silent(), made=torch.optim.AdamW)
    descended(Kept(tmp_path), made=torch.optim.AdamW)
    shutil.rmtree(tmp_path / "step6")
    again, seen = descended(Kept(tmp_path), made=torch.optim.AdamW)
    assert len(seen) == 2
    assert same(again, whole)


def test_who_brings_an_optimiser_brings_the_advice():
    def runaway(parameters):
        return torch.optim.SGD(parameters, momentum=0.0, weight_decay=1e30)

    with pytest.raises(FloatingPointError, match=r"at step [2-6] of 6: think"):
        descended(Silent(), made=runaway)
