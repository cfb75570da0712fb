import shutil
from dataclasses import replace

import pytest
import torch

from wsss.cam.sfc import SFCNet
from wsss.cam.sfc_training import Best, halved, sfc_probe, train_sfc
from wsss.config.sfc import SFCTraining
from wsss.data import open_samples
from wsss.nets.backbones import backbone
from wsss.training import Silent

CONFIG = SFCTraining(
    backbone="tiny",
    weights="random",
    steps=6,
    epochs=3,
    batch=4,
    crop=32,
    long_side=(28, 40),
    n_bank=2,
    momentum=0.5,
    lr_backbone=0.02,
    lr_head=0.2,
)


class Kept(Silent):
    """A monitor that keeps checkpoints in a folder, and what is reported."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.reports = {}

    def report(self, step, metrics):
        self.reports[step] = metrics

    def save(self, step, write):
        folder = self.folder / f"step{step}"
        folder.mkdir(parents=True)
        write(folder)

    def restore(self):
        folders = sorted(self.folder.glob("step*"))
        return (int(folders[-1].name[4:]), folders[-1]) if folders else None


@pytest.fixture
def scenes():
    return open_samples("scenes:images=12", "train")


def same(one, other):
    two = other.state_dict()
    return all(torch.equal(tensor, two[name]) for name, tensor in one.state_dict().items())


@pytest.mark.slow
def test_training_lowers_the_losses_and_tells_of_each(scenes, tmp_path):
    monitor = Kept(tmp_path)
    longer = replace(CONFIG, steps=60, momentum=0.9, probe=4)
    net = train_sfc(scenes, longer, monitor, scenes)
    first, *_, last = monitor.reports.values()
    assert last["loss"] < first["loss"]
    assert last["bce"] < first["bce"]
    assert last["l_p"] > 0 < last["l_w"]
    assert last["loss"] == pytest.approx(last["bce"] + last["l_p"] + last["l_w"])
    assert last["probe_miou"] == (last["probe_miou_m"] + last["probe_miou_p"]) / 2
    assert 0 < last["probe_miou"] < 1
    assert not net.training


@pytest.mark.parametrize("select", ["last", "best"])
def test_a_resumed_training_ends_with_the_same_bits(scenes, tmp_path, select):
    config = replace(CONFIG, select=select, probe=3)
    whole = train_sfc(scenes, config, Silent(), scenes)
    train_sfc(scenes, config, Kept(tmp_path), scenes)
    for gone in ((6,), (2, 4, 6)):
        for step in gone:
            shutil.rmtree(tmp_path / f"step{step}", ignore_errors=True)
        monitor = Kept(tmp_path)
        assert same(train_sfc(scenes, config, monitor, scenes), whole)
        assert list(monitor.reports) == list(gone)
    assert same(train_sfc(scenes, config, Kept(tmp_path), scenes), whole)


def test_the_best_epoch_is_kept_and_not_the_last(scenes, tmp_path):
    # In these few steps the network unlearns the little that its random weights knew.
    config = replace(CONFIG, select="best", probe=6, steps=12, epochs=4)
    monitor = Kept(tmp_path)
    net = train_sfc(scenes, config, monitor, scenes)
    scores = [report["probe_miou"] for report in monitor.reports.values()]
    assert sfc_probe(net, scenes, config)["probe_miou"] == max(scores)
    last = train_sfc(scenes, replace(config, select="last"), Silent(), scenes)
    assert sfc_probe(last, scenes, config)["probe_miou"] == scores[-1] < max(scores)


def test_the_better_of_two_is_kept_and_the_first_of_equals():
    nets = [SFCNet(backbone("tiny"), 3) for _ in range(3)]
    best = Best(nets[0])
    for net, score in zip(nets, (0.0, 0.3, 0.3), strict=True):
        best.offer(net, score)
    assert same(best.kept, nets[1])
    best.offer(nets[0], 0.2)
    assert same(best.kept, nets[1])
    assert best.score == 0.3


def test_the_probe_changes_no_weight_of_the_last_epoch(scenes):
    nets = [train_sfc(scenes, replace(CONFIG, probe=n), Silent(), scenes) for n in (0, 3)]
    assert same(*nets)


def test_during_the_warm_up_there_is_no_consistency(scenes, tmp_path):
    monitor = Kept(tmp_path)
    train_sfc(scenes, replace(CONFIG, warm_up=2), monitor)
    one, two, three = monitor.reports.values()
    assert one["l_p"] == one["l_w"] == two["l_p"] == two["l_w"] == 0
    assert three["l_p"] > 0 < three["l_w"]


def test_what_lies_before_the_cut_is_not_trained(scenes):
    start = train_sfc(scenes, replace(CONFIG, lr_backbone=0.0, lr_head=0.0), Silent())
    end = train_sfc(scenes, CONFIG, Silent()).state_dict()
    moved = {n for n, tensor in start.state_dict().items() if not torch.equal(tensor, end[n])}
    parts = {".".join(name.split(".")[:2]) for name in moved}
    sides = {f"sfc.side{i}" for i in (1, 2, 3, 4)}
    late = {"backbone.layer3", "backbone.layer4"}
    assert parts == late | sides | {"sfc.f9", "classifier.weight"}


def test_half_size_keeps_the_corners():
    images = torch.arange(64.0).view(1, 1, 8, 8)
    small = halved(images)
    assert small.shape == (1, 1, 4, 4)
    assert small[0, 0, 0, 0] == 0
    assert small[0, 0, -1, -1] == 63


def test_a_probe_without_masks_is_refused(scenes):
    with pytest.raises(ValueError, match="probe is 5 but there is no split with masks"):
        train_sfc(scenes, replace(CONFIG, probe=5), Silent())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("p_weight", -1.0),
        ("w_weight", float("nan")),
        ("n_bank", -1),
        ("bank_epochs", -0.5),
        ("warm_up", 4),
        ("bg_factor", -0.1),
        ("select", "first"),
        ("select", "best"),
        ("clip", 0.0),
        ("lr_head", -1.0),
        ("epochs", 7),
    ],
)
def test_refused(field, value):
    with pytest.raises(ValueError, match=f"^{field} is "):
        replace(CONFIG, **{field: value})
