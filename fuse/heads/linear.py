"""Linear heads: multinomial logistic regression on one modality or on all, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from cache import UsageError
from fuse.estimators import FusionClassifier, require_positive, softmax
from fuse.inputs import ANONYMOUS, BlockScaler, Inputs, require_modalities


class ConcatLogisticClassifier(FusionClassifier):
    """Multinomial logistic regression on the standardised concatenation of all modalities.

    `p = softmax(W z + b)` with `z` from `BlockScaler`; L2 penalty on `W`. A row that lacks a
    modality counts with that modality's mean.

    Args:
        C: inverse strength of the penalty, as in sklearn. Each modality has unit variance in
            all, so that 1 is a fair value whatever the number of columns.
        class_weight: `"balanced"`, or weights by label.
        max_iter: L-BFGS iterations at most.
        tol: the gradient at which L-BFGS stops.
        blocks: columns of each modality where `X` is an array.
    """

    def __init__(
        self,
        C: float = 1.0,
        class_weight: Mapping[Any, float] | str | None = None,
        max_iter: int = 1000,
        tol: float = 1e-4,
        blocks: Mapping[str, slice] | None = None,
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.tol = tol
        self.blocks = blocks

    def _fit_head(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        require_positive(self, "C", "tol")
        require_positive(self, "max_iter", integer=True)
        self.scaler_ = BlockScaler().fit(inputs, weight)
        model = LogisticRegression(C=self.C, max_iter=self.max_iter, tol=self.tol)
        scaled = self.scaler_.transform(inputs)
        self.coef_, self.intercept_ = _fit_softmax(model, scaled, target, weight, len(self.classes_))
        self.n_iter_ = int(np.max(getattr(model, "n_iter_", 1)))

    def _head_proba(self, inputs: Inputs) -> np.ndarray:
        return softmax(self.scaler_.transform(inputs) @ self.coef_.T + self.intercept_)


class UnimodalClassifier(ConcatLogisticClassifier):
    """Logistic regression on one modality: the baseline that a fusion must beat.

    It learns from the rows that have the modality. A row without it gets the classes' shares
    in the training rows.

    Args:
        modality: which one; None takes the only one there is.
        C, class_weight, max_iter, tol, blocks: as in `ConcatLogisticClassifier`.
    """

    def __init__(
        self,
        modality: str | None = None,
        C: float = 1.0,
        class_weight: Mapping[Any, float] | str | None = None,
        max_iter: int = 1000,
        tol: float = 1e-4,
        blocks: Mapping[str, slice] | None = None,
    ) -> None:
        super().__init__(C=C, class_weight=class_weight, max_iter=max_iter, tol=tol, blocks=blocks)
        self.modality = modality

    def _fit_head(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        chosen = self._chosen(inputs)
        mask = next(iter(chosen.masks.values()))
        if not mask.any():
            raise UsageError(f"no training row has the modality {chosen.modalities[0]!r}")
        super()._fit_head(chosen.keep(mask), target[mask], weight[mask])

    def _head_proba(self, inputs: Inputs) -> np.ndarray:
        chosen = self._chosen(inputs)
        mask = next(iter(chosen.masks.values()))
        return np.where(mask[:, None], super()._head_proba(chosen), self.prior_)

    def _chosen(self, inputs: Inputs) -> Inputs:
        names = inputs.modalities
        if self.modality is None and len(names) != 1:
            raise UsageError(f"UnimodalClassifier: choose one modality of {', '.join(names)} by `modality`")
        # An array without blocks is one block; the caller vouches that it is the one asked for.
        name = names[0] if self.modality is None or names == (ANONYMOUS,) else self.modality
        require_modalities(inputs, [name])
        return Inputs({name: inputs.values[name]}, {name: inputs.masks[name]})


def _fit_softmax(
    model: LogisticRegression, X: np.ndarray, target: np.ndarray, weight: np.ndarray, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients `(K, D)` and intercepts `(K,)` over all classes.

    A class that these rows lack (they may be the ones that have an image) gets the intercept
    minus infinity: a probability of 0.
    """
    coef = np.zeros((n_classes, X.shape[1]))
    intercept = np.full(n_classes, -np.inf)
    seen = np.unique(target)
    if len(seen) == 1:
        intercept[seen] = 0.0
        return coef, intercept
    model.fit(X, target, sample_weight=weight)
    if len(seen) == 2:  # sklearn keeps one row: the score of the second class against the first
        coef[seen[1]], intercept[seen] = model.coef_[0], [0.0, model.intercept_[0]]
    else:
        coef[seen], intercept[seen] = model.coef_, model.intercept_
    return coef, intercept
