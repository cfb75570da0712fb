"""Drawn scenes with exact masks: the built-in data set, for trying things out and for tests.

Planted in them is what makes weak supervision hard on photographs:

- co-occurrence: the first class of each of `PAIRS` comes with the second under it nine times in
  ten, so a classifier can take either for the other, and its maps spill over;
- heads and bodies: a class has a smaller head in its own colours and pattern and a plainer body,
  often in a paint that other classes and the clutter in the background share, so that a map covers
  the head first;
- a long tail: the most frequent class is in about half of the images, the rarest in one of ten;
- small and large objects, one or two groups of them in an image, partly hidden by one another.

A scene is a pure function of seed, split and index, whatever the order of access.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from wsss.data.samples import Samples

PAIRS = (("boat", "water"), ("train", "rail"), ("bird", "branch"))
"""Classes that come together: the first seldom without the second, which lies under it."""

SPLITS = {"train": 400, "val": 120}
"""Number of images in each split, unless the location says otherwise."""

PARTNER_CHANCE = 0.9
"""How often the first class of a pair brings the second."""

SECOND_GROUP_CHANCE = 0.35
"""How often an image holds two groups of objects instead of one."""

Floats = npt.NDArray[np.float32]
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels."""
Part = tuple[float, ...]
"""In the unit square: the four numbers of an ellipse's box, or a polygon's x, y, x, y, ..."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """How one class looks, and how often it is the subject of a group, relative to the others."""

    name: str
    share: float
    aspect: float
    """Width over height."""
    head: tuple[Part, ...]
    body: tuple[Part, ...]
    colours: tuple[Colour, Colour]
    """Of the head's pattern."""
    pattern: Callable[[Floats, Floats], Floats]
    """Of the row and column in pixels: the first colour where it is positive, else the second."""
    paint: Colour | None = None
    """Of the body; None takes one of the `PAINTS` that several classes share."""


KINDS = (
    Kind(
        name="cat",
        share=0.38,
        aspect=1.3,
        head=((0.0, 0.12, 0.4, 0.6), (0.03, 0.3, 0.05, 0, 0.2, 0.2, 0.35, 0, 0.37, 0.3)),
        body=(
            (0.22, 0.35, 0.92, 0.85),
            (0.28, 0.6, 0.42, 0.6, 0.42, 1, 0.3, 1),
            (0.7, 0.6, 0.86, 0.6, 0.86, 1, 0.74, 1),
            (0.82, 0.5, 0.9, 0.1, 1, 0.12, 0.92, 0.65),
        ),
        colours=((245, 165, 40), (110, 50, 15)),
        pattern=lambda y, x: np.sin(1.2 * (x + y)),
    ),
    Kind(
        name="boat",
        share=0.21,
        aspect=1.2,
        head=((0.3, 0.62, 0.5, 0, 0.88, 0.62),),
        body=((0, 0.6, 1, 0.6, 0.84, 1, 0.16, 1), (0.44, 0, 0.5, 0, 0.5, 0.65, 0.44, 0.65)),
        colours=((245, 240, 235), (205, 35, 45)),
        pattern=lambda y, x: np.sin(1.2 * y),
    ),
    Kind(
        name="water",
        share=0.04,
        aspect=2.6,
        head=((0, 0.1, 0.25, 0, 0.5, 0.12, 0.75, 0, 1, 0.1, 1, 0.42, 0, 0.42),),
        body=((0, 0.3, 1, 0.3, 0.94, 1, 0.06, 1),),
        colours=((190, 235, 250), (20, 95, 190)),
        pattern=lambda y, x: np.sin(1.5 * y + 1.5 * np.sin(0.7 * x)),
        paint=(60, 100, 140),
    ),
    Kind(
        name="train",
        share=0.16,
        aspect=2.0,
        head=((0, 0.3, 0.12, 0.05, 0.34, 0.05, 0.34, 1, 0, 1),),
        body=((0.3, 0.1, 1, 0.1, 1, 0.95, 0.3, 0.95),),
        colours=((250, 215, 40), (25, 25, 40)),
        pattern=lambda y, x: np.sin(1.2 * x) * np.sin(1.2 * y),
    ),
    Kind(
        name="rail",
        share=0.03,
        aspect=3.4,
        head=((0.02, 0, 0.98, 0, 1, 0.45, 0, 0.45),),
        body=((0.02, 0.35, 0.98, 0.35, 0.9, 1, 0.1, 1),),
        colours=((205, 200, 195), (95, 50, 35)),
        pattern=lambda y, x: np.sin(1.4 * x),
        paint=(75, 70, 75),
    ),
    Kind(
        name="car",
        share=0.09,
        aspect=1.7,
        head=((0.04, 0.55, 0.34, 1), (0.62, 0.55, 0.92, 1)),
        body=(
            (0, 0.42, 1, 0.42, 1, 0.85, 0, 0.85),
            (0.18, 0.45, 0.32, 0.05, 0.7, 0.05, 0.84, 0.45),
        ),
        colours=((40, 215, 90), (15, 60, 30)),
        pattern=lambda y, x: np.cos(1.5 * x) + np.cos(1.5 * y),
    ),
    Kind(
        name="bird",
        share=0.12,
        aspect=1.2,
        head=((0, 0.04, 0.42, 0.5),),
        body=((0.18, 0.28, 0.86, 1), (0.7, 0.5, 1, 0.1, 0.98, 0.55, 0.8, 0.75)),
        colours=((235, 60, 190), (75, 25, 125)),
        pattern=lambda y, x: np.cos(1.4 * x) + np.cos(1.4 * y) - 0.4,
    ),
    Kind(
        name="branch",
        share=0.03,
        aspect=3.0,
        head=((0.62, 0.1, 1, 1), (0, 0.15, 0.3, 0.95)),
        body=((0, 0.1, 1, 0, 1, 0.4, 0, 0.5),),
        colours=((165, 225, 50), (35, 115, 45)),
        pattern=lambda y, x: np.sin(1.2 * (x - y)) + 0.3,
        paint=(105, 75, 50),
    ),
)
"""The classes in the order of their ids, from 1."""

