"""From an image to its score maps, and score maps on disk: the currency of the pipeline.

Multi-scale, mirrored extraction as in the released code of IRN and ReCAM (arXiv 1904.05044,
2203.00962), for any source of class maps. For each scale s:

    x_s = normalise(bicubic(image, s))                        the pair [x_s, mirror(x_s)]
    m_s = source(pair)                                        non-negative maps of all classes
    M   = sum_s resize(m_s, grid)                             bilinear, corners not aligned
    P_c = M_c / (max M_c + 1e-5)                              for the classes c present

The release sums on two grids. On the stride-4 one the maps of an image whose sides are no multiples
of 16 are squeezed a little; on full resolution they are resized to the next multiple of 16 and
cropped, so that a cell stays over its pixels. We store the second, sampled at stride 4 and
quantised: resizing it by 4 gives back the full-resolution maps, to within 0.05 mIoU.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.data.samples import Samples
from wsss.data.transforms import flip, normalise, padded_size, rescale, strided_size

STRIDE = 4
"""Pixels between the samples of a stored plane."""


class MapSource(Protocol):
    """Anything that turns an image into non-negative class maps."""

    def __call__(self, pair: Tensor, keys: Tensor) -> Tensor:
        """Maps [n, h, w] of the classes `keys` [n] in a normalised image.

        The image comes with its mirror image, [2, 3, H, W]; the maps are un-mirrored and summed.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """How a network is shown an image, and how coarse the maps are that it makes of it."""

    scales: tuple[float, ...]
    """Of the image's sides."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of each channel, for images in [0, 1]."""
    stride: int
    """Pixels of a view to a cell of its maps."""
    device: torch.device | str = "cpu"


Planes = Callable[[npt.NDArray[np.uint8], Tensor], Tensor]
"""An image [H, W, 3] and its classes [n] to score planes at stride 4, as `ScoreMap` holds them."""


class ScoreMap(NamedTuple):
    """One image's present classes and their score planes."""

    id: str
    keys: Tensor
    """0-based classes without background, int64 [n]."""
    planes: Tensor
    """Scores in [0, 1] at stride 4, float32 [n, ceil(H / 4), ceil(W / 4)]."""
    size: tuple[int, int]
    """Height and width of the image."""


def mirrored_sum(maps: Tensor) -> Tensor:
    """Maps of an image plus those of its mirror image, mirrored back: [2, C, h, w] to [C, h, w]."""
    return maps[0] + flip(maps[1])


def max_normalised(maps: Tensor) -> Tensor:
    """Non-negative maps [..., h, w], each divided by its maximum + 1e-5: in [0, 1)."""
    return maps / (maps.amax((-2, -1), keepdim=True) + 1e-5)


def multiscale_maps(
    image: npt.NDArray[np.uint8], source: MapSource, keys: Tensor, views: Views
) -> list[Tensor]:
    """What `source` makes of uint8 [H, W, 3] at each scale, [n, h, w] of the scale's own grid."""
    maps = []
    for scale in views.scales:
        view = normalise(rescale(image, scale, "cubic"), views.mean, views.std)
        pair = torch.stack([view, flip(view)]).to(views.device)
        maps.append(source(pair, keys.to(views.device)).float().cpu())
    return maps


def multiscale_planes(source: MapSource, views: Views) -> Planes:
    """The score planes of a source: multi-scale, mirrored, each divided by its maximum."""

    def planes(image: npt.NDArray[np.uint8], keys: Tensor) -> Tensor:
        maps = multiscale_maps(image, source, keys, views)
        return score_planes(maps, (image.shape[0], image.shape[1]), views.stride)

    return planes


def fused(maps: Iterable[Tensor], grid: tuple[int, int]) -> Tensor:
    """Sum of maps [C, h_s, w_s], each resized to the `grid`: [C, *grid]."""
    return torch.stack([_resized(m, grid) for m in maps]).sum(0)


def fused_stride4(maps: Iterable[Tensor], size: tuple[int, int]) -> Tensor:
    """The released "cam": maps summed on the stride-4 grid of the image `size`, normalised."""
    return max_normalised(fused(maps, strided_size(*size, STRIDE)))


