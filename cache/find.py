"""Looks up many item keys among many, without a dictionary of all of them."""

from __future__ import annotations

import numpy as np

AT_ONCE = 2**18
"""Keys that are looked up at the same time: what is kept of each for a while is several times the key."""


class KeyIndex:
    """Item keys, sorted once, to be asked for often.

    Args:
        stored: item keys, `uint8 (m, 16)`.
    """

    def __init__(self, stored: np.ndarray) -> None:
        halves = np.ascontiguousarray(stored, dtype=np.uint8).view(np.uint64).reshape(-1, 2)
        # Stable: of equal keys the first stored one comes first.
        self._order = np.lexsort((halves[:, 1], halves[:, 0]))
        self._high, self._low = halves[self._order, 0], halves[self._order, 1]

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """First row of the stored keys that equals each row of `wanted`, `uint8 (n, 16)`; -1 where there is none.

        Returns:
            `int64 (n,)`.
        """
        rows = np.empty(len(wanted), dtype=np.int64)
        for start in range(0, len(wanted), AT_ONCE):
            rows[start : start + AT_ONCE] = self._find(wanted[start : start + AT_ONCE])
        return rows

    def numbers(self) -> np.ndarray:
        """The number of each stored key, `int64 (m,)`: equal keys have the same one, and numbers have no order."""
        found = np.empty(len(self._order), dtype=np.int64)
        found[self._order] = np.cumsum(self._starts()) - 1
        return found

    def first(self) -> np.ndarray:
        """Rows of the stored keys that do not stand before, ascending, `int64`."""
        return np.sort(self._order[self._starts()])

    def repeated(self) -> np.ndarray:
        """Rows of the stored keys that stand more than once, ascending, `int64`."""
        starts = self._starts()
        alone = starts & np.append(starts[1:], True)
        return np.sort(self._order[~alone])

    def _starts(self) -> np.ndarray:
        """Where another key begins in their order, `bool (m,)`."""
        starts = np.ones(len(self._order), dtype=bool)
        starts[1:] = (self._high[1:] != self._high[:-1]) | (self._low[1:] != self._low[:-1])
        return starts

    def _find(self, wanted: np.ndarray) -> np.ndarray:
        halves = np.ascontiguousarray(wanted, dtype=np.uint8).view(np.uint64).reshape(-1, 2)
        rows = np.full(len(halves), -1, dtype=np.int64)
        place = np.searchsorted(self._high, halves[:, 0])
        asked = np.arange(len(halves))
        while len(asked):  # once, but for keys whose first halves are equal
            asked = asked[place[asked] < len(self._high)]
            asked = asked[self._high[place[asked]] == halves[asked, 0]]
            equal = self._low[place[asked]] == halves[asked, 1]
            rows[asked[equal]] = self._order[place[asked[equal]]]
            asked = asked[~equal]
            place[asked] += 1
        return rows


def find_rows(stored: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """First row of `stored` that equals each row of `wanted`; -1 where there is none.

    Args:
        stored: item keys, `uint8 (m, 16)`.
        wanted: item keys, `uint8 (n, 16)`.

    Returns:
        `int64 (n,)`.
    """
    return KeyIndex(stored).find(wanted)
