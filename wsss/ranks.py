"""One training by several processes: what they have to agree on, over torch.distributed.

Each process, a rank, sees a part of every batch. Whoever starts them also initialises their process
group (NCCL for tensors on GPUs, Gloo on CPUs); where nobody did, there is one rank, and everything
here leaves values as they are, to the bit.

Tested are two processes on CPUs, with Gloo. NCCL, and a training whose batch norms are shared,
which takes GPUs, have not been tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Item = TypeVar("Item")
Net = TypeVar("Net", bound=nn.Module)
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def rank() -> int:
    """Place of this process among the `ranks`, from 0."""
    return dist.get_rank() if _together() else 0


def ranks() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _together() else 1


def check_batch_of_ranks(batch: int) -> None:
    """Raise ValueError where a batch has not an example for each rank."""
    if batch < ranks():
        raise ValueError(
            f"batch is {batch} but {ranks()} processes share it: give batch {ranks()} or more, or"
            f" ask for {batch} of the GPUs"
        )


def check_alone() -> None:
    """Raise ValueError where several ranks do a training that cannot be split among them."""
    if ranks() > 1:
        raise ValueError(
            f"this training cannot be split among {ranks()} processes: ask for one GPU, not"
            f" {ranks()}"
        )


def check_same_start(done: int, state: Iterable[Tensor], device: torch.device) -> None:
    """Raise RuntimeError unless all ranks have `done` as many steps, and hold the same bits."""
    if ranks() == 1:
        return
    here = torch.stack([torch.tensor(done, device=device), _checksum(state, device)])
    extremes = torch.cat([here, -here])
    dist.all_reduce(extremes, dist.ReduceOp.MAX)
    most, least = extremes[:2], -extremes[2:]
    if not torch.equal(most, least):
        steps = f"step {least[0]}" if most[0] == least[0] else f"steps {least[0]} to {most[0]}"
        raise RuntimeError(
            f"{ranks()} processes do not start from the same weights, behind {steps}: let all see"
            " the same checkpoints and files of weights, and start it again"
        )


def part(items: Sequence[Item], passes: int = 1) -> list[Item]:
    """This rank's items of each of so many passes over them: contiguous, nearly equally many."""
    size = -(-len(items) // passes)
    whole = (items[start : start + size] for start in range(0, len(items), size))
    here, there = rank(), rank() + 1
    return [
        item
        for each in whole
        for item in each[len(each) * here // ranks() : len(each) * there // ranks()]
    ]


def summed(tensor: Tensor) -> Tensor:
    """The sum over all ranks, which no gradient goes through."""
    if not _together():
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def averaged(terms: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars by name, each the mean over all ranks."""
    if not _together():
        return {name: value.item() for name, value in terms.items()}
    means = summed(torch.stack([value.detach().float() for value in terms.values()])) / ranks()
    return dict(zip(terms, means.tolist(), strict=True))


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over all ranks, bit for bit the same on each.

    A rank without one counts as zero; where no rank has one, none gets one.
    """
    trained = [p for p in parameters if p.requires_grad]
    if not _together() or not trained:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    known = gradients[0].new_tensor([p.grad is not None for p in trained])
    means = torch.cat([*(g.flatten() for g in gradients), known])  # one exchange, not hundreds
    dist.all_reduce(means)
    means /= ranks()
    *each, known = torch.split(means, [*(g.numel() for g in gradients), len(trained)])
    for parameter, gradient, mean, some in zip(
        trained, gradients, each, known.tolist(), strict=True
    ):
        if some:
            parameter.grad = gradient.copy_(mean.view_as(gradient))


def share_norms(net: Net, device: torch.device) -> Net:
    """Let the batch norms that `net` trains see the parts of all ranks, as one process does.

    Raises ValueError on a CPU, where torch has no such norms.
    """
    trained = any(isinstance(m, _BatchNorm) and m.training for m in net.train().modules())
    if ranks() == 1 or not trained:
        return net
    if device.type == "cpu":
        raise ValueError(
            f"{ranks()} processes cannot train batch norms together on CPUs: ask for one process,"
            " or set architecture to deeplabv2, which trains none"
        )
    from timm.layers import norm_act

    convert: Any = norm_act.convert_sync_batchnorm  # torch's drops the activations of timm's norms
    shared: Net = convert(net)
    return shared


def _checksum(state: Iterable[Tensor], device: torch.device) -> Tensor:
    """Of all bits, as one integer; exact, so that it is the same on machines of other kinds."""
    total = torch.zeros((), dtype=torch.int64, device=device)
    for tensor in state:
        bits = tensor.detach().contiguous().view(_INTEGERS[tensor.element_size()])
        total = total * 31 + bits.sum(dtype=torch.int64).to(device)  # beyond 64 bits it wraps
    return total


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()
