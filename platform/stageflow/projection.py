"""What MLflow shall show of a study, read from study and store; and writing it anew (`relog`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stageflow import board
from stageflow.board_page import page
from stageflow.settings import Settings
from stageflow.store import Store
from stageflow.study import Study, StudyError, study_names
from stageflow.tracking import Links, Tracked, project


def describe(study: Study[Any], *, sweep: str, options: Mapping[str, Any], metric: str) -> None:
    """Keep with the study what MLflow shall say of the sweep; its rows follow at the end."""
    study.note("sweep", {"name": sweep, "options": dict(options), "metric": metric})


def tracked(study: Study[Any], store: Store) -> Tracked:
    """Everything that MLflow shall show of the study, as it is now."""
    notes = study.notes()
    sweep, wanted = notes["sweep"], set(notes.get("rows", ()))
    everything = board.load(store) if wanted else []
    rows = [row for row in everything if row.key in wanted]
    shown = [*rows, *(row for row in everything if row.published)]
    return Tracked(
        experiment=sweep["name"],
        study=study.name,
        trials=study.trials(),
        options=sweep["options"],
        rows=rows,
        metric=sweep["metric"],
        page=page(shown, board.read_pictures(rows, store)) if rows else None,
    )


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
