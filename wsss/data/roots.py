"""Where data lies: a folder, or a root in a store (`s3://bucket/prefix`) that each machine fetches.

The one module beside the stages that knows the platform, and only once it meets such a root: data
in folders needs nothing of it. Its content is named by a digest, `s3://bucket/prefix#digest`, so
that all machines of a sweep read the same even when the root is filled anew meanwhile.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path


def local_folder(place: str) -> Path:
    """The folder on this machine with what lies at `place`, which may be absent.

    Raises the platform's StoreError, of one line, for a root in a store that cannot be fetched.
    """
    return _fetched(place) if _is_remote(place) else Path(place).expanduser()


def data_root(place: str) -> Path:
    """The same for a data set; raises ValueError where there is no such folder."""
    folder = local_folder(place)
    if not folder.is_dir():
        raise ValueError(f"data root {folder} does not exist")
    return folder


def pinned(place: str) -> str:
    """The same place for every machine: a folder in full, a root in a store with its digest."""
    if not _is_remote(place):
        return str(Path(place).expanduser().absolute())
    return place if "#" in place else f"{place.rstrip('/')}#{_fetched(place).name}"


def _is_remote(place: str) -> bool:
    return "://" in place


@cache
def _fetched(uri: str) -> Path:
    """Once in each process, so that all splits are of one content."""
    from stageflow.replica import replica

    return replica(uri)
