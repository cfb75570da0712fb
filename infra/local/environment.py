"""What a server gets of the environment in which the stack is started."""

from __future__ import annotations

import os

KEPT = ("PATH", "LANG", "TMPDIR")
OF_MACHINE = (
    *("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH"),
    *("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"),
)


def clean_environment(**more: str) -> dict[str, str]:
    """What a server needs of this process's environment, and `more`: no other's keys leak in."""
    return {**_kept(KEPT), "NO_PROXY": "*", "PYTHONUNBUFFERED": "1", **more}


def machine_environment(*hosts: str) -> dict[str, str]:
    """What jobs need besides, to find GPUs and the way out; none to the stack itself."""
    return {**_kept(OF_MACHINE), **no_proxy(*hosts)}


def no_proxy(*hosts: str) -> dict[str, str]:
    """The variables by which nobody asks a proxy for the servers here, nor for these hosts."""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    names = [name for name in known.split(",") if name]
    names += [name for name in ("127.0.0.1", "localhost", *hosts) if name and name not in names]
    value = "*" if "*" in names else ",".join(names)
    return {"NO_PROXY": value, "no_proxy": value}


def _kept(names: tuple[str, ...]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}
