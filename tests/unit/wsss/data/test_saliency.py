"""Reading of saliency maps, and what is said of those that cannot be read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsss.data.saliency import SaliencyMaps

GREY = np.arange(72, dtype=np.uint8).reshape(6, 12)


def test_a_map_is_read_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    np.testing.assert_array_equal(SaliencyMaps(tmp_path).of("a", (6, 12)), GREY)


def test_the_digest_is_of_content_and_order(tmp_path: Path) -> None:
    for name, pixels in (("a", GREY), ("b", GREY + 1)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    maps = SaliencyMaps(tmp_path)
    before = maps.digest(["a", "b"])
    assert before == SaliencyMaps(tmp_path).digest(["a", "b"])
    assert before != maps.digest(["b", "a"])
    Image.fromarray(GREY + 2).save(tmp_path / "b.png")
    assert maps.digest(["a", "b"]) != before
    with pytest.raises(ValueError, match="1 images have no saliency map"):
        maps.digest(["a", "c"])


def test_a_saliency_map_that_cannot_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere does not exist"):
        SaliencyMaps(tmp_path / "nowhere")
    Image.fromarray(GREY).save(tmp_path / "a.png")
    Image.fromarray(GREY).convert("RGB").save(tmp_path / "rgb.png")
    (tmp_path / "broken.png").write_bytes(b"PNG")
    maps = SaliencyMaps(tmp_path)
    maps.check(["a", "rgb"])
    with pytest.raises(ValueError, match=r"2 images have no saliency map, .*/b\.png first"):
        maps.check(["a", "b", "c"])
    with pytest.raises(ValueError, match=r"b\.png does not exist"):
        maps.of("b", (6, 12))
    with pytest.raises(ValueError, match=r"rgb\.png is of mode RGB: give a grey PNG of 8 bits"):
        maps.of("rgb", (6, 12))
    with pytest.raises(ValueError, match=r"a\.png is \(6, 12\) but its image \(6, 13\)"):
        maps.of("a", (6, 13))
    with pytest.raises(ValueError, match=r"broken\.png cannot be read"):
        maps.of("broken", (6, 12))
