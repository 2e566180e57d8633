"""What every head shares: sklearn's classifier interface over `FeatureTable`s and arrays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from cache import FeatureTable, UsageError, listing
from fuse.inputs import ANONYMOUS, Inputs, read_inputs


class FusionClassifier(ClassifierMixin, BaseEstimator):
    """Base of all heads that classify.

    A head sets its parameters in `__init__` and implements `_fit_head` and `_head_proba`. It
    takes a `FeatureTable`, or a 2-D array with `blocks`, columns of each modality.

    Learned: `classes_`, labels in order; `prior_`, their weighted shares in the training rows;
    `blocks_`, columns of each modality.
    """

    blocks: Mapping[str, slice] | None
    class_weight: Mapping[Any, float] | str | None

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> FusionClassifier:
        """Trains the head.

        Args:
            X: `FeatureTable` of `n` rows, or array of shape `(n, D)`.
            y: `n` labels.
            sample_weight: `n` weights; None weighs all rows alike.

        Raises:
            ValueError: what sklearn refuses (NaN, wrong shapes), a single class, bad parameters.
        """
        inputs, y = read_inputs(self, X, y, blocks=self.blocks, reset=True)
        check_classification_targets(y)
        weight = _check_sample_weight(sample_weight, np.empty((len(inputs), 1)), dtype=np.float64)
        if (weight < 0).any():
            raise UsageError("negative sample weights mean nothing to a head; give 0 to leave a row out")
        kept = weight > 0
        if not kept.all():  # a weight of zero removes the row, here as in every sklearn estimator
            inputs, y, weight = inputs.keep(kept), y[kept], weight[kept]
        self.classes_, target = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise UsageError(
                f"{type(self).__name__} needs at least two classes, found one class: {listing(self.classes_.tolist())}"
            )
        if self.class_weight is not None:
            share = compute_sample_weight(self.class_weight, y)
            if not np.isfinite(share).all() or share.min() < 0 or share.max() == 0:
                raise UsageError(f"class_weight must map labels to numbers of 0 or more, got {self.class_weight!r}")
            weight = weight * share
        self.prior_ = np.bincount(target, weights=weight, minlength=len(self.classes_)) / weight.sum()
        self._fit_head(inputs, target, weight)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class in the order of `classes_`, shape `(n, K)`."""
        check_is_fitted(self)
        if isinstance(X, FeatureTable):
            # A head that was fitted on an array without names takes the columns as they stand.
            X = X.to_numpy() if list(self.blocks_) == [ANONYMOUS] else X.select(list(self.blocks_))
        inputs, _ = read_inputs(self, X, blocks=self.blocks_, reset=False)
        return self._head_proba(inputs)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each row, shape `(n,)`."""
        proba = self.predict_proba(X)
        return self.classes_[np.argmax(proba, axis=1)]

    @abstractmethod
    def _fit_head(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        """Learns from `n` rows; `target` holds class numbers, `weight` positive weights."""

    @abstractmethod
    def _head_proba(self, inputs: Inputs) -> np.ndarray:
        """Probabilities of shape `(n, K)`."""


def require_positive(estimator: BaseEstimator, *names: str, zero: bool = False, integer: bool = False) -> None:
    """Raises a UsageError unless each of the named parameters is a positive number (or 0, if allowed)."""
    kinds = (int, np.integer) if integer else (int, float, np.number)
    for name in names:
        value = getattr(estimator, name)
        number = isinstance(value, kinds) and not isinstance(value, bool)
        if not number or not np.isfinite(value) or value < 0 or (value == 0 and not zero):
            wanted = f"{'an integer' if integer else 'a number'} {'of 0 or more' if zero else 'above 0'}"
            raise UsageError(f"{type(estimator).__name__}: {name} must be {wanted}, got {value!r}")


def softmax(scores: np.ndarray) -> np.ndarray:
    """Row-wise softmax of `(n, K)` scores, in float64."""
    scores = scores.astype(np.float64)
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
