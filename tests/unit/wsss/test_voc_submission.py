import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from wsss.data.label_maps import Labels, palette_png, voc_palette, write_labels
from wsss.voc_submission import FOLDER, check_submission, read_submission, write_submission

A = np.array([[0, 1, 20], [5, 0, 0]], dtype=np.uint8)
B = np.array([[2], [3]], dtype=np.uint8)
SIZES = {"2008_000001": (2, 3), "2010_000002": (2, 1)}


@pytest.fixture
def labels(tmp_path):
    maps = [("2010_000002", B), ("2008_000001", A), ("2011_000009", A + 100)]
    write_labels(tmp_path / "labels", maps)
    return Labels(tmp_path / "labels")


def packed(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
def test_what_is_written_is_what_the_server_reads(labels, tmp_path, suffix):
    path, again = tmp_path / f"results{suffix}", tmp_path / f"again{suffix}"
    write_submission(path, labels, ["2010_000002", "2008_000001"])
    check_submission(path, SIZES)
    with tarfile.open(path) as archive:
        assert archive.getnames() == [f"{FOLDER}/{name}.png" for name in sorted(SIZES)]
        file = archive.extractfile(f"{FOLDER}/2008_000001.png")
        with Image.open(file) as picture:
            assert picture.mode == "P"
            assert np.array_equal(np.array(picture.convert("RGB")), voc_palette()[A])
    found = dict(read_submission(path))
    assert np.array_equal(found["2008_000001"], A)
    assert np.array_equal(found["2010_000002"], B)
    write_submission(again, labels, ["2008_000001", "2010_000002"])
    assert again.read_bytes() == path.read_bytes()
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == (suffix != ".tar")


def test_what_cannot_be_submitted_is_named(labels, tmp_path):
    with pytest.raises(ValueError, match="labels lacks 1 label maps, 2012_000003 first"):
        write_submission(tmp_path / "x.tar", labels, ["2012_000003"])
    with pytest.raises(ValueError, match="label map of 2011_000009 holds the id 100: give 0 to 20"):
        write_submission(tmp_path / "x.tar", labels, ["2011_000009"])


def grey(label):
    file = io.BytesIO()
    Image.fromarray(label).save(file, "PNG")
    return file.getvalue()


GOOD = (f"{FOLDER}/2008_000001.png", palette_png(A))
OTHER = (f"{FOLDER}/2010_000002.png", palette_png(B))
WRONG = [
    ([GOOD], r"x\.tar lacks 1 of 2 images, 2010_000002 first"),
    ([GOOD, OTHER, GOOD], r"x\.tar holds .*2008_000001\.png twice"),
    ([(f"{FOLDER}/2012_1.png", GOOD[1])], r"comp6_test_cls/2012_1\.png is of no image of the list"),
    (
        [(f"{FOLDER}/2010_000002.png", GOOD[1])],
        r"2010_000002\.png is \(2, 3\) but its image \(2, 1",
    ),
    ([("2008_000001.png", GOOD[1])], r"x\.tar: 2008_000001\.png does not belong there: all is res"),
    ([(f"{FOLDER}/sub/a.png", GOOD[1])], r"sub/a\.png does not belong there"),
    ([(f"{FOLDER}/2008_000001.jpg", GOOD[1])], r"000001\.jpg does not belong there"),
    ([(GOOD[0], grey(A))], r"000001\.png is a PNG of mode L: give a palette PNG"),
    ([(GOOD[0], palette_png(A + 1))], r"000001\.png holds the id 21: give 0 to 20"),
    ([(GOOD[0], palette_png(A * 0 + 255))], r"000001\.png holds the id 255: give 0 to 20"),
    ([(GOOD[0], b"PNG")], r"000001\.png cannot be decoded"),
    ([(GOOD[0], GOOD[1][:-30])], r"000001\.png cannot be decoded"),
]


@pytest.mark.parametrize(("files", "message"), WRONG)
def test_a_wrong_archive_is_refused_with_the_file_s_name(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        check_submission(packed(tmp_path / "x.tar", files), SIZES)


def test_folders_are_no_files_and_links_are_not_followed(tmp_path):
    path = packed(tmp_path / "x.tar", [GOOD, OTHER])
    with tarfile.open(path, "a") as archive:
        folder = tarfile.TarInfo(FOLDER)
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    check_submission(path, SIZES)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo(f"{FOLDER}/2009_000001.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(ValueError, match=r"2009_000001\.png does not belong there"):
        check_submission(path, SIZES)


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"results")
    with pytest.raises(ValueError, match=r"submission .*x\.tar cannot be read"):
        check_submission(tmp_path / "x.tar", SIZES)
    with pytest.raises(ValueError, match=r"submission .*y\.tar cannot be read"):
        check_submission(tmp_path / "y.tar", SIZES)
