"""The checks that others here rely on see what is wrong, and are not passed over unseen."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ray begin", ["ray begin"]),
        ("ray start --heads", ["ray start --heads"]),
        ("ray start --num-cpus 4 --nonsense", ["ray start --nonsense"]),
        ("ray up x.yaml --nonsense", ["ray up --nonsense"]),
        ("ray job nonsense", ["ray job nonsense"]),
        (
            "ray job submit --runtime-envv X --nonsense",
            ["ray job submit --runtime-envv", "ray job submit --nonsense"],
        ),
        ("A=1 .venv/bin/ray stop --now && ray up x.yaml", ["ray stop --now"]),
        ("ray start --head \\\n  --nonsense=3 &", ["ray start --nonsense"]),
        ("ray start --head\nray begin  # it's wrong", ["ray begin"]),
        ("ray job submit --working-dir . -- sweeps/labels.py --trials 3", []),
        ("ray get-auth-token --generate; other --nonsense", []),
    ],
)
def test_commands_of_ray(
    unknown_flags: Callable[[str], list[str]], text: str, told: list[str]
) -> None:
    assert unknown_flags(text) == told


def test_a_missing_checker_fails_in_continuous_integration(
    tool: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no such-tool"):
        tool("such-tool")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no such-tool"):
        tool("such-tool")
