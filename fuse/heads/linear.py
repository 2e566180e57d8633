"""Linear heads on the standardised concatenation: logistic and ridge regression, on all modalities or on one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

from cache import UsageError
from fuse.estimators import FusionClassifier, FusionHead, FusionRegressor, require_positive, softmax
from fuse.inputs import ANONYMOUS, BlockScaler, Inputs, require_modalities
from fuse.scores import ScoreClassifier
from fuse.streaming import ScaledRows, StreamedLogistic, StreamedRidge

Strength = float | Mapping[str, float]


@dataclass(eq=False, repr=False)
class LinearHead(FusionHead):
    """Base of linear heads: `W z + b` with `z` from `BlockScaler`; a row that lacks a modality counts with its mean.

    Learned: `coef_`, `(outputs, D)` and `intercept_`, `(outputs,)`, for `z`; `scaler_`.
    """

    out_of_core: ClassVar[bool] = True

    copies: ClassVar[float] = 4.0

    def _scaled(self, inputs: Inputs, weight: np.ndarray) -> np.ndarray:
        self.scaler_ = BlockScaler().fit(inputs, weight)
        return self.scaler_.transform(inputs)

    def _linear(self, inputs: Inputs) -> np.ndarray:
        found = [self.scaler_.transform(part) @ self.coef_.T + self.intercept_ for _, part in inputs.parts()]
        return np.concatenate(found)


def block_factors(head: FusionHead, name: str, inputs: Inputs) -> np.ndarray:
    """Root of each column's strength, `(D,)`: columns times it, a penalty of 1 is the penalty asked for.

    Raises:
        UsageError: a strength is no number above 0, or names a modality that is not there.
    """
    given = getattr(head, name)
    if not isinstance(given, Mapping):
        require_positive(head, name)
        given = dict.fromkeys(inputs.modalities, given)
    numbers = all(isinstance(one, int | float | np.number) and 0 < one < np.inf for one in given.values())
    if set(given) != set(inputs.modalities) or not numbers:
        raise UsageError(
            f"{type(head).__name__}: {name} must be a number above 0, or map each of {', '.join(inputs.modalities)} to "
            f"one; got {getattr(head, name)!r}"
        )
    return np.concatenate([np.full(width, given[m] ** 0.5) for m, width in inputs.widths.items()])


@dataclass(eq=False, repr=False)
class ConcatLogisticClassifier(LinearHead, FusionClassifier):
    """Multinomial logistic regression: `p = softmax(W z + b)`, with an L2 penalty on `W`.

    The objective is that of sklearn's LogisticRegression; Newton's method with conjugate gradients
    comes nearer the optimum in less than half the time of its default, L-BFGS, on some thousand columns.

    Args:
        C: inverse strength of the penalty, as in sklearn, or one by modality. Each modality has unit
            variance in all, so that 1 is a fair value whatever the number of columns.
        max_iter: Newton iterations at most.
        tol: the gradient at which they stop.
        class_weight, blocks: as in `FusionClassifier`.
    """

    C: Strength = 1.0
    max_iter: int = 1000
    tol: float = 1e-6

    def _fit_head(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        require_positive(self, "tol")
        require_positive(self, "max_iter", integer=True)
        factors = block_factors(self, "C", inputs)
        self.scaler_ = BlockScaler().fit(inputs, weight)
        key = ("logistic", *inputs.modalities, len(self.classes_), self.max_iter, self.tol)
        self.coef_, self.intercept_, self.n_iter_ = inputs.once(
            key, [target, weight, factors], lambda: self._fitted(inputs, target, weight, factors)
        )

    def _fitted(
        self, inputs: Inputs, target: np.ndarray, weight: np.ndarray, factors: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, int]:
        scaled: np.ndarray | ScaledRows
        if inputs.table is None:
            scaled = self.scaler_.transform(inputs)
            scaled *= factors.astype(scaled.dtype)
            model: Any = LogisticRegression(solver="newton-cg", max_iter=self.max_iter, tol=self.tol)
        else:
            scaled = ScaledRows(inputs, self.scaler_, factors)
            model = StreamedLogistic(self.max_iter, self.tol)
        coef, intercept = _fit_softmax(model, scaled, target, weight, len(self.classes_))
        return coef * factors, intercept, int(np.max(getattr(model, "n_iter_", 1)))

    def _head_output(self, inputs: Inputs) -> np.ndarray:
        return softmax(self._linear(inputs))


@dataclass(eq=False, repr=False)
class RidgeClassifier(LinearHead, ScoreClassifier):
    """Least squares on one column of 0 and 1 a class, with an L2 penalty: `s = W z + b`; `p = softmax(t s)`.

    Args:
        alpha: strength of the penalty, or one by modality.
        class_weight, blocks: as in `FusionClassifier`.
    """

    copies: ClassVar[float] = 8.0

    alpha: Strength = 1.0

    def _fit_scores(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        _fit_ridge(self, inputs, np.eye(len(self.classes_))[target], weight)

    def _scores(self, inputs: Inputs) -> np.ndarray:
        return self._linear(inputs)


@dataclass(eq=False, repr=False)
class RidgeRegressor(LinearHead, FusionRegressor):
    """Ridge regression: `y = w z + b`, with an L2 penalty on `w`; Hoerl and Kennard (1970).

    Args:
        alpha: strength of the penalty, or one by modality.
        blocks: as in `FusionHead`.
    """

    copies: ClassVar[float] = 8.0

    alpha: Strength = 1.0

    def _fit_head(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        _fit_ridge(self, inputs, target[:, None], weight)

    def _head_output(self, inputs: Inputs) -> np.ndarray:
        return self._linear(inputs)[:, 0]


def _fit_ridge(head: LinearHead, inputs: Inputs, targets: np.ndarray, weight: np.ndarray) -> None:
    factors = 1 / block_factors(head, "alpha", inputs)
    head.scaler_ = BlockScaler().fit(inputs, weight)

    def fitted() -> tuple[np.ndarray, np.ndarray]:
        model: Any
        if inputs.table is None:
            model = Ridge(alpha=1.0).fit(head.scaler_.transform(inputs) * factors, targets, sample_weight=weight)
        else:
            model = StreamedRidge().fit(ScaledRows(inputs, head.scaler_, factors), targets, weight)
        return np.atleast_2d(model.coef_) * factors, np.atleast_1d(model.intercept_)

    head.coef_, head.intercept_ = inputs.once(("ridge", *inputs.modalities), [targets, weight, factors], fitted)


@dataclass(eq=False, repr=False)
class Unimodal(FusionHead):
    """One modality alone: the baseline that a fusion must beat.

    It learns from the rows that have the modality; to a row without it, it has nothing to say.

    Args:
        modality: which one; None takes the only one there is.
        Others: as in the head that it is on all modalities.
    """

    modality: str | None = None

    def _fit_head(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        chosen = self._chosen(inputs)
        mask = chosen.some
        if not mask.any():
            raise UsageError(f"no training row has the modality {chosen.modalities[0]!r}")
        super()._fit_head(chosen.keep(mask), target[mask], weight[mask])  # type: ignore[safe-super]

    def _head_output(self, inputs: Inputs) -> np.ndarray:
        chosen = self._chosen(inputs)
        output: np.ndarray = super()._head_output(chosen)  # type: ignore[safe-super]
        output[~chosen.some] = self._nothing()
        return output

    def _chosen(self, inputs: Inputs) -> Inputs:
        names = inputs.modalities
        if self.modality is None and len(names) != 1:
            raise UsageError(f"{type(self).__name__}: choose one modality of {', '.join(names)} by `modality`")
        # An array without blocks is one block; the caller vouches that it is the one asked for.
        name = names[0] if self.modality is None or names == (ANONYMOUS,) else self.modality
        require_modalities(inputs, [name])
        return inputs.only([name])


@dataclass(eq=False, repr=False)
class UnimodalClassifier(Unimodal, ConcatLogisticClassifier):
    """Logistic regression on one modality; a row without it gets the classes' shares in the training rows."""


@dataclass(eq=False, repr=False)
class UnimodalRegressor(Unimodal, RidgeRegressor):
    """Ridge regression on one modality; a row without it gets the mean of the training labels."""


def _fit_softmax(
    model: Any, X: np.ndarray | ScaledRows, target: np.ndarray, weight: np.ndarray, n_classes: int
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
