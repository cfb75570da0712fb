"""One's own data, in a folder of images with a table."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsss import stages
from wsss.data import open_samples
from wsss.data.folder import open_folder
from wsss.data.label_maps import palette_png


def photo(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (grey, grey, grey)).save(path)


def mask(root: Path, name: str, ids: list[int]) -> None:
    (root / "masks").mkdir(exist_ok=True)
    label = np.resize(np.array(ids, dtype=np.uint8), (6, 8))
    (root / f"masks/{name}.png").write_bytes(palette_png(label))


def tree(root: Path, grey: int = 0) -> Path:
    """Three labelled images, two of them with masks, and one without a row."""
    for name in ("leaf-2.v1.JPG", "leaf-10.png", "Blatt_ü.jpeg", "spare.jpg"):
        photo(root / "images" / name, grey)
    (root / "images/notes.txt").touch()
    (root / "image_labels.txt").write_text(
        "leaf-2.v1 rust\nBlatt_ü blight rust\n\nleaf-10\n", encoding="utf-8"
    )
    mask(root, "leaf-2.v1", [0, 2, 255])
    mask(root, "leaf-10", [0])
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tree(tmp_path / "leaves")


def write_list(root: Path, split: str, text: str) -> None:
    (root / "splits").mkdir(exist_ok=True)
    (root / f"splits/{split}.txt").write_text(text, encoding="utf-8")


def shown(samples, i: int) -> list[str]:
    return [samples.classes[c] for c in np.flatnonzero(samples.labels[i])]


def test_every_image_of_the_table(root: Path):
    samples = open_samples(f"images:{root}", "all")
    assert (samples.name, samples.split) == ("images", "all")
    assert samples.ids == ("leaf-2.v1", "Blatt_ü", "leaf-10")
    assert samples.classes == ("blight", "rust")
    assert [shown(samples, i) for i in range(3)] == [["rust"], ["blight", "rust"], []]
    assert [samples.image(i).shape for i in range(3)] == [(6, 8, 3)] * 3
    assert not samples.has_masks


def test_a_listed_split_scores_where_each_of_its_images_has_a_mask(root: Path):
    write_list(root, "checked", "leaf-10\n\nleaf-2.v1\n")
    samples = open_samples(f"images:{root}", "checked")
    assert samples.ids == ("leaf-10", "leaf-2.v1")
    assert samples.has_masks
    assert set(np.unique(samples.mask(1))) == {0, 2, 255}
    mask(root, "leaf-10", [3])
    with pytest.raises(ValueError, match=r"leaf-10\.png holds the id 3 but there are 2 classes"):
        samples.mask(0)
    with pytest.raises(ValueError, match=r"masks/Blatt_ü\.png does not exist"):
        open_folder(str(root), "all").mask(1)


def test_grey_masks(root: Path):
    Image.new("L", (8, 6), 1).save(root / "masks/Blatt_ü.png")
    samples = open_folder(str(root), "all")
    assert samples.has_masks
    assert (samples.mask(1) == 1).all()


def test_a_list_may_be_named_all(root: Path):
    write_list(root, "all", "leaf-10\n")
    assert open_folder(str(root), "all").ids == ("leaf-10",)


def test_classes_have_the_order_of_their_file(root: Path):
    (root / "classes.txt").write_bytes(b"\xef\xbb\xbfrust\r\nmildew\r\n\r\nblight\r\n")
    samples = open_folder(str(root), "all")
    assert samples.classes == ("rust", "mildew", "blight")
    assert shown(samples, 1) == ["rust", "blight"]


def test_a_part_of_a_split(root: Path):
    part = open_samples(f"images:{root}", "all[::2]")
    assert part.ids == ("leaf-2.v1", "leaf-10")
    assert (part.mask(1) == 0).all()


def test_the_key_is_of_the_content_not_the_place(root: Path, tmp_path: Path):
    before = open_samples(f"images:{root}", "all").identity()
    other = tree(tmp_path / "other", grey=200)  # the same ids and labels
    assert open_samples(f"images:{other}", "all").identity() != before
    same = tree(tmp_path / "same")
    assert open_samples(f"images:{same}", "all").identity() == before
    parts = [open_samples(f"images:{place}", "all[:2]").identity() for place in (root, other, same)]
    assert parts[0] == parts[2] != parts[1]
    write_list(root, "few", "leaf-10\n")
    assert open_folder(str(root), "few").identity() != before


def test_a_mended_mask_is_another_truth_for_the_same_images(root: Path):
    write_list(root, "few", "leaf-10\nleaf-2.v1\n")
    location = f"images:{root}"
    images, masks = stages.images(location, "few"), stages.masks(location, "few[:1]")
    mask(root, "leaf-10", [1])
    assert stages.masks(location, "few[:1]").key != masks.key
    assert stages.images(location, "few").key == images.key


def test_parts_of_other_scenes_are_other_data():
    one, other = (
        open_samples(f"scenes:seed={n},images=40", "train[:1]").identity() for n in (1, 2)
    )
    assert one["ids"] == other["ids"]
    assert one["pixels"] != other["pixels"]


def test_opened_without_torch(root: Path):
    program = (
        "import sys; from wsss.data import open_samples;"
        f"open_samples('images:{root}', 'all').image(0); sys.exit('torch' in sys.modules)"
    )
    top = Path(__file__).parents[4]
    assert subprocess.run([sys.executable, "-c", program], cwd=top).returncode == 0


def refused(root: Path, split: str = "all") -> str:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        open_folder(str(root), split)
    return str(caught.value)


def test_missing_root_folder_and_table(root: Path):
    assert refused(root / "no") == f"data root {root}/no does not exist"
    assert refused(root / "images") == f"data root {root}/images has no folder images"
    (root / "image_labels.txt").unlink()
    assert refused(root).startswith(f"{root}/image_labels.txt cannot be read: ")


def test_missing_list_names_those_there(root: Path):
    assert refused(root, "val").endswith("choose one that is there: all")
    write_list(root, "train", "leaf-10\n")
    assert refused(root, "val") == (
        f"split 'val' has no list {root}/splits/val.txt; choose one that is there: all, train"
    )


def test_images_that_are_absent(root: Path):
    (root / "images/leaf-10.png").unlink()
    assert refused(root) == (
        f"split 'all' names leaf-10 but {root}/images has no image of that name (1 of 3 are absent)"
    )


def test_names_that_the_table_cannot_hold(root: Path):
    photo(root / "images/my leaf.jpg", 0)
    assert refused(root) == (
        f"image {root}/images/my leaf.jpg has a blank in its name, which image_labels.txt cannot"
        " hold: rename it"
    )
    (root / "images/my leaf.jpg").unlink()
    (root / "classes.txt").write_text("rust\nleaf blight\n")
    assert "line 2: class 'leaf blight' has a blank" in refused(root)
    assert refused(root).endswith("write leaf_blight")


def test_one_id_for_two_images(root: Path):
    photo(root / "images/leaf-10.jpg", 0)
    assert "holds leaf-10.jpg and leaf-10.png: one id, two images" in refused(root)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("", "labels no image"),
        ("leaf-10\n", "names no class"),
        ("leaf-10 rust\nleaf-10 rust\n", "line 2: leaf-10 has a row already"),
        ("leaf-10 background rust\n", "names background, which has the id 0 by itself"),
        ("leaf-10 " + " ".join(f"c{n}" for n in range(255)), "255 classes: masks can hold 254"),
    ],
)
def test_tables_that_cannot_be_used(root: Path, table: str, says: str):
    (root / "image_labels.txt").write_text(table)
    assert says in refused(root)


def test_a_table_in_another_encoding(root: Path):
    (root / "image_labels.txt").write_bytes("Blatt_ü rust\n".encode("latin-1"))
    assert "image_labels.txt cannot be read: 'utf-8'" in refused(root)


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ("\n", "classes.txt names no class"),
        ("background\nrust\nblight\n", "classes.txt names background"),
        ("rust\nblight\nrust\n", "classes.txt names rust twice"),
        ("rust\nblihgt\n", "Blatt_ü: class 'blight' is unknown; did you mean 'blihgt'?"),
    ],
)
def test_classes_that_cannot_be_used(root: Path, classes: str, says: str):
    (root / "classes.txt").write_text(classes)
    assert says in refused(root)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n", "names no image"),
        ("leaf-10\nleaf-10\n", "names leaf-10 twice"),
        ("leaf-10.png\nspare\n", "image_labels.txt has no row for leaf-10.png, which "),
    ],
)
def test_lists_that_cannot_be_used(root: Path, text: str, says: str):
    write_list(root, "train", text)
    assert says in refused(root, "train")


def test_voc_as_ones_own_data(voc_mini: Path, tmp_path: Path):
    """The same images, labels and masks, under the same ids."""
    for name, target in {"images": "JPEGImages", "masks": "SegmentationClass"}.items():
        (tmp_path / name).symlink_to(voc_mini / target)
    theirs = open_samples(f"voc2012:{voc_mini}", "val")
    (tmp_path / "classes.txt").write_text("\n".join(theirs.classes))
    (tmp_path / "image_labels.txt").symlink_to(voc_mini / "image_labels.txt")
    write_list(tmp_path, "val", "\n".join(theirs.ids))
    ours = open_folder(str(tmp_path), "val")
    assert (ours.ids, ours.has_masks) == (theirs.ids, True)
    assert np.array_equal(ours.labels, theirs.labels)
    for i in range(0, len(ours), 50):
        assert np.array_equal(ours.image(i), theirs.image(i))
        assert np.array_equal(ours.mask(i), theirs.mask(i))
