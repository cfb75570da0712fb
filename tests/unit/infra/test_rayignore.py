""".rayignore: what `ray job submit --working-dir .` packs, by Ray's own packaging."""

import shutil
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).resolve().parents[3]
SECRET = ("infra/container/.env", "infra/aws/cluster.env")
BULKY = (".venv/bin/python", ".git/HEAD", ".stageflow/store/a", "tests/unit/test_a.py")
CODE = ("sweeps/labels.py", "infra/container/.env.example", "infra/aws/cluster.env.example")


@pytest.mark.parametrize("include_gitignore", [True, False])
def test_secrets_stay_here(tmp_path: Path, include_gitignore: bool) -> None:
    """Even where Ray is told to pass over .gitignore."""
    checkout = tmp_path / "checkout"
    for name in (*SECRET, *BULKY, *CODE):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    shutil.copy(ROOT / ".rayignore", checkout)
    package = tmp_path / "code.zip"
    create_package(str(checkout), package, include_gitignore=include_gitignore)
    with zipfile.ZipFile(package) as opened:
        assert set(opened.namelist()) == {*CODE, ".rayignore"}
