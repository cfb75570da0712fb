"""The leaderboard as one HTML file: columns that sort, rows that unfold, pictures inside.

It loads nothing from elsewhere and says so to the browser. Every text that goes in is escaped.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from stageflow.board import MASKS, Group, Line, cost, duration, rank, score, seed_count
from stageflow.board_row import Picture, Row

STEP = 5  # the scale of a group's marks ends at multiples of so many percent
COLUMNS = (
    ("method", "method"),
    ("score", "mIoU %"),
    ("marks", ""),
    ("seeds", "seeds"),
    ("split", "split"),
    ("masks", "masks"),
    ("crf", "CRF"),
    ("weights", "weights"),
    ("cost", "cost"),
    ("against", "to published"),
)

STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #66707c; --line: #e3e6ea; --paper: #fff;
  --back: #f5f6f8; --ours: #0b7a6b; --wash: #e5f3f0; --warn: #8f5300; --warn-wash: #fdf0d8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaee; --soft: #939eab; --line: #2c333c;
  --paper: #171b21; --back: #0f1216; --ours: #4fd1bd; --wash: #15302d; --warn: #f2bd6b;
  --warn-wash: #3a2c12; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1360px; padding: 2.5rem 1.5rem 4rem; background: var(--back);
  color: var(--ink); font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 1.9rem; letter-spacing: -.02em; }
h2 { margin: 2.6rem 0 .7rem; font-size: 1.15rem; }
h2 small { margin-left: .5em; color: var(--soft); font-size: 1em; font-weight: 400; }
h3 { margin: 0 0 .6rem; font-size: .9rem; }
.about { max-width: 62em; margin: .5rem 0 0; color: var(--soft); }
table.board { width: 100%; border-collapse: collapse; background: var(--paper);
  border: 1px solid var(--line); border-radius: 10px; border-spacing: 0; overflow: hidden; }
td, th { padding: .6rem .7rem; text-align: left; vertical-align: top; }
table.board > tbody { border-top: 1px solid var(--line); }
th { font-weight: 500; white-space: nowrap; }
th button { all: unset; color: var(--soft); font-size: .82rem; cursor: pointer; }
th button:hover, th button:focus-visible { color: var(--ink); text-decoration: underline; }
th[aria-sort] button { color: var(--ink); }
th[aria-sort=ascending] button::after { content: " ↑"; }
th[aria-sort=descending] button::after { content: " ↓"; }
th .scale { display: flex; justify-content: space-between; color: var(--soft); font-size: .75rem; }
td { font-variant-numeric: tabular-nums; }
.method { min-width: 14rem; }
.score { white-space: nowrap; }
.score b { font-size: 1.1rem; }
.score span, .variant { color: var(--soft); }
.marks { width: 11rem; min-width: 8rem; }
.split { min-width: 7rem; }
.cost { white-space: nowrap; }
.against { min-width: 9rem; }
.against small, .weights { color: var(--soft); font-size: .85rem; }
summary { cursor: pointer; font-weight: 600; }
.published summary { font-weight: 500; }
summary:hover { color: var(--ours); }
.variant { display: block; font-size: .85rem; }
.ours td:first-child { box-shadow: inset 3px 0 var(--ours); }
.tag { padding: .1rem .5rem; border-radius: 1em; font-size: .8rem; white-space: nowrap;
  background: var(--back); color: var(--soft); }
.tag.free { background: var(--wash); color: var(--ours); }
.tag.warn { background: var(--warn-wash); color: var(--warn); }
.strip { position: relative; display: block; height: 1.4rem; }
.strip::before { content: ""; position: absolute; inset: 50% 0 auto; height: 1px;
  background: var(--line); }
.strip i { position: absolute; top: 50%; width: 9px; height: 9px; border-radius: 50%;
  transform: translate(-50%, -50%); background: var(--ours); opacity: .55; }
.strip i.mean { width: 2px; height: 18px; border-radius: 1px; opacity: 1; }
.published .strip i { border-radius: 0; transform: translate(-50%, -50%) rotate(45deg);
  background: var(--paper); border: 1.5px solid var(--soft); opacity: 1; }
tr.more { display: none; }
tbody:has(details[open]) tr.more { display: table-row; }
.more > td { padding: .4rem 1.4rem 1.6rem; background: var(--back); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr));
  gap: 1.6rem 2.4rem; padding-top: 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
code { font: .88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.classes { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr));
  gap: .15rem 1.6rem; margin: 0; padding: 0; list-style: none; }
.classes li { display: grid; grid-template-columns: 6.5rem 1fr 2.6rem; gap: .6rem;
  align-items: center; font-size: .88rem; }
.classes li > span:last-child { text-align: right; }
.bar { height: 7px; border-radius: 4px; background: var(--line); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--ours); }
.pictures { display: grid; gap: 1rem; margin-top: 1.6rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); }
figure { margin: 0; }
figure.wide { grid-column: 1 / -1; }
img { display: block; width: 100%; border: 1px solid var(--line); border-radius: 6px;
  cursor: zoom-in; background: #fff; }
figcaption { margin-top: .3rem; color: var(--soft); font-size: .8rem; overflow-wrap: anywhere; }
a { color: var(--ours); }
@media (max-width: 1200px) {
  body { padding: 1.4rem .8rem 3rem; }
  table.board, .board > tbody, .board > thead { display: block; }
  .board > thead > tr, .board tr.row { display: flex; flex-wrap: wrap; align-items: baseline;
    gap: .1rem .9rem; padding: .6rem .9rem; }
  .board th, .board .row > td { padding: 0; min-width: 0; width: auto; white-space: normal;
    font-size: .9rem; }
  .board th.marks { flex: 0 0 100%; order: 1; padding: .4rem 5px 0; }
  .board .row > td.method { flex: 1 1 60%; font-size: 1rem; }
  .board .row > td.marks { flex: 0 0 100%; margin: 0 5px; }
  .board .row > td:empty { display: none; }
  .row > td:not(.method, .score, .marks)::before { content: attr(data-label) " ";
    color: var(--soft); }
  .ours > .row { box-shadow: inset 3px 0 var(--ours); }
  .ours td:first-child { box-shadow: none; }
  tbody:has(details[open]) tr.more { display: block; }
  .more > td { display: block; padding: .2rem .9rem 1.2rem; }
}
"""

