import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from wsss.config.segment import Segmentation, SegmentationTraining
from wsss.data import open_samples
from wsss.metrics import confusion_matrix, mean_iou
from wsss.nets.segmenters import Network, described, segmenter
from wsss.segment.inference import segment_images
from wsss.segment.training import objective, probe_scores, train_segmenter
from wsss.segment.views import segmentation_examples
from wsss.training import Silent, seeded

CONFIG = SegmentationTraining(
    steps=4, epochs=2, batch=2, accumulation=2, crop=48, backbone="tiny", weights="random",
    pyramid=(0.5,), lr=0.01, stairs=1, seed=2,
)  # fmt: skip
V3 = replace(CONFIG, architecture="deeplabv3plus", backbone="efficientnet_lite0", pyramid=())


class Kept(Silent):
    """Keeps checkpoints in a folder, and the reports."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.reports = folder, []

    def report(self, step, metrics):
        self.reports.append(metrics)

    def save(self, step, write):
        (self.folder / f"step{step}").mkdir(parents=True)
        write(self.folder / f"step{step}")

    def restore(self):
        folders = sorted(self.folder.glob("step*"))
        return (int(folders[-1].name[4:]), folders[-1]) if folders else None


@pytest.fixture(scope="module")
def scenes():
    return open_samples("scenes:images=9", "train")


def same(one, other):
    return all(torch.equal(p, other.state_dict()[n]) for n, p in one.state_dict().items())


@pytest.mark.parametrize(
    "config", [CONFIG, replace(V3, optimiser="adamw", lr=1e-4)], ids=["sgd", "adamw"]
)
def test_a_training_that_was_cut_off_goes_on_to_the_same_bits(scenes, tmp_path, config):
    whole = train_segmenter(scenes, scenes.mask, config, Kept(tmp_path))
    shutil.rmtree(tmp_path / "step4")
    monitor = Kept(tmp_path)
    assert same(train_segmenter(scenes, scenes.mask, config, monitor), whole)
    assert len(monitor.reports) == 1
    assert not whole.training
    assert described(whole) == Network(
        architecture=config.architecture,
        backbone=config.backbone,
        classes=9,
        pyramid=config.pyramid,
    )


def test_batches_that_are_accumulated_move_as_one(scenes):
    # All of equally many labelled pixels, as the mean of means is that of all only then.
    def everywhere(i):
        return np.full(scenes.image(i).shape[:2], i % 9, dtype=np.uint8)

    config = replace(CONFIG, steps=3, epochs=1, scales=(2.0,))
    parts = train_segmenter(scenes, everywhere, config, Silent())
    at_once = train_segmenter(
        scenes, everywhere, replace(config, batch=4, accumulation=1), Silent()
    )
    with seeded(config.seed):
        start = segmenter(described(parts))
    for name, value in parts.state_dict().items():
        torch.testing.assert_close(value, at_once.state_dict()[name], atol=1e-5, rtol=1e-4)
    moved = parts.classifier.convs[0].weight - start.classifier.convs[0].weight
    assert float(moved.detach().abs().max()) > 1e-3


def test_it_learns_and_is_scored_on_the_way(scenes, tmp_path):
    config = replace(CONFIG, steps=60, epochs=2, scales=(1.0,), pyramid=(), probe=6)
    monitor = Kept(tmp_path)
    net = train_segmenter(scenes, scenes.mask, config, monitor, masks=scenes)
    first, last = monitor.reports
    assert last["loss"] < first["loss"] < 3
    assert set(last) == {"loss", "probe_miou"}
    confusion = torch.zeros((9, 9), dtype=torch.int64)
    plain = Segmentation(crf=None)
    for i, (name, label) in enumerate(segment_images(net, scenes, range(6), plain)):
        assert name == scenes.ids[i]
        truth = torch.from_numpy(scenes.mask(i))
        confusion += confusion_matrix(truth, torch.from_numpy(label), 9)
    assert last["probe_miou"] == float(mean_iou(confusion)) > 0.12
    assert len(confusion.sum(0).nonzero()) > 1


def test_the_probe_leaves_the_network_in_training(scenes):
    net = segmenter(Network(architecture="deeplabv2", backbone="tiny", classes=9))
    assert probe_scores(net, scenes, replace(CONFIG, probe=0)) == {}
    assert set(probe_scores(net, scenes, replace(CONFIG, probe=2))) == {"probe_miou"}
    assert net.training
    with pytest.raises(ValueError, match="probe is 2 but there is no split with masks"):
        train_segmenter(scenes, scenes.mask, replace(CONFIG, probe=2), Silent())


def test_a_loss_that_is_not_finite_ends_with_advice(scenes):
    message = "at step [1-4] of 4: set loss to balanced, lower lr, and check that the file of init"
    with pytest.raises(FloatingPointError, match=message):
        train_segmenter(scenes, scenes.mask, replace(CONFIG, lr=1e30), Silent())


def test_the_mask_refinement_loss_wants_targets_and_a_weight(scenes, tmp_path):
    def targets(i):
        return (scenes.mask(i) > 0).astype(np.uint8)

    config = replace(CONFIG, aamr_weight=0.5)
    with pytest.raises(ValueError, match=r"aamr_weight is 0.5: targets .* are for weights above"):
        train_segmenter(scenes, scenes.mask, config, Silent())
    with pytest.raises(ValueError, match=r"aamr_weight is 0.0: targets"):
        train_segmenter(scenes, scenes.mask, CONFIG, Silent(), targets=targets)
    monitor = Kept(tmp_path)
    train_segmenter(scenes, scenes.mask, config, monitor, targets=targets)
    for terms in monitor.reports:
        assert terms["loss"] == pytest.approx(terms["pixels"] + 0.5 * terms["aamr"], rel=1e-5)
        assert terms["aamr"] > 0


def first_step(scenes, config, net):
    examples = segmentation_examples(scenes, [scenes.mask], config, net.mean, net.std)
    made = [make() for make in examples(0)]
    return [torch.stack(parts) for parts in zip(*made, strict=True)]


def test_bfloat16_is_near_and_its_logits_are_float32(scenes):
    with seeded(0):
        net = segmenter(Network(architecture="deeplabv2", backbone="tiny", classes=9))
    images, label = first_step(scenes, CONFIG, net)
    exact = float(objective(net, CONFIG)(images, label)["loss"].detach())
    config = replace(CONFIG, precision="bfloat16")
    near = objective(net, config)(images, label)["loss"].detach()
    assert near.dtype == torch.float32
    assert float(near) != exact
    assert float(near) == pytest.approx(exact, rel=0.02)


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(scenes):
    config = replace(CONFIG, steps=2, pyramid=())
    plain = train_segmenter(scenes, scenes.mask, config, Silent())
    compiled = train_segmenter(scenes, scenes.mask, replace(config, compile=True), Silent())
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, atol=1e-4, rtol=1e-3)
