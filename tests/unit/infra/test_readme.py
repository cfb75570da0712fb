"""infra/README: few commands from nothing to a sweep, and what they name is there."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MOST = 14  # commands
WAYS = ("One GPU box", "Four machines over ssh", "Kubernetes", "A cloud, by Ray's cluster launcher")


def commands(text: str) -> list[list[str]]:
    """The commands of each block of a section, continued lines joined."""
    blocks = re.findall(r"(?:^ {4}.*\n)+", text, flags=re.MULTILINE)
    return [re.sub(r"\\\n +", "", block).strip().splitlines() for block in blocks]


@pytest.fixture(scope="module")
def sections(infra: Path) -> dict[str, str]:
    text = (infra / "README.md").read_text()
    return dict(re.findall(r"^## (.+)\n([\s\S]*?)(?=^## |\Z)", text, flags=re.MULTILINE))


@pytest.mark.parametrize("way", WAYS)
def test_a_sweep_is_a_few_commands_away(sections: dict[str, str], way: str) -> None:
    for block in commands(sections[way]):
        assert len(block) <= MOST
        assert "ray job submit" in block[-1]
        assert "sweeps/recam_threshold.py" in block[-1]


def test_what_they_name_is_there(infra: Path) -> None:
    text = (infra / "README.md").read_text()
    named = set(re.findall(r"\b(?:infra|sweeps)/[\w./-]*\w", text))
    assert {"infra/aws/cluster.yaml", "sweeps/recam_threshold.py"} < named
    made = {"infra/container/.env", "infra/aws/cluster.env"}  # by the commands themselves
    assert [name for name in named - made if not (ROOT / name).exists()] == []


def test_flags_exist(infra: Path, unknown_flags: Callable[[str], list[str]]) -> None:
    text = "\n".join(" ".join(block) for block in commands((infra / "README.md").read_text()))
    assert unknown_flags(text) == []