SCRIPT = """
for (const button of document.querySelectorAll('th button')) button.onclick = () => {
  const head = button.closest('th'), table = head.closest('table'), bodies = [...table.tBodies];
  const value = body => body.rows[0].cells[head.cellIndex].dataset.sort;
  const text = bodies.some(body => isNaN(value(body)));
  const before = head.getAttribute('aria-sort');
  const up = before ? before === 'descending' : text;
  const order = (a, b) => (up ? 1 : -1) * (text ? a.localeCompare(b) : a - b);
  const empty = body => value(body) === '';
  for (const other of head.parentNode.cells) other.removeAttribute('aria-sort');
  head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
  table.append(...bodies.sort((a, b) => empty(a) - empty(b) || order(value(a), value(b))));
};
for (const image of document.images) image.onclick = () =>
  image.parentNode.classList.toggle('wide');
"""


def page(rows: Iterable[Row], pictures: Mapping[Picture, bytes]) -> str:
    """The board as HTML text.

    `pictures` holds the PNG content of the rows' pictures (`board.read_pictures`); where one is
    missing, the page says so.
    """
    groups = rank(rows)
    lines = [line for group in groups for line in group.lines]
    ours = sum(not line.row.published for line in lines)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Leaderboard</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Leaderboard</h1>
<p class="about">{ours} of our results beside {len(lines) - ours} published, all in percent:
mean ± standard deviation over seeds. Dots are seeds, diamonds are published. <b>Oracle</b>: pixel
masks chose a threshold, a checkpoint or a parameter; <b>label-free</b>: they chose nothing.
A method opens to show where its number comes from.</p>
{"".join(_section(group, pictures) for group in groups)}
<script>{SCRIPT}</script>
</body>
</html>
"""


def _section(group: Group, pictures: Mapping[Picture, bytes]) -> str:
    values = [value for line in group.lines for value in line.row.values]
    low, high = STEP * (min(values) // STEP), STEP * (max(values) // STEP + 1)
    heads = "".join(_head(name, title, low, high) for name, title in COLUMNS)
    bodies = "".join(_body(line, low, high, pictures) for line in group.lines)
    return f"""<section>
<h2>{escape(group.task)} <small>{escape(group.part)}</small></h2>
<table class="board"><thead><tr>{heads}</tr></thead>
{bodies}</table>
</section>
"""


def _head(name: str, title: str, low: float, high: float) -> str:
    if name == "marks":
        scale = f'<span class="scale"><span>{low:g}</span><span>{high:g}</span></span>'
        return f'<th class="marks">{scale}</th>'
    ranked = ' aria-sort="descending"' if name == "score" else ""
    return f'<th class="{name}"{ranked}><button type="button">{title}</button></th>'


def _body(line: Line, low: float, high: float, pictures: Mapping[Picture, bytes]) -> str:
    row = line.row
    against = "" if line.difference is None else f"{line.difference:.4f}"
    seconds = "" if row.published else f"{row.wall_seconds:.1f}"
    cells = (
        (row.name, _method(row)),
        (f"{row.mean:.4f}", _score(row)),
        ("", _strip(row, low, high)),
        (str(len(row.seeds) or ""), _seeds(row)),
        (row.split, escape(row.split)),
        ("" if row.oracle is None else MASKS[row.oracle], _masks(row.oracle)),
        (
            "" if row.crf is None else str(int(row.crf)),
            {True: "yes", False: "no", None: ""}[row.crf],
        ),
        (row.weights, escape(row.weights)),
        (seconds, "" if row.published else duration(row.wall_seconds)),
        (against, _against(line)),
    )
    tds = "".join(
        f'<td class="{name}" data-label="{title}" data-sort="{escape(value)}">{content}</td>'
        for (name, title), (value, content) in zip(COLUMNS, cells, strict=True)
    )
    return f"""<tbody class="{"published" if row.published else "ours"}"><tr class="row">{tds}</tr>
