"""The leaderboard: our results beside published ones, ranked, with what it takes to trust each.

Rows (`stageflow.board_row`) are stored as `board/<key>.json` beside the artifacts, so a board lives
wherever artifacts live.

A split is written "<data set> <part> (<images>)", such as "voc2012 train (1464)", or with a slice,
"voc2012 train[::4] (366)". Rows of one task are ranked together when data set and part agree, and
compared only when the images do, too.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from stageflow.artifact import Corrupt
from stageflow.board_row import BoardError, Entry, Picture, Row, published_row, row
from stageflow.store import NotFound, Store

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "BoardError",
    "Entry",
    "Group",
    "Line",
    "Picture",
    "Row",
    "as_json",
    "console",
    "load",
    "markdown",
    "markdown_table",
    "published_row",
    "rank",
    "read_pictures",
    "row",
    "save",
]

FOLDER = "board/"
HEADINGS = (
    "method",
    "mIoU %",
    "seeds",
    "split",
    "masks",
    "CRF",
    "weights",
    "cost",
    "to published",
    "from",
)
FEW_REASONS = 3  # that a console has room for
MASKS = {True: "oracle", False: "label-free", None: "?"}  # did pixel masks choose anything?
CRF = {True: "yes", False: "no", None: "?"}


def save(rows: Iterable[Row], store: Store) -> None:
    """Store the rows; a row with the same key is replaced."""
    with tempfile.TemporaryDirectory() as folder:
        for given in rows:
            file = Path(folder) / given.key
            file.write_text(json.dumps(_plain(given), indent=1), encoding="utf-8")
            store.upload(file, f"{FOLDER}{given.key}.json")


def load(store: Store) -> list[Row]:
    """All stored rows, but those whose seeds are all part of a row with more. Raises Corrupt."""
    names = sorted(store.list(FOLDER))
    rows = [Row.from_json(store.read(name), f"{store.uri}/{name}") for name in names]
    return [given for given in rows if not any(_extends(other, given) for other in rows)]


def read_pictures(rows: Iterable[Row], store: Store) -> dict[Picture, bytes]:
    """The rows' pictures, without those whose artifacts were dropped since. Raises Corrupt."""
    found = {}
    for picture in {picture for given in rows for picture in given.pictures}:
        try:
            content = store.read(picture.name)
        except NotFound:  # the page says so in its place
            continue
        if sha256(content).hexdigest() != picture.sha256:
            raise Corrupt(
                f"{store.uri}/{picture.name} does not have the SHA-256 of its manifest: "
                f"run 'stageflow forget {picture.key}' to have it made again"
            )
        found[picture] = content
    return found


@dataclass(frozen=True, slots=True)
class Line:
    """A ranked row, and how it stands to the published one that it is held against.

    Attributes:
        difference: percentage points ahead of it; None where that would not be fair.
        reason: why it would not be fair; empty also where nobody published the method.
    """

    row: Row
    difference: float | None = None
    reason: str = ""

    @property
    def against(self) -> str:
        """The difference, or why there is none; to whom, where that is another method."""
        other = self.row.reference not in ("", self.row.method)
        to = f" to {self.row.reference}" if other else ""
        if self.difference is not None:
            return f"{self.difference:+.1f}{to}"
        return f"not comparable{to}: {self.reason}" if self.reason else ""

    @property
    def cells(self) -> tuple[str, ...]:
        """Text for each of HEADINGS."""
        given = self.row
        return (
            given.name,
            score(given),
            seed_count(given),
            given.split,
            MASKS[given.oracle],
            CRF[given.crf],
            given.weights or "?",
            "" if given.published else duration(given.wall_seconds),
            self.against,
            origin(given),
        )


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one task on one part of one data set, best first."""

    task: str
    part: str
    lines: tuple[Line, ...]

    @property
    def title(self) -> str:
        """Task and part."""
        return f"{self.task} · {self.part}"

    @property
    def ours(self) -> bool:
        """Whether a row of ours is among them."""
        return any(not line.row.published for line in self.lines)


def rank(rows: Iterable[Row]) -> list[Group]:
    """Group the rows by task, data set and part, and sort each group by mean, best first.

    Groups that hold rows of ours come first.
    """
    best_first = sorted(rows, key=lambda r: (-r.mean, r.name))
    published = [given for given in best_first if given.published and not given.variant]
    groups: dict[tuple[str, str], list[Line]] = {}
    for given in best_first:
        lines = groups.setdefault((given.task, _part(given.split)), [])
        lines.append(Line(given) if given.published else _compared(given, published))
    ranked = [Group(task, part, tuple(lines)) for (task, part), lines in groups.items()]
    return sorted(ranked, key=lambda group: (not group.ours, group.title.lower()))


def console(rows: Iterable[Row]) -> list[Table]:
    """A table for each group that holds a row of ours, ours bold; what needs words is below."""
    from rich.table import Table
    from rich.text import Text

    tables = []
    for group in rank(rows):
        if not group.ours:
            continue
        table = Table(title=group.title, title_justify="left", title_style="bold", box=None)
        for heading in ("method", "mIoU %", "seeds", "images", "masks", "CRF", "to publ."):
            table.add_column(heading, no_wrap=heading != "method", header_style="underline")
        for line in group.lines:
            given = line.row
            name = Text(given.name, "" if given.published else "bold")
            table.add_row(
                name + Text(f"\n{_words(line)}", "dim not bold"),
                score(given),
                Text(seed_count(given), "yellow" if given.single else ""),
                Text(images(given)),
                MASKS[given.oracle],
                CRF[given.crf],
                "" if line.reason else line.against,
            )
        tables.append(table)
    return tables


def _words(line: Line) -> str:
    cost = "" if line.row.published else duration(line.row.wall_seconds)
    why = _briefly(line.against) if line.reason else ""
    return "; ".join(filter(None, (line.row.weights, origin(line.row), cost, why)))


def _briefly(reasons: str) -> str:
    """A few of many reasons: `stageflow show` tells them all."""
    first = reasons.split(", ")
    if len(first) <= FEW_REASONS:
        return reasons
    return f"{', '.join(first[:FEW_REASONS])} and {len(first) - FEW_REASONS} more"


def markdown(rows: Iterable[Row], *, ours: bool = False) -> str:
    """The board as Markdown tables; with `ours`, only those that hold a row of ours."""
    lines = []
    for group in rank(rows):
        if ours and not group.ours:
            continue
        cells = [line.cells for line in group.lines]
        lines += [f"### {group.title}", "", markdown_table(HEADINGS, cells), ""]
    return "\n".join(lines)


def markdown_table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown: a heading for each column, and the cells of each line."""
    rule = ["---"] * len(headings)
    return "\n".join(_markdown_row(cells) for cells in (headings, rule, *lines))


