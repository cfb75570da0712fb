"""Two processes train as one: they start once, do all cases, and write down how they end."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from wsss.config import Training
from wsss.config.segment import SegmentationTraining
from wsss.data import open_samples
from wsss.nets.segmenters import Network, segmenter
from wsss.nets.weights import read_state, save_weights
from wsss.ranks import (
    average_gradients,
    averaged,
    check_alone,
    check_batch_of_ranks,
    part,
    rank,
    ranks,
    share_norms,
    summed,
)
from wsss.segment.training import train_segmenter
from wsss.training import Silent, fit

CONFIG = SegmentationTraining(
    steps=4, epochs=2, batch=3, accumulation=2, crop=48, backbone="tiny", weights="random",
    pyramid=(), lr=0.01, stairs=1, seed=2,
)  # fmt: skip
CASES = {
    "ce": CONFIG,
    "balanced": replace(CONFIG, loss="balanced", accumulation=1, pyramid=(0.5,)),
    "aamr": replace(CONFIG, aamr_weight=0.5, clip=0.1),
}
REFUSED = {
    "batch": replace(CONFIG, batch=1),
    "norms": replace(CONFIG, architecture="deeplabv3plus", backbone="efficientnet_lite0", batch=2),
}


class Kept(Silent):
    """Keeps checkpoints in a folder that all ranks see, and notes what it hears."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.reports, self.told = folder, [], 0

    def progress(self, done, total, note=""):
        self.told += 1

    def report(self, step, metrics):
        self.reports.append({"step": step, **metrics})

    def save(self, step, write):
        (self.folder / f"step{step}").mkdir(parents=True)
        write(self.folder / f"step{step}")

    def restore(self):
        folders = sorted(self.folder.glob("step*"))
        return (int(folders[-1].name[4:]), folders[-1]) if folders else None


def train(config, monitor):
    """On labels of which the images have very unequal shares, and one has none at all."""
    scenes = open_samples("scenes:images=9", "train")

    def labels(i):
        label = scenes.mask(i).copy()
        label[: len(label) * (i % 4) // 3] = 255
        return label

    def targets(i):
        return np.where(scenes.mask(i) > 0, 1, 255 if i % 2 else 0).astype(np.uint8)

    given = targets if config.aamr_weight else None
    return train_segmenter(scenes, labels, config, monitor, targets=given)


def refusal(work):
    try:
        work()
    except (ValueError, RuntimeError) as error:
        return str(error)
    return ""


def whole_and_again(name, folder):
    """A training, and the same one cut off behind its first epoch."""
    monitor = Kept(folder / name)
    net = train(CASES[name], monitor)
    if name == "ce":
        dist.barrier()
        if rank() == 0:
            shutil.rmtree(folder / name / "step4")
        dist.barrier()
        again = train(CASES[name], Kept(folder / name))
        save_weights(again, folder / f"again-{rank()}.safetensors")
    save_weights(net, folder / f"{name}-{rank()}.safetensors")
    return monitor.reports, monitor.told


def small():
    alone = nn.Linear(2, 1, bias=False)
    alone.weight.grad = torch.tensor([[rank() + 1.0, 0.5]])
    some, none = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))
    if rank() == 1:
        some.grad = torch.tensor([2.0, 4.0])
    average_gradients([some, alone.weight, torch.zeros(1), none])
    return {
        "ranks": [rank(), ranks()],
        "part": [part(range(5)), part(range(6), passes=2), part(range(7), passes=2)],
        "summed": summed(torch.tensor([rank() + 1, 10])).tolist(),
        "averaged": averaged({"loss": torch.tensor(rank() * 2.0), "b": torch.tensor(0.5)}),
        "gradient": alone.weight.grad.tolist(),
        "gradient of one": some.grad.tolist(),
        "gradient of none": none.grad,
    }


