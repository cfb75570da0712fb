import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from stageflow import board
from stageflow.artifact import Artifacts, Corrupt
from stageflow.board import BoardError, Entry, Row, published_row
from stageflow.context import Context
from stageflow.executor import LocalExecutor, run
from stageflow.stage import Node, Source, stage
from stageflow.store import FolderStore

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    seed: int = 0
    epochs: int = 5
    workers: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Nothing:
    pass


@stage(version="1")
def prepare(context: Context, images: Source, config: Nothing) -> None:
    (context.out / "list.txt").write_text("a b c")


@stage(version="1", neutral=("workers",))
def score(context: Context, data: Path, config: Training) -> dict[str, float]:
    cat = {0: 0.3, 1: 0.5, 2: math.nan}[config.seed % 3]
    return {"miou": 0.5 + config.seed / 100, "iou/cat": cat, "iou/cow": math.nan, "loss": 7.0}


@stage(version="1")
def draw(context: Context, scores: Path, config: Nothing) -> None:
    (context.out / "notes.txt").write_text("no picture")
    (context.out / "curves").mkdir()
    (context.out / "curves" / "threshold.png").write_bytes(PNG)


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(FolderStore(tmp_path / "store"), tmp_path / "cache")


def target(seed: int, **config: int) -> Node:
    prepared = prepare(Source("voc2012", "/anywhere", {"ids": "abc"}), Nothing())
    return score(prepared, Training(seed=seed, **config))


def entry(*targets: Node, **fields: object) -> Entry:
    given = {
        "task": "CAM seed",
        "split": "voc2012 train (1464)",
        "method": "ReCAM",
        "targets": targets,
        "seeds": tuple(node.config.seed for node in targets),
        "oracle": True,
        "weights": "ResNet-50, ImageNet",
    }
    return Entry(**(given | fields))


@pytest.fixture
def rows_of(artifacts: Artifacts) -> Callable[..., Row]:
    def make(*seeds: int, **fields: object) -> Row:
        targets = [target(seed) for seed in seeds]
        run(*targets, executor=LocalExecutor(artifacts))
        return board.row(entry(*targets, **fields), artifacts)

    return make


def ours(*values: float, **fields: object) -> Row:
    given = {
        "task": "CAM seed",
        "split": "voc2012 train (1464)",
        "method": "ReCAM",
        "values": values,
        "seeds": tuple(range(len(values))),
        "oracle": True,
        "crf": False,
        "keys": tuple(f"{value}" for value in values),
        "config_key": "0123456789abcdef",
        "commits": ("c0ffee",),
    }
    return Row(**(given | fields))


def theirs(value: float = 54.8, **fields: object) -> Row:
    given = {
        "task": "CAM seed",
        "split": "voc2012 train (1464)",
        "method": "ReCAM",
        "value": value,
        "source": "paper's abstract",
        "oracle": True,
        "crf": False,
    }
    return published_row(**(given | fields))


def printed(rows: list[Row], width: int = 120) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        for table in board.console(rows):
            console.print(table)
    return capture.get()


def test_row_reads_the_numbers_off_the_manifests(rows_of: Callable[..., Row]) -> None:
    row = rows_of(0, 1)
    assert row.values == (50.0, 51.0)
    assert row.mean == 50.5
    assert row.spread == pytest.approx(math.sqrt(0.5))
    assert row.keys == (target(0).key, target(1).key)
    assert row.data == {Source("voc2012", "/elsewhere", {"ids": "abc"}).key: "voc2012"}
    assert len(row.commits) == 1
    assert row.commits[0]


def test_spread_is_unknown_with_one_seed(rows_of: Callable[..., Row]) -> None:
    row = rows_of(1)
    assert row.spread is None
    assert row.single


def test_classes_are_means_over_the_seeds_in_which_they_occur(rows_of: Callable[..., Row]) -> None:
    assert rows_of(0, 1, 2).classes == {"cat": 40.0, "cow": None}


def test_cost_counts_every_artifact_once(artifacts: Artifacts, rows_of: Callable[..., Row]) -> None:
    row = rows_of(0, 1)
    made = [*artifacts.all()]
    assert sorted(manifest.stage for manifest in made) == ["prepare", "score", "score"]
    assert row.wall_seconds == pytest.approx(sum(manifest.wall_seconds for manifest in made))


