"""Which samples must stay together when rows are split."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np


def joined_groups(n: int, columns: Iterable[Sequence[Hashable | None]]) -> np.ndarray:
    """Joins samples that share a value in any column, however long the chain.

    Args:
        n: the number of samples.
        columns: for each criterion (group column, image content, text content) `n` values;
            None joins with nothing.

    Returns:
        `int64 (n,)`, the number of the sample's group; groups are numbered by first appearance.
    """
    parent = list(range(n))

    def root(sample: int) -> int:
        while parent[sample] != sample:
            parent[sample] = parent[parent[sample]]
            sample = parent[sample]
        return sample

    for column in columns:
        first: dict[Hashable, int] = {}
        for sample, value in enumerate(column):
            if value is None:
                continue
            a, b = root(first.setdefault(value, sample)), root(sample)
            parent[max(a, b)] = min(a, b)
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(root(sample), len(numbers)) for sample in range(n)], dtype=np.int64)
