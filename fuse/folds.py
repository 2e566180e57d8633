"""Rows that a head holds out of its own training rows: inner folds without a leak."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cache import FeatureTable, UsageError
from fuse.inputs import Inputs


def inner_folds(inputs: Inputs, target: np.ndarray, weight: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """Fold of each row, `int (n,)`, numbers from 0 to `folds - 1`.

    Rows of one group, or of equal content, share a fold. Within each class (of classification;
    regression has one) groups are dealt out in turn, in an order that depends on the seed and on
    the groups alone: neither the order of rows nor repeating one changes who is held out.

    Args:
        inputs: `n` rows.
        target: class numbers, or the numbers to be predicted.
        weight: of each row.
        folds: 2 or more.

    Raises:
        UsageError: fewer than two groups.
    """
    return deal(inputs.row_groups(), target, weight, folds, seed)


def held_out(table: FeatureTable, rows: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """`bool (len(rows),)`: one part in `folds` of some rows of a table, groups kept whole, classes alike."""
    kinds = np.unique(table.y[rows], return_inverse=True)[1]
    return deal(table.groups[rows], kinds, np.ones(len(rows)), folds, seed) == 0


def deal(rows: np.ndarray, target: np.ndarray, weight: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """As `inner_folds`, of rows whose groups, `int64 (n,)`, are given."""
    groups, member = np.unique(rows, return_inverse=True)
    if len(groups) < 2:
        raise UsageError(
            "rows are held out while fitting, which needs two groups of rows or more; "
            f"found {len(groups)} (n_samples={len(target)})"
        )
    kinds = target if np.issubdtype(target.dtype, np.integer) else np.zeros(len(target), dtype=np.int64)
    mass = np.zeros((len(groups), kinds.max() + 1))
    np.add.at(mass, (member, kinds), weight)
    kind = mass.argmax(axis=1)
    dealt = np.lexsort((_mixed(groups, seed), kind))
    fold = np.empty(len(groups), dtype=np.int64)
    fold[dealt] = np.arange(len(groups)) % folds
    return fold[member]


def out_of_fold(predict: Callable[[np.ndarray, np.ndarray], np.ndarray], fold: np.ndarray) -> np.ndarray:
    """Predictions of every row by a model that did not see it.

    Args:
        predict: takes row numbers to fit on and row numbers to predict, and returns the
            predictions of the latter.
        fold: of each row, from `inner_folds`.
    """
    out: np.ndarray | None = None
    for number in np.unique(fold):
        held = np.flatnonzero(fold == number)
        found = predict(np.flatnonzero(fold != number), held)
        out = np.empty((len(fold), *found.shape[1:])) if out is None else out
        out[held] = found
    if out is None:
        raise ValueError("no rows")
    return out


def _mixed(numbers: np.ndarray, seed: int) -> np.ndarray:
    """A pseudo-random number for each number (splitmix64; Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = numbers.astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
