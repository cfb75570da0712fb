"""A sweep's command, from flags to the board, with toy stages and without Ray."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient

from stageflow import board, search, session
from stageflow.artifact import Artifacts
from stageflow.board import Entry, Row, published_row
from stageflow.cli import main as stageflow
from stageflow.context import Context
from stageflow.product import Product
from stageflow.report import ranked
from stageflow.settings import Settings, home
from stageflow.stage import Metrics, Node, stage
from stageflow.study import Completed, Study
from stageflow.sweep import Sweep, main

# MLflow 3.17 on SQLAlchemy 2.1, once in a process: its own mapping uses an option that will go away
SQLALCHEMY = (
    "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"
)
LOCAL = ("--executor=local", "--tracking=none")


@dataclass(frozen=True, kw_only=True)
class Guess:
    value: float = 0.5
    seed: int = 0


@stage(version="1")
def closeness(context: Context, config: Guess) -> Metrics:
    """How near the guess is to 0.7; guesses above 0.9 fail."""
    if config.value > 0.9:
        raise ValueError(f"value is {config.value}: too large")
    return {"near": 1 - abs(config.value - 0.7)}


@dataclass(frozen=True, kw_only=True)
class Options:
    seeds: int = field(default=2, metadata={"help": "rows of the board"})

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}: give 1 or more")


@dataclass(frozen=True, kw_only=True)
class Params:
    value: float = 0.5


def space(trial: optuna.Trial, options: Options) -> Params:
    return Params(value=trial.suggest_float("value", 0, 0.9, step=0.1))


def hopeless(trial: optuna.Trial, options: Options) -> Params:
    return Params(value=trial.suggest_float("value", 0.95, 1))


def pipeline(params: Params, options: Options) -> Node:
    return closeness(Guess(value=params.value))


def entries(params: Params, options: Options) -> Sequence[Entry]:
    seeds = tuple(range(options.seeds))
    return [
        Entry(
            task="closeness",
            split="toy (1)",
            method="guess",
            targets=tuple(closeness(Guess(value=params.value, seed=seed)) for seed in seeds),
            seeds=seeds,
            metric="near",
            oracle=False,
            weights="none",
        )
    ]


@stage(version="1")
def picture(context: Context, guess: Path, config: Guess) -> None:
    """The guess as a text; guesses above 0.9 cannot be drawn."""
    if config.value > 0.9:
        raise ValueError(f"value is {config.value}: too large to draw")
    (context.out / "guess.txt").write_text(str(config.value))


def products(params: Params, options: Options) -> Sequence[Product]:
    guess = closeness(Guess(value=params.value))
    return [Product(name="the [guess]", node=picture(guess, Guess(value=params.value)))]


def undrawable(params: Params, options: Options) -> Sequence[Product]:
    node = picture(closeness(Guess(value=params.value)), Guess(value=1.0))
    return [*products(params, options), Product(name="too large", node=node)]


def no_entries(params: Params, options: Options) -> Sequence[Entry]:
    return []


SWEEP = Sweep(
    name="toy",
    about="A toy.",
    options=Options(),
    defaults=Params(),
    space=space,
    pipeline=pipeline,
    entries=entries,
    metric="near",
    trials=6,
)


def study(space: object = space) -> "Study[Params]":
    settings = Settings()
    [name] = optuna.get_all_study_names(settings.studies)
    return Study(name, settings.studies, space=lambda trial: Params())


def test_searches_and_fills_the_board(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SWEEP, LOCAL) == 0
    trials = study().trials()
    assert [trial.state for trial in trials] == ["COMPLETE"] * 6
    assert trials[0].params == {"value": 0.5}  # the defaults first
    best = max(trial.value or 0 for trial in trials)
    [row] = board.load(Settings().open_store())
    assert row.values == pytest.approx((100 * best, 100 * best))
    assert "best of 6 trials" in capsys.readouterr().out


def test_the_same_command_continues_and_more_trials_are_added(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(SWEEP, (*LOCAL, "--trials=2")) == 0
    assert main(SWEEP, (*LOCAL, "--trials=2")) == 0
    assert len(study().trials()) == 2
    assert main(SWEEP, (*LOCAL, "--trials=5")) == 0
    assert len(study().trials()) == 5
    assert "2 of 5 trials done" in capsys.readouterr().out


def test_without_trials_only_the_board_is_filled() -> None:
    assert main(SWEEP, (*LOCAL, "--trials=0", "--seeds=3")) == 0
    [row] = board.load(Settings().open_store())
    assert row.values == pytest.approx((80, 80, 80))
    assert not Path(Settings().studies.removeprefix("sqlite:///")).exists()


def test_methods_are_put_side_by_side_without_a_search(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    compared = replace(SWEEP, space=None, pipeline=None)
    assert main(compared, (*LOCAL, f"--results={tmp_path / 'board.md'}")) == 0
    [row] = board.load(Settings().open_store())
    assert row.values == pytest.approx((80, 80))
    assert not study().trials()
    assert "| guess | 80.0 ± 0.0 |" in (tmp_path / "board.md").read_text()
    told = "".join(capsys.readouterr().out.split())  # lines break where the path is long
    assert f"wrote{tmp_path / 'board.md'}" in told
    with pytest.raises(SystemExit):
        main(compared, ["--trials=3"])


@pytest.mark.filterwarnings(SQLALCHEMY)
def test_mlflow_keeps_the_board_in_every_form_and_where_products_lie(tmp_path: Path) -> None:
    uri, made = f"sqlite:///{home()}/mlflow.db", {"split": "toy (1)", "task": "closeness"}
    published = published_row(method="theirs", value=70.0, source="a paper", **made)
    compared = replace(SWEEP, space=None, pipeline=None, published=[published], products=products)
    assert main(compared, ("--executor=local", f"--tracking={uri}")) == 0
    [row] = [row for row in board.load(Settings().open_store()) if not row.published]
    assert study().notes()["rows"] == [row.key]
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("toy").experiment_id
    [parent] = client.search_runs([experiment], "tags.`stageflow.study` != ''")
    place = study().notes()["products"]["the [guess]"]
    assert parent.data.tags["stageflow.product.the _guess_"].endswith(f"/store/{place}")
    (tmp_path / "files").mkdir()
    folder = Path(client.download_artifacts(parent.info.run_id, "", str(tmp_path / "files")))
    names = ("leaderboard.html", "leaderboard.json", "leaderboard.md", "products.md")
    assert sorted(path.name for path in folder.iterdir()) == [*names]
    for name in names[:3]:
        assert "theirs" in (folder / name).read_text()
        assert row.method in (folder / name).read_text()
    assert json.loads((folder / names[1]).read_text())[0]["rows"][0]["key"] == row.key
    assert (folder / names[3]).read_text().startswith("- the [guess]: `stageflow fetch picture/")


@pytest.mark.filterwarnings(SQLALCHEMY)
def test_products_alone_are_shown_by_mlflow() -> None:
    uri = f"sqlite:///{home()}/mlflow.db"
    only = replace(SWEEP, space=None, pipeline=None, entries=no_entries, products=products)
    assert main(only, ("--executor=local", f"--tracking={uri}")) == 0
    client = MlflowClient(uri)
    [parent] = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    assert "stageflow.product.the _guess_" in parent.data.tags
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["products.md"]


def test_a_summary_tells_the_rows_in_the_experiment_s_own_words(tmp_path: Path) -> None:
    def summary(rows: Sequence[Row], options: Options) -> str:
        return f"## {options.seeds} seeds, best {max(row.mean for row in rows):.0f}"

    file = tmp_path / "results.md"
    assert main(replace(SWEEP, summary=summary), (*LOCAL, "--trials=1", f"--results={file}")) == 0
    assert file.read_text().endswith("\n\n## 2 seeds, best 80\n")


def test_results_for_a_folder_that_is_not_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(SWEEP, (*LOCAL, f"--results={tmp_path / 'no' / 'board.md'}")) == 2
    assert f"folder {tmp_path / 'no'} does not exist" in capsys.readouterr().err
    assert not list(Artifacts(Settings().open_store(), Path()).all())


def test_products_are_made_and_can_be_fetched(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """For the best parameters, by the command that the last line of the sweep says."""
    assert main(replace(SWEEP, products=products), LOCAL) == 0
    best = max(study().trials(), key=lambda trial: trial.value or 0)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("the [guess]: stageflow fetch picture/")
    words = last.partition(": stageflow ")[2].split()
    assert stageflow([*words[:-1], str(tmp_path / words[-1])]) == 0
    assert float((tmp_path / "FOLDER" / "guess.txt").read_text()) == best.params["value"]
    assert [*study().notes()["products"]] == ["the [guess]"]


def test_products_without_entries(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """No board then; and the summary, which may rely on a row, is not asked."""
    store = tmp_path / "a store"
    only = replace(SWEEP, space=None, pipeline=None, entries=no_entries, products=products)
    only = replace(only, summary=lambda rows, options: f"## {rows[0].name}")
    results = tmp_path / "results.md"
    assert main(only, (*LOCAL, f"--store={store}", f"--results={results}")) == 0
    out = capsys.readouterr().out
    assert f" FOLDER --store '{store}'\n" in out
    assert "mIoU" not in out
    assert study().notes()["rows"] == []
    assert re.search(
        r"## toy\n\n- the \[guess\]: `stageflow fetch pic.* FOLDER`\n$", results.read_text()
    )


def test_a_failed_product_fails_the_command_when_all_else_is_kept(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweep = replace(SWEEP, space=None, pipeline=None, products=undrawable)
    assert main(sweep, LOCAL) == 1
    told = capsys.readouterr()
    assert "too large to draw" in told.err
    assert "the [guess]: stageflow fetch" in told.out
    assert "too large: stageflow fetch" not in told.out
    [row] = board.load(Settings().open_store())
    assert study().notes()["rows"] == [row.key]
    assert [*study().notes()["products"]] == ["the [guess]"]
    assert main(sweep, (*LOCAL, "--plan")) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 to run")


def test_products_have_names_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    twice = replace(SWEEP, products=lambda params, options: 2 * products(params, options))
    assert main(twice, LOCAL) == 2
    assert capsys.readouterr().err == (
        "error: two products are called 'the [guess]': give each a name of its own\n"
    )


def test_a_plan_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SWEEP, (*LOCAL, "--plan")) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 to run")
    assert not list(Artifacts(Settings().open_store(), Path()).all())


def test_when_every_trial_fails_the_reasons_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    bad = Sweep(**{**vars(SWEEP), "space": hopeless, "defaults": Params(value=0.95)})
    assert main(bad, (*LOCAL, "--trials=2")) == 1
    assert "too large" in capsys.readouterr().err
    assert {trial.state for trial in study().trials()} == {"FAIL"}


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--seeds=0", "--seeds: seeds is 0: give 1 or more"),
        ("--seeds=two", "--seeds is 'two': it takes INTEGER"),
        ("--trials=-1", "--trials is -1"),
        ("--executor=slurm", "choose from ray, local"),
    ],
)
def test_bad_flags_are_one_line(
    argument: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(SWEEP, (*LOCAL, argument)) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_second_driver_joins(capsys: pytest.CaptureFixture[str]) -> None:
    """It says whom, tries what is left to try, and leaves the other in peace."""
    assert main(SWEEP, (*LOCAL, "--trials=1")) == 0
    with study().joined():
        assert main(SWEEP, (*LOCAL, "--trials=2")) == 0
        assert len(study().others()) == 1
    assert f"joining process {os.getpid()} on " in capsys.readouterr().out
    assert len(study().trials()) == 2


def test_it_waits_for_the_trials_of_another_driver(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The board rests on all of them, whoever ran them."""
    assert main(SWEEP, (*LOCAL, "--trials=1")) == 0
    other = study()
    with other.joined():
        asked = other.ask()

        def sleep(seconds: float) -> None:
            other.tell(asked.number, Completed(0.99, "closeness/elsewhere"))

        monkeypatch.setattr(search.time, "sleep", sleep)
        assert main(SWEEP, (*LOCAL, "--trials=2")) == 0
    told = capsys.readouterr().out
    assert f"waiting for 1 trial of process {os.getpid()} on " in told
    assert [trial.state for trial in study().trials()] == ["COMPLETE"] * 2