def test_config_key_ignores_seeds_and_what_changes_no_result(artifacts: Artifacts) -> None:
    def key(*targets: Node) -> str:
        run(*targets, executor=LocalExecutor(artifacts))
        return board.row(entry(*targets), artifacts).config_key

    assert key(target(0), target(1)) == key(target(2)) == key(target(2, workers=8))
    assert key(target(0)) != key(target(0, epochs=6))
    assert key(target(0), target(1, epochs=6)) not in (key(target(0)), key(target(1, epochs=6)))


def test_missing_artifact_is_named(artifacts: Artifacts) -> None:
    node = target(0)
    run(node.parents[0], executor=LocalExecutor(artifacts))
    with pytest.raises(BoardError, match=f"^score/{node.key} is not in file:///.*: run") as caught:
        board.row(entry(node), artifacts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("recall", r"has no metric 'recall' \(it has iou/cat, iou/cow, loss, miou\)"),
        ("loss", r"metric 'loss' is 7\.0: return a fraction"),
        ("iou/cow", "metric 'iou/cow' is nan: return a fraction"),
    ],
)
def test_metric_must_be_a_fraction_that_is_there(
    rows_of: Callable[..., Row], metric: str, message: str
) -> None:
    with pytest.raises(BoardError, match=f"^score/{target(0).key}.* {message}|{message}"):
        rows_of(0, metric=metric)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weights": ""}, "weights is empty"),
        ({"targets": (), "seeds": ()}, "0 targets for 0 seeds"),
        ({"seeds": (0,)}, "2 targets for 1 seeds"),
        ({"seeds": (3, 3)}, "distinct seeds"),
        ({"targets": (target(0), target(0))}, "put the seed into a config"),
    ],
)
def test_entry_refuses_what_makes_no_row(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        entry(target(0), target(1), **fields)


def test_pictures_are_the_png_files_of_their_nodes(artifacts: Artifacts) -> None:
    node = target(0)
    figures = draw(node, Nothing())
    run(figures, executor=LocalExecutor(artifacts))
    row = board.row(entry(node, pictures=(figures,)), artifacts)
    (picture,) = row.pictures
    assert (picture.stage, picture.key, picture.file) == (
        "draw",
        figures.key,
        "curves/threshold.png",
    )
    assert board.read_pictures([row, row], artifacts.store) == {picture: PNG}


def test_pictures_without_a_png_are_refused(artifacts: Artifacts) -> None:
    node = target(0)
    run(node, executor=LocalExecutor(artifacts))
    with pytest.raises(BoardError, match=f"^score/{node.key} holds 0 PNG files"):
        board.row(entry(node, pictures=(node,)), artifacts)


def test_damaged_picture_is_refused_and_a_dropped_one_left_out(artifacts: Artifacts) -> None:
    node = target(0)
    figures = draw(node, Nothing())
    (manifest,) = run(figures, executor=LocalExecutor(artifacts))
    row = board.row(entry(node, pictures=(figures,)), artifacts)
    damaged = artifacts.store.path / row.pictures[0].name  # type: ignore[attr-defined]
    damaged.unlink()
    damaged.write_bytes(b"damaged")
    with pytest.raises(Corrupt, match="stageflow forget"):
        board.read_pictures([row], artifacts.store)
    artifacts.withdraw(manifest)
    assert board.read_pictures([row], artifacts.store) == {}


def test_rows_come_back_as_they_went(artifacts: Artifacts, rows_of: Callable[..., Row]) -> None:
    rows = [
        rows_of(0, 1, 2, reference="IRN"),
        theirs(),
        theirs(70.5, crf=True, url="https://arxiv.org/abs/1"),
    ]
    for _ in range(2):
        board.save(rows, artifacts.store)
        assert sorted(board.load(artifacts.store), key=lambda row: row.key) == sorted(
            rows, key=lambda row: row.key
        )


def test_saving_again_replaces_a_row(artifacts: Artifacts) -> None:
    board.save([ours(50.0, note="before")], artifacts.store)
    board.save([ours(50.0, note="after")], artifacts.store)
    assert [row.note for row in board.load(artifacts.store)] == ["after"]


def test_more_seeds_take_the_place_of_fewer(artifacts: Artifacts) -> None:
    first, more = ours(50.0), ours(50.0, 51.0)
    other, published = ours(50.0, variant="product"), theirs()
    board.save([first, more, other, published], artifacts.store)
    assert {row.key for row in board.load(artifacts.store)} == {
        more.key,
        other.key,
        published.key,
    }


def test_row_of_an_older_version_is_read(artifacts: Artifacts) -> None:
    wanted = {"task": "CAM seed", "split": "voc2012 train", "method": "CAM", "values": [48.3]}
    artifacts.store.create("board/abc.json", json.dumps(wanted).encode())
    assert board.load(artifacts.store) == [Row(**(wanted | {"values": (48.3,)}))]
    for missing in wanted:
        stored = {name: value for name, value in wanted.items() if name != missing}
        with pytest.raises(Corrupt, match=f"^here is not a row of the board .*'{missing}'"):
            Row.from_json(json.dumps(stored).encode(), "here")


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"task": "CAM seed"}', '{"pictures": [{}]}'])
def test_damaged_row_is_named(artifacts: Artifacts, content: str) -> None:
    artifacts.store.create("board/abc.json", content.encode())
    with pytest.raises(Corrupt, match=r"board/abc\.json is not a row of the board"):
        board.load(artifacts.store)


