"""The pictures of a run: threshold curves, score maps over images, bars of classes, confusions.

Arrays in, a `Figure` out, and `png_bytes` makes a file of it. Shares are given in [0, 1] and shown
in percent. Figures are built from matplotlib's objects, not through pyplot with its global state:
threads may draw at once, and no display is needed. All are at most 1200 pixels wide.

The colours of methods are those of Okabe and Ito (https://jfly.uni-koeln.de/color), which the
colour-blind can tell apart; the colours of labels are PASCAL VOC's.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from wsss.data.label_maps import voc_palette
from wsss.data.samples import VOID

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]
Bytes = npt.NDArray[np.uint8]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#444444")
"""Of methods, in their order; they come around again, dashed."""

INK, FAINT = "#222222", "#777777"
"""Of text, and of what is secondary."""

GAIN, LOSS = "#009E73", "#CC79A7"
"""Of a class that the second method does better, and worse."""

DPI = 100
TEXT, SMALL = 11.0, 9.0
"""Pixels in an inch, and font sizes in points."""

GAP, CAPTION = 0.12, 0.44
"""Inches between the pictures of a grid, and over each for its two lines of text."""

HEAT = 0.6
"""Share of the score map in an overlay; the rest is the image in grey."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Panel:
    """The score map that a method gave one class of an image."""

    method: str
    name: str
    """Of the class."""
    id: int
    """Of the class in masks, from 1."""
    scores: Floats
    """[H, W], at the image's size, in [0, 1]."""
    threshold: float
    iou: float
    """Of the class in this image as the caller scores it, in [0, 1]; NaN where it cannot."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Row:
    """An image and the score maps of it."""

    id: str
    image: Bytes
    """RGB, [H, W, 3]."""
    truth: Bytes | None
    """Mask [H, W] with 255 for void, or None where there is none."""
    panels: tuple[Panel, ...]

    def __post_init__(self) -> None:
        sizes = {panel.scores.shape for panel in self.panels}
        sizes |= set() if self.truth is None else {self.truth.shape}
        size = self.image.shape[:2]
        if others := sizes - {size}:
            raise ValueError(f"image {self.id} is {size} but its mask or a map is {others.pop()}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Step:
    """The label map that one stage made of an image."""

    name: str
    label: Bytes
    """[H, W], at the image's size, with 255 for what it leaves open."""
    iou: float
    """Mean over the image's own classes and background, in [0, 1]."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Strip:
    """An image and what stage after stage made of it."""

    id: str
    image: Bytes
    """RGB, [H, W, 3]."""
    truth: Bytes
    """Mask [H, W] with 255 for void."""
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        for step in self.steps:
            if step.label.shape != self.truth.shape:
                raise ValueError(
                    f"image {self.id} is {self.truth.shape} but {step.name} {step.label.shape}"
                )


def threshold_curves(
    curves: Mapping[str, Floats], thresholds: Floats, chosen: Mapping[str, float]
) -> Figure:
    """The mIoU of each method against the threshold that cuts its score maps.

    `curves` holds [seeds, T] for each method, drawn as the mean and the range over seeds, and
    `thresholds` is [T], rising. The dot is at the method's `chosen` threshold. Raises ValueError
    for a curve of another shape and for a method without a threshold within the range.
    """
    figure = _figure(12, 6.4)
    axes = _axes(figure, (0.8, 0.55, 11, 5.3))
    axes.set_xlim(thresholds[0], thresholds[-1])
    axes.set_xlabel("threshold", fontsize=TEXT)
    axes.set_ylabel("mIoU (%)", fontsize=TEXT)
    axes.grid(color="#e8e8e8")
    flags = []
    for i, (name, curve) in enumerate(curves.items()):
        if curve.ndim != 2 or curve.shape[1:] != thresholds.shape:
            raise ValueError(f"curve of {name} is {curve.shape}, not (seeds, {len(thresholds)})")
        at, colour = chosen.get(name, np.nan), COLOURS[i % len(COLOURS)]
        if not thresholds[0] <= at <= thresholds[-1]:
            raise ValueError(f"chosen threshold of {name} is {at}: give one that the curve covers")
        low, mean, high = (100 * reduced for reduced in (curve.min(0), curve.mean(0), curve.max(0)))
        axes.fill_between(thresholds, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(thresholds, mean, color=colour, lw=2, ls="-" if i < len(COLOURS) else "--")
        value = float(np.interp(at, thresholds, mean))
        flags.append((at, value, f"{name}  {value:.1f} at {at:.3g}", colour))
    _flags(axes, flags, top=100 * max(float(curve.max()) for curve in curves.values()))
    several = any(len(curve) > 1 for curve in curves.values())
    text = "line: mean over seeds · band: lowest to highest · " if several else ""
    text += "dot: the chosen threshold"
    figure.text(0.8 / 12, 0.965, text, fontsize=SMALL, color=FAINT, va="top")
    return figure


def _flags(axes: Axes, flags: Sequence[tuple[float, float, str, str]], top: float) -> None:
    """A dot at each (x, y), and its label on a pole that stands on it and ends over `top`.

    The further left, the higher the label: so no pole crosses a label that extends to the right.
    """
    room = axes.get_window_extent()
    line = 2 * TEXT * DPI / 72 / room.height  # of the axes' height
    axes.set_ylim(0, top / (1 - line * (len(flags) + 0.5)))
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= top])
    left, right = axes.get_xlim()
    for rank, (x, y, label, colour) in enumerate(sorted(flags, reverse=True), start=1):
        level = top + axes.get_ylim()[1] * line * (rank - 0.25)
        axes.plot([x, x], [y, level], ":", color=colour, lw=1.2)
        axes.plot(x, y, "o", color=colour, ms=8, mec="white", zorder=3)
        text = axes.text(x, level, label, fontsize=TEXT, color=INK, va="center")
        text.set_bbox({"facecolor": "white", "edgecolor": colour, "pad": 2.5})
        width = (text.get_window_extent().width + 10) * (right - left) / room.width
        text.set_x(min(x, right - width))


def overlays(rows: Sequence[Row], *, per_line: int = 4, cmap: str = "viridis") -> Figure:
    """A grid of images: in a row the image, its truth, and its score maps over the image in grey.

    The contour is where the score crosses the panel's threshold, and the bar over a map has the
    class's colour in the truth. More than `per_line` maps go on in a further line. Colours always
    span [0, 1]; of matplotlib's maps, "jet" is what most papers show.
    """
    lines = [
        (row, first, row.panels[first : first + per_line])
        for row in rows
        for first in range(0, max(len(row.panels), 1), per_line)
    ]
    columns = 2 + max(len(panels) for *_, panels in lines)
    cell = min(2.6, (12 - GAP) / columns - GAP)
    heights = [cell * min(1.2, row.image.shape[0] / row.image.shape[1]) for row, *_ in lines]
    bottom = sum(heights) + len(lines) * (CAPTION + GAP)
    figure = _figure(GAP + columns * (cell + GAP), bottom + 0.5)
    for (row, first, panels), height in zip(lines, heights, strict=True):
        bottom -= CAPTION + height
        boxes = [(GAP + c * (cell + GAP), bottom, cell, height) for c in range(columns)]
        if first == 0:
            _picture(_axes(figure, boxes[0]), row.image, row.id)
        if first == 0 and row.truth is not None:
            _picture(_axes(figure, boxes[1]), _coloured(row.truth), "truth")
        for panel, box in zip(panels, boxes[2:], strict=False):
            _overlay(_axes(figure, box), row.image, panel, cmap)
        bottom -= GAP
    _colour_bar(figure, cmap)
    return figure


def film_strips(strips: Sequence[Strip]) -> Figure:
    """A line for each image: the image, its label map after every stage, and its truth.

    So one sees which stage lost an object. What a stage leaves open is striped. Raises ValueError
    where strips differ in their number of steps.
    """
    columns = {len(strip.steps) for strip in strips}
    if len(columns) != 1:
        raise ValueError(f"strips have {sorted(columns)} steps: give each as many")
    cells = columns.pop() + 2
    cell = min(2.6, (12 - GAP) / cells - GAP)
    heights = [cell * min(1.2, s.image.shape[0] / s.image.shape[1]) for s in strips]
    bottom = sum(heights) + len(strips) * (CAPTION + GAP)
    figure = _figure(GAP + cells * (cell + GAP), bottom)
    for strip, height in zip(strips, heights, strict=True):
        bottom -= CAPTION + height
        shown = [(strip.image, strip.id)]
        shown += [(_coloured(s.label), f"{s.name}\nmIoU {100 * s.iou:.1f}") for s in strip.steps]
        shown += [(_coloured(strip.truth), "truth")]
        for c, (pixels, caption) in enumerate(shown):
            box = (GAP + c * (cell + GAP), bottom, cell, height)
            _picture(_axes(figure, box), pixels, caption)
        bottom -= GAP
    return figure


def _overlay(axes: Axes, image: Bytes, panel: Panel, cmap: str) -> None:
    grey = image @ np.array([0.299, 0.587, 0.114]) / 255
    heat = matplotlib.colormaps[cmap](np.clip(panel.scores, 0, 1))[..., :3]
    quality = "" if np.isnan(panel.iou) else f" · IoU {100 * panel.iou:.1f}"
    caption = f"{panel.method} at {panel.threshold:.3g}\n{panel.name}{quality}"
    _picture(axes, HEAT * heat + (1 - HEAT) * grey[..., None], caption)
    axes.spines["top"].set(visible=True, linewidth=4, color=voc_palette()[panel.id] / 255)
    axes.spines["top"].set_capstyle("butt")
    if panel.scores.min() < panel.threshold < panel.scores.max():  # else matplotlib warns
        contour = axes.contour(panel.scores, [panel.threshold], colors="white", linewidths=1.4)
        contour.set_path_effects([withStroke(linewidth=2.8, foreground="black")])


def _picture(axes: Axes, pixels: npt.NDArray[Any], caption: str) -> None:
    axes.imshow(pixels)
    axes.set_anchor("W")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(caption, fontsize=SMALL, color=INK, loc="left", pad=6)


def _coloured(truth: Bytes) -> Bytes:
    """A mask in VOC's colours, its void in white with grey stripes."""
    colours = voc_palette()[truth]
    y, x = np.indices(truth.shape)
    period = max(4, max(truth.shape) // 40)
    stripe = ((x + y) % period < period / 3)[..., None]
    void = (truth == VOID)[..., None]
    return np.where(void, np.where(stripe, 150, 255), colours).astype(np.uint8)


def _colour_bar(figure: Figure, cmap: str) -> None:
    """Over the grid, with the colours as they come out over middle grey."""
    axes = _axes(figure, (0.2, figure.get_size_inches()[1] - 0.24, 2.4, 0.14))
    heat = matplotlib.colormaps[cmap](np.linspace(0, 1, 256))[None, :, :3]
    axes.imshow(HEAT * heat + (1 - HEAT) * 0.5, aspect="auto", extent=(0, 1, 0, 1))
    axes.set(yticks=[], xticks=[0, 0.5, 1])
    axes.tick_params(labelsize=SMALL)
    legend = "score; the line is at the threshold (in the truth, stripes are void)"
    axes.text(1.05, 0.5, legend, fontsize=SMALL, color=INK, va="center")


def class_bars(iou: Mapping[str, Floats], names: Sequence[str], counts: Integers) -> Figure:
    """The IoU of each class and method, and what the second of two methods gains on the first.

    `iou` holds [K] for each method, background first, NaN for a class that does not occur. `names`
    and `counts` are of the K - 1 other classes: what they are called, and in how many images they
    are, by which they are sorted. Raises ValueError for arrays of other lengths.
    """
    for method, scores in iou.items():
        if not len(scores) - 1 == len(counts) == len(names):
            raise ValueError(
                f"iou of {method} has {len(scores)} classes with background, but there are "
                f"{len(names)} names and {len(counts)} counts without it"
            )
    order = np.concatenate([[0], 1 + np.argsort(-counts, kind="stable")])
    labels = ["background", *(f"{n} ({c})" for n, c in zip(names, counts, strict=True))]
    height = len(order) * (0.12 + 0.15 * len(iou))
    figure = _figure(12, height + 1.05)
    axes = _axes(figure, (2.2, 0.55, 6.2 if len(iou) == 2 else 9.6, height))
    axes.text(-1, -0.7, "class (images)", fontsize=SMALL, color=FAINT, ha="right")
    thick = 0.84 / len(iou)
    for m, (method, scores) in enumerate(iou.items()):
        y = np.arange(len(order)) + (m + 0.5) * thick - 0.42
        colour = COLOURS[m % len(COLOURS)]
        label = f"{method}  mIoU {100 * np.nanmean(scores):.1f}"
        _bars(axes, y, scores[order], thick, colour, label=label)
    axes.set_xlim(0, 106)
    axes.set_xlabel("IoU (%)", fontsize=TEXT)
    axes.set_yticks(range(len(order)), [labels[c] for c in order], fontsize=TEXT)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, fontsize=TEXT)
    if len(iou) == 2:
        first, second = iou
        beside = _axes(figure, (8.7, 0.55, 3.1, height))
        beside.set_title(f"{second} − {first}", fontsize=TEXT)
        _gains(beside, (iou[second] - iou[first])[order])
    for each in figure.axes:
        each.set_ylim(len(order) - 0.5, -0.5)
    return figure