<tr class="more"><td colspan="{len(COLUMNS)}">{_more(row, pictures)}</td></tr></tbody>
"""


def _method(row: Row) -> str:
    variant = f'<span class="variant">{escape(row.variant)}</span>' if row.variant else ""
    source = (
        f'<span class="variant">published: {escape(row.source)}</span>' if row.published else ""
    )
    return f"<details><summary>{escape(row.method)}</summary></details>{variant}{source}"


def _score(row: Row) -> str:
    mean, _, spread = score(row).partition(" ")
    return f"<b>{mean}</b> <span>{spread}</span>"


def _strip(row: Row, low: float, high: float) -> str:
    def place(value: float) -> str:
        return f"left:{100 * (value - low) / (high - low):.1f}%"

    dots = "".join(f'<i style="{place(value)}" title="{value:.1f}"></i>' for value in row.values)
    mean = "" if row.published else f'<i class="mean" style="{place(row.mean)}"></i>'
    return f'<span class="strip">{dots}{mean}</span>'


def _seeds(row: Row) -> str:
    return f'<span class="tag warn">{seed_count(row)}</span>' if row.single else seed_count(row)


def _masks(oracle: bool | None) -> str:
    if oracle is None:
        return ""
    return f'<span class="tag{"" if oracle else " free"}">{MASKS[oracle]}</span>'


def _against(line: Line) -> str:
    text = escape(line.against)
    return f"<small>{text}</small>" if line.reason else text


def _more(row: Row, pictures: Mapping[Picture, bytes]) -> str:
    classes = (
        f"<div><h3>IoU of each class, in percent</h3>{_classes(row.classes)}</div>"
        if row.classes
        else ""
    )
    shown = "".join(_figure(picture, pictures.get(picture)) for picture in row.pictures)
    facts = (
        f'<div class="facts"><div><h3>Where it comes from</h3>{_facts(row)}</div>{classes}</div>'
    )
    return facts + (f'<div class="pictures">{shown}</div>' if shown else "")


def _facts(row: Row) -> str:
    values = [
        f"seed {seed}: {value:.2f} <code>{escape(key)}</code>"
        for seed, value, key in zip(row.seeds, row.values, row.keys, strict=False)
    ]
    facts: list[tuple[str, Sequence[str]]] = [
        ("note", [escape(row.note)]),
        ("held against", [escape(row.reference)]),
        ("not comparable", [escape(row.comparable)]),
        ("source", [escape(row.source)]),
        ("thread or paper", [_link(row.url)]),
        ("value", [f"{row.mean:g}"] if row.published else values),
        ("metric", [] if row.published else [escape(row.metric)]),
        ("row key", [_code(row.key)]),
        ("config key", [_code(row.config_key)]),
        ("commit", [_code(commit) for commit in row.commits]),
        ("data key", [f"{escape(name)} {_code(key)}" for key, name in row.data.items()]),
        ("cost", [] if row.published else [cost(row)]),
    ]
    return f"<dl>{''.join(_fact(name, texts) for name, texts in facts if any(texts))}</dl>"


def _fact(name: str, texts: Sequence[str]) -> str:
    return f"<dt>{name}</dt><dd>{'<br>'.join(texts)}</dd>"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>" if text else ""


def _link(url: str) -> str:
    if not url.startswith("https://"):  # anything else might be a script
        return escape(url)
    return f'<a href="{escape(url)}">{escape(url)}</a>'


def _classes(classes: Mapping[str, float | None]) -> str:
    def item(name: str, value: float | None) -> str:
        shown = "absent" if value is None else f"{value:.1f}"
        bar = f'<span class="bar"><i style="width:{value or 0:.1f}%"></i></span>'
        return f"<li><span>{escape(name)}</span>{bar}<span>{shown}</span></li>"

    return f'<ul class="classes">{"".join(item(*pair) for pair in classes.items())}</ul>'


def _figure(picture: Picture, content: bytes | None) -> str:
    name = escape(f"{picture.stage}/{picture.key}/{picture.file}")
    if content is None:
        return f"<figure><figcaption>{name} is not in the store any more</figcaption></figure>"
    source = f"data:image/png;base64,{b64encode(content).decode()}"
    caption = f'<figcaption title="{name}">{escape(picture.file)}</figcaption>'
    return f'<figure><img alt="{name}" src="{source}">{caption}</figure>'