def test_what_another_driver_has_made_stays_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that could make less of the same does not take it back."""
    sweep = replace(SWEEP, space=None, pipeline=None)
    assert main(sweep, LOCAL) == 0
    noted = study().notes()["rows"]
    study().note("rows", [*noted, "of another driver"])
    assert main(sweep, LOCAL) == 0
    assert study().notes()["rows"] == [*noted, "of another driver"]


def test_the_best_trials_are_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that cannot be drawn is told of, but keeps nothing from the board."""
    monkeypatch.setattr(session, "MOST_DRAWN", 2)

    def draw(params: Params, options: Options) -> Node:
        drawn = Guess(value=params.value if params.value == 0.5 else 1.0)
        return picture(closeness(Guess(value=params.value)), drawn)

    assert main(replace(SWEEP, pictures=draw), (*LOCAL, "--trials=3")) == 1
    assert "too large to draw" in capsys.readouterr().err
    noted = study().notes()
    best = ranked(study().trials(), maximise=True)[:2]
    drawn = [trial.number for trial in best if trial.params["value"] == 0.5]
    assert [*map(int, noted["pictures"])] == drawn
    assert len(noted["rows"]) == 1


def test_stale_artifacts_stop_a_command_that_cannot_ask(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(SWEEP, (*LOCAL, "--trials=1")) == 0
    for path in Path(Settings().store).glob("closeness/*/manifest.json"):
        path.chmod(0o644)
        path.write_text(path.read_text().replace(closeness.fingerprint, "f" * 16))
    assert main(SWEEP, (*LOCAL, "--trials=1")) == 2
    assert "--on-stale=rerun" in capsys.readouterr().err
    assert main(SWEEP, (*LOCAL, "--trials=1", "--on-stale=keep")) == 0
    assert "finished" not in capsys.readouterr().out
    assert main(SWEEP, (*LOCAL, "--trials=1", "--on-stale=rerun")) == 0
    made = Artifacts(Settings().open_store(), Path()).all()
    assert {manifest.fingerprint for manifest in made} == {closeness.fingerprint}


def test_help_tells_of_the_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(SWEEP, ["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "A toy." in text
    assert "rows of the board (default: 2)" in text


def test_the_flags_are_these(capsys: pytest.CaptureFixture[str]) -> None:
    """The platform's flags are a promise to scripts: change this list knowingly."""
    with pytest.raises(SystemExit):
        main(SWEEP, ["--help"])
    shown = {word.strip(",[]") for word in capsys.readouterr().out.split() if word.startswith("--")}
    assert shown == {
        *("--help", "--config", "--trials", "--plan", "--results", "--seeds"),
        *("--store", "--studies", "--tracking", "--executor", "--on-stale", "--concurrent"),
        "--study",
    }


def test_what_failed_for_all_is_tried_again_once_it_is_mended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The defaults first again, in the same study."""
    with monkeypatch.context() as broken:
        broken.setattr(Artifacts, "put", lambda *given: 1 / 0)
        assert main(SWEEP, (*LOCAL, "--trials=2")) == 1
    assert main(SWEEP, (*LOCAL, "--trials=2")) == 0
    states = [(trial.state, trial.params["value"]) for trial in study().trials()]
    assert [state for state, _ in states] == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert states[2][1] == 0.5
