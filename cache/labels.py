"""What labels and splits of a data set are taken for: stage one reports it, stage two goes by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from cache.errors import DataError, UsageError, listing

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
        DataError: most labels are quantities and some are words; one number is written in two ways as a class.
    """
    if asked is not None and asked not in TASKS:
        raise UsageError(f"there is no task {asked!r}; choose one of {listing(TASKS)}")
    task = asked or _looks_like(labels)
    if task == CLASSIFICATION:
        _refuse_two_spellings(labels)
    return task


def _looks_like(labels: Sequence[str] | np.ndarray) -> str:
    numbers = label_numbers(labels)
    known = numbers[np.isfinite(numbers)]
    quantities = bool((known != np.round(known)).any()) or len(np.unique(known)) > MOST_CLASSES
    if not quantities or len(known) * 2 <= len(labels):
        return CLASSIFICATION
    if len(known) < len(labels):
        words = Counter(np.asarray(labels, dtype=object)[~np.isfinite(numbers)].tolist())
        shown = listing([f"{word!r} ({count} rows)" for word, count in words.most_common()], 5)
        raise DataError(
            f"{len(known)} of {len(labels)} labels are numbers such as {known[0]:g}, the others are not: {shown}; "
            "correct these or leave them empty, or give --task classification if each is the name of a class"
        )
    return REGRESSION


def _refuse_two_spellings(labels: Sequence[str] | np.ndarray) -> None:
    """As classes, 1 and 1.0 would be two."""
    counts = Counter(np.asarray(labels, dtype=object).tolist())
    first: dict[float, str] = {}
    for label, number in zip(counts, label_numbers(list(counts)).tolist(), strict=True):
        other = first.setdefault(number, label)
        if other != label and np.isfinite(number):
            raise DataError(
                f"the labels {other!r} ({counts[other]} rows) and {label!r} ({counts[label]} rows) are one number in "
                "two spellings, and would be two classes; write them in one way"
            )


def label_numbers(labels: Sequence[str] | np.ndarray) -> np.ndarray:
    """Each of `n` labels as a number, `float64 (n,)`, NaN where it is none."""
    return np.array([_number(label) for label in labels], dtype=np.float64)


def _number(label: str) -> float:
    try:
        return float("nan" if "_" in label else label)  # 2024_01 is none, though Python reads 202401
    except ValueError:
        return float("nan")
