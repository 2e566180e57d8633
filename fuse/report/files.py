"""The files of a run: `metrics.json` and `predictions.csv`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cache import replacing
from fuse.evaluate import Predictions


def probability_columns(classes: Sequence[str]) -> list[str]:
    """Names of the probability columns, one a class."""
    return [f"p_{label}" for label in classes]


def write_predictions(
    path: Path, ids: np.ndarray, label: np.ndarray, proba: np.ndarray, classes: Sequence[str]
) -> None:
    """Writes `id, label, p_<class>...`, one row a sample; in regression the label is a number and all there is.

    Args:
        path: the file, replaced as a whole.
        ids: `n` ids.
        label: `n` predicted labels.
        proba: shape `(n, K)`.
        classes: K labels in the order of the columns.
    """
    rows = ([id_, _label(name), *_numbers(p)] for id_, name, p in zip(ids, label, proba, strict=True))
    _write(path, ["id", "label", *probability_columns(classes)], rows)


def write_judged(path: Path, ids: np.ndarray, predictions: Predictions) -> None:
    """Writes the same columns for rows whose label is known, with `true` and `fold` behind them."""
    columns = zip(
        ids[predictions.rows], predictions.label, predictions.proba, predictions.true, predictions.fold, strict=True
    )
    rows = ([id_, _label(label), *_numbers(proba), _label(true), fold] for id_, label, proba, true, fold in columns)
    _write(path, ["id", "label", *probability_columns(predictions.classes), "true", "fold"], rows)


def _label(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _numbers(proba: np.ndarray) -> list[str]:
    return [f"{value:.6f}" for value in proba]


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
