"""The planted properties of the drawn scenes, which experiments on them rely on."""

import numpy as np
import pytest

from wsss.data.scenes import PAIRS, SceneSamples, open_scenes


@pytest.fixture(scope="module")
def train() -> SceneSamples:
    return open_scenes("", "train")


def shows(samples: SceneSamples, name: str) -> np.ndarray:
    return samples.labels[:, samples.classes.index(name)]


@pytest.mark.parametrize(("options", "split"), [("", "train"), ("seed=3", "train"), ("", "val")])
def test_masks_show_exactly_the_labels_and_every_object_well(options: str, split: str):
    samples = open_scenes(options, split)
    for i in range(len(samples)):
        ids, pixels = np.unique(samples.mask(i), return_counts=True)
        assert ids.tolist() == [0, *(np.flatnonzero(samples.labels[i]) + 1)]
        assert pixels.min() >= 40


def test_sizes_vary_and_images_fit_their_masks(train: SceneSamples):
    shapes = {train.image(i).shape for i in range(50)}
    assert len(shapes) > 30
    assert all(64 <= side <= 96 for shape in shapes for side in shape[:2])
    assert all(train.image(i).shape[:2] == train.mask(i).shape for i in range(50))
    covered = [(train.mask(i) > 0).mean() for i in range(200)]
    assert min(covered) < 0.1
    assert max(covered) > 0.4


def test_a_scene_depends_on_seed_split_and_index_alone(train: SceneSamples):
    again = open_scenes("images=30", "train")
    for i in (29, 3, 17):  # another order, another number of images
        assert (again.image(i) == train.image(i)).all()
        assert (again.mask(i) == train.mask(i)).all()
    for options, split in (("seed=1", "train"), ("", "val")):
        other = open_scenes(options, split).image(3)
        assert other.shape != train.image(3).shape or (other != train.image(3)).any()


def test_what_a_caller_does_to_an_image_does_not_stay(train: SceneSamples):
    before = train.image(0)
    train.image(0)[:] = 0
    assert (train.image(0) == before).all()


def test_partners_come_together_and_also_apart(train: SceneSamples):
    for first, second in PAIRS:
        together = shows(train, first) & shows(train, second)
        assert together.sum() > 0.8 * shows(train, first).sum()
        assert (shows(train, second) & ~together).any()


def test_partners_touch(train: SceneSamples):
    for first, second in PAIRS:
        a, b = (train.classes.index(name) + 1 for name in (first, second))
        both = np.flatnonzero(shows(train, first) & shows(train, second))
        masks = [train.mask(i) for i in both]
        touching = [((m[:-1] == a) & (m[1:] == b)).any() for m in masks]
        assert np.mean(touching) > 0.75


def test_class_frequencies_have_a_long_tail(train: SceneSamples):
    counts = np.sort(train.labels.sum(0))[::-1]
    assert counts[0] > 0.4 * len(train)
    assert 20 <= counts[-1] < 0.12 * len(train)


@pytest.mark.parametrize(
    ("options", "split", "message"),
    [
        ("", "test", "no split 'test'; there: train, val"),
        ("images=0", "train", "images=0 leaves no image"),
        ("size=3", "train", "option 'size=3' is unknown: use seed=N and images=N"),
        ("seed=-1", "train", "option 'seed=-1' is unknown"),
    ],
)
def test_wrong_options_are_refused(options: str, split: str, message: str):
    with pytest.raises(ValueError, match=message):
        open_scenes(options, split)
