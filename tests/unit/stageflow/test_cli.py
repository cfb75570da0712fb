"""The `stageflow` command, on a store that a toy sweep has filled."""

import json
import re
from pathlib import Path

import pytest

from stageflow import board
from stageflow.artifact import Artifacts
from stageflow.board import Entry
from stageflow.cli import VERBS, main
from stageflow.executor import LocalExecutor, run
from stageflow.settings import Settings, home
from stageflow.testing_stages import Counting, count


@pytest.fixture
def key() -> str:
    """Key of an artifact in the default store, which has a row on the board too."""
    artifacts = Artifacts(Settings().open_store(), home() / "cache")
    node = count(Counting(label="cli", to=1))
    run(node, executor=LocalExecutor(artifacts))
    entry = Entry(
        task="counting",
        split="toy (1)",
        method="count",
        targets=(node,),
        seeds=(0,),
        metric="value",
        oracle=False,
        weights="none",
    )
    board.save([board.row(entry, artifacts)], artifacts.store)
    return node.key


def test_the_verbs_are_these() -> None:
    """A promise to scripts: change this list knowingly."""
    assert list(VERBS) == ["board", "show", "fetch", "forget", "check", "relog", "push", "pull"]


def test_show_tells_config_and_lineage(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", key[:6]]) == 0
    shown = capsys.readouterr().out
    assert key in shown
    assert "label=cli" in shown
    assert "metric   value = 1" in shown


def test_show_cuts_no_config_at_the_edge(capsys: pytest.CaptureFixture[str]) -> None:
    artifacts = Artifacts(Settings().open_store(), home() / "cache")
    node = count(Counting(label=f"{'long ' * 60}to-the-end", to=1))
    run(node, executor=LocalExecutor(artifacts))
    assert main(["show", node.key]) == 0
    assert "to-the-end" in capsys.readouterr().out


def test_forget_has_it_made_again(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forget", key]) == 0
    assert main(["show", key]) == 0
    assert f"100.00 from {key}, which was forgotten" in capsys.readouterr().out
    assert main(["forget", key]) == 2
    assert re.fullmatch(r"error: no single artifact .*\n", capsys.readouterr().err)


def test_show_names_what_it_looked_through(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "nothing"]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: no single key .* 1 artifacts and 1 rows .*\n", error)


def test_show_takes_the_key_that_the_board_shows(
    key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["board"]) == 0
    [shown] = re.findall(r"([0-9a-f]{8}) @", capsys.readouterr().out)
    assert main(["show", shown]) == 0
    assert "seed 0   100.00 from count/" in capsys.readouterr().out


def test_fetch_copies_the_files(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "[new]" / "one"
    assert main(["fetch", f"count/{key[:8]}", str(folder)]) == 0
    assert (folder / "value").read_text() == "1"
    assert capsys.readouterr().out == f"1 files, 1 bytes in {folder}\n"


@pytest.mark.parametrize(
    ("digits", "place", "words"),
    [
        ("nothing", "new", "no single artifact with the key nothing"),
        ("", "taken", "is there already: name a new or an empty folder"),
        ("", "taken/file", "is there already: name a new or an empty folder"),
        ("", "taken/file/new", "File exists"),
    ],
)
def test_fetch_fails_in_one_line(
    key: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    digits: str,
    place: str,
    words: str,
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    assert main(["fetch", digits or key, str(tmp_path / place)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()].count("file") == 1
    assert not (tmp_path / "new").exists()


def test_board_in_every_form(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board"]) == 0
    assert "count" in capsys.readouterr().out
    assert main(["board", "--format=json"]) == 0
    assert "100.0" in json.dumps(json.loads(capsys.readouterr().out))
    assert main(["board", "--html", str(tmp_path / "board.html")]) == 0
    assert (tmp_path / "board.html").read_text().startswith("<!")


def test_push_and_pull(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, root = tmp_path / "data", (tmp_path / "root").as_uri()
    data.mkdir()
    (data / "a [b].txt").write_text("content")
    assert main(["push", str(data), root]) == 0
    told = re.fullmatch(r"1 files, 7 bytes in (.*#[0-9a-f]{20}); 1 sent\n", capsys.readouterr().out)
    assert told is not None
    assert main(["pull", root]) == 0
    folder = capsys.readouterr().out.removesuffix("\n")
    assert (Path(folder) / "a [b].txt").read_text() == "content"
    (data / "a [b].txt").write_text("another")
    assert main(["push", str(data), root]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "give --replace to put this one in its place" in error
    assert main(["push", str(data), root, "--replace"]) == 0
    assert main(["pull", told[1]]) == 0
    assert capsys.readouterr().out.endswith(f"{folder}\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pull", "voc2012:s3://bucket/voc"], "want s3://bucket/prefix"),
        (["pull", "s3://"], "want s3://bucket/prefix"),
        (["push", "nowhere", "s3://bucket/voc"], "nowhere is no folder"),
    ],
)
def test_push_and_pull_fail_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1


def test_check_tells_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    assert capsys.readouterr().out.count("ok  ") >= 4


def test_an_unknown_store_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", "--store=gopher://x"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
