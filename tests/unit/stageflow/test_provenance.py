"""Which code and which libraries made a number."""

import re
from pathlib import Path

import pytest

from stageflow import provenance


def test_commit_is_the_repository_s_or_a_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(provenance.COMMIT_VARIABLE, raising=False)
    provenance.commit.cache_clear()
    assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?|source:[0-9a-f]{12}", provenance.commit())


def test_without_a_repository_the_source_is_digested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(provenance.COMMIT_VARIABLE, raising=False)
    monkeypatch.setattr(provenance, "_git", lambda *arguments: None)
    provenance.commit.cache_clear()
    first = provenance.commit()
    provenance.commit.cache_clear()
    assert first == provenance.commit()
    assert re.fullmatch(r"source:[0-9a-f]{12}", first)
    provenance.commit.cache_clear()


def test_a_driver_tells_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(provenance.COMMIT_VARIABLE, "abc")
    provenance.commit.cache_clear()
    assert provenance.commit() == "abc"
    provenance.commit.cache_clear()


def test_versions_of_what_is_installed() -> None:
    found = provenance.libraries()
    assert found["torch"].startswith("2.")
    assert set(found) <= set(provenance.LIBRARIES)


def test_the_command_is_told_as_it_would_be_typed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    script = str(tmp_path / "sweeps" / "x.py")
    monkeypatch.setattr("sys.argv", [script, "--score=train[::4]", "--plan"])
    assert provenance.command() == "sweeps/x.py '--score=train[::4]' --plan"
    monkeypatch.chdir("/")
    monkeypatch.setattr("sys.argv", ["elsewhere/x.py"])
    assert provenance.command() == "elsewhere/x.py"
