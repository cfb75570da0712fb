"""One training loop for every network, counted in steps, and its optimiser.

SGD as the published learning rates mean it. The released code of psa, IRN, ReCAM and SFC hands the
weight decay to SGD in the place of the momentum ("PolyOptimizer"), so they all trained with
momentum 1e-4 and a weight decay of its own for each group, although they say 0.9, which is only the
power of the schedule

    lr_t = lr_0 (1 - t / T) ^ 0.9        set before step t = 0, 1, ..., T - 1

With momentum 0.9 the same rates would act ten times as strong.

The batch of a step, and every draw of its augmentation, are a function of the seed and the step
alone. So a training that was killed and goes on from a checkpoint ends with the same bits as one
that was never interrupted, and the number of checkpoints changes nothing: on a CPU with one number
of threads. CUDA's kernels are not made deterministic here.

`fit` is this optimiser over the children of a network; `descend` is the loop beneath it, for those
who bring their own.

Several processes may descend together, the ranks of `wsss.ranks`. Each makes and sees its part of
the examples of every pass, and moves the same weights by the same gradient: the mean over the ranks
of the gradients of what their objectives return. Only rank 0 reports and keeps checkpoints; all go
on from the same one.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wsss.config import Schedule, Training
from wsss.data.samples import Samples
from wsss.data.transforms import training_view
from wsss.nets.weights import load_weights, read_state, save_weights
from wsss.ranks import (
    average_gradients,
    averaged,
    check_alone,
    check_batch_of_ranks,
    check_same_start,
    part,
    rank,
)

Example = tuple[Tensor, ...]
"""What a step learns from once; those of a batch are stacked, place by place."""

Examples = Callable[[int], Sequence[Callable[[], Example]]]
"""Step to what makes each of its examples: a function of the step alone, called in threads."""

Objective = Callable[..., Mapping[str, Tensor]]
"""The stacked tensors of a batch to scalars, of which "loss" is minimised.

Among several ranks it is given the part of one, and the mean over the ranks must be the value of
the whole batch. A mean over examples is that where all parts are equally large. Any other sum s
divided by a count n must be `ranks() * s / summed(n)`, see `wsss.ranks`.
"""

_ORDER, _VIEW = 1, 2  # keep the two kinds of random streams apart


@dataclass(frozen=True, kw_only=True, slots=True)
class Descent:
    """How the weights of a network are moved."""

    optimiser: Callable[[nn.Module], torch.optim.Optimizer]
    """For a network on its device; each of its groups has its "first_lr"."""
    set_rates: Callable[[torch.optim.Optimizer, int], None]
    """Sets the learning rate of each group for a step, before it."""
    passes: int = 1
    """Parts that the examples of a step are passed through in; their gradients are averaged."""
    advice: str = "lower the learning rates, or train in float32"
    """What to do where the loss is not finite."""


class Monitor(Protocol):
    """What a training tells about itself, and where it keeps its checkpoints."""

    device: str
    """Where to train, see `chosen_device`."""

    def progress(self, done: int, total: int, note: str = "") -> None:
        """So many steps are done."""
        ...

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics at the end of an epoch; may raise to end the training."""
        ...

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Keep a checkpoint: `write` puts its files into the folder it is given."""
        ...

    def restore(self) -> tuple[int, Path] | None:
        """Step and folder of the last checkpoint, if there is one."""
        ...


class Silent:
    """A monitor for a training that nobody watches, and that starts from the beginning."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Say nothing."""

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Say nothing."""

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Keep nothing."""

    def restore(self) -> tuple[int, Path] | None:
        """There is no checkpoint."""
        return None


def poly(step: int, steps: int, power: float = 0.9) -> float:
    """Share of the first learning rate at `step` of `steps`; after the last it stays as it was."""
    return float((1 - min(step, steps - 1) / steps) ** power)


def set_rates(optimiser: torch.optim.Optimizer, step: int, steps: int, power: float) -> None:
    """Set each group's learning rate for `step` from its "first_lr"; to be called before it."""
    for group in optimiser.param_groups:
        group["lr"] = group["first_lr"] * poly(step, steps, power)


