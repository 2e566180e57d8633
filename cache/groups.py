"""Which samples must stay together when rows are split."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from cache.find import KeyIndex

Links = tuple[np.ndarray, np.ndarray]
"""What joins rows: `int64 (m,)` numbers of rows, and `int64 (m,)` numbers of values that they have. Rows of one value
belong together."""


def joined_groups(n: int, columns: Iterable[Sequence[Hashable | None]]) -> np.ndarray:
    """Joins samples that share a value in any column, however long the chain.

    Args:
        n: the number of samples.
        columns: for each criterion (group column, image content, text content) `n` values;
            None joins with nothing.

    Returns:
        `int64 (n,)`, the number of the sample's group; groups are numbered by first appearance.
    """
    return linked_groups(n, [_links(column) for column in columns])


def _links(column: Sequence[Hashable | None]) -> Links:
    numbers: dict[Hashable, int] = {}
    found = [(row, numbers.setdefault(value, len(numbers))) for row, value in enumerate(column) if value is not None]
    rows, values = np.array(found, dtype=np.int64).reshape(-1, 2).T
    return rows, values


def key_links(columns: Sequence[np.ndarray]) -> Links:
    """Links of rows by the keys that they have in any of some columns.

    Args:
        columns: keys, `uint8 (n, 16)` each; zeros join with nothing.
    """
    present = [np.flatnonzero(keys.any(axis=1)) for keys in columns]
    rows = np.concatenate(present)
    keys = np.concatenate([keys[one] for keys, one in zip(columns, present, strict=True)])
    joining = KeyIndex(keys).repeated()  # few, as a rule: what stands once joins nothing
    return rows[joining], KeyIndex(keys[joining]).numbers()


def linked_groups(n: int, links: Sequence[Links]) -> np.ndarray:
    """As `joined_groups`, of rows and values that are numbers already."""
    first = np.arange(n)  # of each row, the first row that is known to belong to it
    while True:
        found = first.copy()
        for rows, values in links:
            least = np.full(int(values.max(initial=-1)) + 1, n, dtype=np.int64)
            np.minimum.at(least, values, found[rows])
            np.minimum.at(found, rows, least[values])
        found = found[found]  # what is known of that row holds for this one: chains shorten by half
        if np.array_equal(found, first):
            numbers = np.cumsum(first == np.arange(n)) - 1
            return numbers[first]
        first = found
