"""Judges a head on a data set: fits it per fold, keeps every prediction, computes the metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone

from cache import FeatureTable, Progress, silent
from fuse.estimators import FusionClassifier
from fuse.metrics import classification_metrics
from fuse.splits import Fold, Protocol


@dataclass(frozen=True)
class Predictions:
    """Out-of-sample predictions of `n` rows.

    `rows` are row numbers of the table, `fold` names; `proba` has shape `(n, K)`, its columns in
    the order of `classes`; `majority` is what the most frequent training label would predict.
    """

    rows: np.ndarray
    fold: np.ndarray
    true: np.ndarray
    label: np.ndarray
    proba: np.ndarray
    majority: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """Everything that a report needs of one head on one data set."""

    predictions: Predictions
    metrics: dict[str, Any]
    majority: dict[str, Any]
    model: FusionClassifier


def evaluate(
    classifier: FusionClassifier, table: FeatureTable, protocol: Protocol, progress: Progress = silent
) -> Evaluation:
    """Fits a clone of `classifier` a fold and judges it on the rows that it did not see.

    The model that is kept was fitted on the training split where the data gives one, else on
    all rows of `table`.

    Args:
        classifier: not fitted itself.
        table: labelled rows only.
        protocol: of the same table.
        progress: told after each fit.
    """
    rounds = [*protocol.judged, *protocol.also]
    kfold = len(protocol.judged) > 1
    total = len({id(fold.train) for fold in rounds}) + kfold
    models: dict[int, FusionClassifier] = {}
    y, parts = table.y, []
    for fold in rounds:
        if id(fold.train) not in models:
            models[id(fold.train)] = clone(classifier).fit(table[fold.train], y[fold.train])
            progress("fit", len(models), total)
        parts.append(_predict(models[id(fold.train)], table, y, fold))
    if kfold:
        model = clone(classifier).fit(table, y)
        progress("fit", total, total)
    else:
        model = models[id(protocol.judged[0].train)]
    judged, also = parts[: len(protocol.judged)], parts[len(protocol.judged) :]
    predictions = _join(judged)
    metrics = _metrics(predictions, predictions.label)
    metrics["majority_accuracy"] = float(np.mean(predictions.majority == predictions.true))
    metrics["folds"] = [{"fold": str(part.fold[0]), **_summary(part)} for part in judged]
    for part in also:
        metrics[str(part.fold[0])] = _metrics(part, part.label)
    return Evaluation(_join(parts), metrics, _metrics(predictions, predictions.majority), model)


def _predict(model: FusionClassifier, table: FeatureTable, y: np.ndarray, fold: Fold) -> Predictions:
    proba = model.predict_proba(table[fold.test])
    labels, counts = np.unique(y[fold.train], return_counts=True)
    return Predictions(
        rows=fold.test,
        fold=np.full(len(fold.test), fold.name),
        true=y[fold.test],
        label=model.classes_[np.argmax(proba, axis=1)],
        proba=proba,
        majority=np.full(len(fold.test), labels[np.argmax(counts)]),
        classes=tuple(model.classes_),
    )


def _join(parts: list[Predictions]) -> Predictions:
    names = ("rows", "fold", "true", "label", "proba", "majority")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Predictions(classes=parts[0].classes, **joined)


def _metrics(predictions: Predictions, label: np.ndarray) -> dict[str, Any]:
    return classification_metrics(predictions.true, label, predictions.classes)


def _summary(part: Predictions) -> dict[str, Any]:
    metrics = _metrics(part, part.label)
    return {name: metrics[name] for name in ("n", "accuracy", "macro_f1", "weighted_f1", "balanced_accuracy")}
