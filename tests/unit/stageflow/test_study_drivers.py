"""Several drivers of one study: nothing is done twice, nothing too much, and no one disturbs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from stageflow import study as module
from stageflow.report import trial_headline
from stageflow.study import (
    LEASE_SECONDS,
    LOST,
    Broken,
    Completed,
    Pruned,
    Study,
)
from tests.unit.stageflow.conftest import Params, ended_process, journal, opened, sqlite


class TestSeveralDrivers:
    def test_a_trial_belongs_to_its_driver(self, url: str) -> None:
        """What a living one runs is not touched; what it leaves open is tried again."""
        one, two = opened(url), opened(url)
        with two.joined():
            with one.joined():
                mine = one.ask()
                assert two.reconcile() == 0
                assert two.elsewhere() == 1
                assert one.elsewhere() == 0
            assert [trial.reason for trial in two.trials()] == [LOST]
            assert two.ask().params == mine.params
            assert two.others() == []

    def test_a_dead_one_s_trials_are_tried_again(self, url: str) -> None:
        dead, study = opened(url), opened(url)
        dead._drivers.enter()
        asked = dead.ask()
        mark_dead(dead)
        with study.joined():
            assert study.reconcile() == 1
            assert study.ask().params == asked.params
            assert study.others() == []
            assert study.notes()[f"driver/{dead.id}"] is None

    def test_one_that_wakes_up_does_not_disturb(self, url: str) -> None:
        """Its trials ended without it: what it tells of them is too late, whatever it is."""
        slept, study = opened(url), opened(url)
        numbers = [slept.ask().number for _ in range(3)]
        assert study.reconcile() == 3
        for number, result in zip(
            numbers, (Completed(9.0, "t"), Pruned(9.0, 1), Broken("no")), strict=True
        ):
            slept.tell(number, result)
        assert {(t.state, t.value, t.reason) for t in study.trials()} == {("FAIL", None, LOST)}
        slept.tell(slept.ask().number, Completed(1.0, "t"))
        assert study.spent() == 1

    def test_the_faster_one_has_said_it(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Told by two at the same moment: one of them wins, and both go on."""
        one, two = opened(url), opened(url)
        number = one.ask().number
        close = one._close

        def slow(trial: optuna.Trial, result: Completed) -> None:
            two.tell(number, Broken(LOST))
            close(trial, result)

        monkeypatch.setattr(one, "_close", slow)
        one.tell(number, Completed(1.0, "t"))
        assert [trial.reason for trial in one.trials()] == [LOST]

    def test_a_trial_that_just_begins_has_no_mark_yet(self, url: str) -> None:
        """It is left alone while another driver may be about to mark it, but not for ever."""
        asks, study = opened(url), opened(url)
        with asks.joined(), study.joined():
            asks._study.ask()
            assert study.reconcile() == 0
            assert study.trials() == []  # and may never begin
            recovered = 0
            for _ in range(8):
                study._unmarked._looked -= LEASE_SECONDS  # as if it had waited
                recovered += study.reconcile()
            assert recovered == 1

    def test_both_recover_the_same(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Queued twice in a race, it is tried once."""
        lost = opened(url).ask()
        one, two = opened(url), opened(url)
        queue = one._queue

        def slow(params: dict[str, object], request: object) -> None:
            assert two.reconcile() == 1
            queue(params, request)

        with monkeypatch.context() as patch:
            patch.setattr(one, "_queue", slow)
            one.reconcile()
        assert [one.ask().params for _ in range(3)].count(lost.params) == 1
        assert one.spent() == 0
        assert [trial.number for trial in two.trials()] == [0, 1, 3, 4]  # 2 was withdrawn

    def test_both_queue_the_defaults(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        one, two = opened(url), opened(url)
        wanted = Params(x=0.125, kind="b")
        queue = one._queue

        def slow(params: dict[str, object], request: object) -> None:
            two.enqueue(wanted)
            queue(params, request)

        monkeypatch.setattr(one, "_queue", slow)
        one.enqueue(wanted)
        assert [one.ask().params for _ in range(4)].count(wanted) == 1

    def test_they_do_not_propose_the_same(self, url: str) -> None:
        """Also when they start together, from one seed."""
        one, two = opened(url), opened(url)
        with one.joined(), two.joined():
            asked = [study.ask().params.x for study in (one, two) for _ in range(3)]
        assert len({*asked}) == 6


def mark_dead(study: Study[Params]) -> None:
    """Let the process that holds the study's lease be one that is no more."""
    lease = study.notes()[f"driver/{study.id}"]
    study.note(f"driver/{study.id}", {**lease, "pid": ended_process()})


class TestLimit:
    def test_no_more_than_that(self, url: str) -> None:
        """What runs anywhere counts, until it is lost."""
        one, two = opened(url), opened(url)
        asked = [study.ask_within(3) for study in (one, two, one, two)]
        assert [proposal.number for proposal in asked if proposal] == [0, 1, 2]
        assert not two.is_spent(3)
        for number in (0, 1):
            two.tell(number, Completed(1.0, "t"))
        assert two.ask_within(3) is None
        two.tell(2, Broken(LOST))
        assert two.room(3) == 1
        last = two.ask_within(3)
        assert last is not None
        two.tell(last.number, Broken("no luck"))
        assert one.is_spent(3)

    def test_failures_of_the_past(self, url: str) -> None:
        """As long as all have failed none counts, but the new ones of this command do."""
        study = opened(url)
        for _ in range(2):
            study.tell(study.ask().number, Broken("the store is away"))
        with study.joined():
            limit = study.limit(3)
            for _ in range(3):
                proposal = study.ask_within(limit)
                assert proposal is not None
                study.tell(proposal.number, Broken("it still is"))
            assert study.is_spent(limit)
            assert study.spent() == 0

    def test_what_is_past_remains_so(self, url: str) -> None:
        """After failures of everything: however often the command is killed, so many count."""
        for _ in range(5):
            opened(url).tell(opened(url).ask().number, Broken("the store is away"))
        for done in range(0, 10, 3):  # is killed after three of ten
            study = opened(url)
            with study.joined():
                limit = study.limit(10)
                assert study.spent() == done
                assert study.room(limit) == 10 - done
                while study.spent() < min(done + 3, 10):
                    proposal = study.ask_within(limit)
                    assert proposal is not None
                    study.tell(proposal.number, Completed(1.0, "t"))
        assert study.is_spent(limit)
        assert trial_headline(study, 10).startswith("sweep: 10 of 10 trials, ")
        study.tell(study.ask().number, Broken("no luck"))  # is none of the past: not all failed
        with study.joined():
            assert study.spent() == 11

    def test_who_joins_means_the_same_past(self, url: str) -> None:
        """A failure of this very command is none of the past, although all have failed so far."""
        one, two = opened(url), opened(url)
        one.tell(one.ask().number, Broken("the store is away"))
        with one.joined(), two.joined():
            limit = one.limit(3)
            one.tell(one.ask().number, Broken("no luck"))
            assert two.limit(3) == limit == 4
        with two.joined():
            assert two.limit(3) == 5

    def test_of_two_that_reach_for_the_last_one_at_most_one_gets_it(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who sees too many withdraws; what was queued is queued again, and waits for its turn."""
        monkeypatch.setattr(module, "BACK_OFF_SECONDS", 0.0)
        one, two = opened(url), opened(url)
        one.enqueue(Params(x=0.125, kind="b"))
        ask = one._study.ask

        def slow() -> optuna.Trial:
            trial = ask()
            two._study.ask().set_user_attr("driver", two.id)
            return trial

        with monkeypatch.context() as patch:
            patch.setattr(one._study, "ask", slow)
            assert one.ask_within(1) is None
        assert one.ask_within(1) is None
        assert [trial.state for trial in one.trials()] == ["RUNNING"]
        again = one.ask_within(2)
        assert again is not None
        assert again.params == Params(x=0.125, kind="b")

    @pytest.mark.parametrize("storage", [journal, sqlite])
    def test_many_at_once(self, tmp_path: Path, storage: Callable[[Path], str]) -> None:
        """However many ask at the same time, so many run and no more, each once."""
        url = storage(tmp_path)
        for x in range(2):
            opened(url).enqueue(Params(x=x / 8))
        begun: list[int] = []

        def drive() -> None:
            study = opened(url)
            while not study.is_spent(6):
                proposal = study.ask_within(6)
                if proposal is not None:
                    begun.append(proposal.number)
                    study.tell(proposal.number, Completed(proposal.params.x, "t"))

        threads = [threading.Thread(target=drive) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        assert len(begun) == len({*begun}) == 6
        assert opened(url).spent() == 6