def test_groups_are_tasks_on_a_part_of_a_data_set_best_first() -> None:
    rows = [
        theirs(45.0, task="segmentation", split="coco2014 val"),
        ours(50.0, 54.0),
        theirs(),
        ours(58.0, split="voc2012 train (608)"),
        ours(60.0, task="segmentation", split="voc2012 val (1449)"),
    ]
    groups = board.rank(rows)
    assert [group.title for group in groups] == [
        "CAM seed · voc2012 train",
        "segmentation · voc2012 val",
        "segmentation · coco2014 val",
    ]
    assert [line.row.mean for line in groups[0].lines] == [58.0, 54.8, 52.0]


@pytest.mark.parametrize(
    ("row", "against"),
    [
        (ours(55.2), "+0.4"),
        (ours(53.8, 54.8), "-0.5"),
        (ours(55.2, split="voc2012 train (608)"), "not comparable: other images"),
        (ours(55.2, comparable="another backbone"), "not comparable: another backbone"),
        (ours(55.2, oracle=False), "not comparable: published is oracle"),
        (ours(60.0, crf=True), "-1.0"),
        (ours(60.0, method="CAM"), "not comparable: no published number"),
        (ours(60.0, split="scenes train (64)"), "not comparable: published on voc2012 train"),
        (
            ours(60.0, split="scenes train (64)", comparable="drawn images"),
            "not comparable: drawn images",
        ),
        (
            ours(60.0, task="segmentation", method="CAM", split="scenes val (64)"),
            "not comparable: no published number",
        ),
        (ours(60.0, task="rare classes"), ""),  # a task that nobody publishes
        (ours(56.0, method="CAM", reference="ReCAM"), "+1.2 to ReCAM"),
        (ours(56.0, reference="ReCAM"), "+1.2"),
        (
            ours(56.0, method="CAM", reference="ReCAM", comparable="fewer images"),
            "not comparable to ReCAM: fewer images",
        ),
        (
            ours(56.0, method="CAM", reference="ReCAM", split="scenes train (64)"),
            "not comparable to ReCAM: published on voc2012 train",
        ),
        (
            ours(56.0, reference="IRN"),  # a published number of its own does not stand in
            "not comparable to IRN: no published number",
        ),
        (ours(60.0, task="pseudo label", crf=True), "-10.5"),
        (ours(40.0, task="segmentation", crf=True), "not comparable: published without CRF"),
    ],
)
def test_difference_only_under_equal_conditions(row: Row, against: str) -> None:
    peers = [
        theirs(),
        theirs(61.0, crf=True),
        theirs(99.0, variant="a user"),
        theirs(70.5, task="pseudo label", oracle=None, crf=None),
        theirs(50.0, task="segmentation", crf=False),
    ]
    lines = [line for group in board.rank([*peers, row]) for line in group.lines]
    assert [line.against for line in lines if line.row == row] == [against]
    assert all(line.against == "" for line in lines if line.row.published)


