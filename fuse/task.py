"""Classification or regression: what heads learn from the labels."""

from __future__ import annotations

import numpy as np

from cache import CLASSIFICATION, REGRESSION, TASKS, DataError, FeatureTable, label_numbers, listing, task_of

__all__ = ["CLASSIFICATION", "REGRESSION", "TASKS", "targets", "task_of"]


def targets(table: FeatureTable, task: str) -> np.ndarray:
    """What heads learn from the labelled rows of a table: labels, or numbers in float64.

    Raises:
        DataError: a label of regression is no number.
    """
    if task == CLASSIFICATION:
        return table.y
    numbers = label_numbers(table.y)
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        rows = [f"{id_} ({label})" for id_, label in zip(table.ids[wrong], table.y[wrong], strict=True)]
        raise DataError(
            f"regression needs numbers as labels; {len(rows)} rows of {table.name} have others: {listing(rows)}; "
            "correct them, or give --task classification"
        )
    return numbers
