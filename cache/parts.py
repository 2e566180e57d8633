"""Views of many rows: these lie in files of their own, `NAME.parts/*.view.h5`, and the view itself only names them.

Each is written by whoever has read its rows, so that nobody needs all ids and labels in memory; and each is an ordinary
view's file, whose name holds a digest of its content: none is ever written over by another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from cache.errors import CacheIncomplete


@dataclass(frozen=True)
class Part:
    """Some rows of a view: the name of their file, how many they are, and the digest of what they say."""

    file: str
    rows: int
    digest: str


Opened = TypeVar("Opened")
Open = Callable[[Path], Mapping[str, np.ndarray]]
"""Opens the file of a part, for its columns or for one modality's arrays."""


class Joined(Mapping[str, np.ndarray]):
    """Columns or arrays of all parts, end to end; each is read and checked when it is first asked for.

    Args:
        paths: of the parts' files; at least one.
        names: of the arrays.
        arrays_of: gives them of one file.
    """

    def __init__(self, paths: Sequence[Path], names: Sequence[str], arrays_of: Open) -> None:
        self._paths = tuple(paths)
        self._names = tuple(names)
        self._open = arrays_of
        self._read: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._read:
            known: dict[object, object] = {}
            self._read[name] = np.concatenate(
                [_shared(open_part(self._open, path)[name], known) for path in self._paths]
            )
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def open_part(open_one: Callable[[Path], Opened], path: Path) -> Opened:
    """The file of a part, opened. Raises CacheIncomplete where it is gone."""
    try:
        return open_one(path)
    except FileNotFoundError as error:
        raise CacheIncomplete(
            f"{path} is gone: the data set was extracted anew while it was read, or the file was removed; open it "
            "again, or run extract again"
        ) from error


def _shared(values: np.ndarray, known: dict[object, object]) -> np.ndarray:
    """Texts of which equal ones are one object: labels of a million rows are a few texts."""
    if values.dtype != object:
        return values
    return np.array([known.setdefault(value, value) for value in values], dtype=object)
