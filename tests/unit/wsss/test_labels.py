import numpy as np
import pytest
import torch

from wsss.cam.scores import ScoreMap, upsample
from wsss.config.refine import CRF, IRLabels, PseudoLabels
from wsss.data import open_samples
from wsss.data.label_maps import Labels, write_labels
from wsss.labels import (
    ir_label,
    label_confusion,
    local_seed,
    pseudo_label,
    refined_ir_label,
    seed_ir_label,
    settled,
)
from wsss.metrics import mean_iou
from wsss.refine.crf import crf_labels

KEYS = torch.tensor([4, 19])


def scored(n=2, size=(34, 47), seed=0):
    generator = torch.Generator().manual_seed(seed)
    planes = torch.rand(n, -(-size[0] // 4), -(-size[1] // 4), generator=generator)
    return ScoreMap(id="scene", keys=KEYS[:n], planes=planes, size=size)


def photo(size=(34, 47)):
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([4 * y, 4 * x, 2 * (x + y)], axis=-1).astype(np.uint8)


def test_a_local_seed_holds_places_and_ties_go_to_background():
    planes = torch.tensor([[[0.3, 0.5, 0.2]], [[0.1, 0.5, 0.9]]])
    assert local_seed(planes, 0.3).tolist() == [[0, 1, 2]]
    assert local_seed(planes, 0.3).dtype == torch.uint8
    assert local_seed(planes[:0], 0.3).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("hi", "lo", "expected"),
    [
        (0, 0, 0),
        (0, 1, 255),
        (0, 2, 255),
        (1, 1, 5),
        (2, 2, 20),
        (1, 2, 5),  # where they disagree on the class, the surer one counts
        (2, 0, 20),  # and where only it sees an object
    ],
)
def test_the_rule_of_ir_labels(hi, lo, expected):
    found = ir_label(torch.full((2, 3), hi), torch.full((2, 3), lo).to(torch.uint8), KEYS)
    assert found.dtype == torch.uint8
    assert found.tolist() == [[expected] * 3] * 2


def test_an_ir_label_is_made_of_two_refined_seeds():
    scores, image, config = scored(), photo(), IRLabels(crf=CRF(iterations=2))
    planes = upsample(scores.planes, scores.size)
    hi, lo = (local_seed(planes, t) for t in (0.35, 0.10))
    expected = ir_label(*(crf_labels(image, x, 3, config.crf) for x in (hi, lo)), KEYS)
    found = seed_ir_label(image, scores, config)
    assert torch.equal(found, expected)
    assert found.shape == (34, 47)
    assert torch.equal(refined_ir_label(image, hi, lo, KEYS, config.crf), expected)


def test_thresholds_that_are_far_apart_leave_more_open():
    def open_pixels(**thresholds):
        found = seed_ir_label(photo(), scored(), IRLabels(**thresholds))
        return int((found == 255).sum())

    wide = open_pixels(threshold_fg=0.9, threshold_bg=0.1)
    assert wide > open_pixels(threshold_fg=0.6, threshold_bg=0.5)
    assert open_pixels(threshold_fg=0.5, threshold_bg=0.5) == 0


def test_open_pixels_are_kept_or_made_background():
    label = torch.tensor([[0, 5, 255]], dtype=torch.uint8)
    assert settled(label, "keep").tolist() == [[0, 5, 255]]
    assert settled(label, "background").tolist() == [[0, 5, 0]]
    thresholds = {"threshold_fg": 0.9, "threshold_bg": 0.1}
    kept = seed_ir_label(photo(), scored(), IRLabels(**thresholds))
    settled_too = seed_ir_label(photo(), scored(), IRLabels(ignore="background", **thresholds))
    assert torch.equal(settled_too, settled(kept, "background"))
    assert (kept == 255).any()


def test_a_pseudo_label_cuts_the_whole_planes_with_a_constant():
    scores = scored()
    whole = upsample(scores.planes, scores.size)
    found = pseudo_label(scores, PseudoLabels(threshold=0.6))
    highest, place = whole.max(0)
    expected = torch.where(highest > 0.6, (KEYS + 1)[place], 0)
    assert torch.equal(found, expected.to(torch.uint8))
    assert set(found.unique().tolist()) == {0, 5, 20}


def test_an_image_without_a_class_is_background():
    empty = scored(n=0)
    for found in (seed_ir_label(photo(), empty, IRLabels()), pseudo_label(empty, PseudoLabels())):
        assert found.shape == (34, 47)
        assert found.dtype == torch.uint8
        assert not found.any()


def test_label_maps_are_scored_with_what_is_open_as_background(tmp_path):
    samples = open_samples("scenes:images=5", "train")
    masks = [samples.mask(i) for i in range(5)]
    write_labels(tmp_path / "same", zip(samples.ids, masks, strict=True))
    steps = []
    found = label_confusion(Labels(tmp_path / "same"), samples, lambda *done: steps.append(done))
    valid = sum(int((mask != 255).sum()) for mask in masks)
    assert found.sum() == found.diagonal().sum() == valid
    assert mean_iou(found) == 1
    assert steps == [(n, 5) for n in range(1, 6)]
    emptied = [np.full_like(mask, 255) for mask in masks]
    write_labels(tmp_path / "open", zip(samples.ids, emptied, strict=True))
    nothing = label_confusion(Labels(tmp_path / "open"), samples, lambda *_: None)
    assert nothing[:, 0].sum() == nothing.sum() == valid


def test_label_maps_that_do_not_belong_to_the_masks_are_refused(tmp_path):
    samples = open_samples("scenes:images=2", "train")
    write_labels(tmp_path, [(samples.ids[0], samples.mask(0)[1:])])
    with pytest.raises(ValueError, match=f"lacks 1 label maps, {samples.ids[1]} first"):
        label_confusion(Labels(tmp_path), samples, lambda *_: None)
    write_labels(tmp_path, [(samples.ids[1], samples.mask(1))])
    with pytest.raises(ValueError, match=f"label map of {samples.ids[0]} is "):
        label_confusion(Labels(tmp_path), samples, lambda *_: None)
