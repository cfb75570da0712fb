"""The COCO reader on a tiny tree, and against the COCO API on real annotations."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsss.data import open_samples
from wsss.data.coco import open_coco

CAT, DOG, KITE = 17, 18, 38


def box(number: int, image: int, category: int, corners: tuple[int, int, int, int], crowd: int = 0):
    """An annotation of the rectangle left, top, right, bottom; as runs if it is a crowd."""
    left, top, right, bottom = corners
    pixels = np.zeros((6, 8), dtype=int)
    pixels[top:bottom, left:right] = 1
    edges = np.flatnonzero(np.diff(pixels.T.ravel(), prepend=0, append=2))
    runs = {"size": [6, 8], "counts": np.diff(edges, prepend=0).tolist()}
    outline = [[left, top, right, top, right, bottom, left, bottom]]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "iscrowd": crowd,
        "segmentation": runs if crowd else outline,
    }


ANNOTATIONS = [
    box(31, 9, CAT, (1, 1, 5, 5)),
    box(12, 25, KITE, (0, 0, 8, 3), crowd=1),
    box(30, 9, DOG, (2, 2, 4, 4)),  # within the cat, and later
    box(29, 9, CAT, (3, 3, 4, 6)),  # over the dog, and smaller
    box(11, 25, DOG, (0, 0, 2, 2)),
]


def write(root: Path, split: str, **parts: Any) -> None:
    """The split's annotations, of the images 25, 9 and 100, and its photographs."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / split).mkdir(exist_ok=True)
    stem = f"COCO_{split}_" if split.endswith("2014") else ""
    images = [
        {"id": n, "file_name": f"{stem}{n:012d}.jpg", "height": 6, "width": 8} for n in (25, 9, 100)
    ]
    names = {KITE: "kite", CAT: "cat", DOG: "dog"}
    whole = {
        "images": images,
        "categories": [{"id": n, "name": name} for n, name in names.items()],
        "annotations": ANNOTATIONS,
        **parts,
    }
    for entry in images:
        Image.new("RGB", (8, 6)).save(root / split / str(entry["file_name"]))
    (root / f"annotations/instances_{split}.json").write_text(json.dumps(whole))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images: objects on objects, an object in a crowd, and nothing."""
    folder = tmp_path / "coco"
    write(folder, "train2014")
    return folder


def shown(samples, i: int) -> list[str]:
    return [samples.classes[c] for c in np.flatnonzero(samples.labels[i])]


def test_images_classes_and_labels_are_in_the_order_of_their_numbers(root: Path):
    samples = open_samples(f"coco2014:{root}", "train")
    assert (samples.name, samples.split, len(samples)) == ("coco2014", "train2014", 3)
    assert samples.ids == tuple(f"COCO_train2014_{n:012d}" for n in (9, 25, 100))
    assert samples.classes == ("cat", "dog", "kite")
    assert [shown(samples, i) for i in range(3)] == [["cat", "dog"], ["dog", "kite"], []]
    assert samples.labels.dtype == np.bool_
    assert samples.has_masks
    assert samples.image(2).shape == (6, 8, 3)
    assert not samples.mask(2).any()


def masks(root: Path, rules: str = "") -> list[list[str]]:
    """The masks of the first two images, a row of pixels a string, v for void."""
    samples = open_coco(f"{root}{rules}", "train")
    assert samples.mask(0).dtype == np.uint8
    return [
        ["".join("v" if c == 255 else str(c) for c in row) for row in samples.mask(i)]
        for i in (0, 1)
    ]


ORDERED = ["00000000", "01111000", "01221000", "01211000", "01111000", "00010000"]


def test_masks_are_drawn_in_the_order_of_the_file_without_crowds(root: Path):
    assert masks(root) == [ORDERED, ["22000000", "22000000", *["00000000"] * 4]]


def test_the_smaller_object_may_lie_on_top(root: Path):
    turned = json.loads((root / "annotations/instances_train2014.json").read_text())
    write(root, "train2014", annotations=turned["annotations"][::-1])
    assert masks(root)[0] == ["00000000", *["01111000"] * 4, "00010000"]
    assert masks(root, ",overlap=small_over_large")[0] == ORDERED
    assert masks(root, ",crowd=object,overlap=small_over_large")[1][:3] == [
        "22333333",
        "22333333",
        "33333333",
    ]


def test_what_a_crowd_is(root: Path):
    assert masks(root, ",crowd=void")[1] == [
        *("22vvvvvv", "22vvvvvv", "vvvvvvvv"),
        *["00000000"] * 3,
    ]
    assert masks(root, ",crowd=object")[1][:3] == ["22333333", "22333333", "33333333"]
    write(root, "train2014", annotations=ANNOTATIONS[::-1])
    assert masks(root, ",crowd=object")[1][:3] == ["33333333"] * 3
    assert masks(root, ",crowd=void")[1][0] == "22vvvvvv"  # whatever comes first


def test_the_rule_and_the_annotations_are_part_of_the_key(root: Path):
    def identity(rules: str = "") -> dict[str, str | int]:
        return open_coco(f"{root}{rules}", "train").identity()

    plain = identity()
    assert str(plain["masks"]).startswith("overlap=annotation_order,crowd=background,annotations=")
    assert identity(",crowd=background") == plain
    for rule in ("crowd=void", "crowd=object", "overlap=small_over_large"):
        assert {k for k, v in identity(f",{rule}").items() if plain[k] != v} == {"masks"}
    write(root, "train2014", annotations=[*ANNOTATIONS, box(50, 9, CAT, (0, 0, 1, 1))])
    assert {k for k, v in identity().items() if plain[k] != v} == {"masks"}


def test_the_place_is_no_part_of_the_key(root: Path):
    before = open_coco(str(root), "train").identity()
    moved = root.rename(root.with_name("elsewhere"))
    assert open_coco(str(moved), "train2014").identity() == before


def test_a_part_of_a_split(root: Path):
    part = open_samples(f"coco2014:{root},crowd=void", "train[1:]")
    assert part.ids == tuple(f"COCO_train2014_{n:012d}" for n in (25, 100))
    assert (part.mask(0) == 255).any()
    whole = open_coco(f"{root},crowd=void", "train").identity()
    assert part.identity()["masks"] == whole["masks"]
    assert part.identity()["ids"] != whole["ids"]


def test_years(root: Path):
    write(root, "val2017")
    with pytest.raises(ValueError, match="train2014 and val2017, which share images"):
        open_coco(str(root), "train")
    write(root, "train2017")
    splits = {name: open_coco(str(root), name) for name in ("train", "train2014", "val")}
    assert [found.split for found in splits.values()] == ["train2017", "train2014", "val2017"]
    assert splits["val"].ids == tuple(f"{n:012d}" for n in (9, 25, 100))
    assert splits["train"].identity() != splits["train2014"].identity()
    write(root, "val2014")
    assert open_coco(str(root), "train").split == "train2014"


def test_annotations_without_segmentations_label_but_cannot_score(root: Path):
    bare = [{k: v for k, v in entry.items() if k != "segmentation"} for entry in ANNOTATIONS]
    write(root, "train2014", annotations=bare)
    samples = open_coco(str(root), "train")
    assert not samples.has_masks
    assert shown(samples, 0) == ["cat", "dog"]
    with pytest.raises(ValueError, match=r"annotation 31 of .*2014\.json has no segmentation"):
        samples.mask(0)


def test_opened_and_drawn_without_torch(root: Path):
    program = (
        "import sys; from wsss.data import open_samples;"
        f"open_samples('coco2014:{root}', 'train').mask(0); sys.exit('torch' in sys.modules)"
    )
    top = Path(__file__).parents[4]
    assert subprocess.run([sys.executable, "-c", program], cwd=top).returncode == 0


def refused(location: str, split: str = "train") -> str:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        open_coco(location, split)
    return str(caught.value)


def test_missing_root_and_wrong_folder(root: Path):
    assert refused(f"{root}/no") == f"data root {root}/no does not exist"
    assert "has no annotations: give the folder" in refused(f"{root}/train2014")


def test_missing_split_names_those_there(root: Path):
    assert refused(str(root), "val") == (
        f"split 'val' has no {root}/annotations/instances_val2014.json;"
        " choose one that is there: train2014"
    )


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ("crowd=viod", "rule 'crowd=viod' is unknown; did you mean 'crowd=void'?"),
        ("overlaps=small_over_large", "did you mean 'overlap=small_over_large'?"),
        ("", "there are overlap=annotation_order, overlap=small_over_large, crowd=background"),
        ("crowd=void,crowd=object", "coco2014 rule crowd is given twice"),
    ],
)
def test_unknown_rules(root: Path, rules: str, says: str):
    assert says in refused(f"{root},{rules}")


def test_absent_images(root: Path):
    (root / "train2014/COCO_train2014_000000000025.jpg").unlink()
    assert refused(str(root)) == (
        f"{root}/annotations/instances_train2014.json names COCO_train2014_000000000025.jpg but"
        f" {root}/train2014 has no such file (1 of 3 images are absent)"
    )
    shutil.rmtree(root / "train2014")
    assert refused(str(root)).endswith(f"not the folder of its images, {root}/train2014")


def test_broken_annotations(root: Path):
    path = root / "annotations/instances_train2014.json"
    path.write_text(path.read_text()[:-9])
    assert refused(str(root)).startswith(f"annotations {path} cannot be used: ")


def test_an_image_of_another_size_than_its_annotations(root: Path):
    samples = open_coco(str(root), "train")
    Image.new("RGB", (6, 8)).save(root / "train2014" / f"{samples.ids[1]}.jpg")
    says = r"000025\.jpg is 6 x 8 but .*instances_train2014\.json says 8 x 6$"
    with pytest.raises(ValueError, match=says):
        samples.image(1)


def test_an_annotation_that_cannot_be_drawn(root: Path):
    write(root, "train2014", annotations=[{**ANNOTATIONS[1], "iscrowd": 0, "segmentation": [[9]]}])
    assert "annotation 12: its segmentation is neither" in refused(str(root))
    runs = {"size": [6, 9], "counts": [54]}
    write(root, "train2014", annotations=[{**ANNOTATIONS[0], "segmentation": runs}])
    with pytest.raises(ValueError, match=r"annotation 31 of .* cannot be drawn: it is of 9 x 6"):
        open_coco(str(root), "train").mask(0)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_masks_as_recam_makes_them(coco_mini: Path, split: str):
    """ReCAM's converter: the API's annotations in turn, crowds out, later over earlier."""
    from pycocotools.coco import COCO

    samples = open_samples(f"coco2014:{coco_mini}", split)
    api = COCO(str(coco_mini / f"annotations/instances_{split}2017.json"))
    rank = {number: n + 1 for n, number in enumerate(sorted(api.getCatIds()))}
    for i, number in enumerate(sorted(api.getImgIds())):
        assert int(samples.ids[i]) == number
        expected = np.zeros(samples.image(i).shape[:2], dtype=np.uint8)
        for entry in api.loadAnns(api.getAnnIds(imgIds=[number], iscrowd=False)):
            expected[api.annToMask(entry) == 1] = rank[entry["category_id"]]
        assert np.array_equal(samples.mask(i), expected)
        numbers = {entry["category_id"] for entry in api.imgToAnns[number]}
        assert set(shown(samples, i)) == {api.cats[n]["name"] for n in numbers}


def test_real_counts(coco_mini: Path):
    gone = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    for split, classes, empty in (("train", 49, 1), ("val", 48, 2)):
        samples = open_coco(str(coco_mini), split)
        assert list(samples.mask_ids) == sorted(set(range(1, 91)) - gone)
        assert (len(samples), len(samples.classes)) == (50, 80)
        assert (samples.classes[0], samples.classes[79]) == ("person", "toothbrush")
        assert int(samples.labels.any(0).sum()) == classes
        assert int((~samples.labels.any(1)).sum()) == empty
        crowded = [any(entry.crowd for entry in entries) for entries in samples.annotations]
        open_ = open_coco(f"{coco_mini},crowd=void", split)
        for i in np.flatnonzero(crowded):
            assert (open_.mask(i) == 255).any()
            assert not (samples.mask(i) == 255).any()


def test_what_the_docstring_says_can_be_given():
    import wsss.data.coco as module

    said = re.findall(r"^    (\w+)=(\w+) ", module.__doc__ or "", re.MULTILINE)
    assert said == [(option, v) for option, values in module.RULES.items() for v in values]