def chosen_device(name: str) -> torch.device:
    """The device called "cpu", "cuda", "cuda:1" or the like; "auto" takes an accelerator if any."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it, torch draws from `seed`; behind it, from where it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def mixed(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Within it, products on `device` are made in bfloat16 if that is the `precision`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def fit(
    net: nn.Module,
    rates: Mapping[str, float],
    objective: Objective,
    examples: Examples,
    config: Schedule,
    *,
    monitor: Monitor,
    evaluate: Callable[[], Mapping[str, float]] = dict,
) -> None:
    """Train `net` in place, from the monitor's last checkpoint if there is one.

    `rates` gives the first learning rate of each child of `net` that is trained. What the objective
    returns is reported as the mean over the epoch, together with what `evaluate` finds at its end.
    Raises FloatingPointError where the loss is not finite, and ValueError among several ranks: what
    is trained here is normalised over a batch, or draws on others, in ways of its own.
    """
    check_alone()
    descent = Descent(
        optimiser=partial(_sgd, rates=rates, config=config),
        set_rates=partial(set_rates, steps=config.steps, power=config.power),
    )
    descend(net, descent, objective, examples, config, monitor=monitor, evaluate=evaluate)


def descend(
    net: nn.Module,
    descent: Descent,
    objective: Objective,
    examples: Examples,
    config: Schedule,
    *,
    monitor: Monitor,
    evaluate: Callable[[], Mapping[str, float]] = dict,
) -> None:
    """`fit` with an optimiser, rates and passes of one's own.

    The examples of a step are as many as a batch has times the passes. Of the optimiser's memory, a
    checkpoint keeps the tensors, by name. Raises ValueError where a batch has not an example for
    each rank, and RuntimeError where the ranks do not start from the same weights.
    """
    check_batch_of_ranks(config.batch)
    device = chosen_device(monitor.device)
    net.to(device).train()
    optimiser = descent.optimiser(net)
    done = _restore(net, optimiser, monitor)
    check_same_start(done, _state(net, optimiser), device)
    batches = _batches(lambda step: part(examples(step), descent.passes), config, start=done)
    for epoch in range(1, config.epochs + 1):
        end = round(config.steps * epoch / config.epochs)
        sums: dict[str, float] = defaultdict(float)
        for step in range(done, end):
            batch = next(batches)
            descent.set_rates(optimiser, step)
            where = f"step {step + 1} of {config.steps}"
            # What the net draws is the step's own, and the rank's.
            with seeded(config.seed * 2**32 + rank() * 2**24 + step):
                terms = _gathered(optimiser, objective, batch, descent, device, where)
            _move(optimiser, config.clip)
            for name, value in terms.items():
                sums[name] += value / (end - done)
            if rank() == 0:
                monitor.progress(step + 1, config.steps, f"loss {terms['loss']:.4f}")
        if end > done and rank() == 0:
            monitor.report(end, {**sums, **evaluate()})
            monitor.save(end, partial(_write, net, optimiser, end))
        done = max(done, end)


def _sgd(net: nn.Module, rates: Mapping[str, float], config: Schedule) -> torch.optim.SGD:
    groups = [
        {"params": [p for p in child.parameters() if p.requires_grad], "first_lr": rates[name]}
        for name, child in net.named_children()
        if name in rates
    ]
    return torch.optim.SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay)


def _gathered(
    optimiser: torch.optim.Optimizer,
    objective: Objective,
    batch: Example,
    descent: Descent,
    device: torch.device,
    where: str,
) -> dict[str, float]:
    """Leave this rank's gradient of a step, the mean over its passes; returns all ranks' terms."""
    optimiser.zero_grad()
    means: dict[str, float] = defaultdict(float)
    for shown in zip(*(tensor.chunk(descent.passes) for tensor in batch), strict=True):
        terms = objective(*(tensor.to(device) for tensor in shown))
        values = averaged(terms)
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(f"loss is {values['loss']} at {where}: {descent.advice}")
        torch.autograd.backward(terms["loss"] / descent.passes)
        for name, value in values.items():
            means[name] += value / descent.passes
    return means


def _move(optimiser: torch.optim.Optimizer, clip: float | None) -> None:
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    average_gradients(trained)
    if clip is not None:
        nn.utils.clip_grad_norm_(trained, clip)
    optimiser.step()


def _batches(examples: Examples, config: Schedule, start: int) -> Iterator[Example]:
    """The stacked examples of each step from `start`; the next are made ahead."""
    with ThreadPoolExecutor(config.workers) as pool:

        def begin(step: int) -> list[Future[Example]]:
            return [pool.submit(make) for make in examples(step)]

        upcoming = begin(start)
        for step in range(start, config.steps):
            made = [future.result() for future in upcoming]
            if step + 1 < config.steps:
                upcoming = begin(step + 1)
            yield tuple(torch.stack(parts) for parts in zip(*made, strict=True))


def classifier_examples(
    samples: Samples, config: Training, mean: Sequence[float], std: Sequence[float]
) -> Examples:
    """The examples of a classifier: `classifier_example` of each image that `drawn` names.

    Raises ValueError where `samples` cannot fill a batch.
    """
    check_batch(samples, config)

    def examples(step: int) -> list[Callable[[], Example]]:
        chosen = drawn(len(samples), config.batch, config.seed, step)
        return [partial(classifier_example, samples, i, step, config, mean, std) for i in chosen]

    return examples


def check_batch(samples: Samples, config: Schedule) -> None:
    """Raise ValueError where `samples` cannot fill a batch."""
    if len(samples) < config.batch:
        raise ValueError(f"batch is {config.batch} but the split has {len(samples)} images")


def classifier_example(
    samples: Samples,
    image: int,
    step: int,
    config: Training,
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    """View [3, S, S] of an image, its label [C] in {0, 1}, and where the view is valid [1, S, S].

    All float32. The draws of the augmentation are those of this image in this step.
    """
    rng = view_rng(config.seed, step, image)
    pixels = samples.image(image)
    view, valid = training_view(
        pixels, long_side=config.long_side, crop=config.crop, mean=mean, std=std, rng=rng
    )
    return view, torch.from_numpy(samples.labels[image]).float(), valid


def view_rng(seed: int, step: int, image: int) -> np.random.Generator:
    """The source of the draws that augment an image in a step."""
    return np.random.default_rng([_VIEW, seed, step, image])


def drawn(images: int, batch: int, seed: int, step: int) -> list[int]:
    """The images of a step: each pass over the split is shuffled anew and drops its remainder."""
    passed, place = divmod(step, images // batch)
    order = np.random.default_rng([_ORDER, seed, passed]).permutation(images)
    return [int(i) for i in order[place * batch : (place + 1) * batch]]


def _write(net: nn.Module, optimiser: torch.optim.Optimizer, step: int, folder: Path) -> None:
    save_weights(net, folder / "net.safetensors")
    save_file(_memory(net, optimiser), folder / "momentum.safetensors")
    (folder / "step.json").write_text(json.dumps({"step": step}))


def _restore(net: nn.Module, optimiser: torch.optim.Optimizer, monitor: Monitor) -> int:
    """Go back to the monitor's last checkpoint; returns the number of steps it has behind it."""
    checkpoint = monitor.restore()
    if checkpoint is None:
        return 0
    _, folder = checkpoint
    load_weights(net, folder / "net.safetensors")
    parameters = dict(net.named_parameters())
    for key, value in read_state(folder / "momentum.safetensors").items():
        name, _, entry = key.partition("/")
        parameter = parameters[name]
        scalar = value.ndim == 0  # a count of steps; it stays where it is
        held = value if scalar else torch.empty_like(parameter).copy_(value)
        optimiser.state[parameter][entry or "momentum_buffer"] = held
    return int(json.loads((folder / "step.json").read_text())["step"])


def _state(net: nn.Module, optimiser: torch.optim.Optimizer) -> Iterator[Tensor]:
    """All that a checkpoint keeps."""
    yield from net.state_dict().values()
    yield from _memory(net, optimiser).values()


def _memory(net: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimiser remembers of each parameter that has moved: "NAME/exp_avg" and the like.

    SGD's momentum is under the bare name of its parameter.
    """
    return {
        name if entry == "momentum_buffer" else f"{name}/{entry}": value.contiguous()
        for name, parameter in net.named_parameters()
        for entry, value in optimiser.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }
