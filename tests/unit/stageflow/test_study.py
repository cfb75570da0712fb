"""The study: states told truthfully, and nothing lost with a driver, or done twice by two."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import optuna
import pytest

from stageflow.study import (
    LOST,
    Broken,
    Completed,
    Pruned,
    Study,
    StudyError,
    study_names,
)
from tests.unit.stageflow.conftest import Params, journal, opened, sqlite


def again(study: Study[Params], url: str) -> Study[Params]:
    """The study as another process finds it."""
    return opened(url, study.name)


@pytest.mark.parametrize("storage", [journal, sqlite])
class TestStorages:
    def test_keeps_everything(self, tmp_path: Path, storage: object) -> None:
        assert callable(storage)
        url = storage(tmp_path)
        study = opened(url)
        for result in (Completed(0.5, "seeds/1"), Pruned(0.2, 3), Broken("no luck"), None):
            proposal = study.ask()
            if result is not None:
                study.tell(proposal.number, result)
        study.note("rows", ["a", 1])
        found = again(study, url)
        assert found.trials() == study.trials()
        assert found.notes()["rows"] == ["a", 1]
        assert [trial.state for trial in found.trials()] == [
            "COMPLETE",
            "PRUNED",
            "FAIL",
            "RUNNING",
        ]
        assert study_names(url) == ["sweep"]

    def test_studies_do_not_mix(self, tmp_path: Path, storage: object) -> None:
        assert callable(storage)
        url = storage(tmp_path)
        one, two = opened(url, "one"), opened(url, "two")
        one.tell(one.ask().number, Completed(1.0, "t"))
        assert two.trials() == []
        assert two.ask().number == 0
        assert sorted(study_names(url)) == ["one", "two"]


class TestTell:
    def test_completed(self, url: str) -> None:
        study = opened(url)
        proposal = study.ask()
        study.tell(proposal.number, Completed(0.25, "seeds/1a2b"))
        (trial,) = again(study, url).trials()
        assert (trial.number, trial.state, trial.value) == (0, "COMPLETE", 0.25)
        assert (trial.target, trial.reason) == ("seeds/1a2b", "")
        assert trial.params == {"x": proposal.params.x, "kind": proposal.params.kind}
        assert trial.started is not None
        assert trial.finished is not None
        assert time.time() - 60 < trial.started <= trial.finished <= time.time() + 1

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_no_number_is_a_failure(self, url: str, value: float) -> None:
        """Optuna would leave such a trial running for ever."""
        study = opened(url)
        study.tell(study.ask().number, Completed(value, "t"))
        (trial,) = study.trials()
        assert (trial.state, trial.value) == ("FAIL", None)
        assert trial.reason == f"the objective is {value}"
        assert study.best() is None

    def test_pruned(self, url: str) -> None:
        """It has no final value, but the sampler may learn from its last report."""
        study = opened(url)
        study.tell(study.ask().number, Pruned(0.75, 3))
        (trial,) = study.trials()
        assert (trial.state, trial.value) == ("PRUNED", None)
        (frozen,) = optuna.load_study(
            study_name="sweep",
            storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(url)),
        ).trials
        assert frozen.intermediate_values == {3: 0.75}

    def test_pruned_at_no_number(self, url: str) -> None:
        study = opened(url)
        study.tell(study.ask().number, Pruned(math.nan, 1))
        assert study.trials()[0].state == "PRUNED"

    def test_broken(self, url: str) -> None:
        study = opened(url)
        study.tell(study.ask().number, Broken("LookupError: no luck"))
        (trial,) = study.trials()
        assert (trial.state, trial.value, trial.reason) == ("FAIL", None, "LookupError: no luck")

    def test_out_of_order(self, url: str) -> None:
        """Trials end in another order than they began."""
        study = opened(url)
        numbers = [study.ask().number for _ in range(4)]
        for number in (2, 0, 3, 1):
            study.tell(number, Completed(number / 10, f"t/{number}"))
        assert numbers == [0, 1, 2, 3]
        assert [trial.value for trial in study.trials()] == [0.0, 0.1, 0.2, 0.3]
        assert [trial.target for trial in study.trials()] == ["t/0", "t/1", "t/2", "t/3"]


@pytest.mark.parametrize(("maximise", "best"), [(True, 2), (False, 1)])
def test_best(url: str, maximise: bool, best: int) -> None:
    """Of completed trials only; of equals the earliest; also for who only looks at the study."""
    study = opened(url, maximise=maximise)
    results = [Completed(0.5, "t"), Completed(-1.0, "t"), Completed(3.0, "t"), Completed(3.0, "t")]
    for result in (*results, Completed(-1.0, "t"), Pruned(99.0, 1), Pruned(-99.0, 1)):
        study.tell(study.ask().number, result)
    study.ask()
    for looked in (study, again(study, url)):
        found = looked.best()
        assert found is not None
        assert found.number == best
    assert opened(url, "empty").best() is None


class TestQueue:
    def test_defaults_first_and_once(self, url: str) -> None:
        study = opened(url)
        study.enqueue(Params(x=0.125, kind="b"))
        study.enqueue(Params(x=0.125, kind="b"))
        assert study.ask().params == Params(x=0.125, kind="b")
        assert study.ask().params != Params(x=0.125, kind="b")
        later = again(study, url)
        later.enqueue(Params(x=0.125, kind="b"))
        assert later.ask().params != Params(x=0.125, kind="b")

    def test_what_waits_is_no_trial_yet(self, url: str) -> None:
        study = opened(url)
        study.enqueue(Params())
        assert study.trials() == []
        assert study.spent() == 0
        assert study.ask().number == 0


def test_seed_trap(url: str) -> None:
    """A driver that starts again must not propose what the first has proposed."""
    first = opened(url, seed=7)
    asked = [first.ask().params for _ in range(5)]
    second = opened(url, seed=7)
    assert not {second.ask().params.x for _ in range(5)} & {params.x for params in asked}


def test_seed(tmp_path: Path) -> None:
    """Two sweeps of one seed begin alike, of two seeds not."""
    alike = [
        opened(str(tmp_path / name), seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    one, two, three = ([study.ask().params.x for _ in range(3)] for study in alike)
    assert one == two != three


def test_conditional_space(url: str) -> None:
    """Parameters of a stage may exist only where it is chosen; that is no reason to warn."""

    def conditional(trial: optuna.Trial) -> dict[str, float]:
        kind = trial.suggest_categorical("kind", ("a", "b"))
        return {kind: trial.suggest_float(f"of_{kind}", 0, 1)}

    study: Study[dict[str, float]] = Study("sweep", url, space=conditional)
    for _ in range(20):
        proposal = study.ask()
        study.tell(proposal.number, Completed(sum(proposal.params.values()), "t"))
    assert len(study.trials()) == 20


class TestBudget:
    def test_spent(self, url: str) -> None:
        """What ended counts, whatever its end, but for what was lost with a driver."""
        study = opened(url)
        for result in (Completed(1.0, "t"), Pruned(1.0, 1), Broken("no luck"), Broken(LOST)):
            study.tell(study.ask().number, result)
        study.ask()
        assert study.spent() == 3

    def test_as_long_as_all_fail_none_counts(self, url: str) -> None:
        """A broken file or store is no trial's fault: mended, the same command tries again."""
        study = opened(url)
        for _ in range(3):
            study.tell(study.ask().number, Broken("the store is away"))
        assert study.spent() == 0
        study.tell(study.ask().number, Completed(1.0, "t"))
        assert study.spent() == 4


