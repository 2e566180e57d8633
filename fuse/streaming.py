"""Linear models of rows that stay on disk: the optimum of sklearn's, found by passes over the rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.linalg.blas import dsyr, dsyrk
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning

from cache import UsageError
from fuse.inputs import BlockScaler, Inputs

SAMPLE = 8
"""So many times as many rows as columns are looked at to know how columns go together."""

CORRECTIONS = 20
"""Pairs that L-BFGS keeps; with columns that are uncorrelated it needs about as many passes."""


@dataclass(frozen=True)
class ScaledRows:
    """Standardised rows times `factors`, `(n, D)` in float64, made part by part each time they are asked for."""

    inputs: Inputs
    scaler: BlockScaler
    factors: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """`n` and `D`."""
        return len(self.inputs), len(self.factors)

    def parts(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Which rows, and their values."""
        for rows, part in self.inputs.parts():
            yield rows, self.scaler.transform(part) * self.factors

    def keep(self, rows: np.ndarray) -> ScaledRows:
        """Some of the rows."""
        return ScaledRows(self.inputs.keep(rows), self.scaler, self.factors)

    def products(self, weight: np.ndarray) -> np.ndarray:
        """Weighted sum of `z z'` over the rows, `(D, D)`, of which only the lower triangle is filled."""
        found = np.zeros((self.shape[1], self.shape[1]), order="F")
        for rows, values in self.parts():
            values *= np.sqrt(weight[rows, None])
            dsyrk(1.0, values.T, beta=1.0, c=found, lower=1, overwrite_c=1)  # in place: it is as large as it gets
        return found


class StreamedLogistic:
    """Multinomial logistic regression with an L2 penalty of 1: the objective of sklearn's LogisticRegression.

    L-BFGS takes a pass over the rows a step. Columns of encoders go together, and it would take 100 to 200 steps;
    in coordinates in which they do not (the Cholesky factor of the Hessian at the classes' shares, from a sample
    of `8 D` rows) it takes some 15. Only the path depends on the sample, the optimum does not.

    Learned: as sklearn's `coef_`, `intercept_` and `n_iter_`; of two classes one row, the second's score.
    """

    def __init__(self, max_iter: int, tol: float) -> None:
        self.max_iter, self.tol = max_iter, tol

    def fit(self, X: ScaledRows, y: np.ndarray, sample_weight: np.ndarray) -> StreamedLogistic:
        """Learns from `n` rows of positive weight, of two classes or more."""
        classes, target = np.unique(y, return_inverse=True)
        problem = _Problem(X, target, sample_weight, 1 if len(classes) == 2 else len(classes))
        options = {"maxiter": self.max_iter, "gtol": self.tol, "ftol": 0.0, "maxcor": CORRECTIONS}
        start = np.zeros(problem.outputs * (X.shape[1] + 1))
        found = minimize(problem.loss, start, jac=True, method="L-BFGS-B", options=options)
        if not np.isfinite(found.fun):
            raise UsageError("the logistic loss is not finite: vectors or weights are too large for float64")
        if found.status == 1:
            warnings.warn(f"no optimum after max_iter={self.max_iter} passes", ConvergenceWarning, stacklevel=2)
        self.coef_, self.intercept_ = problem.straight(found.x)
        self.n_iter_ = np.array([max(int(found.nit), 1)])
        return self


class _Problem:
    """Mean loss of coefficients and intercepts, laid flat in coordinates in which columns are uncorrelated."""

    def __init__(self, rows: ScaledRows, target: np.ndarray, weight: np.ndarray, outputs: int) -> None:
        self._rows, self._target, self._weight, self._mass = rows, target, weight, float(weight.sum())
        self.outputs = outputs
        share = np.bincount(target, weights=weight) / self._mass
        # Mean over the outputs of p (1 - p): how much the loss curves at the start, along each score.
        self._curve = max(float(np.mean((share * (1 - share))[-outputs:])), 1e-6)
        self._factor, _ = cho_factor(self._curvature(), lower=True, overwrite_a=True)

    def _curvature(self) -> np.ndarray:
        """What the Hessian of an output is about like, `(D, D)`, of which only the lower triangle is filled."""
        n, columns = self._rows.shape
        chosen = np.linspace(0, n - 1, min(n, SAMPLE * columns)).astype(np.int64)
        weight = self._weight[chosen] / self._weight[chosen].sum()
        found = self._rows.keep(chosen).products(self._curve * weight)
        found[np.diag_indices(columns)] += 1 / self._mass
        return found

    def straight(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients `(outputs, D)` and intercepts `(outputs,)` as the rows know them."""
        whole = flat.reshape(self.outputs, -1)
        coef = solve_triangular(self._factor, whole[:, :-1].T, lower=True, trans=1).T
        return coef, whole[:, -1] / np.sqrt(self._curve)

    def loss(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective and its gradient, divided by the weight of all rows; one pass."""
        coef, intercept = self.straight(flat)
        total, pull, lift = 0.5 * float(np.sum(coef**2)), coef.copy(), np.zeros(self.outputs)
        for rows, values in self._rows.parts():
            scores = values @ coef.T + intercept
            losses, off = _softmax_loss(scores, self._target[rows])
            weight = self._weight[rows]
            total += float(weight @ losses)
            off *= weight[:, None]
            pull += off.T @ values
            lift += off.sum(axis=0)
        pull = solve_triangular(self._factor, pull.T, lower=True).T
        gradient = np.hstack([pull, lift[:, None] / np.sqrt(self._curve)])
        return total / self._mass, gradient.ravel() / self._mass


def _softmax_loss(scores: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Negative log-likelihoods `(b,)`, and their slopes along the scores, `(b, K)`; K is 1 for two classes."""
    single = scores.shape[1] == 1
    if single:
        scores = np.hstack([np.zeros_like(scores), scores])
    each = np.arange(len(target))
    logs = scores - logsumexp(scores, axis=1, keepdims=True)
    off = np.exp(logs)
    off[each, target] -= 1.0
    return -logs[each, target], off[:, 1:] if single else off


class StreamedRidge:
    """Least squares with an L2 penalty of 1 on the coefficients, by the normal equations: two passes.

    Learned: as sklearn's `coef_`, `(outputs, D)`, and `intercept_`, `(outputs,)`.
    """

    def fit(self, X: ScaledRows, y: np.ndarray, sample_weight: np.ndarray) -> StreamedRidge:
        """Learns from `n` rows of positive weight; `y` has shape `(n, outputs)`."""
        mass = sample_weight.sum()
        mean = sample_weight @ y / mass
        centre, pull = np.zeros(X.shape[1]), np.zeros((X.shape[1], y.shape[1]))
        for rows, values in X.parts():
            weighted = values * sample_weight[rows, None]
            centre += weighted.sum(axis=0) / mass
            pull += weighted.T @ (y[rows] - mean)
        curved = dsyr(-mass, centre, a=X.products(sample_weight), lower=1, overwrite_a=1)
        curved[np.diag_indices_from(curved)] += 1.0
        self.coef_ = cho_solve(cho_factor(curved, lower=True, overwrite_a=True), pull).T
        self.intercept_ = mean - self.coef_ @ centre
        return self
