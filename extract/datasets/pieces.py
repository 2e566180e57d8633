"""Files within larger ones, where they lie one after another, and files that came over a network."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from extract.manifest import Piece


@dataclass(frozen=True, slots=True)
class Slice(Piece):
    """`size` bytes from the byte `start` of a file: a member of a tar, a cell of an Arrow file."""

    path: str
    start: int
    size: int
    called: str

    @property
    def name(self) -> str:
        """The name of the larger file, and its own there."""
        return self.called

    def read(self) -> bytes:
        """Its bytes. Raises OSError: the larger file is gone, or shorter than it was."""
        with open(self.path, "rb") as file:
            file.seek(self.start)
            raw = file.read(self.size)
        if len(raw) != self.size:
            raise OSError(errno.EIO, f"{self.path} is shorter than it was", self.path)
        return raw


@dataclass(frozen=True, slots=True)
class Held(Piece):
    """A file in memory which keeps its name."""

    content: bytes
    called: str

    @property
    def name(self) -> str:
        """Its name where it came from."""
        return self.called

    def read(self) -> bytes:
        """Its bytes."""
        return self.content
