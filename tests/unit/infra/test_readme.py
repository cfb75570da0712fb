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
    joined = (re.sub(r"\\\n +", "", block) for block in blocks)
    return [[line.strip() for line in block.splitlines()] for block in joined]


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


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_taken_for_granted(sections: dict[str, str], way: str) -> None:
    """The checkout, its environment, and data in the bucket, before who needs them."""
    first = commands(sections[way])[0]
    assert first[0].startswith("git clone ")
    [active] = [place for place, line in enumerate(first) if ". .venv/bin/activate" in line]
    assert re.search(r"\bmake (setup|stack)\b", "\n".join(first[:active]))
    rays = [place for place, line in enumerate(first) if re.search(r"\bray [a-z]", line)]
    assert active < rays[0]
    for data in re.findall(r"--data voc2012:(s3://\S+)", first[-1]):
        [pushed] = [place for place, line in enumerate(first) if "stageflow push " in line]
        assert data in first[pushed]
        assert active < pushed < rays[0]


def test_the_head_is_waited_for(sections: dict[str, str]) -> None:
    [lines] = commands(sections["Kubernetes"])
    waited, forwarded = (
        next(place for place, line in enumerate(lines) if f"kubectl {verb}" in line)
        for verb in ("wait --for=condition=HeadPodReady", "port-forward")
    )
    assert waited < forwarded


def test_an_editor_that_nobody_named(infra: Path) -> None:
    """Without it the file itself would be run."""
    assert not re.search(r"\$EDITOR|\$\{EDITOR\}", (infra / "README.md").read_text())


def test_the_front_page_hands_out_the_passwords() -> None:
    [block] = [b for b in commands((ROOT / "README.md").read_text()) if "make stack " in b[0]]
    assert block[1].startswith(". ~/.stageflow/stack/environment.sh")
    assert block[2].startswith("ray job submit ")


def test_what_they_name_is_there(infra: Path) -> None:
    text = (infra / "README.md").read_text()
    named = set(re.findall(r"\b(?:infra|sweeps)/[\w./-]*\w", text))
    assert {"infra/aws/cluster.yaml", "sweeps/recam_threshold.py"} < named
    made = {"infra/container/.env", "infra/aws/cluster.env"}  # by the commands themselves
    assert [name for name in named - made if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("name", ["README.md", "infra/README.md"])
def test_flags_exist(unknown_flags: Callable[[str], list[str]], name: str) -> None:
    blocks = commands((ROOT / name).read_text())
    lines = [line for block in blocks for line in block]
    assert "ray job submit" in "\n".join(lines)
    assert unknown_flags("\n".join(lines)) == []