def _gains(axes: Axes, gains: Floats) -> None:
    """Bars to the right for what is gained, to the left for what is lost."""
    limit = 135 * float(np.abs(np.nan_to_num(gains)).max()) or 1.0
    axes.set_xlim(-limit, limit)
    axes.set_xlabel("difference (points)", fontsize=TEXT)
    axes.set_yticks([])
    axes.axvline(0, color=FAINT, lw=0.8)
    colours = [GAIN if gain > 0 else LOSS for gain in gains]
    _bars(axes, np.arange(len(gains)), gains, 0.6, colours, sign="+")


def _bars(
    axes: Axes,
    y: Floats | Integers,
    shares: Floats,
    thick: float,
    colour: str | Sequence[str],
    *,
    sign: str = "",
    label: str = "",
) -> None:
    """Bars in percent with their values; where a share is NaN, the word "absent" stands instead."""
    bars = axes.barh(y, 100 * np.nan_to_num(shares), thick, color=colour, label=label)
    texts = ["absent" if np.isnan(share) else f"{100 * share:{sign}.1f}" for share in shares]
    for text, share in zip(
        axes.bar_label(bars, texts, padding=3, fontsize=SMALL, color=INK), shares, strict=True
    ):
        if np.isnan(share):
            text.set(color=FAINT, style="italic")


