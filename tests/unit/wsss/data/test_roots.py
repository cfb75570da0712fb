"""Data in a store: the same samples and keys as in a folder, of one content in a whole sweep."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from stageflow.replica_push import push
from stageflow.store import StoreError
from stageflow.sweep import main
from sweeps import (
    labels,
    leaderboard,
    leaderboard_coco,
    leaderboard_voc,
    methods,
    recam_threshold,
    sfc_weights,
)
from wsss import stages, whole_pipeline
from wsss.data import open_samples
from wsss.data.roots import localised, pinned
from wsss.setting import Setting
from wsss.stages.data import opened, opened_saliency


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Three images of one's own, with masks that serve as saliency maps, too."""
    folder = tmp_path / "mine"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for grey, name in enumerate("abc"):
        Image.new("RGB", (8, 6), (grey, 0, 0)).save(folder / f"images/{name}.png")
        Image.new("L", (8, 6), 1).save(folder / f"masks/{name}.png")
    (folder / "image_labels.txt").write_text("a leaf\nb leaf\nc\n")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> str:
    return (tmp_path / "bucket" / "data").as_uri()


def test_locations_without_a_store_stay() -> None:
    for location in ("scenes:images=9", "voc2012:~/VOC2012", "coco2014:/data/coco,crowd=void"):
        assert localised(location) == pinned(location) == location


def test_rules_stay_behind_the_root(own: Path, root: str) -> None:
    content = push(own, root).uri
    here = localised(f"coco2014:{root},crowd=void")
    folder = here.removeprefix("coco2014:").removesuffix(",crowd=void")
    assert (Path(folder) / "image_labels.txt").is_file()
    assert pinned(f"coco2014:{root},crowd=void") == f"coco2014:{content},crowd=void"
    assert pinned(f"coco2014:{content},crowd=void") == f"coco2014:{content},crowd=void"
    assert localised(f"images:{content}") == f"images:{folder}"


@pytest.mark.parametrize("split", ["all", "all[1:]"])
def test_own_images_have_the_same_key_in_a_store(own: Path, root: str, split: str) -> None:
    push(own, root)
    here, there = (open_samples(f"images:{place}", split) for place in (own, root))
    assert there.identity() == here.identity()
    assert (there.image(0) == here.image(0)).all()
    assert stages.masks(f"images:{root}", split).key == stages.masks(f"images:{own}", split).key


def test_voc_has_the_same_key_in_a_store(tmp_path: Path, own: Path, root: str) -> None:
    folder = tmp_path / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(folder / "JPEGImages/a.jpg")
    Image.new("L", (8, 6), 3).save(folder / "SegmentationClass/a.png")
    (folder / "ImageSets/Segmentation/train.txt").write_text("a\n")
    (folder / "image_labels.txt").write_text("a bird\n")
    push(folder, root)
    here, there = (open_samples(f"voc2012:{place}", "train") for place in (folder, root))
    assert there.identity() == here.identity()
    assert (there.mask(0) == 3).all()


@pytest.mark.parametrize("rules", ["", ",overlap=small_over_large,crowd=void"])
def test_coco_has_the_same_key_in_a_store(coco_mini: Path, root: str, rules: str) -> None:
    push(coco_mini, root)
    here, there = (open_samples(f"coco2014:{place}{rules}", "val") for place in (coco_mini, root))
    assert there.identity() == here.identity()
    np.testing.assert_array_equal(there.mask(0), here.mask(0))


def test_a_sweep_goes_on_with_the_content_that_it_was_planned_with(own: Path, root: str) -> None:
    first = push(own, root).uri
    source = stages.masks(f"images:{root}", "all")
    assert source.location == f"all@images:{first}"
    (own / "image_labels.txt").write_text("a leaf\nb\nc\n")
    second = push(own, root, over=True).uri
    shutil.rmtree(localised(root))  # as on a machine that joins late
    assert opened(source).labels.tolist() == [[True], [True], [False]]
    assert open_samples(f"images:{second}", "all").labels.tolist() == [[True], [False], [False]]


def test_saliency_may_lie_in_a_store(own: Path, root: str) -> None:
    content = push(own / "masks", root).uri
    here, there = (
        stages.saliency(folder, f"images:{own}", "all") for folder in (str(own / "masks"), root)
    )
    assert there.key == here.key
    assert (here.location, there.location) == (str(own / "masks"), content)
    for source in (here, there):
        assert (opened_saliency(source, "abc").of("a", (6, 8)) == 1).all()


READ = """
import pickle, sys
from wsss import stages
from wsss.data import open_samples
setting = pickle.load(sys.stdin.buffer)
print(open_samples(setting.data, "all").image(0)[0, 0, 0])
print(stages.images(setting.data, "all").location)
"""


def test_what_a_driver_starts_reads_what_the_driver_did(
    own: Path, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial's process gets the options, on a machine without the data, after another push."""
    first = push(own, root).uri
    setting = Setting(data=f"images:{root}")
    Image.new("RGB", (8, 6), (99, 0, 0)).save(own / "images/a.png")
    push(own, root, over=True)
    monkeypatch.setenv("STAGEFLOW_HOME", str(tmp_path / "another machine"))
    done = subprocess.run(
        [sys.executable, "-c", READ], input=pickle.dumps(setting), capture_output=True, check=False
    )
    assert done.stdout.decode().split() == ["0", f"all@images:{first}"], done.stderr.decode()


def test_copies_of_a_setting_ask_no_store(
    own: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = push(own, root).uri
    setting = Setting(data=f"images:{root}")
    monkeypatch.setattr("stageflow.replica.open_root", None)
    assert setting.data == f"images:{content}"
    assert pickle.loads(pickle.dumps(setting)) == setting
    assert replace(setting, seeds=2).data == setting.data
    assert Setting(data=f"images:{own}").data == f"images:{own}"


SWEEPS = (labels, leaderboard, leaderboard_coco, leaderboard_voc, methods, recam_threshold)


@pytest.mark.parametrize("sweep", [*SWEEPS, sfc_weights])
def test_every_sweep_pins_its_data(own: Path, root: str, sweep: ModuleType) -> None:
    content, options = push(own, root).uri, sweep.SWEEP.options
    kind = "coco2014" if sweep is leaderboard_coco else "voc2012"
    given = replace(options, data=f"{kind}:{root}")
    assert given.data == f"{kind}:{content}"


def test_saliency_is_pinned_too(own: Path, root: str) -> None:
    content = push(own / "masks", root).uri
    assert whole_pipeline.Options(saliency=root, aamr=0.1).saliency == content


def test_options_say_in_one_line_what_is_wrong_with_a_root(
    root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for data, said in (
        (f"voc2012:{root}", f"error: {root} is empty: correct the address"),
        (f"voc2012:{root}#../../etc", f"error: data root '{root}#../../etc': want s3://"),
    ):
        assert main(recam_threshold.SWEEP, [f"--data={data}", "--plan"]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(said)


def test_what_is_wrong_with_a_root_is_one_line(root: str) -> None:
    with pytest.raises(StoreError, match=f"^{root} is empty: .*FOLDER {root}'$"):
        open_samples(f"voc2012:{root}", "train")
    with pytest.raises(StoreError, match=r"^data root 'gs://bucket': want s3://bucket/prefix"):
        open_samples("voc2012:gs://bucket", "train")


def test_data_in_a_folder_needs_no_platform(own: Path) -> None:
    code = (
        "import sys; from wsss.data import open_samples;"
        f"open_samples('images:{own}', 'all').image(0);"
        "sys.exit(bool({'stageflow', 'boto3'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
