"""Data in a store: locations with `s3://bucket/prefix` for a folder, which each machine fetches.

The one module beside the stages that knows the platform, and only once it meets such a location:
data in folders needs nothing of it. `s3://bucket/prefix#digest` names one content of a root, so
that all processes of a sweep read the same even if another is pushed meanwhile: its driver pins
them, and what it starts is told no other location.
"""

from __future__ import annotations

import re
from functools import cache

ROOT = re.compile(r"[A-Za-z][\w+.-]*://[^,]*")  # behind a comma begin the rules of a data set


def localised(location: str) -> str:
    """The location with the local folder of a root in a store, fetched if this machine lacks it.

    Raises the platform's StoreError, of one line, where that fails.
    """
    return ROOT.sub(lambda root: _folder(_pinned(root[0])), location)


def pinned(location: str) -> str:
    """The location with the digest of what a root in a store holds now.

    A digest that is given stays. Raises the platform's StoreError, of one line.
    """
    return ROOT.sub(lambda root: _pinned(root[0]), location)


@cache
def _pinned(root: str) -> str:
    """Once in each process, so that all splits are of the same content."""
    from stageflow.replica import pin

    return pin(root)


def _folder(root: str) -> str:
    from stageflow.replica import replica

    return str(replica(root))
