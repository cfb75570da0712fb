"""The `stageflow` command: look at what sweeps have made, and mend it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from stageflow import board
from stageflow.options import OptionError, add_flags, from_flags
from stageflow.redact import safe
from stageflow.replica import replica
from stageflow.replica_push import push
from stageflow.settings import Settings
from stageflow.store import StoreError
from stageflow.store_check import self_test
from stageflow.trace import trace

CONSOLE = Console(highlight=False, emoji=False)  # ":cat:" is text
STYLES = ("table", "markdown", "json")
KEYS = {
    "show": "the key of an artifact or of a row of the board",
    "fetch": "an artifact's key",
    "forget": "an artifact's key",
}
WORDS = ("key", "folder", "study", "html", "style", "uri", "replace")  # what is no setting
ELSEWHERE = ("push", "pull")  # verbs that need no setting: the root says it all


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit status: 0, or 2 for bad input."""
    given = vars(_parser().parse_args(arguments))
    verb = given.pop("verb")
    words = {name: given.pop(name) for name in WORDS if name in given}
    try:
        verb(from_flags(Settings(), given), **words)
    except (OptionError, StoreError, ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stageflow", description=__doc__, allow_abbrev=False)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, verb in VERBS.items():
        text = (verb.__doc__ or "").strip()
        sub = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(verb=verb)
        if name == "board":
            sub.add_argument(
                "--html", type=Path, metavar="FILE", help="write the page with pictures"
            )
            sub.add_argument("--format", dest="style", choices=STYLES, default="table")
        elif name == "relog":
            sub.add_argument(
                "study", metavar="STUDY", nargs="?", help="its name; without it, all studies"
            )
        elif name in KEYS:
            sub.add_argument("key", metavar="KEY", help=f"{KEYS[name]}, or its first digits")
        if name == "fetch":
            sub.add_argument("folder", type=Path, metavar="FOLDER", help="a new one, or an empty")
        elif name == "push":
            sub.add_argument("folder", type=Path, metavar="FOLDER", help="with a data set in it")
            sub.add_argument(
                "--replace", action="store_true", help="another content, or send the same anew"
            )
        if name in ELSEWHERE:
            sub.add_argument("uri", metavar="URI", help="such as s3://bucket/voc2012")
        else:
            add_flags(sub.add_argument_group("where things are kept"), Settings())
    return parser


def _board(settings: Settings, html: Path | None, style: str) -> None:
    """Show the leaderboard, beside the published numbers."""
    store = settings.open_store()
    rows = board.load(store)
    if not rows:
        CONSOLE.print(f"no rows in {store.uri} yet: a sweep writes them at its end")
    if html is not None:
        from stageflow.board_page import page

        html.write_text(page(rows, board.read_pictures(rows, store)), encoding="utf-8")
        CONSOLE.print(f"wrote {html}")
    elif style == "table":
        for table in board.console(rows):
            CONSOLE.print(table)
    else:
        print(board.markdown(rows) if style == "markdown" else board.as_json(rows))


def _show(settings: Settings, key: str) -> None:
    """Show what a row of the board, or an artifact, is made of: config, data, commit, cost."""
    for told in trace(key, settings.artifacts()):
        CONSOLE.print(told, soft_wrap=isinstance(told, str))  # a tree would be cut at the edge


def _fetch(settings: Settings, key: str, folder: Path) -> None:
    """Copy the files of an artifact into a new folder, each checked against its digest."""
    artifacts = settings.artifacts()
    manifest = artifacts.find(key)
    artifacts.copy(manifest, folder)
    size = sum(file.size for file in manifest.files)
    CONSOLE.print(
        f"{len(manifest.files)} files, {size:,} bytes in {folder}", markup=False, soft_wrap=True
    )


def _forget(settings: Settings, key: str) -> None:
    """Remove an artifact, so that the next run makes it anew."""
    artifacts = settings.artifacts()
    manifest = artifacts.find(key)
    artifacts.withdraw(manifest)
    CONSOLE.print(f"forgot {manifest.stage} {manifest.key}")


def _check(settings: Settings) -> None:
    """Test whether a store can be trusted: racing conditional puts, digests, lists."""
    store = settings.open_store()
    for finding in self_test(store):
        CONSOLE.print(f"ok  {finding}")


def _push(_: Settings, folder: Path, uri: str, replace: bool) -> None:
    """Send a folder with data to a store, where every machine can fetch it."""
    pushed = push(folder, uri, over=replace)
    files, size = len(pushed.index.entries), pushed.index.size
    CONSOLE.print(
        f"{files:,} files, {size:,} bytes in {pushed.uri}; {pushed.sent:,} sent",
        markup=False,
        soft_wrap=True,
    )


def _pull(_: Settings, uri: str) -> None:
    """Fetch data from a store into the cache of this machine, and say into which folder."""
    print(replica(uri))


def _relog(settings: Settings, study: str | None) -> None:
    """Write MLflow anew from studies and manifests, after an outage or onto another server."""
    from stageflow.projection import relog
    from stageflow.study import StudyError
    from stageflow.tracking import root_cause

    try:
        for name, links in relog(settings, study):
            CONSOLE.print(f"{name}: {links}", soft_wrap=True)
    except (StudyError, StoreError):
        raise
    except Exception as error:  # MLflow and what lies under it raise almost anything
        raise RuntimeError(safe(f"MLflow at {settings.tracking}: {root_cause(error)}")) from error


VERBS = {
    "board": _board,
    "show": _show,
    "fetch": _fetch,
    "forget": _forget,
    "check": _check,
    "relog": _relog,
    "push": _push,
    "pull": _pull,
}