def as_json(rows: Iterable[Row]) -> str:
    """The board as JSON: groups, their rows best first, with mean, spread and difference."""
    groups = [
        {
            "task": group.task,
            "part": group.part,
            "rows": [
                {"key": line.row.key, **_plain(line.row)}
                | {"difference": line.difference, "reason": line.reason}
                for line in group.lines
            ],
        }
        for group in rank(rows)
    ]
    return json.dumps(groups, indent=1)


def score(given: Row) -> str:
    """Mean and spread in words."""
    return f"{given.mean:.1f}" + ("" if given.spread is None else f" ± {given.spread:.1f}")


def seed_count(given: Row) -> str:
    """How many seeds a result of ours rests on; one is flagged."""
    if given.published:
        return ""
    return "1 only" if given.single else str(len(given.values))


def images(given: Row) -> str:
    """What sets a row's split apart from others of its group: how many images, usually."""
    return re.sub(r"[()]", "", given.split.removeprefix(_part(given.split))).strip()


def origin(given: Row) -> str:
    """What `stageflow show` finds the row by, and the published source, or our commits."""
    if given.published:
        return f"{given.key[:8]} published: {given.source}"
    return f"{given.config_key[:8]} @ {', '.join(given.commits)}"


def cost(given: Row) -> str:
    """How long everything took that a row rests on, and how much of it GPUs were held."""
    return f"{duration(given.wall_seconds)}; GPU {duration(given.gpu_seconds)}"


def duration(seconds: float) -> str:
    """Seconds for people: "41 s", "12 min", "3.4 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _plain(given: Row) -> dict[str, object]:
    return asdict(given) | {"mean": given.mean, "spread": given.spread}


def _extends(other: Row, given: Row) -> bool:
    same = (other.task, other.split, other.name) == (given.task, given.split, given.name)
    return same and bool(given.keys) and set(given.keys) < set(other.keys)


def _part(split: str) -> str:
    """The official set that a split is all or some of: "voc2012 val[::4] (363)" is of its val."""
    return re.split(r"\[| \(", split)[0]


def _compared(given: Row, published: Iterable[Row]) -> Line:
    """Hold a row of ours against the published one, of its method or its reference, like it most.

    `published` are the rows that stand for their methods, best first.
    """
    method = given.reference or given.method
    of_task = [row for row in published if row.task == given.task]
    named = [row for row in of_task if row.method == method]
    here = [row for row in named if _part(row.split) == _part(given.split)]
    if here:
        unlike, closest = min(((_unlike(given, row), row) for row in here), key=lambda p: len(p[0]))
        reason = given.comparable or ", ".join(unlike)
        return Line(given, reason=reason) if reason else Line(given, given.mean - closest.mean)
    if not named:
        return Line(given, reason="no published number" if of_task else "")
    parts = ", ".join(sorted({_part(row.split) for row in named}))
    return Line(given, reason=given.comparable or f"published on {parts}")


def _unlike(given: Row, published: Row) -> list[str]:
    """In what the conditions of the two differ.

    What a source does not say (masks, CRF, how many images) is given the benefit of the doubt; ours
    says itself if its images are not the official ones.
    """
    reasons = []
    if images(published) and published.split != given.split:
        reasons.append("other images")
    if published.oracle not in (None, given.oracle):
        reasons.append(f"published is {MASKS[published.oracle]}")
    if published.crf not in (None, given.crf):
        reasons.append(f"published {'with' if published.crf else 'without'} CRF")
    return reasons


def _markdown_row(cells: Iterable[str]) -> str:
    plain = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(plain)} |"
