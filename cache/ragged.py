"""Rows of different lengths: the token vectors of each item, laid end to end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """`n` items of which item `i` has `T_i` vectors of `D` columns; neither padded nor nested.

    `values` has shape `(sum_T, D)`; item `i` is `values[offsets[i]:offsets[i + 1]]`. `offsets`
    is `int64 (n + 1,)`.
    """

    values: np.ndarray
    offsets: np.ndarray

    @staticmethod
    def of(items: Sequence[np.ndarray]) -> Ragged:
        """Lays matrices of shape `(T_i, D)` end to end; at least one."""
        return Ragged(np.concatenate(items), offsets_of(np.array([len(item) for item in items], dtype=np.int64)))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        """The vectors of one item, `(T, D)`."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """`int64 (n,)`: how many vectors each item has."""
        return np.diff(self.offsets)

    @property
    def shape(self) -> tuple[int, int]:
        """`n` and `D`."""
        return len(self), self.values.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """Type of the vectors."""
        return self.values.dtype

    def take(self, rows: np.ndarray) -> Ragged:
        """The chosen items, in the order of `rows`."""
        rows = np.arange(len(self))[rows]  # as numpy indexes: negative ones, and a mask
        lengths = self.lengths[rows]
        offsets = offsets_of(lengths)
        # For each vector of the result its place here: the item's start, and how far into the item.
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Ragged(np.asarray(self.values[np.repeat(self.offsets[rows], lengths) + within]), offsets)

    def astype(self, dtype: np.dtype) -> Ragged:
        """The same items in another type."""
        return Ragged(self.values.astype(dtype, copy=False), self.offsets)


Values = np.ndarray | Ragged
"""What an output of an encoder is: a matrix `(n, D)`, or `n` items of different lengths."""


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Where items of these lengths start when they are laid end to end, and where the last one ends."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def take_items(values: Values, rows: np.ndarray) -> Values:
    """The chosen items of a matrix or of ragged ones."""
    return values.take(rows) if isinstance(values, Ragged) else values[rows]


def join_items(parts: Sequence[Values]) -> Values:
    """The items of all parts, in order; at least one part."""
    if len(parts) == 1:
        return parts[0]
    ragged = [part for part in parts if isinstance(part, Ragged)]
    if not ragged:
        return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
    lengths = np.concatenate([part.lengths for part in ragged])
    return Ragged(np.concatenate([part.values for part in ragged]), offsets_of(lengths))


def take_rows(sources: Sequence[Values], source: np.ndarray, row: np.ndarray) -> Values:
    """Items `row[i]` of `sources[source[i]]` in this order."""
    used = np.unique(source)
    if len(used) <= 1:
        return take_items(sources[used[0] if len(used) else 0], row)
    first = sources[0]
    if not isinstance(first, Ragged):
        out = np.empty((len(row), first.shape[1]), dtype=first.dtype)
        for number in used:
            chosen = source == number
            out[chosen] = sources[number][row[chosen]]
        return out
    parts = [take_items(sources[number], row[source == number]) for number in used]
    places = np.argsort(np.concatenate([np.flatnonzero(source == number) for number in used]))
    ragged = [part for part in parts if isinstance(part, Ragged)]
    lengths = np.concatenate([part.lengths for part in ragged])
    return Ragged(np.concatenate([part.values for part in ragged]), offsets_of(lengths)).take(places)
