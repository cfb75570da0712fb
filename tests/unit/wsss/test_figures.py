"""Figures, read back from what is drawn: texts, bars, and pixels of the finished picture."""

import io
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from wsss.figures import (
    Panel,
    Row,
    class_bars,
    confused_pairs,
    overlays,
    png_bytes,
    threshold_curves,
)

NAMES = ["boat", "water", "cat"]
COUNTS = np.array([7, 3, 9])
THRESHOLDS = np.linspace(0, 1, 5)


def picture(figure: Figure) -> np.ndarray:
    with Image.open(io.BytesIO(png_bytes(figure))) as image:
        assert image.format == "PNG"
        return np.array(image.convert("RGB"))


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def row(scores: np.ndarray, *, threshold: float = 0.5, panels: int = 1, masks: bool = True) -> Row:
    panel = Panel(
        method="CAM",
        name="boat",
        id=1,
        scores=scores,
        threshold=threshold,
        iou=0.5 if masks else np.nan,
    )
    truth = (scores > 0).astype(np.uint8)
    truth[:, :4] = 255
    return Row(
        id="black",
        image=np.zeros((*scores.shape, 3), dtype=np.uint8),
        truth=truth if masks else None,
        panels=(panel,) * panels,
    )


def step(height: int = 40, width: int = 60) -> np.ndarray:
    scores = np.zeros((height, width))
    scores[:, width // 2 :] = 1
    return scores


# --- threshold curves


def test_the_label_says_the_mean_over_seeds_at_the_chosen_threshold():
    curves = {"CAM": np.array([[0.1, 0.3, 0.2, 0.1, 0.0], [0.1, 0.5, 0.2, 0.1, 0.0]])}
    (axes,) = threshold_curves(curves, THRESHOLDS, {"CAM": 0.25}).axes
    assert texts(axes) == ["CAM  40.0 at 0.25"]
    (band,) = axes.collections
    extent = band.get_datalim(axes.transData)
    assert (extent.y0, extent.y1) == pytest.approx((0, 50))


def test_labels_cover_neither_one_another_nor_a_curve_nor_leave_the_figure():
    rng = np.random.default_rng(0)
    at = [0.2, 0.2, 0.22, 0.25, 0.6, 0.97, 0.98, 1.0]
    chosen = {f"quite a long method {i}": x for i, x in enumerate(at)}
    curves = {name: rng.uniform(0, 0.6, (2, 5)) for name in chosen}
    figure = threshold_curves(curves, THRESHOLDS, chosen)
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(at)
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    highest = axes.transData.transform((0, 100 * max(curve.max() for curve in curves.values())))[1]
    assert min(box.y0 for box in boxes) > highest
    assert max(box.x1 for box in boxes) < figure.bbox.x1
    assert max(box.y1 for box in boxes) < figure.bbox.y1
    assert max(axes.get_yticks()) <= 60


def test_curves_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"curve of CAM is \(2, 4\), not \(seeds, 5\)"):
        threshold_curves({"CAM": np.zeros((2, 4))}, THRESHOLDS, {"CAM": 0.5})
    for chosen in ({}, {"CAM": 1.5}):
        with pytest.raises(ValueError, match=r"chosen threshold of CAM is (nan|1\.5)"):
            threshold_curves({"CAM": np.zeros((2, 5))}, THRESHOLDS, chosen)


# --- overlays


@pytest.mark.parametrize("threshold", [0.1, 0.9])
@pytest.mark.parametrize("cmap", ["viridis", "jet"])
def test_the_contour_lies_at_the_threshold(threshold, cmap):
    figure = overlays([row(step(), threshold=threshold)], cmap=cmap)
    panel = figure.axes[2]
    pixels = picture(figure)
    ys, xs = np.nonzero((pixels > 200).all(-1))
    bounds = panel.get_window_extent()
    inside = (xs > bounds.x0 + 2) & (xs < bounds.x1 - 2)
    inside &= (len(pixels) - ys > bounds.y0 + 2) & (len(pixels) - ys < bounds.y1 - 8)
    assert inside.sum() > 100
    points = np.column_stack([xs, len(pixels) - ys])[inside] + [0.5, -0.5]
    columns = panel.transData.inverted().transform(points)[:, 0]
    assert columns.mean() == pytest.approx(29 + threshold, abs=0.15)  # the step is from 29 to 30
    assert np.ptp(columns) < 1


def test_a_map_that_stays_below_the_threshold_has_no_contour():
    figure = overlays([row(0.3 * step())])
    assert not figure.axes[2].collections


def test_colours_span_zero_to_one_whatever_the_map_holds():
    def right_edge(scores):
        figure = overlays([row(scores, threshold=2)])
        box = figure.axes[2].get_window_extent()
        pixels = picture(figure)
        return pixels[len(pixels) - int(box.y0) - 10, int(box.x1) - 10].tolist()

    assert right_edge(0.5 * step()) != right_edge(step())


