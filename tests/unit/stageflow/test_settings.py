"""Where things are kept: by flags, else by the environment, else at home."""

from __future__ import annotations

from pathlib import Path

import pytest

from stageflow.options import OptionError, from_flags
from stageflow.settings import Settings, home
from stageflow.store import FolderStore, StoreError

VARIABLES = ("STAGEFLOW_STORE", "STAGEFLOW_STUDIES", "MLFLOW_TRACKING_URI")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_home(monkeypatch: pytest.MonkeyPatch, private_home: Path, tmp_path: Path) -> None:
    """STAGEFLOW_HOME, also below the user's own, or relative; else the usual place."""
    assert home() == private_home / ".stageflow"
    monkeypatch.chdir(tmp_path)
    for value, expected in (
        ("~/elsewhere", private_home / "elsewhere"),
        ("relative", tmp_path / "relative"),
        ("", private_home / ".stageflow"),
    ):
        monkeypatch.setenv("STAGEFLOW_HOME", value)
        assert home() == expected


def test_embedded(private_home: Path) -> None:
    """With nothing set, everything is at home, and nothing is started or asked for."""
    settings = Settings()
    at = private_home / ".stageflow"
    assert settings.store == str(at / "store")
    assert settings.studies == f"sqlite:///{at}/studies.db"
    assert settings.tracking == f"sqlite:///{at}/mlflow.db"
    assert (settings.executor, settings.on_stale, settings.concurrent) == ("ray", "ask", 0)
    assert not at.exists()


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    values = ("s3://bucket/prefix", "postgresql://host/db", "http://host:5000")
    for name, value in zip(VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.store, settings.studies, settings.tracking) == values
    assert from_flags(settings, {"store": "/data"}).store == "/data"


def test_empty_variables_are_not_set(monkeypatch: pytest.MonkeyPatch, private_home: Path) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    assert Settings().store == str(private_home / ".stageflow" / "store")
    assert Settings().studies.startswith("sqlite:///")


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("executor", "slurm", "--executor is 'slurm': choose from ray, local"),
        ("on_stale", "maybe", "--on-stale is 'maybe': choose from ask, rerun, keep"),
        ("concurrent", "-1", "--concurrent: concurrent is -1: give zero or more trials"),
        ("concurrent", "all", "--concurrent is 'all': it takes INTEGER"),
    ],
)
def test_mistakes(flag: str, value: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        from_flags(Settings(), {flag: value})
    assert str(caught.value).startswith(message)


def test_artifacts(tmp_path: Path, private_home: Path) -> None:
    artifacts = Settings(store=str(tmp_path / "store")).artifacts()
    assert artifacts.store == FolderStore(tmp_path / "store")
    assert artifacts.cache == private_home / ".stageflow" / "cache"


def test_unreachable_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"/file"):
        Settings(store=str(tmp_path / "file" / "store")).open_store()
