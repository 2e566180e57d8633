"""Numbers that a table of results holds. All are scikit-learn's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support


def classification_metrics(y_true: np.ndarray, y_pred: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy, F1 and recall of `n` predictions.

    Args:
        y_true: true labels, shape `(n,)`.
        y_pred: predicted labels, shape `(n,)`.
        classes: all labels of the training rows, at least those of `y_true`. As in sklearn, the
            macro mean is over the labels that occur in `y_true` or `y_pred`.

    Returns:
        `accuracy`, `macro_f1`, `weighted_f1`, `balanced_accuracy` (mean recall of the classes
        that occur), `per_class` {label: precision, recall, f1, support}, `n`.
    """
    labels = list(classes)
    occurring = sorted(set(y_true) | set(y_pred))
    precision, recall, f1, support = precision_recall_fscore_support(y_true, y_pred, labels=labels, zero_division=0.0)
    return {
        "accuracy": float(accuracy_score(y_true, y_pred)),
        "macro_f1": float(f1_score(y_true, y_pred, labels=occurring, average="macro", zero_division=0.0)),
        "weighted_f1": float(f1_score(y_true, y_pred, labels=occurring, average="weighted", zero_division=0.0)),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "per_class": {
            label: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
            for label, p, r, f, n in zip(labels, precision, recall, f1, support, strict=True)
        },
        "n": len(y_true),
    }
