"""One living driver for a study, and none for ever."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest

from stageflow import study as module
from stageflow.study import LEASE_SECONDS, Study, StudyError


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "studies.journal")


def opened(url: str, name: str = "sweep") -> Study[float]:
    def space(trial: optuna.Trial) -> float:
        return trial.suggest_float("x", 0, 1)

    return Study(name, url, space=space)


def driver(url: str, **changes: object) -> None:
    """Let the study be held by a driver with these marks."""
    held = {"id": "other", "host": socket.gethostname(), "pid": os.getpid(), "beat": time.time()}
    opened(url).note("driver", {**held, **changes})


def ended() -> int:
    """The number of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


class TestLease:
    def test_one_driver(self, url: str) -> None:
        """The second is refused in one line that says who and what to do, and changes nothing."""
        with opened(url).claimed():
            held = opened(url).notes()["driver"]
            expected = (
                f"^sweep sweep is being driven by process {os.getpid()} on {socket.gethostname()} "
                r"\(last sign of life \d+ s ago\): wait for it, stop it, or .* another --study$"
            )
            with pytest.raises(StudyError, match=expected), opened(url).claimed():
                pytest.fail("two drivers")
            assert opened(url).notes()["driver"] == held
        with opened(url).claimed():
            pass

    def test_is_given_back_after_an_error(self, url: str) -> None:
        with pytest.raises(KeyError), opened(url).claimed():
            raise KeyError
        with opened(url).claimed():
            pass

    def test_another_study_of_the_storage(self, url: str) -> None:
        with opened(url, "one").claimed(), opened(url, "two").claimed():
            pass

    def test_dead_process(self, url: str) -> None:
        """Nobody has to wait for a driver that is known to be dead."""
        driver(url, pid=ended())
        with opened(url).claimed():
            assert opened(url).notes()["driver"]["pid"] == os.getpid()

    def test_silent_for_long(self, url: str) -> None:
        """On another machine, only time tells."""
        driver(url, host="elsewhere", pid=1, beat=time.time() - LEASE_SECONDS - 1)
        with opened(url).claimed():
            pass

    def test_silent_for_a_moment(self, url: str) -> None:
        driver(url, host="elsewhere", pid=ended(), beat=time.time() - LEASE_SECONDS + 10)
        with (
            pytest.raises(StudyError, match=r"on elsewhere \(last sign of life 50 s ago"),
            opened(url).claimed(),
        ):
            pytest.fail("two drivers")

    def test_at_once(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of four that start together, one goes on."""
        monkeypatch.setattr(module, "SETTLE_SECONDS", 1.0)  # this machine may be slow
        opened(url)
        ready, over = threading.Barrier(4), threading.Barrier(4)
        held: list[str] = []

        def drive() -> None:
            study = opened(url)
            ready.wait()
            try:
                with study.claimed():
                    held.append(study.notes()["driver"]["id"])
                    over.wait()
            except StudyError:
                over.wait()

        threads = [threading.Thread(target=drive) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(held) == 1

    def test_signs_of_life(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "BEAT_SECONDS", 0.05)
        study = opened(url)
        with study.claimed():
            first = opened(url).notes()["driver"]["beat"]
            time.sleep(0.5)
            assert opened(url).notes()["driver"]["beat"] > first

    def test_taken_over(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A driver that slept too long stops asking, and does not end the other's lease."""
        monkeypatch.setattr(module, "BEAT_SECONDS", 0.05)
        study = opened(url)
        with study.claimed():
            driver(url, id="the other")
            time.sleep(0.5)
            with pytest.raises(StudyError, match=r"^another driver has taken over sweep: this one"):
                study.ask()
        assert opened(url).notes()["driver"]["id"] == "the other"
