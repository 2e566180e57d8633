"""Classification or regression: what the labels are taken for."""

from __future__ import annotations

import numpy as np

from cache import DataError, FeatureTable, UsageError, listing

CLASSIFICATION, REGRESSION = "classification", "regression"
TASKS = (CLASSIFICATION, REGRESSION)

MOST_CLASSES = 20
"""Whole numbers of more values than this are quantities, not names of classes."""


def task_of(labels: np.ndarray, asked: str | None = None) -> str:
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
    numbers = _numbers(labels)
    if not np.isfinite(numbers).all() or not len(numbers):
        return CLASSIFICATION
    whole = (numbers == np.round(numbers)).all()
    return CLASSIFICATION if whole and len(np.unique(numbers)) <= MOST_CLASSES else REGRESSION


def targets(table: FeatureTable, task: str) -> np.ndarray:
    """What heads learn from the labelled rows of a table: labels, or numbers in float64.

    Raises:
        DataError: a label of regression is no number.
    """
    if task == CLASSIFICATION:
        return table.y
    numbers = _numbers(table.y)
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        rows = [f"{id_} ({label})" for id_, label in zip(table.ids[wrong], table.y[wrong], strict=True)]
        raise DataError(
            f"regression needs numbers as labels; {len(rows)} rows of {table.name} have others: {listing(rows)}; "
            "correct them, or give --task classification"
        )
    return numbers


def _numbers(labels: np.ndarray) -> np.ndarray:
    """Each label as a number, NaN where it is none."""
    return np.array([_number(label) for label in labels], dtype=np.float64)


def _number(label: str) -> float:
    try:
        return float(label)
    except ValueError:
        return float("nan")
