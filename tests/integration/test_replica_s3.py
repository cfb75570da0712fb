"""Data roots in a real S3 server: many processes, killed ones, poor keys, real photographs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stageflow.cli import main
from stageflow.replica import replica
from stageflow.replica_index import HEAD, OWN
from stageflow.replica_push import content_of, push
from stageflow.settings import home
from stageflow.store import StoreError, open_store
from wsss import stages
from wsss.data import open_samples

FILES = 60

# a worker that notes what it downloads, starts when it is told to, and may fall silent on its way
WORKER = """
import sys, threading, time
from pathlib import Path
from stageflow.replica import replica
from stageflow.store_s3 import S3Store

uri, log, enough = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
real, lock = S3Store.download, threading.Lock()
def download(store, name, to):
    real(store, name, to)
    with lock, log.open("a") as file:
        file.write(name + "\\n")
    while enough and len(log.read_text().splitlines()) >= enough:
        time.sleep(0.1)
S3Store.download = download
print("ready", flush=True)
sys.stdin.readline()
print(replica(uri))
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for number in range(FILES):
        path = folder / f"images/{number % 3}/photo {number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(20_000))
    (folder / "image_labels.txt").write_text("a leaf\n")
    return folder


@pytest.fixture
def root(bucket: str) -> str:
    return f"s3://{bucket}/sets/leaves"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "downloads"
    path.touch()
    return path


@contextmanager
def workers(root: str, log: Path, count: int, enough: int = 0) -> Iterator[list[Any]]:
    """Processes that are ready to fetch; none is left at the end."""
    command = [sys.executable, "-c", WORKER, root, str(log), str(enough)]
    started = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for _ in range(count)
    ]
    try:
        for process in started:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def failure(uri: str) -> str:
    with pytest.raises(StoreError) as caught:
        replica(uri)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("indexed", [True, False])
def test_of_eight_processes_one_fetches(
    data: Path, root: str, log: Path, s3_client: Any, indexed: bool
) -> None:
    if indexed:
        push(data, root)
    else:
        fill(s3_client, root, data)
    with workers(root, log, 8) as started:
        for process in started:
            process.stdin.write("go\n")
        told = [process.communicate(timeout=120) for process in started]
    assert all(process.returncode == 0 for process in started), told
    [folder] = {out.strip() for out, _ in told}
    assert content_of(Path(folder)).digest == content_of(data).digest == Path(folder).name
    assert sorted(log.read_text().splitlines()) == names(data)
    assert sorted(path.name for path in Path(folder).parent.iterdir()) == [
        Path(folder).name,
        "lock",
    ]


