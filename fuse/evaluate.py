"""Judges a head on a data set: fits it per fold, keeps every prediction, computes the metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone

from cache import DataSet, FeatureTable, Progress, silent, tables_of
from fuse.estimators import FusionClassifier, FusionHead, FusionRegressor
from fuse.inputs import Inputs, out_of_core
from fuse.metrics import classification_metrics, regression_metrics
from fuse.splits import Fold, Protocol
from fuse.task import CLASSIFICATION, REGRESSION, targets


@dataclass(frozen=True)
class Predictions:
    """Out-of-sample predictions of `n` rows.

    `rows` are row numbers of the table, `fold` names; `proba` has shape `(n, K)`, its columns in
    the order of `classes`; `majority` is what the most frequent training label would predict. In
    regression `true` and `label` are numbers, `majority` the mean of the training labels, and there
    are no classes.
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
    """Everything that a report needs of one head on one data set; `majority` holds the metrics of its baseline."""

    predictions: Predictions
    metrics: dict[str, Any]
    majority: dict[str, Any]
    model: FusionHead


def evaluate(
    head: FusionHead,
    data: DataSet,
    protocol: Protocol,
    progress: Progress = silent,
    on_disk: bool = False,
    at_once: int | None = None,
) -> Evaluation:
    """Fits a clone of `head` a fold and judges it on the rows that it did not see.

    The model that is kept was fitted on the training split where the data gives one, else on
    all rows of `data`. Of a cross-fitted data set it is that of fold 0: no encoders have seen all rows.

    Args:
        head: a classifier or a regressor; not fitted itself.
        data: labelled rows only.
        protocol: of the same data.
        progress: told after each fit.
        on_disk: whether vectors stay on disk while the head is fitted, see `fuse.inputs.out_of_core`.
        at_once: rows that are predicted at once; None predicts all.
    """
    rounds = [*protocol.judged, *protocol.also]
    total = len({id(fold.train) for fold in rounds}) + protocol.refitted
    models: dict[int, FusionHead] = {}
    tables = tables_of(data)
    y, parts = targets(tables[0], task_for(head)), []
    for fold in rounds:
        table = tables[fold.table]
        if id(fold.train) not in models:
            models[id(fold.train)] = clone(head).fit(taken(table[fold.train], on_disk), y[fold.train])
            progress("fit", len(models), total)
        parts.append(predicted(models[id(fold.train)], table, y, fold, at_once))
    if protocol.refitted:
        model = clone(head).fit(taken(tables[0], on_disk), y)
        progress("fit", total, total)
    else:
        model = models[id(protocol.judged[0].train)]
    return summarise(parts[: len(protocol.judged)], parts[len(protocol.judged) :], model)


def taken(table: FeatureTable, on_disk: bool) -> FeatureTable | Inputs:
    """A table as `fit` takes it, with its vectors in memory or on disk."""
    return out_of_core(table) if on_disk else table


def summarise(judged: list[Predictions], also: list[Predictions], model: FusionHead) -> Evaluation:
    """The evaluation of folds that were judged, and of further rows that stand beside them.

    Args:
        judged: one a fold.
        also: such as the validation split.
        model: that is kept.
    """
    predictions = _join(judged)
    metrics = _metrics(predictions, predictions.label)
    majority = _metrics(predictions, predictions.majority)
    if predictions.classes:
        metrics["majority_accuracy"] = majority["accuracy"]
    else:
        metrics["mean_mae"] = majority["mae"]
    metrics["folds"] = [{"fold": str(part.fold[0]), **_summary(part)} for part in judged]
    for part in also:
        metrics[str(part.fold[0])] = _metrics(part, part.label)
    return Evaluation(_join([*judged, *also]), metrics, majority, model)


def task_for(head: FusionHead) -> str:
    """What a head is for."""
    return CLASSIFICATION if isinstance(head, FusionClassifier) else REGRESSION


def labelled_by(model: FusionHead, table: FeatureTable | Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Labels `(n,)` that a fitted head gives, and probabilities `(n, K)`; K is 0 in regression."""
    if isinstance(model, FusionClassifier):
        proba = model.predict_proba(table)
        return model.classes_[np.argmax(proba, axis=1)], proba
    if isinstance(model, FusionRegressor):
        return model.predict(table), np.empty((len(table), 0))
    raise TypeError(f"{type(model).__name__} neither classifies nor predicts numbers")


def labelled_in_parts(
    model: FusionHead, table: FeatureTable, at_once: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As `labelled_by`, so many rows at once; None takes all. A row's output does not depend on others."""
    if at_once is None or len(table) <= at_once:
        return labelled_by(model, table)
    parts = [labelled_by(model, table[start : start + at_once]) for start in range(0, len(table), at_once)]
    return np.concatenate([label for label, _ in parts]), np.concatenate([proba for _, proba in parts])


def predicted(
    model: FusionHead, table: FeatureTable, y: np.ndarray, fold: Fold, at_once: int | None = None
) -> Predictions:
    """What a fitted head says of the test rows of a fold; `y` are the labels of all rows."""
    label, proba = labelled_in_parts(model, table[fold.test], at_once)
    return Predictions(
        rows=fold.test,
        fold=np.full(len(fold.test), fold.name),
        true=y[fold.test],
        label=label,
        proba=proba,
        majority=np.full(len(fold.test), _baseline(y[fold.train])),
        classes=tuple(getattr(model, "classes_", ())),
    )


def _baseline(y: np.ndarray) -> object:
    """The most frequent label, or the mean."""
    if y.dtype.kind == "f":
        return y.mean()
    labels, counts = np.unique(y, return_counts=True)
    return labels[np.argmax(counts)]


def _join(parts: list[Predictions]) -> Predictions:
    names = ("rows", "fold", "true", "label", "proba", "majority")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Predictions(classes=parts[0].classes, **joined)


def _metrics(predictions: Predictions, label: np.ndarray) -> dict[str, Any]:
    if not predictions.classes:
        return regression_metrics(predictions.true, label)
    return classification_metrics(predictions.true, label, predictions.classes)


def _summary(part: Predictions) -> dict[str, Any]:
    metrics = _metrics(part, part.label)
    return {name: value for name, value in metrics.items() if name != "per_class"}
