"""Golden unit 17: class-conditional response maps of the release, and of ours without its quirks.

"ref" came out of the released code; "compat" and "corrected" were recorded from another version of
ours, of which "compat" merges to exactly what the release does.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wsss.cam.response import (
    Box,
    crop_boxes,
    mass_centres,
    merged,
    mirrored,
    response_maps,
    responses,
    rounds,
    scaled,
)
from wsss.cam.scores import Views, max_normalised, mirrored_sum
from wsss.config.response import Response

CROPPED = ("a1", "a2", "b2")
CASES = (*CROPPED, "a3")  # three classes: the crops are the image, and nothing more was recorded
MODES = {"ref": Response(compat="release"), "corrected": Response()}


class StandIn(nn.Module):
    """The classifier that the unit was recorded with."""

    def __init__(self) -> None:
        super().__init__()
        self.tiny = nn.Module()
        self.tiny.conv = nn.Conv2d(3, 8, 5, stride=8, padding=2, bias=False)
        self.tiny.head = nn.Conv2d(8, 20, 1, bias=False)

    @torch.no_grad()
    def forward(self, pair: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return mirrored_sum(F.relu(self.tiny.head(F.relu(self.tiny.conv(pair)))))[keys]


@pytest.fixture(scope="module")
def unit(golden):
    return golden("unit17_infercam")


@pytest.fixture(scope="module")
def source(fill) -> StandIn:
    net = StandIn()
    fill(net)
    return net


@pytest.fixture(scope="module")
def views(unit) -> Views:
    scales = tuple(unit["scales"].tolist())
    return Views(scales=scales, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), stride=8)


def near(actual, recorded):
    assert tuple(actual.shape) == recorded.shape
    assert (actual - torch.from_numpy(recorded)).abs().max() <= 1e-5


def test_the_stand_in_and_the_settings_are_the_recorded_ones(unit, fill):
    assert fill(StandIn()) == str(unit["weights_sha256"])
    published = Response()
    assert unit["threshold"] == published.threshold
    assert unit["growth"] == published.growth
    assert unit["max_iterations"] == published.iterations


@pytest.mark.parametrize("case", CASES)
def test_the_maps_of_the_whole_image_and_their_centres(unit, source, views, case):
    image, keys = unit[f"{case}_image"], torch.from_numpy(unit[f"{case}_classes"])
    found = responses(source, mirrored(scaled(image, views)), keys, image.shape[:2])
    near(max_normalised(found), unit[f"{case}_baseline_ref"])
    assert mass_centres(found).tolist() == unit[f"{case}_centres_ref"].tolist()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_the_crops(unit, case, mode):
    recorded = unit[f"{case}_boxes_ref" if case == "a3" else f"{case}_boxes_{mode}"]
    centres = torch.from_numpy(unit[f"{case}_centres_ref"])
    found = crop_boxes(centres, unit[f"{case}_image"].shape[:2], MODES[mode])
    assert [list(box) for box in found] == [[*box] for box in recorded.tolist()]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CROPPED)
def test_every_round_of_every_crop(unit, source, views, case, mode):
    image, keys = unit[f"{case}_image"], torch.from_numpy(unit[f"{case}_classes"])
    name = {"ref": "compat", "corrected": "corrected"}[mode]
    for n, (top, bottom, left, right) in enumerate(unit[f"{case}_boxes_{mode}"], start=1):
        crop = scaled(image[top:bottom, left:right], views)
        first = responses(source, mirrored(crop), keys, (bottom - top, right - left))
        found = list(rounds(source, crop, first, keys, MODES[mode]))
        assert len(found) == unit[f"{case}_iterations_{name}"][n - 1]
        near(found[-1].maps, unit[f"{case}_crop{n}_map_{name}"])
        keeps = torch.stack([one.keep for one in found])
        flipped = keeps != torch.from_numpy(unit[f"{case}_crop{n}_keeps_{name}"]).bool()
        assert not flipped.any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CROPPED)
def test_the_merged_maps(unit, source, views, case, mode):
    keys = torch.from_numpy(unit[f"{case}_classes"])
    found = response_maps(unit[f"{case}_image"], source, keys, views, MODES[mode])
    near(found, unit[f"{case}_merged_{mode}"])


def test_recorded_crops_merge_to_the_recorded_maps(unit):
    crops = [
        (Box(*box), torch.from_numpy(unit[f"b2_crop{n}_map_compat"]))
        for n, box in enumerate(unit["b2_boxes_ref"].tolist(), start=1)
    ]
    near(merged(crops, (34, 60)), unit["b2_merged_ref"])
