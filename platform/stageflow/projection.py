"""What MLflow shall show of a study, read from study and store; and writing it anew (`relog`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stageflow import board
from stageflow.board_page import page
from stageflow.board_row import Row
from stageflow.product import listing
from stageflow.settings import Settings
from stageflow.store import Store
from stageflow.study import Study, StudyError, study_names
from stageflow.tracking import Links, Tracked, project


def describe(study: Study[Any], *, sweep: str, options: Mapping[str, Any], metric: str) -> None:
    """Keep with the study what MLflow shall say of the sweep; rows and products follow later."""
    study.note("sweep", {"name": sweep, "options": dict(options), "metric": metric})


def made(study: Study[Any], *, rows: Sequence[Row], products: Mapping[str, str]) -> None:
    """Keep with the study what was made of it, unless more of the same is kept already.

    Of drivers that make the same, one may have failed where another did not.
    """
    keys, notes = [row.key for row in rows], study.notes()
    if not {*keys} < {*notes.get("rows", ())}:
        study.note("rows", keys)
    if not products.items() < notes.get("products", {}).items():
        study.note("products", dict(products))


def tracked(study: Study[Any], store: Store) -> Tracked:
    """Everything that MLflow shall show of the study, as it is now."""
    notes = study.notes()
    sweep, wanted = notes["sweep"], set(notes.get("rows", ()))
    everything = board.load(store) if wanted else []
    rows = [row for row in everything if row.key in wanted]
    shown = [*rows, *(row for row in everything if row.published)]
    products = notes.get("products", {})
    return Tracked(
        experiment=sweep["name"],
        study=study.name,
        trials=study.trials(),
        options=sweep["options"],
        rows=rows,
        metric=sweep["metric"],
        products={name: f"{store.uri}/{place}" for name, place in products.items()},
        files=(_leaderboard(shown, store) if rows else {})
        | ({"products.md": listing(products)} if products else {}),
    )


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
