"""The reference networks, filled by rule: what the recorded arrays were made with."""

import hashlib
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from wsss.cam.classifier import CAMNet
from wsss.nets.backbones import backbone

Array = npt.NDArray[np.float32]
HEADS = ("classifier.weight", "recam.weight", "fc8.weight")


def canonical(name: str) -> str:
    """The name a tensor of ours has in the recordings."""
    return name.removeprefix("backbone.").removeprefix("stem.")


def rule(name: str, shape: tuple[int, ...]) -> Array:
    """The value of the tensor with this canonical name (README of the recordings, "Weights")."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name in HEADS:
        value = 0.05 * rng.standard_normal(shape)
    elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        value = 0.8 + 0.4 * rng.random(shape)
    elif name.endswith(("bias", "running_mean")):
        value = 0.1 * rng.standard_normal(shape)
    else:
        value = rng.standard_normal(shape)
        value -= value.mean(axis=tuple(range(1, len(shape))), keepdims=True)
        value *= np.sqrt(2 / np.prod(shape[1:]))
    return (0.5 * value if name.endswith("bn3.weight") else value).astype(np.float32)


Fill = Callable[[nn.Module], str]
Close = Callable[[torch.Tensor, Array], None]


@pytest.fixture(scope="session")
def fill() -> Fill:
    """Fills a network by the rule; returns the SHA-256 over its tensors in the order of names."""

    def filled(net: nn.Module) -> str:
        state = net.state_dict().items()
        named = {canonical(k): v for k, v in state if not k.endswith("num_batches_tracked")}
        digest = hashlib.sha256()
        for name in sorted(named):
            value = rule(name, tuple(named[name].shape))
            named[name].copy_(torch.from_numpy(value))
            digest.update(value.astype("<f4").tobytes())
        return digest.hexdigest()

    return filled


@pytest.fixture(scope="session")
def close() -> Close:
    """Asserts the tolerance of maps and features: |a - b| <= 1e-4 * max(1, max |recorded|)."""

    def compare(actual: torch.Tensor, recorded: Array) -> None:
        assert tuple(actual.shape) == recorded.shape
        error = np.abs(actual.detach().numpy() - recorded).max()
        assert error <= 1e-4 * max(1.0, np.abs(recorded).max())

    return compare


@pytest.fixture(scope="session")
def cam_net(fill: Fill) -> CAMNet:
    """ResNet-50 with its classifier, filled by rule, in evaluation mode."""
    net = CAMNet(backbone("resnet50"), 20)
    fill(net)
    return net.eval()


@pytest.fixture(scope="session")
def w_prime() -> torch.Tensor:
    """The second classifier, [20, 2048, 1, 1]."""
    return torch.from_numpy(rule("recam.weight", (20, 2048, 1, 1)))
