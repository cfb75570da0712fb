"""The VOC reader on a tiny tree in the official layout, and on real photographs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsss.data import open_samples
from wsss.data.voc import CLASSES, open_voc

XML = """<annotation><object><name>dog</name><difficult>1</difficult>
<part><name>head</name></part></object><object><name>sofa</name></object>
<object><name>dog</name></object></annotation>"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images, a_1 and a_2: lists, labels and official masks."""
    folder = tmp_path / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for n, name in enumerate(("a_1", "a_2"), start=1):
        Image.new("RGB", (8, 6)).save(folder / f"JPEGImages/{name}.jpg")
        Image.new("L", (8, 6), n).save(folder / f"SegmentationClass/{name}.png")
    (folder / "image_labels.txt").write_text("a_2 cat person\na_1 bird\n\n")
    write_list(folder, "train", "a_1\na_2\n")
    return folder


def write_list(root: Path, split: str, text: str) -> None:
    (root / f"ImageSets/Segmentation/{split}.txt").write_text(text)


def shown(samples, i: int) -> list[str]:
    return [samples.classes[c] for c in np.flatnonzero(samples.labels[i])]


def test_reads_ids_labels_images_and_masks(root: Path):
    samples = open_samples(f"voc2012:{root}", "train")
    assert (samples.name, samples.ids, len(samples)) == ("voc2012", ("a_1", "a_2"), 2)
    assert samples.labels.shape == (2, 20)
    assert [shown(samples, 0), shown(samples, 1)] == [["bird"], ["cat", "person"]]
    assert samples.image(0).shape == (6, 8, 3)
    assert samples.has_masks
    assert (samples.mask(1) == 2).all()


def test_both_published_list_syntaxes_read(root: Path):
    write_list(root, "val", "/JPEGImages/a_2.jpg /SegmentationClass/a_2.png\n")
    assert open_voc(str(root), "val").ids == ("a_2",)


def test_labels_from_annotations_count_difficult_objects_and_no_parts(root: Path):
    (root / "image_labels.txt").unlink()
    (root / "Annotations").mkdir()
    for name in ("a_1", "a_2"):
        (root / f"Annotations/{name}.xml").write_text(XML)
    assert shown(open_voc(str(root), "train"), 1) == ["dog", "sofa"]
    (root / "Annotations/a_2.xml").write_text(XML[:-20])
    with pytest.raises(ValueError, match=r"annotation .*a_2\.xml cannot be read"):
        open_voc(str(root), "train")


def test_train_aug_is_scored_on_the_augmented_masks(root: Path):
    write_list(root, "train_aug", "a_1\na_2\n")
    samples = open_voc(str(root), "train_aug")
    assert not samples.has_masks
    assert samples.identity()["masks"] == "SegmentationClassAug"
    with pytest.raises(ValueError, match=r"SegmentationClassAug/a_1\.png does not exist"):
        samples.mask(0)


def test_test_images_need_neither_labels_nor_masks(root: Path):
    Image.new("RGB", (8, 6)).save(root / "JPEGImages/t_1.jpg")
    write_list(root, "test", "t_1\n")
    samples = open_samples(f"voc2012:{root}", "test")
    assert (samples.ids, shown(samples, 0), samples.has_masks) == (("t_1",), [], False)
    write_list(root, "other", "t_1\n")
    assert "no row for t_1" in refused(root, "other")


def test_identity_is_of_the_content_not_the_place(root: Path):
    before = open_voc(str(root), "train").identity()
    moved = root.rename(root.with_name("elsewhere"))
    assert open_voc(str(moved), "train").identity() == before
    (moved / "image_labels.txt").write_text("a_2 cat\na_1 bird\n")
    assert open_voc(str(moved), "train").identity() != before


def refused(root: Path, split: str = "train") -> str:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        open_voc(str(root), split)
    return str(caught.value)


def test_missing_root_and_wrong_folder(root: Path):
    assert refused(root / "no") == f"data root {root}/no does not exist"
    assert "has no JPEGImages" in refused(root / "ImageSets")


def test_missing_list_names_those_there(root: Path):
    assert refused(root, "test").endswith("test.txt; choose one that is there: train")


def test_list_that_names_absent_images(root: Path):
    write_list(root, "train", "a_1\nb_1\nb_2\n")
    message = refused(root)
    assert "the train list names b_1" in message
    assert "2 of 3 images are absent" in message


def test_empty_list_and_duplicate_ids(root: Path):
    write_list(root, "train", "\n")
    assert "names no image" in refused(root)
    write_list(root, "train", "a_1\na_2\na_2\n")
    assert "names a_2 twice" in refused(root)


def test_unknown_class_in_the_table(root: Path):
    (root / "image_labels.txt").write_text("a_1 bird\na_2 cat hores\n")
    assert refused(root) == (
        f"{root}/image_labels.txt line 2: class 'hores' is unknown; did you mean 'horse'?"
    )


def test_ids_without_exactly_one_label_row(root: Path):
    (root / "image_labels.txt").write_text("a_2 cat\n")
    assert "has no row for a_1 (1 of 2 lack one)" in refused(root)
    (root / "image_labels.txt").write_text("a_1 cat\na_2 cat\na_1 dog\n")
    assert "line 3: a_1 has a row already" in refused(root)
    (root / "image_labels.txt").unlink()
    assert "neither image_labels.txt nor Annotations" in refused(root)


def test_real_photographs(voc_mini: Path):
    sizes = {"train": 220, "train_aug": 386, "val": 222}
    for split, size in sizes.items():
        samples = open_samples(f"voc2012:{voc_mini}", split)
        assert len(samples) == size
        assert samples.has_masks
        assert samples.labels.any(1).all()
    for i in range(0, len(samples), 40):
        mask, image = samples.mask(i), samples.image(i)
        assert mask.shape == image.shape[:2]
        ids = set(np.unique(mask).tolist()) - {0, 255}
        assert {CLASSES[c - 1] for c in ids} == set(shown(samples, i))


def test_published_counts_of_the_full_lists(voc_mini: Path, root: Path):
    lists = voc_mini.parent / "lists"
    if not lists.is_dir():
        pytest.skip(f"no lists at {lists}")
    (root / "image_labels.txt").write_text((lists / "voc_image_labels.txt").read_text())
    for split, size in {"train": 1464, "val": 1449, "train_aug": 10582}.items():
        text = (lists / f"{split}.txt").read_text()
        write_list(root, split, text)
        for name in text.split():
            (root / f"JPEGImages/{name}.jpg").touch()
        assert len(open_voc(str(root), split)) == size
    samples = open_voc(str(root), "train_aug")
    assert samples.labels.sum(0).tolist() == [
        590, 504, 705, 468, 714, 393, 1150, 1005, 1228, 267,
        613, 1188, 445, 492, 4155, 522, 300, 649, 503, 567,
    ]  # fmt: skip
    assert np.bincount(samples.labels.sum(1)).tolist() == [0, 6249, 3104, 969, 210, 46, 4]
