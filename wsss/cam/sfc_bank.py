"""SFC's image bank re-sampling: rare classes are seen more often.

The bank has a slot for each class, with the last training view that showed it (image, label and
valid pixels as they were: not augmented anew). Behind each batch, `n_bank` classes are drawn
independently and uniformly and their views appended. The batch's own views are put into the bank
first, image after image, so the last one wins; a slot that was never filled gives a black image, in
a normalised sense, without a class and without a valid pixel.

The release keeps the tensors. As a view here is a function of the seed, the step and the image,
a slot holds just these two numbers and the view is made again; and as the images of a step are a
function of the step, so are the slots: no checkpoint needs to hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsss.config.sfc import SFCTraining
from wsss.data.samples import Samples
from wsss.training import Example, Examples, classifier_example, classifier_examples, drawn

_BANK = 4  # keeps the draws of the bank apart from those of `wsss.training` and others

View = tuple[int, int]
"""A step and an image that it showed."""


def last_with(labels: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Place of the last image of a batch that shows each class, -1 where none does.

    `labels` [B, C]; returns [C].
    """
    places: npt.NDArray[np.int64] = np.where(labels, np.arange(len(labels))[:, None], -1)
    return np.asarray(places.max(axis=0))


class Bank:
    """The slots as they are behind one step or another."""

    def __init__(self, samples: Samples, config: SFCTraining) -> None:
        self._samples, self._config = samples, config
        self._done = 0
        self._slots: list[View | None] = [None] * len(samples.classes)

    def behind(self, step: int) -> list[View | None]:
        """The view in each class's slot once `step` has put in its batch; None where none is yet.

        Cheap where steps come one after another; otherwise it goes through the steps before.
        """
        if step < self._done - 1:
            self._done, self._slots = 0, [None] * len(self._slots)
        for earlier in range(self._done, step + 1):
            images = drawn(len(self._samples), self._config.batch, self._config.seed, earlier)
            for c, place in enumerate(last_with(self._samples.labels[images])):
                if place >= 0:
                    self._slots[c] = (earlier, images[place])
        self._done = step + 1
        return list(self._slots)


def picked(classes: int, config: SFCTraining, step: int) -> list[int]:
    """The classes, of so many, whose slots are appended to the batch of `step`."""
    rng = np.random.default_rng([_BANK, config.seed, step])
    return [int(c) for c in rng.integers(classes, size=config.n_bank)]


def banked_examples(
    samples: Samples, config: SFCTraining, mean: Sequence[float], std: Sequence[float]
) -> Examples:
    """The examples of a step: those of its batch, and `n_bank` from the bank behind it.

    Each is a view [3, S, S], its label [C], its valid pixels [1, S, S], and a scalar that is 1 once
    the `warm_up` is over and 0 before, when there is no bank either. Raises ValueError where
    `samples` cannot fill a batch.
    """
    batch, bank = classifier_examples(samples, config, mean, std), Bank(samples, config)
    start = round(config.steps * config.warm_up / config.epochs)

    def made(view: View | None) -> Callable[[], Example]:
        if view is None:
            return partial(_empty, len(samples.classes), config.crop)
        step, image = view
        return partial(classifier_example, samples, image, step, config, mean, std)

    def examples(step: int) -> list[Callable[[], Example]]:
        makers = list(batch(step))
        if step >= start and config.n_bank:
            slots = bank.behind(step)
            makers += [made(slots[c]) for c in picked(len(slots), config, step)]
        return [partial(_flagged, make, step >= start) for make in makers]

    return examples


def _empty(classes: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros(3, size, size), torch.zeros(classes), torch.zeros(1, size, size)


def _flagged(make: Callable[[], Example], active: bool) -> Example:
    return (*make(), torch.tensor(float(active)))