def test_titles_and_truth():
    figure = overlays([row(step())])
    image, truth, panel, _ = figure.axes
    titles = [axes.get_title(loc="left") for axes in (image, truth, panel)]
    assert titles == ["black", "truth", "CAM at 0.5\nboat · IoU 50.0"]
    drawn = truth.images[0].get_array()
    assert drawn[0, -1].tolist() == [128, 0, 0]
    assert drawn[0, 10].tolist() == [0, 0, 0]
    assert {tuple(colour) for colour in drawn[:, 0]} == {(255, 255, 255), (150, 150, 150)}


def test_an_image_without_mask_shows_neither_truth_nor_iou():
    _, panel, _ = overlays([row(step(), masks=False)]).axes
    assert panel.get_title(loc="left") == "CAM at 0.5\nboat"


def test_many_maps_go_on_in_further_lines_and_the_width_stays():
    tall = step(75, 50)
    figure = overlays([row(step(), panels=5), row(tall, panels=2)], per_line=4)
    assert len(figure.axes) == (2 + 5) + (2 + 2) + 1
    assert picture(figure).shape[1] == 1200
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_a_map_of_another_size_than_its_image_is_refused():
    panel = row(step()).panels[0]
    with pytest.raises(ValueError, match=r"image a is \(10, 15\) but .* is \(40, 60\)"):
        Row(id="a", image=np.zeros((10, 15, 3), np.uint8), truth=None, panels=(panel,))


# --- bars


def test_an_absent_class_is_called_absent_and_zero_stays_zero():
    cam = np.array([0.8, 0.4, np.nan, 0.0])
    recam = np.array([0.9, 0.3, np.nan, 0.25])
    left, right = class_bars({"CAM": cam, "ReCAM": recam}, NAMES, COUNTS).axes
    order = [label.get_text() for label in left.get_yticklabels()]
    assert order == ["background", "cat (9)", "boat (7)", "water (3)"]
    values = texts(left)[1:]  # after the heading
    assert values == ["80.0", "0.0", "40.0", "absent", "90.0", "25.0", "30.0", "absent"]
    assert texts(right) == ["+10.0", "+25.0", "-10.0", "absent"]
    legend = [text.get_text() for text in left.get_legend().get_texts()]
    assert legend == ["CAM  mIoU 40.0", "ReCAM  mIoU 48.3"]


@pytest.mark.parametrize("methods", [1, 2, 3])
def test_bars_stay_in_their_row_and_differences_need_two(methods):
    iou = {f"method {m}": np.full(4, 0.5) for m in range(methods)}
    figure = class_bars(iou, NAMES, COUNTS)
    assert len(figure.axes) == (2 if methods == 2 else 1)
    centres = [bar.get_y() + bar.get_height() / 2 for bar in figure.axes[0].patches]
    assert np.bincount(np.rint(centres).astype(int)).tolist() == [methods] * 4
    assert picture(figure).shape[1] == 1200


def test_bars_without_a_name_are_refused():
    message = "iou of CAM has 5 classes with background, but there are 3 names and 3 counts"
    with pytest.raises(ValueError, match=message):
        class_bars({"CAM": np.zeros(5)}, NAMES, COUNTS)


def test_confused_pairs_are_shares_of_the_truth_among_foreground():
    confusion = np.array([[900, 50, 40, 0], [60, 20, 20, 0], [0, 300, 690, 10], [0, 0, 0, 0]])
    (axes,) = confused_pairs(confusion, NAMES).axes
    pairs = [label.get_text() for label in axes.get_yticklabels()]
    assert pairs == ["water → boat", "boat → water", "water → cat"]
    assert texts(axes) == ["30.0", "20.0", "1.0"]
    (axes,) = confused_pairs(confusion, NAMES, top=1).axes
    assert texts(axes) == ["30.0"]


def test_no_confusion_is_said():
    (axes,) = confused_pairs(np.diag([5, 1, 2, 0]), NAMES).axes
    assert axes.get_title(loc="left") == "no class was taken for another"


def test_a_confusion_of_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"confusion is \(3, 3\) for 3 names and background"):
        confused_pairs(np.zeros((3, 3), dtype=np.int64), NAMES)


# --- files


def draw(_: int) -> bytes:
    curves = {"CAM": np.full((2, 5), 0.4)}
    return (
        png_bytes(threshold_curves(curves, THRESHOLDS, {"CAM": 0.5}))
        + png_bytes(overlays([row(step())]))
        + png_bytes(class_bars({"CAM": np.full(4, 0.5)}, NAMES, COUNTS))
    )


def test_the_same_figure_gives_the_same_bytes_in_any_thread():
    with ThreadPoolExecutor(4) as pool:
        drawn = {draw(0), *pool.map(draw, range(4))}
    assert len(drawn) == 1
    assert b"Software" not in drawn.pop()
