"""Linear support vector machines on the standardised concatenation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.optimize import minimize

from fuse.estimators import FusionRegressor, require_positive
from fuse.heads.linear import LinearHead, Strength, block_factors
from fuse.inputs import Inputs
from fuse.scores import ScoreClassifier

Slack = Callable[[np.ndarray], np.ndarray]
"""Of scores `(n, c)`: how far each is on the wrong side, with a sign; its square is the loss, itself half the slope."""


@dataclass(eq=False, repr=False)
class LinearSVM(LinearHead):
    """What both linear machines share: `1/2 |W|^2 + C sum_i slack_i^2`, LIBLINEAR's L2 loss; Fan et al. (2008).

    Unlike LIBLINEAR, the intercept is not penalised, and all classes are solved at once by Newton's method
    with conjugate gradients in a trust region (Lin et al. 2008): faster on dense features.

    Args:
        C: inverse strength of the penalty, or one by modality.
        max_iter: Newton iterations at most.
        tol: the norm of the gradient at which they stop, a row.
        Others: as in `FusionHead`.
    """

    out_of_core: ClassVar[bool] = False

    C: Strength = 1.0
    max_iter: int = 1000
    tol: float = 1e-4

    def _fit_svm(self, inputs: Inputs, slack: Slack, weight: np.ndarray, outputs: int) -> None:
        require_positive(self, "tol")
        require_positive(self, "max_iter", integer=True)
        factors = block_factors(self, "C", inputs)
        scaled = self._scaled(inputs, weight)
        scaled *= factors.astype(scaled.dtype)
        problem = _Problem(scaled, slack, weight[:, None], outputs)
        options = {"maxiter": self.max_iter, "gtol": self.tol * weight.sum()}
        start = np.zeros((scaled.shape[1] + 1) * outputs)
        found = minimize(problem.loss, start, jac=True, hessp=problem.curved, method="trust-ncg", options=options)
        coef, intercept = problem.parts(found.x)
        self.coef_, self.intercept_, self.n_iter_ = coef.T * factors, intercept[0], max(int(found.nit), 1)


class _Problem:
    """The objective, its gradient and its curvature, of coefficients `(D, c)` and intercepts `(1, c)` laid flat."""

    def __init__(self, rows: np.ndarray, slack: Slack, weight: np.ndarray, outputs: int) -> None:
        self._rows, self._slack, self._weight, self._outputs = rows, slack, weight, outputs
        self._active: tuple[np.ndarray, np.ndarray] | None = None

    def parts(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients and intercepts."""
        coef, intercept = np.split(flat.reshape(-1, self._outputs), [self._rows.shape[1]])
        return coef, intercept

    def _scores(self, flat: np.ndarray) -> np.ndarray:
        coef, intercept = self.parts(flat)
        return self._rows @ coef.astype(self._rows.dtype) + intercept

    def _pulled(self, flat: np.ndarray, pull: np.ndarray) -> np.ndarray:
        coef, _ = self.parts(flat)
        return np.concatenate([coef + self._rows.T @ pull.astype(self._rows.dtype), pull.sum(axis=0)[None]]).ravel()

    def loss(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective and its gradient."""
        off, (coef, _) = self._slack(self._scores(flat)), self.parts(flat)
        value = 0.5 * float(np.sum(coef**2)) + float(np.sum(self._weight * off**2))
        return value, self._pulled(flat, 2 * self._weight * off)

    def curved(self, flat: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """The (generalised) Hessian at `flat` times a direction."""
        if self._active is None or self._active[0] is not flat:
            self._active = flat, 2 * self._weight * (self._slack(self._scores(flat)) != 0)
        return self._pulled(direction, self._active[1] * self._scores(direction))


@dataclass(eq=False, repr=False)
class LinearSVMClassifier(LinearSVM, ScoreClassifier):
    """One class against the rest, squared hinge: `s = W z + b`, slack `max(0, 1 - y s)`; `p = softmax(t s)`.

    Args:
        Others: as in `LinearSVM` and `FusionClassifier`.
    """

    def _fit_scores(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        side = 2.0 * np.eye(len(self.classes_))[target] - 1.0

        def slack(scores: np.ndarray) -> np.ndarray:
            return np.minimum(side * scores - 1.0, 0.0) * side

        self._fit_svm(inputs, slack, weight, len(self.classes_))

    def _scores(self, inputs: Inputs) -> np.ndarray:
        return self._linear(inputs)


@dataclass(eq=False, repr=False)
class LinearSVMRegressor(LinearSVM, FusionRegressor):
    """Support vector regression: slack `max(0, |y - s| - epsilon)`; Drucker et al. (1997).

    Args:
        epsilon: errors below it do not count, in deviations of the target.
        Others: as in `LinearSVM`.
    """

    epsilon: float = 0.1

    def _fit_head(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        require_positive(self, "epsilon", zero=True)

        def slack(scores: np.ndarray) -> np.ndarray:
            error = scores - target[:, None]
            return np.sign(error) * np.maximum(np.abs(error) - self.epsilon, 0.0)

        self._fit_svm(inputs, slack, weight, 1)

    def _head_output(self, inputs: Inputs) -> np.ndarray:
        return self._linear(inputs)[:, 0]
