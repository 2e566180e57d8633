"""Looks up many item keys among many, without a dictionary of all of them."""

from __future__ import annotations

import numpy as np


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