def confused_pairs(confusion: Integers, names: Sequence[str], top: int = 10) -> Figure:
    """The `top` pairs of classes of which the most of the first was taken for the second.

    `confusion` [K, K] counts pixels, rows truth, background first; `names` are of the K - 1 other
    classes. Pixels taken for background, and the other way round, make no pair but count in the
    whole. Raises ValueError for a matrix that does not fit the names.
    """
    if confusion.shape != (len(names) + 1,) * 2:
        raise ValueError(f"confusion is {confusion.shape} for {len(names)} names and background")
    shares = confusion[1:, 1:] / np.maximum(confusion[1:].sum(1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    largest = np.argsort(-shares, axis=None, kind="stable")[:top]
    largest = largest[shares.flat[largest] > 0]
    labels = [f"{names[k // len(names)]} → {names[k % len(names)]}" for k in largest]
    height = 0.36 * max(len(labels), 1)
    figure = _figure(9, height + 0.95)
    axes = _axes(figure, (3, 0.55, 5.6, height))
    _bars(axes, np.arange(len(labels)), shares.flat[largest], 0.66, COLOURS[0])
    axes.set_xlim(0, 115 * float(shares.max()) or 1.0)
    axes.set_ylim(max(len(labels), 1) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), labels, fontsize=TEXT)
    axes.set_xlabel("share of the first class's pixels (%)", fontsize=TEXT)
    title = "truth → prediction" if labels else "no class was taken for another"
    axes.set_title(title, fontsize=TEXT, loc="left")
    return figure


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG without metadata: the same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi="figure", metadata={"Software": None})
    return file.getvalue()


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that can measure its text."""
    figure = Figure((width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Axes whose left, bottom, width and height are given in inches."""
    width, height = figure.get_size_inches()
    left, bottom, across, up = box
    axes = figure.add_axes((left / width, bottom / height, across / width, up / height))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return axes