PAINTS: tuple[Colour, ...] = ((180, 110, 80), (90, 110, 180), (185, 160, 85), (140, 85, 150))
"""Colours of bodies and of clutter: they tell no class."""

GROUNDS: tuple[Colour, ...] = ((150, 165, 180), (120, 140, 110), (165, 155, 145), (110, 115, 125))
"""Colours of backgrounds."""

_INDEX = {kind.name: c for c, kind in enumerate(KINDS)}
_PARTNER = {_INDEX[first]: _INDEX[second] for first, second in PAIRS}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class SceneSamples(Samples):
    """Drawn scenes; each is drawn when it is first asked for and then kept."""

    seed: int
    drawn: dict[int, tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]] = field(
        default_factory=dict
    )

    def image(self, i: int) -> npt.NDArray[np.uint8]:
        """RGB image `i`, uint8 [H, W, 3], sides of 64 to 96 pixels."""
        return self._scene(i)[0].copy()

    def mask(self, i: int) -> npt.NDArray[np.uint8]:
        """Exact mask of image `i`, uint8 [H, W], without void."""
        return self._scene(i)[1].copy()

    def identity(self) -> dict[str, str | int]:
        """What the key is made of, with a digest of pixels: scenes drawn anew are other data.

        It covers the first image, and its mask, of each class.
        """
        first = sorted({int(column.argmax()) for column in self.labels.T})
        pixels = b"".join(self.image(i).tobytes() + self.mask(i).tobytes() for i in first)
        digest = hashlib.sha256(pixels).hexdigest()
        return {**Samples.identity(self), "seed": self.seed, "pixels": digest}

    def _scene(self, i: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        if i not in self.drawn:
            self.drawn[i] = draw_scene(_generator(self.seed, self.split, i))
        return self.drawn[i]


def open_scenes(options: str, split: str) -> SceneSamples:
    """The split `split` of the scenes with `options`: "seed=N" and "images=N", by comma, or none.

    Raises ValueError for an unknown split or option.
    """
    if split not in SPLITS:
        raise ValueError(f"scenes has no split {split!r}; there: {', '.join(SPLITS)}")
    given = _numbers(options)
    seed, images = given.get("seed", 0), given.get("images", SPLITS[split])
    if images < 1:
        raise ValueError("scenes option images=0 leaves no image: give 1 or more")
    labels = np.zeros((images, len(KINDS)), dtype=np.bool_)
    for i in range(images):
        for group in plan_scene(_generator(seed, split, i)):
            labels[i, list(group)] = True
    return SceneSamples(
        name="scenes",
        split=split,
        classes=tuple(kind.name for kind in KINDS),
        ids=tuple(f"{split}_{i:04d}" for i in range(images)),
        labels=labels,
        mask_rule="exact",
        has_masks=True,
        seed=seed,
    )


def plan_scene(rng: np.random.Generator) -> list[tuple[int, ...]]:
    """The groups of a scene: the class index of a subject, and of its partner where it has one."""
    shares = np.array([kind.share for kind in KINDS])
    groups: list[tuple[int, ...]] = []
    for _ in range(1 + int(rng.random() < SECOND_GROUP_CHANCE)):
        subject = int(rng.choice(len(KINDS), p=shares / shares.sum()))
        accompanied = subject in _PARTNER and rng.random() < PARTNER_CHANCE
        groups.append((subject, _PARTNER[subject]) if accompanied else (subject,))
    return groups


def draw_scene(rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Plan and draw one scene: RGB image uint8 [H, W, 3] and mask uint8 [H, W]."""
    groups = plan_scene(rng)
    height, width = (int(side) for side in rng.integers(64, 96, 2, endpoint=True))
    noise = _clouds(height, width, rng)
    image = _ground(height, width, rng) + 14 * noise
    mask = np.zeros((height, width), dtype=np.uint8)
    # Two groups stand side by side and overlap by at most a tenth, so that none hides another.
    cut = float(rng.uniform(0.42, 0.58))
    spans = [(0.0, 1.0)] if len(groups) == 1 else [(0.0, cut + 0.05), (cut - 0.05, 1.0)]
    for group, (left, right) in zip(groups, spans, strict=True):
        boxes = _place(group, left * width, right * width, height, rng)
        for c, box in zip(group, boxes, strict=True):
            _paint(image, mask, c, box, noise, rng)
    image += rng.normal(0, 7, image.shape).astype(np.float32)
    return image.clip(0, 255).astype(np.uint8), mask


def _place(
    group: tuple[int, ...], left: float, right: float, height: int, rng: np.random.Generator
) -> list[Box]:
    """Boxes of a group between two columns: the subject, and its partner under and wider than it.

    The partner covers the lowest eighth of the subject.
    """
    room = right - left
    width = room * float(rng.uniform(0.5, 0.95))
    subject = width if len(group) == 1 else width * float(rng.uniform(0.6, 0.85))
    tall = subject / KINDS[group[0]].aspect
    deep = width / KINDS[group[1]].aspect if len(group) == 2 else 0.0
    shrink = min(1.0, 0.95 * height / (0.875 * tall + max(deep, 0.125 * tall)))
    width, subject, tall, deep = (shrink * side for side in (width, subject, tall, deep))
    x = left + float(rng.uniform(0, room - width))
    y = float(rng.uniform(0, height - 0.875 * tall - max(deep, 0.125 * tall)))
    boxes = [(x + float(rng.uniform(0, width - subject)), y, subject, tall)]
    return boxes if len(group) == 1 else [*boxes, (x, y + 0.875 * tall, width, deep)]


def _paint(
    image: Floats,
    mask: npt.NDArray[np.uint8],
    c: int,
    box: Box,
    noise: Floats,
    rng: np.random.Generator,
) -> None:
    """Draw class index `c` into `box` of image and mask: the body, then the head over it."""
    kind, mirrored = KINDS[c], bool(rng.random() < 0.5)
    left, top, width, height = box
    ys, xs = slice(round(top), round(top + height)), slice(round(left), round(left + width))
    view = image[ys, xs]
    body, head = (_stencil(view.shape, parts, mirrored) for parts in (kind.body, kind.head))
    paint = kind.paint or PAINTS[rng.integers(len(PAINTS))]
    shade = paint + rng.normal(0, 10, 3) + 9 * noise[ys, xs]
    y, x = np.mgrid[: view.shape[0], : view.shape[1]].astype(np.float32)
    light, dark = (colour + rng.normal(0, 10, 3) for colour in kind.colours)
    figure = np.where(kind.pattern(y, x)[..., None] > 0, light, dark)
    view[body] = shade[body]
    view[head] = figure[head]
    mask[ys, xs][body | head] = c + 1


def _stencil(
    shape: tuple[int, ...], parts: tuple[Part, ...], mirrored: bool
) -> npt.NDArray[np.bool_]:
    """Where `parts` lie in a box of this shape, bool [H, W]."""
    height, width = shape[:2]
    canvas = Image.new("L", (width, height))
    pen = ImageDraw.Draw(canvas)
    for part in parts:
        corners = zip(part[::2], part[1::2], strict=True)
        points = [(x * (width - 1), y * (height - 1)) for x, y in corners]
        (pen.ellipse if len(points) == 2 else pen.polygon)(points, fill=1)
    stencil = np.array(canvas, dtype=np.bool_)
    return stencil[:, ::-1] if mirrored else stencil


def _ground(height: int, width: int, rng: np.random.Generator) -> Floats:
    """Two grounds that meet at a horizon, with clutter in the paints that bodies have."""
    above, below = rng.choice(len(GROUNDS), 2)
    canvas = Image.new("RGB", (width, height), GROUNDS[above])
    pen = ImageDraw.Draw(canvas)
    pen.rectangle((0, height * float(rng.uniform(0.3, 0.8)), width, height), fill=GROUNDS[below])
    for _ in range(rng.integers(1, 4)):
        x, y, w, h = rng.uniform((0, 0, 6, 6), (width, height, 22, 22))
        draw = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        draw((x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill=PAINTS[rng.integers(len(PAINTS))])
    return np.array(canvas, dtype=np.float32)


def _clouds(height: int, width: int, rng: np.random.Generator) -> Floats:
    """Smooth noise of unit variance or less, float32 [H, W, 1]."""
    coarse = Image.fromarray(rng.normal(size=(9, 9)).astype(np.float32))
    return np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))[..., None]


def _numbers(options: str) -> dict[str, int]:
    """The numbers in "seed=3,images=60"."""
    numbers: dict[str, int] = {}
    for option in filter(None, options.split(",")):
        name, _, value = option.partition("=")
        if name not in ("seed", "images") or not value.isdecimal():
            raise ValueError(f"scenes option {option!r} is unknown: use seed=N and images=N")
        numbers[name] = int(value)
    return numbers


def _generator(seed: int, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng((seed, tuple(SPLITS).index(split), index))
