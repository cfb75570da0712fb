"""Weights on disk: safetensors under our own names, loaded strictly; upstream's .pth files read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wsss.config import BY_CONTENT, content_of


class Start(Protocol):
    """A training's choice of initial weights for its backbone."""

    @property
    def weights(self) -> str:
        """"imagenet", "random", or "sha256:..." of a file's content."""

    @property
    def weights_file(self) -> str:
        """Where that file lies."""


def save_weights(net: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the parameters and buffers of `net`, and `metadata`, to a safetensors file."""
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file(state, path, dict(metadata or {}))


def load_weights(net: nn.Module, path: Path) -> None:
    """Fill `net` from a file; ValueError names the file where it does not fit exactly."""
    fit_state(net, read_state(path), path)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a torch state dict (any other suffix), on the CPU.

    Raises ValueError, naming the file, where it is absent, broken or not a plain state dict.
    """
    if not path.is_file():
        raise ValueError(f"weights file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file can raise almost anything in either reader
        reason = str(error).partition("\n")[0]
        raise ValueError(f"weights file {path} cannot be read: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"weights file {path} is no state dict: save `net.state_dict()` alone")
    return dict(state)


def read_metadata(path: Path, field: str) -> str:
    """The entry `field` that `save_weights` wrote beside the tensors; ValueError where absent."""
    if not path.is_file():
        raise ValueError(f"weights file {path} does not exist")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"weights file {path} cannot be read: {error}") from error
    if field not in metadata:
        raise ValueError(f"weights file {path} does not say its {field}: it was not written by us")
    return str(metadata[field])


def initial_weights(config: Start) -> str:
    """What `backbone` loads: "imagenet", "random", or the file, if it has the content asked for.

    Raises ValueError, naming the file, where it is another.
    """
    if not config.weights.startswith(BY_CONTENT):
        return config.weights
    if content_of(Path(config.weights_file)) != config.weights:
        raise ValueError(f"weights file {config.weights_file} is not the one with {config.weights}")
    return config.weights_file


def fit_state(net: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Copy `state` into `net`; ValueError, naming `source`, unless names and shapes are equal."""
    wanted = net.state_dict()
    # Counters of batches have no effect on a fixed batch norm, and old files lack them.
    missing = [n for n in wanted if n not in state and not n.endswith("num_batches_tracked")]
    unknown = [n for n in state if n not in wanted]
    reshaped = [n for n in wanted if n in state and wanted[n].shape != state[n].shape]
    faults = (("lacks", missing), ("has the unknown", unknown), ("has another shape for", reshaped))
    found = [f"{what} {_few(names)}" for what, names in faults if names]
    if found:
        raise ValueError(f"weights file {source} does not fit the network: {'; '.join(found)}")
    net.load_state_dict(dict(state), strict=False)


def _few(names: Iterable[str]) -> str:
    first, *others = names
    return f"{first} and {len(others)} more" if others else first
