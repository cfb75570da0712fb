"""Files that people take away from a sweep: predictions as PNGs, an archive for a test server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stageflow.artifact import folder_of
from stageflow.stage import Node

SHOWN = 8  # digits of a key, as on the board


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """An artifact to take away.

    Attributes:
        name: what it is, in a few words: "predictions on voc2012 test".
        node: the node whose files it is.
    """

    name: str
    node: Node

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.name.isprintable():
            raise ValueError(f"product {self.name!r} of {self.node.name}: name it in one line")

    @property
    def folder(self) -> str:
        """Where it lies in every store."""
        return folder_of(self.node)

    @property
    def command(self) -> str:
        """How to get its files."""
        return fetch_command(self.folder)


def fetch_command(folder: str) -> str:
    """How to get the files of the artifact in `<stage>/<key>`."""
    stage, _, key = folder.rpartition("/")
    return f"stageflow fetch {stage}/{key[:SHOWN]} FOLDER"


def listing(products: Mapping[str, str]) -> str:
    """A list in Markdown of how to get each: names, and where they lie as `<stage>/<key>`."""
    return "".join(f"- {name}: `{fetch_command(place)}`\n" for name, place in products.items())