def test_our_rows_by_themselves_are_held_against_nobody() -> None:
    [group] = board.rank([ours(56.0, reference="IRN"), ours(55.0)])
    assert [line.against for line in group.lines] == ["", ""]


def test_of_several_published_the_one_under_equal_conditions_counts() -> None:
    peers = [
        theirs(60.0, split="voc2012 train (82)"),
        theirs(58.0, oracle=False, crf=True),
        theirs(50.0),
        theirs(49.0, oracle=None),
        theirs(45.0, split="coco2014 train"),
    ]
    elsewhere = ours(55.0, split="scenes train (9)")
    [line, other] = [
        line
        for group in board.rank([ours(55.0), elsewhere, *peers])
        for line in group.lines
        if not line.row.published
    ]
    assert {line.against, other.against} == {
        "+5.0",
        "not comparable: published on coco2014 train, voc2012 train",
    }


def test_console_says_what_a_reader_must_know() -> None:
    text = printed(
        [
            ours(55.2, variant="[bold]product", weights="ResNet-50", wall_seconds=840),
            ours(54.0, 58.0, oracle=False),
            theirs(),
            theirs(45.0, task="segmentation"),
        ]
    )
    assert "CAM seed · voc2012 train" in text
    assert "ReCAM ([bold]product)" in text
    assert "1 only" in text
    assert "56.0 ± 2.8" in text
    assert "label-free" in text
    assert "published: paper's abstract" in text
    assert "ResNet-50; 01234567 @ c0ffee; 14 min" in text
    assert "not comparable: published is oracle" in text
    assert "segmentation" not in text  # nothing of ours is there


def test_a_slice_is_ranked_with_its_whole_and_not_compared() -> None:
    some = ours(60.0, 61.0, split="voc2012 train[::4] (366)")
    [group] = board.rank([some, theirs()])
    assert group.part == "voc2012 train"
    [line] = [line for line in group.lines if line.row is some]
    assert line.against == "not comparable: other images"
    assert board.images(some) == "[::4] 366"


def test_a_source_that_does_not_count_images_is_compared() -> None:
    row = ours(60.0, 61.0, split="coco2014 val (40504)")
    [group] = board.rank([row, theirs(split="coco2014 val")])
    assert [line.difference for line in group.lines if line.row is row] == [pytest.approx(5.7)]


def test_the_console_keeps_reasons_short_and_the_page_tells_all() -> None:
    row = ours(60.0, 61.0, comparable="other images, another backbone, other colours, bad weather")
    shown = " ".join(printed([row, theirs()], width=400).split())
    assert "other images, another backbone, other colours and 1 more" in shown
    assert "bad weather" in board.markdown([row, theirs()])


def test_markdown_keeps_its_columns() -> None:
    lines = board.markdown([ours(55.2, variant="a | b\nc"), theirs()]).splitlines()
    assert lines[0] == "### CAM seed · voc2012 train"
    assert "ReCAM (a \\| b c)" in lines[4]
    assert {line.replace("\\|", "").count("|") for line in lines[2:6]} == {len(board.HEADINGS) + 1}


def test_json_holds_what_is_derived() -> None:
    (group,) = json.loads(board.as_json([ours(54.0, 56.0, note="n"), theirs()]))
    first, second = group["rows"]
    assert (group["task"], group["part"]) == ("CAM seed", "voc2012 train")
    assert (first["mean"], first["published"], first["note"]) == (55.0, False, "n")
    assert first["spread"] == pytest.approx(math.sqrt(2))
    assert first["difference"] == pytest.approx(0.2)
    assert (second["mean"], second["spread"], second["difference"]) == (54.8, None, None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"value": 0.548}, "value is 0.548: give a number in percent"),
        ({"value": 548.0}, "value is 548.0: give a number in percent"),
        ({"source": ""}, "source is empty"),
    ],
)
def test_published_row_is_checked(fields: dict[str, object], message: str) -> None:
    with pytest.raises(BoardError, match=message):
        theirs(**fields)


def test_row_key_tells_rows_apart_by_what_identifies_them() -> None:
    row = ours(50.0)
    assert replace(row, note="other", commits=("x",)).key == row.key
    for changed in ({"variant": "v"}, {"keys": ("k",)}, {"split": "s"}, {"crf": True}):
        assert replace(row, **changed).key != row.key
