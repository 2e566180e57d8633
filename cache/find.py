"""Looks up many item keys among many, without a dictionary of all of them."""

from __future__ import annotations

import numpy as np


def find_rows(stored: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """First row of `stored` that equals each row of `wanted`; -1 where there is none.

    Args:
        stored: item keys, `uint8 (m, 16)`.
        wanted: item keys, `uint8 (n, 16)`.

    Returns:
        `int64 (n,)`.
    """
    halves = np.concatenate([stored, wanted]).view(np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: of equal keys the first stored one comes first
    ranked = halves[order]
    starts = np.ones(len(ranked), dtype=bool)
    starts[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    first = np.empty(len(ranked), dtype=np.int64)
    first[order] = order[starts][np.cumsum(starts) - 1]
    found = first[len(stored) :]
    return np.where(found < len(stored), found, -1)