def work(this, folder, count):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=this, world_size=count
    )
    noted = {"small": small()}
    noted["cases"] = {name: whole_and_again(name, folder) for name in CASES}
    noted["refused"] = {n: refusal(lambda c=c: train(c, Silent())) for n, c in REFUSED.items()}
    noted["refused"]["fit"] = refusal(
        lambda: fit(nn.Module(), {}, dict, lambda step: [], Training(), monitor=Silent())
    )
    ahead = Kept(folder / "ce") if this == 0 else Silent()
    apart = {"seed": (replace(CONFIG, seed=this), Silent()), "checkpoint": (CONFIG, ahead)}
    noted["apart"] = {n: refusal(lambda c=c: train(*c)) for n, c in apart.items()}
    (folder / f"noted-{this}").write_text(json.dumps(noted))
    dist.barrier()  # who leaves first must not cut the other off
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """The folder in which two ranks leave their weights, and what each of them noted."""
    folder = tmp_path_factory.mktemp("group")
    mp.spawn(work, (folder, 2), nprocs=2)
    return folder, [json.loads((folder / f"noted-{r}").read_text()) for r in (0, 1)]


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("name", CASES)
def test_a_training_ends_where_one_process_ends(group, tmp_path, name):
    folder, noted = group
    monitor = Kept(tmp_path)
    alone = train(CASES[name], monitor).state_dict()
    first, second = (read_state(folder / f"{name}-{r}.safetensors") for r in (0, 1))
    assert same(first, second), "the ranks drift apart"
    for weight, value in alone.items():
        torch.testing.assert_close(first[weight], value, atol=1e-5, rtol=1e-4)
    reports, told = noted[0]["cases"][name]
    assert noted[1]["cases"][name] == [[], 0], "rank 1 tells too"
    assert told == 4
    for ours, theirs in zip(reports, monitor.reports, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_the_weights_have_moved_far_enough_to_tell(tmp_path):
    config = CASES["ce"]
    nets = [train(replace(config, steps=s, epochs=1), Silent()).state_dict() for s in (1, 4)]
    moved = max(float((nets[1][n] - v).abs().max()) for n, v in nets[0].items())
    assert moved > 1e-3


def test_the_clip_is_tight_enough_to_tell():
    config = replace(CASES["aamr"], steps=1, epochs=1)
    clipped, free = (
        train(replace(config, clip=clip), Silent()).state_dict() for clip in (config.clip, None)
    )
    assert max(float((free[n] - v).abs().max()) for n, v in clipped.items()) > 1e-3


def test_a_group_that_was_cut_off_goes_on_to_the_same_bits(group):
    folder, _ = group
    for r in (0, 1):
        assert same(
            read_state(folder / f"again-{r}.safetensors"),
            read_state(folder / f"ce-{r}.safetensors"),
        )


def test_what_cannot_be_split_is_refused(group):
    for noted in group[1]:
        refused = noted["refused"]
        assert refused["batch"].startswith("batch is 1 but 2 processes share it: give batch 2")
        assert refused["norms"].startswith("2 processes cannot train batch norms together on CPUs")
        assert refused["fit"].startswith("this training cannot be split among 2 processes: ask fo")


def test_ranks_that_start_apart_are_refused(group):
    words = "2 processes do not start from the same weights, behind"
    for noted in group[1]:
        assert noted["apart"]["seed"].startswith(f"{words} step 0: let all see the same")
        assert noted["apart"]["checkpoint"].startswith(f"{words} steps 0 to 4: ")


def test_what_ranks_agree_on(group):
    first, second = (noted["small"] for noted in group[1])
    assert (first.pop("ranks"), second.pop("ranks")) == ([0, 2], [1, 2])
    assert first.pop("part") == [[0, 1], [0, 3], [0, 1, 4]]
    assert second.pop("part") == [[2, 3, 4], [1, 2, 4, 5], [2, 3, 5, 6]]
    assert first == second
    assert first["summed"] == [3, 20]
    assert first["averaged"] == {"loss": 1.0, "b": 0.5}
    assert first["gradient"] == [[1.5, 0.5]]
    assert first["gradient of one"] == [1.0, 2.0]
    assert first["gradient of none"] is None


@pytest.mark.parametrize("architecture", ["deeplabv3plus", "upernet"])
def test_norms_on_gpus_become_shared_and_nothing_else(monkeypatch, architecture):
    # Their training takes GPUs; what they are in evaluation shows that nothing else is lost.
    monkeypatch.setattr("wsss.ranks.ranks", lambda: 2)
    net = segmenter(Network(architecture=architecture, backbone="efficientnet_lite0", classes=4))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, names = net.eval()(images)[-1], list(net.state_dict())
        shared = share_norms(net, torch.device("cuda"))
        torch.testing.assert_close(shared.eval()(images)[-1], before)
    assert list(shared.state_dict()) == names
    norms = [module for module in shared.modules() if isinstance(module, _BatchNorm)]
    assert len(norms) > 10
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)


def test_one_process_is_left_alone():
    assert (rank(), ranks()) == (0, 1)
    assert part(range(5)) == part(range(5), passes=2) == [0, 1, 2, 3, 4]
    tensor, net = torch.ones(2), nn.Sequential(nn.BatchNorm2d(3))
    assert summed(tensor) is tensor
    assert averaged({"loss": torch.tensor(0.5)}) == {"loss": 0.5}
    assert share_norms(net, torch.device("cpu")) is net
    assert isinstance(net[0], nn.BatchNorm2d)
    check_alone()
    check_batch_of_ranks(1)
