"""The content of files as digests, which tell data and weights apart wherever they lie.

A file is read once in a process, as long as nobody touches it: pipelines ask for each of their
nodes.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path


def digest_of(files: tuple[Path, ...]) -> str:
    """SHA-256 of the digests of files, in this order."""
    return hashlib.sha256(b"".join(bytes.fromhex(sha256_of(path)) for path in files)).hexdigest()


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits. Raises OSError."""
    state = file.stat()
    return _sha256(file, state.st_size, state.st_mtime_ns)


@cache
def _sha256(file: Path, size: int, changed: int) -> str:
    """Of the file as it is since it `changed`."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
