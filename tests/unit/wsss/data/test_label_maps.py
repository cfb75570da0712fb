import io

import numpy as np
import pytest
from PIL import Image

from wsss.data.label_maps import Labels, palette_png, read_label, voc_palette, write_labels

IDS = np.array([[0, 1, 2], [20, 255, 0]], dtype=np.uint8)


def test_palette_is_the_development_kits():
    palette = voc_palette()
    assert palette.shape == (256, 3)
    golden = {0: (0, 0, 0), 1: (128, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    for i, colour in (golden | {255: (224, 224, 192)}).items():
        assert tuple(palette[i]) == colour
    assert len({tuple(colour) for colour in palette}) == 256


def test_palette_png_keeps_the_ids():
    label = np.arange(256, dtype=np.uint8).reshape(8, 32)
    for content in (label, label % 2):
        with Image.open(io.BytesIO(palette_png(content))) as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.array(image), content)
            np.testing.assert_array_equal(np.array(image.convert("RGB")), voc_palette()[content])


def test_palette_is_that_of_the_official_masks(voc_mini):
    path = min((voc_mini / "SegmentationClass").glob("*.png"))
    with Image.open(path) as mask:
        ids, colours = np.array(mask), np.array(mask.convert("RGB"))
    np.testing.assert_array_equal(colours, voc_palette()[ids])


def test_a_folder_gives_back_what_was_written_to_it(tmp_path):
    write_labels(tmp_path / "labels", [("b", IDS), ("2007_000032.jpg", IDS[:1])])
    write_labels(tmp_path / "labels", iter([("a", IDS + 1)]))
    labels = Labels(tmp_path / "labels")
    assert labels.ids == ("2007_000032.jpg", "a", "b")
    assert len(labels) == 3
    np.testing.assert_array_equal(labels["b"], IDS)
    np.testing.assert_array_equal(labels["2007_000032.jpg"], IDS[:1])
    np.testing.assert_array_equal(labels["a"], IDS + 1)
    assert labels["a"].dtype == np.uint8
    labels.check(["a", "b"])
    with pytest.raises(ValueError, match="labels lacks 2 label maps, c first"):
        labels.check(["d", "a", "c"])


def test_a_grey_file_of_ids_is_read_too(tmp_path):
    Image.fromarray(IDS).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_label(tmp_path / "x.png"), IDS)


def test_labels_that_cannot_be_had_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no label maps \(\*\.png\)"):
        Labels(tmp_path / "absent")
    write_labels(tmp_path, [("x", IDS)])
    with pytest.raises(ValueError, match=r"label map .*other\.png does not exist"):
        Labels(tmp_path)["other"]
    path = tmp_path / "x.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"label map .*x\.png cannot be read"):
        Labels(tmp_path)["x"]
    Image.new("RGB", (3, 2)).save(path)
    with pytest.raises(ValueError, match="it holds RGB colours: give a PNG of class ids"):
        Labels(tmp_path)["x"]


@pytest.mark.parametrize("name", ["", "a/b", "../a"])
def test_an_id_that_is_no_file_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="cannot name a file"):
        write_labels(tmp_path, [(name, IDS)])


@pytest.mark.parametrize("label", [IDS.astype(np.int64), IDS[None]])
def test_a_label_of_another_kind_is_refused(tmp_path, label):
    with pytest.raises(ValueError, match=r"label of x is .*: give uint8 \[H, W\]"):
        write_labels(tmp_path, [("x", label)])
