"""What labels and splits of a data set are taken for: stage one reports it, stage two goes by it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cache.errors import UsageError, listing

CLASSIFICATION, REGRESSION = "classification", "regression"
TASKS = (CLASSIFICATION, REGRESSION)

MOST_CLASSES = 20
"""Whole numbers of more values than this are quantities, not names of classes."""

SPLITS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "dev": "valid",
    "validation": "valid",
    "test": "test",
    "testing": "test",
}
"""Names of splits as data sets give them, and what they mean."""


def task_of(labels: Sequence[str] | np.ndarray, asked: str | None = None) -> str:
    """The task that `n` labels, texts, are for.

    Regression where every label is a number and some are not whole or there are more than 20
    different ones; else classification.

    Args:
        labels: of the labelled rows.
        asked: what the user says it is; None looks at the labels.

    Raises:
        UsageError: there is no such task.
    """
    if asked is not None:
        if asked not in TASKS:
            raise UsageError(f"there is no task {asked!r}; choose one of {listing(TASKS)}")
        return asked
    numbers = label_numbers(labels)
    if not np.isfinite(numbers).all() or not len(numbers):
        return CLASSIFICATION
    whole = (numbers == np.round(numbers)).all()
    return CLASSIFICATION if whole and len(np.unique(numbers)) <= MOST_CLASSES else REGRESSION


def label_numbers(labels: Sequence[str] | np.ndarray) -> np.ndarray:
    """Each of `n` labels as a number, `float64 (n,)`, NaN where it is none."""
    return np.array([_number(label) for label in labels], dtype=np.float64)


def _number(label: str) -> float:
    try:
        return float(label)
    except ValueError:
        return float("nan")
