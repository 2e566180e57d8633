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


def comparison_table(rows: Mapping[str, Evaluation]) -> str:
    """One line a head under the line of the majority class, in percent.

    With folds, `+-` is the standard deviation over the folds.
    """
    first = next(iter(rows.values()))
    lines = [("majority", *_cells(first.majority, {}))]
    for name, evaluation in rows.items():
        folds = evaluation.metrics["folds"]
        spread = {key: float(np.std([fold[key] for fold in folds])) for key in MEASURES} if len(folds) > 1 else {}
        lines.append((name, *_cells(evaluation.metrics, spread)))
    return _aligned([("head", *MEASURES.values()), *lines])


def evaluation_text(name: str, evaluation: Evaluation) -> str:
    """The comparison of one head with the majority class, and its precision and recall by class."""
    per_class = [("class", "precision", "recall", "F1", "rows")]
    for label, values in evaluation.metrics["per_class"].items():
        shares = (f"{100 * values[key]:.1f}" for key in ("precision", "recall", "f1"))
        per_class.append((label, *shares, str(values["support"])))
    parts = [comparison_table({name: evaluation}), _aligned(per_class)]
    if "valid" in evaluation.metrics:
        valid = evaluation.metrics["valid"]
        parts.append(
            f"on the {valid['n']} valid rows: "
            + ", ".join(f"{title} {100 * valid[key]:.1f}" for key, title in MEASURES.items())
        )
    return "\n\n".join(parts)


def _cells(metrics: Mapping[str, Any], spread: Mapping[str, float]) -> list[str]:
    return [f"{100 * metrics[key]:.1f}" + (f" +- {100 * spread[key]:.1f}" if spread else "") for key in MEASURES]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    rule = "-" * max(len(line) for line in lines)
    return "\n".join([lines[0], rule, *lines[1:]])
