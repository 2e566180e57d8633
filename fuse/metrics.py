"""Numbers that a table of results holds. All are scikit-learn's and scipy's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import pearsonr
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    mean_absolute_error,
    precision_recall_fscore_support,
    r2_score,
    root_mean_squared_error,
)


def classification_metrics(y_true: np.ndarray, y_pred: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy, F1 and recall of `n` predictions.

    Args:
        y_true: true labels, shape `(n,)`.
        y_pred: predicted labels, shape `(n,)`.
        classes: all labels of the training rows, at least those of `y_true`. As in sklearn, the
            macro mean is over the labels that occur in `y_true` or `y_pred`.

    Returns:
        `accuracy`, `macro_f1`, `weighted_f1`, `weighted_precision`, `weighted_recall` (by true
        support), `balanced_accuracy` (mean recall of the classes that occur), `per_class` {label:
        precision, recall, f1, support}, `n`.
    """
    labels = list(classes)
    occurring = sorted(set(y_true) | set(y_pred))
    precision, recall, f1, support = precision_recall_fscore_support(y_true, y_pred, labels=labels, zero_division=0.0)
    share = support / support.sum()
    return {
        "accuracy": float(accuracy_score(y_true, y_pred)),
        "macro_f1": float(f1_score(y_true, y_pred, labels=occurring, average="macro", zero_division=0.0)),
        "weighted_f1": float(f1_score(y_true, y_pred, labels=occurring, average="weighted", zero_division=0.0)),
        "weighted_precision": float(share @ precision),
        "weighted_recall": float(share @ recall),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "per_class": {
            label: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
            for label, p, r, f, n in zip(labels, precision, recall, f1, support, strict=True)
        },
        "n": len(y_true),
    }


def regression_metrics(y_true: np.ndarray, y_pred: np.ndarray) -> dict[str, Any]:
    """Errors of `n` predicted numbers, and those that the field gives for sentiment from -3 to 3.

    Args:
        y_true: true numbers, shape `(n,)`.
        y_pred: predicted numbers, shape `(n,)`.

    Returns:
        `mae`, `rmse`, `r2`; `corr`, Pearson's, None where either is constant; `acc7`, share of equal
        numbers once both are cut to -3..3 and rounded, half to even; `acc2_has0`, `f1_has0` (0 or
        more against less, all rows), `acc2_non0`, `f1_non0` (more than 0 against the rest, rows whose
        truth is 0 left out; None where that is all), `acc2_gt0`, `f1_gt0` (more than 0 against the
        rest, all rows: CM-BERT's). F1 is weighted by true support. `n`.
    """
    # What rounding leaves of a constant would correlate by chance
    varies = len(y_true) > 1 and all(np.ptp(y) > 1e-12 * np.abs(y).max() for y in (y_true, y_pred))
    sides = {
        "has0": (y_true >= 0, y_pred >= 0),
        "non0": (y_true[y_true != 0] > 0, y_pred[y_true != 0] > 0),
        "gt0": (y_true > 0, y_pred > 0),
    }
    rounded = (np.round(np.clip(y, -3, 3)) for y in (y_true, y_pred))
    return {
        "mae": float(mean_absolute_error(y_true, y_pred)),
        "rmse": float(root_mean_squared_error(y_true, y_pred)),
        "r2": float(r2_score(y_true, y_pred)) if len(y_true) > 1 else None,
        "corr": float(pearsonr(y_true, y_pred).statistic) if varies else None,
        "acc7": float(np.equal(*rounded).mean()),
        **{f"acc2_{name}": float(accuracy_score(*both)) if len(both[0]) else None for name, both in sides.items()},
        **{
            f"f1_{name}": float(f1_score(*both, average="weighted", zero_division=0.0)) if len(both[0]) else None
            for name, both in sides.items()
        },
        "n": len(y_true),
    }
