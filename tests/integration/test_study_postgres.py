"""Several drivers, each a process of its own, on one study: in PostgreSQL, and in files."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest

from stageflow.study import LOST, Completed, Study, StudyError, Trial
from stageflow.study_storage import open_storage

if TYPE_CHECKING:
    from conftest import PostgresServer

DRIVER = """
import sys, time
from dataclasses import dataclass
from pathlib import Path

from stageflow import search, study_lease
from stageflow.study import Completed, Study

study_lease.BEAT_SECONDS = search.WAIT_SECONDS = 0.3
url, folder, name, trials = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])


@dataclass(frozen=True)
class Params:
    x: float = 0.5


def wait_for(file):
    while not (folder / file).exists():
        time.sleep(0.02)


study = Study("sweep", url, space=lambda trial: Params(trial.suggest_float("x", 0, 1)))
with study.joined():
    study.reconcile()
    study.enqueue(Params())
    (folder / f"joined-{name}").touch()
    while len([*folder.glob("joined-*")]) <= int(sys.argv[5]):
        time.sleep(0.02)
    limit = study.limit(trials)
    for _ in search.openings(study, limit, print):
        proposal = study.ask_within(limit)
        if proposal is not None:
            with (folder / name).open("a") as log:
                print(proposal.number, file=log)
            wait_for(f"gate-{name}")
            study.tell(proposal.number, Completed(proposal.params.x, "t"))
    print("best", study.best().number, study.spent())
"""

SWEEP = '''
import sys
from dataclasses import dataclass
from pathlib import Path

from stageflow.board import Entry
from stageflow.context import Context
from stageflow.stage import Metrics, stage
from stageflow.sweep import Sweep, main


@dataclass(frozen=True, kw_only=True)
class Guess:
    value: float = 0.5


@stage(version="1")
def closeness(context: Context, config: Guess) -> Metrics:
    """How near the guess is to 0.7."""
    return {"near": 1 - abs(config.value - 0.7)}


@dataclass(frozen=True, kw_only=True)
class Options:
    pass


def space(trial, options):
    return Guess(value=trial.suggest_float("value", 0, 1))


def pipeline(params, options):
    return closeness(params)


def entries(params, options):
    return [
        Entry(
            task="closeness",
            split="toy",
            method="guess",
            targets=(closeness(params),),
            seeds=(0,),
            oracle=False,
            weights="none",
            metric="near",
        )
    ]


if __name__ == "__main__":
    sweep = Sweep(
        name="toy",
        about="A toy.",
        options=Options(),
        defaults=Guess(),
        space=space,
        pipeline=pipeline,
        entries=entries,
        metric="near",
    )
    sys.exit(main(sweep))
'''


def space(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1)


def opened(url: str) -> Study[float]:
    return Study("sweep", url, space=space)


@pytest.fixture(params=["postgres", "sqlite", "journal"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.make_database()
    return {
        "sqlite": f"sqlite:///{tmp_path}/studies.db",
        "journal": str(tmp_path / "studies.journal"),
    }[request.param]


class Drivers:
    """Processes that drive one study in one folder."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        (folder / "driver.py").write_text(DRIVER)

    def start(self, name: str, *, trials: int, others: int) -> subprocess.Popen[str]:
        script = str(self.folder / "driver.py")
        given = [self.url, str(self.folder), name, str(trials), str(others)]
        return subprocess.Popen(
            [sys.executable, script, *given], stdout=subprocess.PIPE, stderr=2, text=True
        )

    def begun(self, name: str) -> list[int]:
        log = self.folder / name
        return [int(line) for line in log.read_text().split()] if log.exists() else []

    def open(self, *names: str) -> None:
        for name in names:
            (self.folder / f"gate-{name}").touch()

    def trials(self) -> list[Trial]:
        return opened(self.url).trials()


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 240
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_two_share_the_trials(url: str, tmp_path: Path) -> None:
    """Started at once on an empty storage: each trial once, so many and no more."""
    drivers = Drivers(url, tmp_path)
    drivers.open("one", "two")
    processes = [drivers.start(name, trials=9, others=1) for name in ("one", "two")]
    answers = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    trials = drivers.trials()
    begun = [*drivers.begun("one"), *drivers.begun("two")]
    assert sorted(begun) == [trial.number for trial in trials]
    assert [trial.state for trial in trials] == ["COMPLETE"] * 9
    assert len({trial.params["x"] for trial in trials}) == 9
    assert [trial.params["x"] for trial in trials].count(0.5) == 1  # the defaults
    assert answers[0].splitlines()[-1] == answers[1].splitlines()[-1]


def test_a_killed_one_s_trials_are_run_by_the_other(url: str, tmp_path: Path) -> None:
    """Also at the very end, when the living one has nothing else to do than to wait."""
    drivers = Drivers(url, tmp_path)
    dies = drivers.start("dies", trials=3, others=0)
    wait_until(lambda: bool(drivers.begun("dies")))
    drivers.open("lives")
    lives = drivers.start("lives", trials=3, others=1)
    assert lives.stdout is not None
    told = lives.stdout.readline()
    assert told == f"waiting for 1 trial of process {dies.pid} on {told.split()[-1]}\n"
    dies.send_signal(signal.SIGKILL)
    dies.communicate()
    answer, _ = lives.communicate(timeout=240)
    assert lives.returncode == 0
    trials = drivers.trials()
    [lost] = [trial for trial in trials if trial.reason == LOST]
    assert drivers.begun("dies") == [lost.number]
    assert Counter(trial.state for trial in trials) == {"COMPLETE": 3, "FAIL": 1}
    assert trials[-1].params == lost.params
    assert answer.splitlines()[-1].endswith(" 3")


def test_one_command_twice_ends_in_one_board(postgres: PostgresServer, tmp_path: Path) -> None:
    """Whoever ran which trial, both show all of them and the same row."""
    (tmp_path / "toy.py").write_text(SWEEP)
    url = postgres.make_database()
    command = [sys.executable, str(tmp_path / "toy.py"), "--trials=6", f"--studies={url}"]
    command += ["--executor=local", "--tracking=none"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    boards = [answer[answer.index("best of 6 trials") :].split("\n\n")[0] for answer in answers]
    tables = [[line for line in board.splitlines() if " complete " in line] for board in boards]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 6
    assert postgres.password not in "".join(answers)


class TestOutage:
    def test_a_short_one_is_waited_for(self, postgres: PostgresServer) -> None:
        """Nobody asks twice: what was begun is told, and the next trial comes."""
        url = postgres.make_database()
        study = opened(url)
        with study.joined():
            first = study.ask()
            postgres.stop()
            back = threading.Timer(1.0, postgres.start)
            back.start()
            try:
                study.tell(first.number, Completed(1.0, "t"))
                second = study.ask()
            finally:
                back.join()
            study.tell(second.number, Completed(2.0, "t"))
        assert [trial.value for trial in opened(url).trials()] == [1.0, 2.0]

    def test_who_is_refused_is_told_so_without_the_password(self, postgres: PostgresServer) -> None:
        url = postgres.make_database().replace(postgres.password, "geheim")
        with pytest.raises(StudyError, match=r"^no study storage at ") as error:
            opened(url)
        assert "password authentication failed" in str(error.value)
        assert "geheim" not in str(error.value)


def test_few_connections(postgres: PostgresServer) -> None:
    """A server is shared by many: one driver holds few of them, and none that is broken."""
    storage = open_storage(postgres.make_database())
    engine = storage._backend.engine  # type: ignore[attr-defined]
    assert engine.pool.size() == 2
    assert engine.pool._pre_ping