class TestReconcile:
    def test_lost_trials_are_tried_again(self, url: str) -> None:
        dead = opened(url)
        dead.tell(dead.ask().number, Completed(1.0, "t"))
        lost = [dead.ask().params for _ in range(3)]
        study = again(dead, url)
        assert study.reconcile() == 3
        assert [trial.state for trial in study.trials()] == ["COMPLETE", "FAIL", "FAIL", "FAIL"]
        assert {trial.reason for trial in study.trials()[1:]} == {LOST}
        assert [study.ask().params for _ in range(3)] == lost
        assert study.spent() == 1

    def test_nothing_was_lost(self, url: str) -> None:
        study = opened(url)
        study.tell(study.ask().number, Completed(1.0, "t"))
        assert study.reconcile() == 0
        assert len(study.trials()) == 1

    def test_killed_before_it_asked_for_the_parameters(self, url: str) -> None:
        """The defaults are not lost, although they are in the queue no more."""
        dead = opened(url)
        dead.enqueue(Params(x=0.125, kind="b"))
        dead._study.ask()
        study = again(dead, url)
        study.reconcile()
        study.enqueue(Params(x=0.125, kind="b"))
        assert study.ask().params == Params(x=0.125, kind="b")

    def test_killed_while_it_asked(self, url: str) -> None:
        """What was chosen by then is chosen again."""
        dead = opened(url)
        x = dead._study.ask().suggest_float("x", 0, 1)
        study = again(dead, url)
        study.reconcile()
        assert study.ask().params.x == x

    def test_killed_while_it_reconciles(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whenever that is, every lost parameter set is tried again; none stays a zombie."""
        dead = opened(url)
        lost = [dead.ask().params for _ in range(2)]
        dying = again(dead, url)
        with monkeypatch.context() as patch:
            patch.setattr(dying, "tell", lambda number, result: sys.exit("killed"))
            with pytest.raises(SystemExit):
                dying.reconcile()
        study = again(dead, url)
        study.reconcile()
        asked = [study.ask().params for _ in range(3)]
        assert all(params in asked for params in lost)
        assert "RUNNING" not in [trial.state for trial in study.trials()[:2]]

    def test_again_and_again(self, url: str) -> None:
        """A driver that is killed every time does not multiply its trials."""
        lost = opened(url).ask().params
        for _ in range(3):
            study = opened(url)
            assert study.reconcile() == 1
            assert study.ask().params == lost
        assert study.spent() == 0


class TestErrors:
    @pytest.mark.parametrize(
        "url",
        [
            "sqlite:////nowhere/at/all/studies.db",
            "nosuchdialect://host/db",
            "postgresql+nosuchdriver://host/db",
            "/nowhere/at/all/studies.journal",
        ],
    )
    def test_no_storage(self, url: str) -> None:
        """One line that names the storage."""
        with pytest.raises(
            StudyError, match=f"^no study storage at {url.replace('+', '.')}: "
        ) as caught:
            opened(url)
        assert "\n" not in str(caught.value)

    def test_other_direction(self, url: str) -> None:
        """A study that maximised would take the worst of a sweep that minimises for its best."""
        opened(url, maximise=True)
        with (
            pytest.raises(
                StudyError, match=r"^study sweep is there to maximize: give this one ano"
            ),
            opened(url, maximise=False).joined(),
        ):
            pytest.fail("claimed")
