"""Where a pipeline begins: the splits of a data set, with and without their masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stageflow.context import Context
from stageflow.stage import Source
from wsss.data import Samples, open_samples
from wsss.data.roots import localised, pinned
from wsss.data.saliency import SaliencyMaps

if TYPE_CHECKING:
    import torch


def images(location: str, split: str) -> Source:
    """The images of a split with their image-level labels; their masks are no part of the key."""
    identity = open_samples(location, split).identity()
    without_masks = {k: v for k, v in identity.items() if k not in ("masks", "mask_files")}
    return Source("images", f"{split}@{pinned(location)}", without_masks)


def masks(location: str, split: str) -> Source:
    """A split with its masks. Raises ValueError where an image has none."""
    samples = open_samples(location, split)
    if not samples.has_masks:
        raise ValueError(
            f"{location}: an image of {split} has no mask, so it cannot score anything"
        )
    return Source("masks", f"{split}@{pinned(location)}", samples.identity())


def saliency(folder: str, location: str, split: str) -> Source:
    """Saliency maps of the images of a split, ID.png in a folder or in a root of a store.

    Their content is the key, so all of them are read. Raises ValueError where one is absent.
    """
    maps, ids = SaliencyMaps(Path(localised(folder))), open_samples(location, split).ids
    place = pinned(folder) if "://" in folder else str(Path(folder).absolute())
    return Source("saliency", place, {"content": maps.digest(ids)})


def opened(source: Source) -> Samples:
    """The split behind a source. ValueError if it is not what was planned with."""
    split, _, location = source.location.partition("@")
    samples = open_samples(location, split)
    here = samples.identity()
    for name, value in source.identity.items():
        if here[name] != value:
            raise ValueError(f"{location} is not what was planned with: {name} of {split} differs")
    return samples


def opened_saliency(source: Source, ids: Iterable[str]) -> SaliencyMaps:
    """The maps behind a source. ValueError if they are not what was planned with."""
    maps = SaliencyMaps(Path(localised(source.location)))
    if maps.digest(ids) != source.identity["content"]:
        raise ValueError(f"saliency maps in {source.location} are not what was planned with")
    return maps


def settle_device(context: Context) -> torch.device:
    """The device to compute on, which the manifest names and accounts for."""
    from wsss.training import chosen_device

    device = chosen_device(context.device)
    context.device = str(device)
    return device


def mine(context: Context, images: int) -> Iterator[int]:
    """This shard's part of `images` places, each counted as it is begun."""
    places = context.shard.of(range(images))
    for done, i in enumerate(places):
        context.progress(done, len(places))
        yield i


def first(context: Context, images: int) -> int:
    """The first place of this shard's part; 0 where it has none."""
    return next(iter(context.shard.of(range(images))), 0)