def fused_high_res(maps: Iterable[Tensor], size: tuple[int, int], stride: int = 16) -> Tensor:
    """The released "high_res": maps summed at full resolution, cropped to `size`, normalised.

    A grid of the network's `stride` covers the next multiple of it, and is resized to that.
    """
    height, width = size
    return max_normalised(fused(maps, padded_size(*size, stride))[:, :height, :width])


def score_planes(maps: Sequence[Tensor], size: tuple[int, int], stride: int) -> Tensor:
    """`fused_high_res` sampled at stride 4: [n, ceil(H / 4), ceil(W / 4)] in [0, 1]; it is stored.

    `stride` is the network's, 4 or a multiple of it. The samples are divided by the maximum at
    full resolution: their own is lower, and would cost some hundredths of mIoU.
    """
    height, width = size
    rows, columns = padded_size(height, width, max(stride, STRIDE))
    whole = fused(maps, (rows, columns))[:, :height, :width]
    planes = fused(maps, (rows // STRIDE, columns // STRIDE))
    h, w = strided_size(height, width, STRIDE)
    return (planes[:, :h, :w] / (whole.amax((-2, -1), keepdim=True) + 1e-5)).clamp(max=1)


def upsample(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Stored planes [n, h, w] at full resolution, [n, H, W] for the image `size` (H, W)."""
    height, width = size
    grid = (planes.shape[1] * STRIDE, planes.shape[2] * STRIDE)
    return _resized(planes, grid)[:, :height, :width]


def at_stride4(maps: Tensor) -> Tensor:
    """The planes [k, ceil(H / 4), ceil(W / 4)] that `upsample` makes most like maps [k, H, W].

    Nearest by squared difference, within [0, 1].
    """
    rows, columns = (_inverse(side) for side in maps.shape[-2:])
    return (rows @ maps @ columns.T).clamp(0, 1)


@lru_cache(maxsize=128)
def _inverse(length: int) -> Tensor:
    """What undoes the resizing by 4 along an axis of so many pixels: [ceil(length / 4), length].

    Samples would do where the cells of the maps are multiples of 4 pixels, as in `score_planes`;
    of other maps they miss peaks and valleys.
    """
    samples = -(-length // STRIDE)
    cells = torch.eye(samples, dtype=torch.float64)[None]
    resized = F.interpolate(cells, samples * STRIDE, mode="linear")[0, :, :length]
    inverse: Tensor = torch.linalg.pinv(resized.T)
    return inverse.float()


def _resized(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    if not len(maps):  # an image without a class; torch refuses to resize nothing
        return maps.new_zeros((0, *grid))
    return F.interpolate(maps[None], grid, mode="bilinear")[0]


def best_class(planes: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """The highest of planes [n, H, W] at each pixel, and its class of `keys` [n]: two [H, W].

    The first of equals wins. Without planes the score is 0 everywhere, of class 0.
    """
    if not len(planes):
        return planes.new_zeros(planes.shape[1:]), keys.new_zeros(planes.shape[1:])
    score, place = planes.max(0)
    return score, keys[place]


def extract(samples: Samples, indices: Iterable[int], planes: Planes) -> Iterator[ScoreMap]:
    """Score maps of the images at `indices`, each for the classes of its image-level label.

    An image without a class has no planes, and no network looks at it.
    """
    for i in indices:
        image, keys = samples.image(i), present(samples, i)
        size = (image.shape[0], image.shape[1])
        grid = strided_size(*size, STRIDE)
        found = planes(image, keys) if len(keys) else torch.zeros((0, *grid))
        yield ScoreMap(id=samples.ids[i], keys=keys, planes=found, size=size)


def present(samples: Samples, i: int) -> Tensor:
    """The classes of image `i` by its image-level label: 0-based, ascending, int64 [n]."""
    return torch.from_numpy(np.flatnonzero(samples.labels[i]))


def write_scores(
    folder: Path,
    maps: Iterable[ScoreMap],
    *,
    first: int = 0,
    bits: Literal[8, 16] = 8,
    per_shard: int = 256,
) -> None:
    """Write score maps to `folder`, in shards, as they come.

    `first` is the place of the first of them among all images of the split. Shards are named by the
    place of their first image, so those that several workers wrote lie side by side in one folder.
    Raises ValueError for scores outside [0, 1] (NaN too).
    """
    folder.mkdir(parents=True, exist_ok=True)
    remaining = iter(maps)
    while shard := list(islice(remaining, per_shard)):
        np.savez(folder / f"maps_{first:07d}.npz", allow_pickle=False, **_packed(shard, bits))
        first += len(shard)


class ScoreMaps:
    """The score maps in a folder, in the order of the split; shards are read when asked for.

    Raises ValueError for a folder without maps, a missing shard and a broken one.
    """

    def __init__(self, folder: Path) -> None:
        self._shards = sorted(folder.glob("maps_*.npz"))
        self._firsts: list[int] = []
        ids: list[str] = []
        for path in self._shards:
            if int(path.stem.removeprefix("maps_")) != len(ids):
                raise ValueError(f"{folder} lacks the score maps from {len(ids)} to {path.name}")
            self._firsts.append(len(ids))
            ids += _read(path, ("ids",))["ids"].tolist()
        if not ids:
            raise ValueError(f"{folder} holds no score maps (maps_*.npz)")
        self.ids = tuple(ids)
        self._open: tuple[int, dict[str, npt.NDArray[Any]]] = (-1, {})

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[ScoreMap]:
        return (self[i] for i in range(len(self)))

    def of(self, ids: Sequence[str]) -> Sequence[ScoreMap]:
        """The score maps of these images, in this order; ValueError names the first without one."""
        place = {name: i for i, name in enumerate(self.ids)}
        missing = [name for name in ids if name not in place]
        if missing:
            raise ValueError(f"{len(missing)} images have no score maps, {missing[0]} first")
        return _Chosen(self, [place[name] for name in ids])

    def __getitem__(self, index: int) -> ScoreMap:
        place = range(len(self))[index]
        shard = bisect_right(self._firsts, place) - 1
        if self._open[0] != shard:
            self._open = (shard, _read(self._shards[shard], _ARRAYS))
        return _unpacked(self._open[1], place - self._firsts[shard])


@dataclass(frozen=True, slots=True)
class _Chosen(Sequence[ScoreMap]):
    """Some of the score maps in a folder."""

    whole: ScoreMaps
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> ScoreMap:  # type: ignore[override]  # no slices here
        return self.whole[self.places[index]]


_ARRAYS = ("ids", "sizes", "key_offsets", "keys", "plane_offsets", "planes")


def _packed(shard: Sequence[ScoreMap], bits: Literal[8, 16]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a shard: those of its images end to end, and where each begins."""
    for scores in shard:
        expected = (len(scores.keys), *strided_size(*scores.size, STRIDE))
        if tuple(scores.planes.shape) != expected:
            raise ValueError(f"planes of {scores.id} are {[*scores.planes.shape]}, not {expected}")
    flat = torch.cat([scores.planes.flatten() for scores in shard]).numpy()
    if not ((flat >= 0) & (flat <= 1)).all():
        raise ValueError(f"scores of {shard[0].id} to {shard[-1].id} leave [0, 1] or are NaN")
    kind = np.uint8 if bits == 8 else np.uint16
    return {
        "ids": np.array([scores.id for scores in shard]),
        "sizes": np.array([scores.size for scores in shard], dtype=np.int32),
        "key_offsets": np.cumsum([0, *(len(scores.keys) for scores in shard)], dtype=np.int64),
        "keys": torch.cat([scores.keys for scores in shard]).numpy().astype(np.int16),
        "plane_offsets": np.cumsum([0, *(s.planes.numel() for s in shard)], dtype=np.int64),
        "planes": np.round(flat * np.iinfo(kind).max).astype(kind),
    }


def _unpacked(shard: dict[str, npt.NDArray[Any]], i: int) -> ScoreMap:
    """Image `i` of a shard."""
    height, width = (int(side) for side in shard["sizes"][i])
    keys = shard["keys"][slice(*shard["key_offsets"][i : i + 2])].astype(np.int64)
    flat = shard["planes"][slice(*shard["plane_offsets"][i : i + 2])]
    planes = flat.reshape(len(keys), *strided_size(height, width, STRIDE)).astype(np.float32)
    return ScoreMap(
        id=str(shard["ids"][i]),
        keys=torch.from_numpy(keys),
        planes=torch.from_numpy(planes / np.iinfo(flat.dtype).max),
        size=(height, width),
    )


def _read(path: Path, names: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as shard:
            return {name: shard[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ValueError(f"score maps {path} cannot be read: {error}") from error
