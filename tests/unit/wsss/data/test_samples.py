"""Opening by location, identity, and decoding files that are not what they should be."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsss.data import open_samples
from wsss.data.samples import read_image, read_mask


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "x.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_mask(path: Path, ids: list[int], shape: tuple[int, int] = (30, 50)) -> Path:
    picture = Image.fromarray(np.resize(np.array(ids, dtype=np.uint8), shape))
    picture.putpalette(bytes(range(256)) * 3)
    picture.save(path)
    return path


def test_unknown_data_set_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'pascal:/data' is unknown: use scenes.*voc2012:PATH"):
        open_samples("pascal:/data", "train")


def test_a_process_opens_each_split_once():
    assert open_samples("scenes", "val") is open_samples("scenes", "val")
    assert open_samples("scenes", "val") is not open_samples("scenes", "train")


def test_data_sets_open_without_torch():
    program = (
        "import sys; from wsss.data import open_samples; open_samples('scenes', 'val').image(0);"
        "import wsss.data.voc; sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[4]
    assert subprocess.run([sys.executable, "-c", program], cwd=root).returncode == 0


def test_identity_follows_what_is_in_the_split():
    keys = [
        open_samples(location, split).identity()
        for location, split in [
            ("scenes", "train"),
            ("scenes", "val"),
            ("scenes:seed=1", "train"),
            ("scenes:images=399", "train"),
        ]
    ]
    assert all(key["name"] == "scenes" and key["masks"] == "exact" for key in keys)
    assert len({tuple(sorted(key.items())) for key in keys}) == 4
    assert keys[0]["ids"] == keys[2]["ids"] != keys[3]["ids"]
    assert keys[0]["labels"] != keys[2]["labels"]


def test_a_grey_image_is_read_as_rgb(tmp_path: Path):
    Image.fromarray(np.full((4, 6), 77, dtype=np.uint8)).save(tmp_path / "grey.png")
    image = read_image(tmp_path / "grey.png")
    assert image.shape == (4, 6, 3)
    assert (image == 77).all()
    image[:] = 0  # writable: torch.from_numpy warns otherwise


def test_every_truncation_of_a_jpeg_is_refused_by_name(photo: Path):
    whole = photo.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 40):
        photo.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"image .*x\.jpg cannot be decoded: [^\n]+$"):
            read_image(photo)


def test_a_broken_png_is_refused_by_name(tmp_path: Path, photo: Path):
    path = write_mask(tmp_path / "x.png", [0, 1])
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[-30:-10] = b"\x55" * 20
    for content in (whole[:-25], whole[:60], bytes(broken), b"no picture"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"mask .*x\.png cannot be decoded: [^\n]+$"):
            read_mask(path, photo, 20)


def test_absent_files_are_named(tmp_path: Path, photo: Path):
    with pytest.raises(ValueError, match=r"image .*y\.jpg does not exist"):
        read_image(tmp_path / "y.jpg")
    with pytest.raises(ValueError, match=r"mask .*y\.png does not exist"):
        read_mask(tmp_path / "y.png", photo, 20)


def test_mask_of_another_size_than_its_image(tmp_path: Path, photo: Path):
    path = write_mask(tmp_path / "x.png", [0], shape=(30, 40))
    with pytest.raises(ValueError, match=r"x\.png is 40 x 30 but its image is 50 x 30"):
        read_mask(path, photo, 20)


def test_mask_with_an_id_beyond_the_classes(tmp_path: Path, photo: Path):
    path = write_mask(tmp_path / "x.png", [0, 20, 255, 21])
    with pytest.raises(ValueError, match=r"x\.png holds the id 21 but there are 20 classes"):
        read_mask(path, photo, 20)
    assert set(np.unique(read_mask(path, photo, 21))) == {0, 20, 21, 255}


def test_mask_in_colours(tmp_path: Path, photo: Path):
    Image.new("RGB", (50, 30)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png holds RGB colours"):
        read_mask(tmp_path / "x.png", photo, 20)


def test_part_of_a_split_is_a_slice_of_its_list():
    whole = open_samples("scenes:images=9", "train")
    part = open_samples("scenes:images=9", "train[1::3]")
    assert part.ids == whole.ids[1::3]
    assert np.array_equal(part.labels, whole.labels[1::3])
    assert np.array_equal(part.image(2), whole.image(7))
    assert np.array_equal(part.mask(1), whole.mask(4))
    assert part.identity() != whole.identity()
    assert open_samples("scenes:images=9", "train[:4]").ids == whole.ids[:4]


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ("train[3]", r"'train\[3\]' has no slice of images: write train\[:100\]"),
        ("train[::0]", "has no slice"),
        ("train[a:]", "has no slice"),
        ("train[99:]", "holds no image: train has 9"),
        ("trian[:2]", "trian"),
    ],
)
def test_a_slice_that_is_none(split: str, says: str):
    with pytest.raises(ValueError, match=says):
        open_samples("scenes:images=9", split)
