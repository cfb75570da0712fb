"""A file of results in Markdown, with one section for each command that writes to it.

A section begins with its heading, "## ...", and ends before the next one. What a command writes
takes the place of its earlier section and leaves all others as they are.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

PREAMBLE = "# Results\n\nEach section was written by the command that it names.\n"


def write_section(file: Path, text: str) -> None:
    """Put `text`, which begins with its "## heading", into `file` in place of the like-named one.

    The file appears whole or not at all. Raises ValueError for a text without a heading.
    """
    heading = text.partition("\n")[0]
    if not heading.startswith("## "):
        raise ValueError(f"results begin with {heading[:40]!r}: begin them with '## ' and a title")
    before, sections = _read(file)
    sections[heading] = text.strip() + "\n"
    whole = "\n".join([before.strip() + "\n", *sections.values()])
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as new:
        new.write(whole)
    os.chmod(new.name, 0o644)
    os.replace(new.name, file)


def _read(file: Path) -> tuple[str, dict[str, str]]:
    """What precedes the sections, and the sections by their headings."""
    if not file.exists():
        return PREAMBLE, {}
    before, *sections = re.split(r"^(?=## )", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return before, {part.partition("\n")[0]: part.strip() + "\n" for part in sections}
