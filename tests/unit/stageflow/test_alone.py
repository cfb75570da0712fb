"""Who is alone: of threads, of processes, of killed ones, and where there are no locks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stageflow import alone as module
from stageflow.alone import alone

HOLD = """
import sys, time
from pathlib import Path
from stageflow.alone import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_threads_are_inside_one_by_one(lock: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with alone(lock) as absent:
            assert absent is None
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1] * 20


def test_a_killed_process_gives_up_its_lock(lock: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        waited: list[bool] = []

        def waiting() -> None:
            waited.append(True)
            holder.kill()

        with alone(lock, waiting) as absent:
            assert absent is None
    assert waited == [True]


def failing(lock: Path) -> None:
    with alone(lock):
        raise ValueError("inside")


def test_an_error_gives_up_the_lock(lock: Path) -> None:
    with pytest.raises(ValueError, match="inside"):
        failing(lock)
    with alone(lock, pytest.fail):
        pass


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_forked_child_that_lives_on_holds_no_lock(lock: Path) -> None:
    with alone(lock):
        [handle] = [fd for fd in os.listdir("/proc/self/fd") if leads_to(fd, lock)]
        inherited = os.dup(int(handle))
    try:
        with alone(lock, lambda: pytest.fail("is still locked")):
            pass
    finally:
        os.close(inherited)


def leads_to(fd: str, path: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == str(path)
    except OSError:  # that of the listing itself
        return False


def test_without_locks_nobody_waits(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", flock)
    with alone(lock) as absent, alone(lock) as again:
        assert absent is not None
        assert absent.strerror == "No locks available"
        assert again is not None
