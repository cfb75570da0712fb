"""What MLflow shall show of a study, read from study and store; and writing it anew (`relog`)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from optuna.exceptions import StorageInternalError

from stageflow import board
from stageflow.board_page import page
from stageflow.board_row import Row
from stageflow.product import listing
from stageflow.redact import safe
from stageflow.settings import Settings
from stageflow.store import Store
from stageflow.study import LOST, Study, StudyError, Trial, study_names
from stageflow.tracking import Links, Tracked, project


def describe(
    study: Study[Any],
    *,
    sweep: str,
    options: Mapping[str, Any],
    metric: str,
    maximise: bool = True,
    command: str = "",
) -> None:
    """Keep with the study what MLflow shall say of the sweep, and that its command runs.

    Rows and products follow later.
    """
    told = {"name": sweep, "options": dict(options), "metric": metric, "maximise": maximise}
    study.note("sweep", {**told, "command": safe(command)})
    _note_state(study, "RUNNING")


@contextmanager
def end_noted(study: Study[Any]) -> Iterator[None]:
    """Keep with the study how the block ends, which is what its command does."""
    try:
        yield
    except BaseException as error:
        # What has stopped the command may be that the study cannot be reached.
        with suppress(StorageInternalError, StudyError, OSError):
            _note_state(study, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    _note_state(study, "FINISHED")


def _note_state(study: Study[Any], status: str) -> None:
    now, before = time.time(), study.notes().get("state", {})
    ended = 0.0 if status == "RUNNING" else now
    study.note("state", {"status": status, "began": before.get("began", now), "ended": ended})


def made(
    study: Study[Any],
    *,
    rows: Sequence[Row],
    products: Mapping[str, str],
    pictures: Mapping[int, str] | None = None,
) -> None:
    """Keep with the study what was made of it, unless more of the same is kept already.

    Of drivers that make the same, one may have failed where another did not. `pictures` are those
    of trials, by number.
    """
    keys, notes = [row.key for row in rows], study.notes()
    if not {*keys} < {*notes.get("rows", ())}:
        study.note("rows", keys)
    drawn = {str(number): folder for number, folder in (pictures or {}).items()}
    for name, told in (("products", dict(products)), ("pictures", drawn)):
        if not told.items() < notes.get(name, {}).items():
            study.note(name, told)


def tracked(study: Study[Any], store: Store, *, driven: bool = False) -> Tracked:
    """Everything that MLflow shall show of the study, as it is now; `driven` by who asks.

    Where nobody drives it any more, what still runs by the record was killed.
    """
    notes = study.notes()
    sweep, wanted = notes["sweep"], set(notes.get("rows", ()))
    everything = board.load(store) if wanted else []
    rows = [row for row in everything if row.key in wanted]
    shown = [*rows, *(row for row in everything if row.published)]
    products = notes.get("products", {})
    state = notes.get("state", {"status": "FINISHED", "began": 0.0, "ended": 0.0})
    others = bool(study.others())
    alive = others or (driven and state["status"] == "RUNNING")
    return Tracked(
        experiment=sweep["name"],
        study=study.name,
        trials=study.trials() if alive else [_ended(trial) for trial in study.trials()],
        options=sweep["options"],
        rows=rows,
        metric=sweep["metric"],
        products={name: f"{store.uri}/{place}" for name, place in products.items()},
        files=(_leaderboard(shown, store) if rows else {})
        | ({"products.md": listing(products)} if products else {}),
        maximise=sweep.get("maximise", True),
        state=_status(state["status"], alive),
        began=state["began"],
        ended=state["ended"],
        command=sweep.get("command", ""),
        pictures={int(number): made for number, made in notes.get("pictures", {}).items()},
    )


def _status(noted: str, alive: bool) -> str:
    if alive:
        return "RUNNING"
    return "KILLED" if noted == "RUNNING" else noted


def _ended(trial: Trial) -> Trial:
    """A trial of a study that nobody drives: it does not run, whatever the record says."""
    return replace(trial, state="FAIL", reason=LOST) if trial.state == "RUNNING" else trial


def _leaderboard(rows: Sequence[Row], store: Store) -> dict[str, str]:
    """The board for people, for programs and for documents."""
    return {
        "leaderboard.html": page(rows, board.read_pictures(rows, store)),
        "leaderboard.json": board.as_json(rows),
        "leaderboard.md": board.markdown(rows),
    }


def relog(settings: Settings, name: str | None) -> Iterator[tuple[str, Links]]:
    """Project one study, or all of them, onto the tracking server of the settings."""
    artifacts = settings.artifacts()
    there = study_names(settings.studies)
    if name and name not in there:
        raise StudyError(f"no study {name}; there are: {', '.join(there) or 'none'}")
    for found in [name] if name else there:
        study: Study[None] = Study(found, settings.studies, space=lambda trial: None)
        if "sweep" in study.notes():
            latest = tracked(study, artifacts.store)
            yield found, project(latest, artifacts, settings.tracking)
