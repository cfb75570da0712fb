"""Credentials do not reach the screen."""

from pathlib import Path

import pytest

from stageflow.cli import main
from stageflow.redact import safe
from stageflow.study import Study, StudyError

URL = "postgresql+psycopg2://bob:hunter2@127.0.0.1:9/studies"


def test_what_is_cut() -> None:
    assert safe(f"no storage at {URL}") == (
        "no storage at postgresql+psycopg2://***@127.0.0.1:9/studies"
    )
    assert safe("sqlite:////home/x/studies.db") == "sqlite:////home/x/studies.db"


def test_help_does_not_show_the_environment_s_passwords(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STAGEFLOW_STUDIES", URL)
    with pytest.raises(SystemExit):
        main(["relog", "--help"])
    shown = capsys.readouterr().out
    assert "127.0.0.1" in shown
    assert "hunter2" not in shown


def test_an_error_does_not_either(tmp_path: Path) -> None:
    url = f"sqlite:///bob:hunter2@{tmp_path}/nowhere/x.db"
    for bad in (URL, url.replace(":///", "://")):
        with pytest.raises(StudyError) as raised:
            Study("x", bad, space=lambda trial: None)
        assert "hunter2" not in str(raised.value)