def test_a_killed_process_gives_way_to_one_that_goes_on(data: Path, root: str, log: Path) -> None:
    push(data, root)
    with workers(root, log, 1, enough=FILES // 2) as [doomed], workers(root, log, 1) as [heir]:
        doomed.stdin.write("go\n")
        while len(log.read_text().splitlines()) < FILES // 2:
            assert doomed.poll() is None
            time.sleep(0.05)
        heir.stdin.write("go\n")
        assert "another process of this machine fetches" in heir.stderr.readline()
        assert not list((home() / "data").glob("*/[0-9a-f]*"))
        doomed.send_signal(signal.SIGKILL)
        out, err = heir.communicate(timeout=120)
    assert heir.returncode == 0, err
    assert content_of(Path(out.strip())).digest == content_of(data).digest
    fetched = log.read_text().splitlines()
    assert len(fetched) == len(set(fetched))  # nothing that had come was fetched again


def test_the_index_of_a_filled_bucket_binds_all_machines(
    data: Path, root: str, s3_client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fill(s3_client, root, data)
    first = replica(root)
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    damaged = "images/1/photo 001.jpg"
    s3_client.put_object(Bucket=bucket, Key=f"{prefix}/{damaged}", Body=b"another picture")
    assert replica(root) == first
    monkeypatch.setenv("STAGEFLOW_HOME", str(tmp_path / "another machine"))
    assert f"{root}/{damaged} has not its recorded SHA-256: put the right file back" in failure(
        root
    )
    fill(s3_client, root, data)
    assert replica(root).name == first.name


def test_of_machines_that_index_a_bucket_at_once_one_wins(
    data: Path, root: str, s3_client: Any, tmp_path: Path
) -> None:
    fill(s3_client, root, data)
    with ThreadPoolExecutor(3) as pool:
        folders = [*pool.map(lambda n: replica(root, cache=tmp_path / f"machine {n}"), range(3))]
    assert len(set(folders)) == 3
    assert {content_of(folder).digest for folder in folders} == {content_of(data).digest}
    assert len([name for name in open_store(root).list(OWN) if name.endswith(".json")]) == 2


def test_changed_content_is_refused_and_then_gets_a_folder_of_its_own(
    data: Path, root: str
) -> None:
    old = push(data, root)
    before = replica(root)
    (data / "image_labels.txt").write_text("a tree\n")
    with pytest.raises(StoreError, match="holds another content"):
        push(data, root)
    assert push(data, root, over=True).sent == 1
    after = replica(root)
    assert [(f / "image_labels.txt").read_text() for f in (before, after)] == [
        "a leaf\n",
        "a tree\n",
    ]
    shutil.rmtree(before)
    assert content_of(replica(old.uri)).digest == before.name


def test_a_key_that_may_only_read(
    data: Path, root: str, s3_client: Any, s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(s3_client, root, data)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.reader_key)
    message = failure(root)
    assert f"run 'stageflow pull {root}' once with a key that may write" in message
    assert not list((home() / "data").glob("*/part/*"))  # told before anything was fetched
    with pytest.raises(StoreError, match="AccessDenied"):
        push(data, f"{root}/new")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    digest = replica(root).name
    shutil.rmtree(home() / "data")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.reader_key)
    assert replica(root).name == digest


def test_what_is_out_of_reach(root: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"{root} is empty: correct the address" in failure(root)
    assert "has no bucket 'no-such-bucket': create it" in failure("s3://no-such-bucket/voc")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in failure(root)


def test_the_whole_bucket_may_be_a_root(data: Path, bucket: str) -> None:
    pushed = push(data, f"s3://{bucket}")
    assert replica(f"s3://{bucket}/").name == pushed.index.digest
    assert {name.partition("/")[0] for name in open_store(f"s3://{bucket}").list("")} == {
        *("images", "image_labels.txt", OWN)
    }
    assert HEAD in open_store(f"s3://{bucket}").list(OWN)


def test_real_photographs_have_the_same_key_in_a_bucket(
    voc_mini: Path, tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    part, uri = some_of(voc_mini, tmp_path / "VOC2012"), f"s3://{bucket}/voc2012"
    assert main(["push", str(part), uri]) == 0
    assert re.search(
        rf"52 files, [\d,]+ bytes in {uri}#[0-9a-f]{{20}}; 52 sent", capsys.readouterr().out
    )
    here, there = (open_samples(f"voc2012:{place}", "train") for place in (part, uri))
    assert there.identity() == here.identity()
    for i in (0, 9):
        np.testing.assert_array_equal(there.image(i), here.image(i))
        np.testing.assert_array_equal(there.mask(i), here.mask(i))
    ours, theirs = (stages.images(f"voc2012:{place}", "train[::2]") for place in (part, uri))
    assert theirs.key == ours.key
    assert main(["pull", uri]) == 0
    assert (Path(capsys.readouterr().out.strip()) / "JPEGImages").is_dir()


def names(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def fill(client: Any, root: str, folder: Path) -> None:
    """What `aws s3 sync` does."""
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    for name in names(folder):
        client.upload_file(str(folder / name), bucket, f"{prefix}/{name}")


def some_of(voc: Path, to: Path) -> Path:
    """The first 25 training images of VOC with their masks."""
    (to / "ImageSets/Segmentation").mkdir(parents=True)
    ids = (voc / "ImageSets/Segmentation/train.txt").read_text().split()[:25]
    (to / "ImageSets/Segmentation/train.txt").write_text("\n".join(ids))
    shutil.copy(voc / "image_labels.txt", to)
    for kind, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (to / kind).mkdir()
        for name in ids:
            shutil.copy(voc / kind / f"{name}.{ending}", to / kind)
    return to


@pytest.mark.slow
def test_a_sweep_reads_photographs_from_a_bucket(
    voc_mini: Path, tmp_path: Path, bucket: str
) -> None:
    content = push(some_of(voc_mini, tmp_path / "VOC2012"), f"s3://{bucket}/voc2012").index
    command = (
        *(sys.executable, "sweeps/recam_threshold.py", f"--data=voc2012:s3://{bucket}/voc2012"),
        *("--train=train[:16]", "--score=train[:2]", "--backbone=tiny", "--weights=random"),
        *("--trials=1", "--seeds=1", "--probe=0", "--cam-steps=2", "--recam-steps=2"),
        *(f"--store=s3://{bucket}/wsss", "--tracking=none", "--executor=local"),
    )
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [folder] = (home() / "data").glob("voc2012-*/[0-9a-f]*")
    assert folder.name == content.digest
