"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fuse.evaluate import Evaluation

MEASURES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "weighted_f1": "weighted F1",
    "balanced_accuracy": "balanced acc.",
}
"""Shown in percent."""

REGRESSION_MEASURES = {
    "mae": "MAE",
    "rmse": "RMSE",
    "corr": "Pearson",
    "acc2_non0": "acc2 non0",
    "f1_non0": "F1 non0",
    "acc7": "acc7",
}
"""Shown as they are."""


def comparison_table(rows: Mapping[str, Evaluation]) -> str:
    """One line a head under the line of the majority class, in percent; in regression under that of the mean.

    With folds, `+-` is the standard deviation over the folds.
    """
    first = next(iter(rows.values()))
    measures = MEASURES if first.predictions.classes else REGRESSION_MEASURES
    lines = [("majority" if measures is MEASURES else "mean", *_cells(first.majority, {}, measures))]
    for name, evaluation in rows.items():
        folds = evaluation.metrics["folds"]
        spread = {key: _spread([fold[key] for fold in folds]) for key in measures} if len(folds) > 1 else {}
        lines.append((name, *_cells(evaluation.metrics, spread, measures)))
    return aligned([("head", *measures.values()), *lines])


def _spread(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.std(known)) if known else None


def evaluation_text(name: str, evaluation: Evaluation) -> str:
    """The comparison of one head with the majority class, and its precision and recall by class, if any."""
    parts = [comparison_table({name: evaluation})]
    measures = MEASURES if evaluation.predictions.classes else REGRESSION_MEASURES
    if evaluation.predictions.classes:
        parts.append(_class_table(evaluation))
    if "valid" in evaluation.metrics:
        valid = evaluation.metrics["valid"]
        cells = zip(measures.values(), _cells(valid, {}, measures), strict=True)
        parts.append(f"on the {valid['n']} valid rows: " + ", ".join(f"{title} {cell}" for title, cell in cells))
    return "\n\n".join(parts)


def _class_table(evaluation: Evaluation) -> str:
    per_class = [("class", "precision", "recall", "F1", "rows")]
    for label, values in evaluation.metrics["per_class"].items():
        shares = (f"{100 * values[key]:.1f}" for key in ("precision", "recall", "f1"))
        per_class.append((label, *shares, str(values["support"])))
    return aligned(per_class)


def _cells(metrics: Mapping[str, Any], spread: Mapping[str, float | None], measures: Mapping[str, str]) -> list[str]:
    def shown(value: float | None) -> str:
        if value is None:
            return "-"
        return f"{100 * value:.1f}" if measures is MEASURES else f"{value:.3f}"

    return [shown(metrics[key]) + (f" +- {shown(spread[key])}" if spread else "") for key in measures]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as columns under their header, the first to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    rule = "-" * max(len(line) for line in lines)
    return "\n".join([lines[0], rule, *lines[1:]])
