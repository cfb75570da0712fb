"""Claims: one of several drivers has an artifact, until it gives it back or dies."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from stageflow import claim
from stageflow.claim import Claims, new_driver
from stageflow.liveness import whereabouts
from stageflow.store import FolderStore, NotFound, StoreError


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def drivers(store: FolderStore) -> list[Claims]:
    return [Claims(store, new_driver()) for _ in range(2)]


def test_one_has_it_and_the_other_hears_who(drivers: list[Claims]) -> None:
    one, two = drivers
    with one.living(), two.living():
        assert one.take("key") == ""
        assert two.take("key") == f"process {whereabouts()['pid']} on {whereabouts()['host']}"
        assert one.take("key") == "", "it is still its own"
        assert two.take("another key") == ""


def test_given_back_it_is_free(drivers: list[Claims]) -> None:
    one, two = drivers
    with one.living(), two.living():
        one.take("key")
        one.give_back("key")
        assert two.take("key") == ""
        assert one.take("key") != ""


def test_a_driver_that_ended_holds_nothing(drivers: list[Claims]) -> None:
    one, two = drivers
    with one.living():
        one.take("key")
    with two.living():
        assert two.take("key") == ""


def test_one_that_fell_silent_loses_it_once(
    store: FolderStore, drivers: list[Claims], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "BEAT_SECONDS", 1e9)
    monkeypatch.setattr(claim, "LEASE_SECONDS", 0.0)
    silent = Claims(store, new_driver())
    with ExitStack() as stack:
        for each in (silent, *drivers):
            stack.enter_context(each.living())
        silent.take("key")
        for each in drivers:
            assert each.take("key") != "", "it was seen for the first time just now"
        assert drivers[0].take("key") == ""
        monkeypatch.setattr(claim, "LEASE_SECONDS", 1e9)
        assert drivers[1].take("key") != "", "the other has taken it over"
        assert drivers[0].take("key") == ""


def test_a_killed_process_needs_no_waiting(store: FolderStore, drivers: list[Claims]) -> None:
    dead = Claims(store, new_driver())
    dead.take("key")
    store.create(dead.me, json.dumps({**whereabouts(), "pid": 2**22 + 1, "beat": 3}).encode())
    with drivers[0].living():
        assert drivers[0].take("key") == ""
        with pytest.raises(NotFound):
            store.read(dead.me)


def test_of_many_at_once_one_wins(store: FolderStore) -> None:
    many = [Claims(store, new_driver()) for _ in range(8)]
    ready = threading.Barrier(len(many))

    def take(claims: Claims) -> bool:
        ready.wait()
        return claims.take("key") == ""

    with ExitStack() as stack, ThreadPoolExecutor(len(many)) as pool:
        for each in many:
            stack.enter_context(each.living())
        assert sum(pool.map(take, many)) == 1


def test_the_beat_goes_on(drivers: list[Claims], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "BEAT_SECONDS", 0.01)
    one, _ = drivers
    with one.living():
        first = one.store.read(one.me)
        until = threading.Event()
        while one.store.read(one.me) == first:
            assert not until.wait(0.01)
    with pytest.raises(NotFound):
        one.store.read(one.me)


def test_nothing_is_left(store: FolderStore, drivers: list[Claims]) -> None:
    one, _ = drivers
    with one.living():
        one.take("key")
        one.give_back("key")
    assert list(store.list("")) == []


class Unsteady:
    """A store that is away when it is told to be."""

    def __init__(self, store: FolderStore) -> None:
        self.store, self.away = store, False

    def __getattr__(self, name: str) -> Any:
        if self.away:
            raise StoreError("the store is away")
        return getattr(self.store, name)


class TestWhileTheStoreIsAway:
    @pytest.fixture
    def unsteady(self, store: FolderStore) -> Unsteady:
        return Unsteady(store)

    @pytest.fixture
    def claims(self, unsteady: Unsteady) -> Claims:
        return Claims(unsteady, new_driver())  # type: ignore[arg-type]

    def test_one_waits(self, unsteady: Unsteady, claims: Claims) -> None:
        unsteady.away = True
        assert claims.take("key") == "nobody knows who (the store is away)"
        assert claims.holder("key") == "nobody knows who (the store is away)"
        unsteady.away = False
        assert claims.take("key") == ""

    def test_but_not_for_ever(
        self, unsteady: Unsteady, claims: Claims, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(claim, "PATIENCE_SECONDS", 0.0)
        unsteady.away = True
        claims.take("key")
        with pytest.raises(StoreError, match="away"):
            claims.take("key")

    def test_a_claim_is_given_back_later(
        self,
        unsteady: Unsteady,
        claims: Claims,
        store: FolderStore,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """At the next beat, so that nobody waits for work that nobody does."""
        monkeypatch.setattr(claim, "BEAT_SECONDS", 0.01)
        with claims.living():
            claims.take("key")
            unsteady.away = True
            claims.give_back("key")
            assert list(store.list("claims/")) != []
            unsteady.away = False
            until = threading.Event()
            while [*store.list("claims/")]:
                assert not until.wait(0.01)

    def test_the_beat_outlasts_it(
        self,
        unsteady: Unsteady,
        claims: Claims,
        store: FolderStore,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Whatever fails on the way: the store, or a disk without room for the file."""
        monkeypatch.setattr(claim, "BEAT_SECONDS", 0.01)
        failing = iter([OSError("no room"), StoreError("away")])
        write = Claims._write_beat

        def write_beat(self: Claims, count: int) -> None:
            if count > 0 and (error := next(failing, None)):
                raise error
            write(self, count)

        monkeypatch.setattr(Claims, "_write_beat", write_beat)
        with claims.living():
            first, until = store.read(claims.me), threading.Event()
            while store.read(claims.me) == first:
                assert not until.wait(0.01)
            unsteady.away = True  # at the end, too, nothing is raised


def test_who_wakes_up_late_takes_nothing_from_others(
    drivers: list[Claims], store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim was taken over; giving it back leaves the new one, and its beat is still there."""
    monkeypatch.setattr(claim, "BEAT_SECONDS", 1e9)
    monkeypatch.setattr(claim, "LEASE_SECONDS", 0.0)
    late, other = drivers
    with late.living(), other.living():
        late.take("key")
        other.take("key")
        assert other.take("key") == ""
        assert store.read(late.me)
        late.give_back("key")
        monkeypatch.setattr(claim, "LEASE_SECONDS", 1e9)
        assert late.take("key") != ""
        assert other.holder("key") == ""
