"""`kill -9` of a sweep's driver: the same command goes on, be it later or beside it already, and
repeats nothing that is done."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stageflow.study import LOST, Study, Trial

# The stage and the search are the script's own, as in a researcher's file: they travel by value.
DRIVER = '''
import json, sys, time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stageflow import study_lease
from stageflow.artifact import Artifacts
from stageflow.context import Context
from stageflow.executor_ray import RayExecutor
from stageflow.search import Objective
from stageflow.search_ray import search
from stageflow.stage import Metrics, stage
from stageflow.store import FolderStore
from stageflow.study import Study
from stageflow.testing_stages import note_down, wait_for

FOLDER = Path(sys.argv[1])
study_lease.BEAT_SECONDS = 1.0


@dataclass(frozen=True)
class Trying:
    x: int
    folder: str = ""


@stage(version="1", neutral=("folder",))
def attempt(context: Context, config: Trying) -> Metrics:
    """Two steps, with a checkpoint between them; the second waits for its gate."""
    if context.restore() is None:
        note_down(f"{config.folder}/log", f"{config.x} begun")
        context.report(1, {"value": config.x})
        context.save(1, lambda folder: (folder / "kept").touch())
    note_down(f"{config.folder}/log", f"{config.x} waits")
    wait_for(f"{config.folder}/gate-{config.x}")
    return {"value": config.x**2}


def space(trial):
    return Trying(trial.suggest_int("x", 0, 100))


def pipeline(params, folder):
    return attempt(Trying(params.x, str(folder)))


if __name__ == "__main__":
    artifacts = Artifacts(FolderStore(FOLDER / "store"), FOLDER / "cache")
    study = Study("sweep", sys.argv[2], space=space)
    with study.joined():
        lost = study.reconcile()
        for x in (3, 1, 4, 2):
            study._study.enqueue_trial({"x": x}, skip_if_exists=True)
        executor = RayExecutor(artifacts, cpus=2)
        objective = Objective(partial(pipeline, folder=FOLDER), "value")
        search(study, objective, executor, trials=4, concurrent=int(sys.argv[3]))
        executor.close()
    made = [manifest for manifest in artifacts.all("attempt")]
    resumed = {manifest.config["x"]: manifest.resumed_from for manifest in made}
    print(json.dumps({"lost": lost, "resumed": resumed}))
'''


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 240
    while not true():
        assert time.monotonic() < until
        time.sleep(0.1)


class Command:
    """One and the same command, started as often as one likes."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        (folder / "driver.py").write_text(DRIVER)

    def start(self, concurrent: int = 2) -> subprocess.Popen[str]:
        command = [sys.executable, str(self.folder / "driver.py"), str(self.folder), self.url]
        command.append(str(concurrent))
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def open(self, *numbers: int) -> None:
        for number in numbers:
            (self.folder / f"gate-{number}").touch()

    def trials(self) -> list[Trial]:
        study: Study[None] = Study("sweep", self.url, space=lambda trial: None)
        return study.trials()


def test_the_same_command_goes_on(tmp_path: Path) -> None:
    command = Command(tmp_path, f"sqlite:///{tmp_path}/studies.db")
    command.open(3, 1)
    driver = command.start()
    wait_until(lambda: {"4 waits", "2 waits"} <= set(command.log()))
    wait_until(lambda: [t.state for t in command.trials()].count("COMPLETE") == 2)
    before = command.trials()
    assert [trial.state for trial in before] == ["COMPLETE", "COMPLETE", "RUNNING", "RUNNING"]
    workers = [process for process in descendants(driver.pid) if "Worker" in name(process)]
    assert len(workers) == 2
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    wait_until(lambda: not any(map(name, workers)))

    command.open(4, 2)
    again = command.start()
    answer, _ = again.communicate(timeout=240)
    assert again.returncode == 0
    told: dict[str, Any] = json.loads(answer.splitlines()[-1])
    after = command.trials()
    assert told["lost"] == 2
    assert after[:2] == before[:2]
    assert [(t.state, t.reason, t.params) for t in after[2:4]] == [
        ("FAIL", LOST, trial.params) for trial in before[2:]
    ]
    assert [(t.state, t.value) for t in after[4:]] == [("COMPLETE", 16.0), ("COMPLETE", 4.0)]
    assert max(t.value for t in after if t.value is not None) == 16.0
    begun = [line for line in command.log() if line.endswith("begun")]
    assert sorted(begun) == ["1 begun", "2 begun", "3 begun", "4 begun"]
    assert told["resumed"] == {"1": [], "2": [1], "3": [], "4": [1]}


def test_another_driver_takes_its_trials_over(tmp_path: Path) -> None:
    """Two clusters, one study and one store: what the dead one had begun is gone on with."""
    command = Command(tmp_path, f"sqlite:///{tmp_path}/studies.db")
    dies = command.start(concurrent=1)
    wait_until(lambda: "3 waits" in command.log())
    lives = command.start(concurrent=1)
    wait_until(lambda: "1 waits" in command.log())
    workers = [process for process in descendants(dies.pid) if "Worker" in name(process)]
    dies.send_signal(signal.SIGKILL)
    dies.communicate()
    wait_until(lambda: not any(map(name, workers)))
    command.open(3, 1, 4, 2)
    answer, _ = lives.communicate(timeout=240)
    assert lives.returncode == 0
    told: dict[str, Any] = json.loads(answer.splitlines()[-1])
    trials = command.trials()
    assert (trials[0].state, trials[0].reason, trials[0].params) == ("FAIL", LOST, {"x": 3})
    assert [trial.state for trial in trials[1:]] == ["COMPLETE"] * 4
    assert sorted(trial.params["x"] for trial in trials[1:]) == [1, 2, 3, 4]
    assert told["resumed"] == {"1": [], "2": [], "3": [1], "4": []}
    assert sorted(line for line in command.log() if line.endswith("begun")) == [
        f"{number} begun" for number in (1, 2, 3, 4)
    ]


def descendants(process: int) -> list[int]:
    """The processes that a process has started, and what these have."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    found = [process]
    for parent in found:
        found += [child for child, above in pairs if above == parent]
    return found[1:]


def name(process: int) -> str:
    """What a living process calls itself; "" for a dead one."""
    listed = subprocess.run(["ps", "-o", "args=", str(process)], capture_output=True, text=True)
    return "" if "<defunct>" in listed.stdout else listed.stdout.strip()
