"""Sections of a results file: replaced by name, kept otherwise."""

from pathlib import Path

import pytest

from stageflow.results import write_section


def test_a_section_is_added_and_replaced_and_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    write_section(file, "## one\n\nfirst\n")
    write_section(file, "## two\n\n### part of two\n\n| a |\n")
    write_section(file, "## one\n\nagain")
    assert file.read_text() == (
        "# Results\n\nEach section was written by the command that it names.\n\n"
        "## one\n\nagain\n\n## two\n\n### part of two\n\n| a |\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["RESULTS.md", "home"]


def test_what_people_wrote_before_the_sections_stays(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    file.write_text("# Ours\n\nRead this.\n\n## old\n\nx\n")
    write_section(file, "## new\n\ny\n")
    assert file.read_text() == "# Ours\n\nRead this.\n\n## old\n\nx\n\n## new\n\ny\n"


def test_a_text_needs_a_heading(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="begin them with '## ' and a title"):
        write_section(tmp_path / "RESULTS.md", "| a | b |\n")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
