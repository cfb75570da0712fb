"""PostgreSQL comes back after it was killed, whatever it left behind. Needs no other server."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local import postgres
from infra.local.layout import Layout, free_ports
from infra.local.service import Processes, Service

PASSWORD = "word"


@pytest.fixture(autouse=True)
def keys() -> None:
    """None of the whole stack, which is not started for these tests."""


@pytest.fixture
def layout() -> Iterator[Layout]:
    """With a home that is nobody's who only may run PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="life-") as home:
        yield Layout(home=Path(home), postgres_port=free_ports(1)[0])


@pytest.fixture
def run(layout: Layout) -> Iterator[Processes]:
    run = Processes(layout.home)
    yield run
    run.stop([postgres.service(layout, PASSWORD)])


def started(run: Processes, layout: Layout) -> Service:
    """PostgreSQL, after it answers."""
    postgres.prepare(layout, PASSWORD)
    service = postgres.service(layout, PASSWORD)
    assert run.start(service)
    run.wait(service)
    return service


def test_it_comes_back(run: Processes, layout: Layout) -> None:
    service = started(run, layout)
    process = run.find(service.name)
    assert process is not None
    process.kill()
    process.wait(10)  # but not for those that it started
    started(run, layout)
    process = run.find(service.name)
    assert process is not None
    process.kill()
    process.wait(10)
    lock = layout.home / "postgres" / "postmaster.pid"
    _, *rest = lock.read_text().splitlines()
    lock.write_text("\n".join([str(os.getppid()), *rest]))  # the id is another's by now
    started(run, layout)
    postgres.make_databases(layout, PASSWORD)
