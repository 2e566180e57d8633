"""How far probabilities can be believed, and the temperature that corrects them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from fuse.estimators import softmax
from fuse.scores import fit_sharpness

LEAST = float(np.finfo(np.float64).eps)
"""A probability of 0 counts as this, as in sklearn's `log_loss`: one sure mistake costs 36, not infinity."""


@dataclass(frozen=True)
class Reliability:
    """The non-empty bins of a reliability diagram, each array of shape `(bins found,)`, by rising confidence.

    `confidence`: mean probability of the predicted class; `accuracy`: share of right rows among
    the bin's; `share`: of all rows that are in the bin; all from 0 to 1.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    share: np.ndarray


def reliability(true: np.ndarray, proba: np.ndarray, bins: int = 15) -> Reliability:
    """Confidence against accuracy in equal bins of confidence, `(0, 1/bins], (1/bins, 2/bins], ...` (Guo et al. 2017).

    Args:
        true: class numbers, int `(n,)`.
        proba: probabilities, `(n, K)`.
        bins: 1 or more.
    """
    confidence = proba.max(axis=1).astype(np.float64)
    right = proba.argmax(axis=1) == true
    number = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count, sure, hits = (np.bincount(number, weights=what, minlength=bins) for what in (None, confidence, right))
    some = count > 0
    return Reliability(sure[some] / count[some], hits[some] / count[some], count[some] / max(len(true), 1))


def expected_calibration_error(true: np.ndarray, proba: np.ndarray, bins: int = 15) -> float:
    """Mean distance of accuracy from confidence over the bins of `reliability`, weighted by their rows; 0 to 1."""
    found = reliability(true, proba, bins)
    return float(found.share @ np.abs(found.accuracy - found.confidence))


def fit_temperature(proba: np.ndarray, true: np.ndarray) -> float:
    """The temperature T of least negative log-likelihood of `softmax(log p / T)` (Guo et al. 2017).

    Above 1 the probabilities were too sure. Fit it on other rows than those on which the result is judged.

    Args:
        proba: probabilities of rows that the model did not see, `(n, K)`.
        true: their class numbers, int `(n,)`.

    Returns:
        From 0.01 to 100; 1 where fewer than two classes occur, from which nothing can be learned.
    """
    if len(np.unique(true)) < 2:
        return 1.0
    return 1 / fit_sharpness(_log(proba), true, np.ones(len(true)))


def tempered(proba: np.ndarray, temperature: float) -> np.ndarray:
    """`softmax(log p / T)`, `(n, K)` in float64; no label changes."""
    return softmax(_log(proba) / temperature)


def probability_metrics(true: np.ndarray, proba: np.ndarray, classes: Sequence[Any]) -> dict[str, float | None]:
    """How good probabilities are as such, beyond the label they give.

    Args:
        true: labels, `(n,)`, n >= 1.
        proba: probabilities `(n, K)`; rows add up to 1 but for rounding.
        classes: K labels in the order of the columns.

    Returns:
        `auroc`: of two classes that of the second, of more the macro mean of one against the rest;
        None where a class has no row. `nll`: mean negative log-likelihood, nats, at most 36 a row.
        `brier`: mean squared error, 0 to 1 for two classes and the sum over classes, 0 to 2, for more.
        `ece`: `expected_calibration_error` of 15 bins.

    Raises:
        ValueError: a label is none of `classes`, or they are not K.
    """
    number = {label: column for column, label in enumerate(classes)}
    lost = sorted({str(label) for label in true.tolist() if label not in number})
    if lost or proba.shape != (len(true), len(number)):
        raise ValueError(
            f"labels {lost} are not among the classes, or probabilities {proba.shape} not {(len(true), len(number))}"
        )
    target = np.array([number[label] for label in true.tolist()])
    # Rows of float32 add up to 1 less closely than sklearn wants
    proba = proba / proba.sum(axis=1, keepdims=True, dtype=np.float64)
    every = list(range(len(number)))
    return {
        "auroc": _auroc(target, proba),
        "nll": float(log_loss(target, proba, labels=every)) if len(every) > 1 else 0.0,
        "brier": float(brier_score_loss(target, proba, labels=every)) if len(every) > 1 else 0.0,
        "ece": expected_calibration_error(target, proba),
    }


def _auroc(target: np.ndarray, proba: np.ndarray) -> float | None:
    classes = proba.shape[1]
    if classes < 2 or len(np.unique(target)) < classes:
        return None
    if classes == 2:
        return float(roc_auc_score(target, proba[:, 1]))
    return float(roc_auc_score(target, proba, multi_class="ovr", average="macro"))


def _log(proba: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(proba.astype(np.float64), LEAST))
