from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from wsss.cam.sfc_bank import Bank, banked_examples, last_with, picked
from wsss.config.sfc import SFCTraining
from wsss.data import open_samples
from wsss.training import classifier_examples

CONFIG = SFCTraining(steps=12, epochs=4, batch=4, crop=24, long_side=(20, 30), n_bank=3, seed=5)
HALF = (0.5, 0.5, 0.5)


@pytest.fixture
def scenes():
    drawn = open_samples("scenes:images=18", "train")
    labels = drawn.labels.copy()
    labels[:, 7] = False  # a class that no image shows
    return replace(drawn, labels=labels)


def made(examples, step):
    return [torch.stack(parts) for parts in zip(*(make() for make in examples(step)), strict=True)]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def released(samples, config, steps):
    """The bank as the release keeps it, tensors and all: what it holds behind each of `steps`."""
    plain = classifier_examples(samples, config, HALF, HALF)
    slots = [[torch.zeros(3, 24, 24), torch.zeros(8), torch.zeros(1, 24, 24)] for _ in range(8)]
    for step in range(steps):
        batch = made(plain, step)
        for view, label, valid in zip(*batch, strict=True):
            for c in label.nonzero()[:, 0].tolist():
                slots[c] = [view, label, valid]
        rows = [slots[c] for c in picked(8, config, step)]
        yield [
            torch.cat([part, torch.stack(extra)])
            for part, extra in zip(batch, zip(*rows, strict=True), strict=True)
        ]


def test_the_last_image_of_a_class_wins():
    labels = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 0, 0]], dtype=np.bool_)
    assert last_with(labels).tolist() == [1, 2, 0, -1]


def test_steps_are_those_of_the_release_s_bank_bit_for_bit(scenes):
    examples = banked_examples(scenes, CONFIG, HALF, HALF)
    for step, expected in enumerate(released(scenes, CONFIG, CONFIG.steps)):
        *parts, active = made(examples, step)
        assert len(active) == CONFIG.batch + CONFIG.n_bank
        assert (active == 1).all()
        assert same(parts, expected)


def test_a_step_is_the_same_whatever_was_asked_before(scenes):
    in_order = banked_examples(scenes, CONFIG, HALF, HALF)
    steps = [made(in_order, step) for step in range(8)]
    for step in (7, 3, 3, 5, 0):
        fresh = banked_examples(scenes, CONFIG, HALF, HALF)
        assert same(made(fresh, step), steps[step])
        assert same(made(in_order, step), steps[step])


def test_slots_hold_the_last_view_of_their_class(scenes):
    bank = Bank(scenes, CONFIG)
    first, last = bank.behind(0), bank.behind(11)
    assert first[7] is None is last[7]
    assert sum(slot is not None for slot in last) > sum(slot is not None for slot in first)
    for c, slot in enumerate(last[:7]):
        assert slot is None or scenes.labels[slot[1], c]
    assert {step for step, _ in filter(None, first)} == {0}


def test_slots_that_were_never_filled_are_nothing(scenes):
    config = replace(CONFIG, n_bank=40)
    *parts, active = made(banked_examples(scenes, config, HALF, HALF), 11)
    empty = [4 + n for n, c in enumerate(picked(8, config, 11)) if c == 7]
    assert empty
    assert not any(part[empty].any() for part in parts)
    assert all(part[4].any() for part in parts[:2])
    assert (active == 1).all()


def test_classes_are_drawn_uniformly_and_anew_in_each_step_and_seed():
    draws = [picked(5, SFCTraining(seed=0), step) for step in range(500)]
    counts = Counter(c for draw in draws for c in draw)
    assert all(abs(counts[c] - 400) < 80 for c in range(5))
    assert draws[1] != draws[2]
    assert draws != [picked(5, SFCTraining(seed=1), step) for step in range(500)]


def test_without_a_bank_and_before_it_there_are_the_batches_alone(scenes):
    plain = classifier_examples(scenes, CONFIG, HALF, HALF)
    without = banked_examples(scenes, replace(CONFIG, n_bank=0), HALF, HALF)
    late = banked_examples(scenes, replace(CONFIG, warm_up=2), HALF, HALF)
    always = banked_examples(scenes, CONFIG, HALF, HALF)
    for step in range(12):
        batch = made(plain, step)
        *parts, active = made(without, step)
        assert same(parts, batch)
        assert (active == 1).all()
        *parts, active = made(late, step)
        if step < 6:
            assert same(parts, batch)
            assert not active.any()
        else:
            assert same([*parts, active], made(always, step))


def test_a_batch_that_cannot_be_filled_is_refused(scenes):
    with pytest.raises(ValueError, match="batch is 32 but the split has 18 images"):
        banked_examples(scenes, replace(CONFIG, batch=32), HALF, HALF)
