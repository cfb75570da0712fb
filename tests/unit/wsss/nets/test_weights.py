"""Weights on disk: what was saved comes back, and what does not fit is named."""

from pathlib import Path

import pytest
import torch
from torch import nn

from wsss.nets.weights import load_weights, read_metadata, read_state, save_weights


def net(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 1), nn.BatchNorm2d(width))


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    file, first, second = tmp_path / "net.safetensors", net(), net()
    save_weights(first, file, {"backbone": "tiny"})
    load_weights(second, file)
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor)
    assert read_metadata(file, "backbone") == "tiny"
    with pytest.raises(ValueError, match="does not say its colour"):
        read_metadata(file, "colour")


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    save_weights(net(width=4), file)
    with pytest.raises(ValueError, match=r"net\.safetensors does not fit .*another shape for 0\."):
        load_weights(net(), file)
    save_weights(nn.Linear(2, 2), file)
    with pytest.raises(ValueError, match=r"lacks 0\.weight and .* more; has the unknown bias"):
        load_weights(net(), file)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth"])
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    with pytest.raises(ValueError, match=f"{name} does not exist"):
        read_state(file)
    file.write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        read_state(file)


def test_a_checkpoint_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    torch.save({"epoch": 3, "state": {}}, file)
    with pytest.raises(ValueError, match=r"x\.pth is no state dict"):
        read_state(file)
