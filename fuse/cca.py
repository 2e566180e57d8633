"""Canonical correlation of two modalities: the directions in which they say the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cholesky, solve_triangular, svd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import _num_samples, check_is_fitted

from cache import FeatureTable, UsageError, listing
from fuse.estimators import require_positive
from fuse.inputs import ANONYMOUS, Inputs, read_inputs

HALVES = ("first", "second")
"""Names of the two blocks of an array that is given without `blocks`."""

LEAST_RIDGE = 1e-10
"""Smallest ridge as a share of a column's own variance: columns that depend on each other leave nothing singular."""


@dataclass(eq=False, repr=False)
class CanonicalCorrelation(TransformerMixin, BaseEstimator):
    """Variates of two modalities that correlate most; Hotelling (1936), with the ridge of Vinod (1976).

    Finds the columns `a`, `b` of `A` and `B` with the largest `a' S_12 b` where `A' (S_11 + r_1 I) A = I` and
    `B' (S_22 + r_2 I) B = I`: with Cholesky factors `S_mm + r_m I = L_m L_m'` these are
    `A = L_1^-T U`, `B = L_2^-T V` of `U diag(c) V' = svd(L_1^-1 S_12 L_2^-T)`. `S` are covariances
    of the rows that have both modalities; labels are not used.

    It takes a `FeatureTable`, or a 2-D array with `blocks`, of exactly two modalities, and gives an
    array; a head that follows takes `blocks=blocks_out_`. A row that lacks a modality gets zeros,
    the mean, for it.

    Args:
        n_components: pairs of variates, k; no more than the narrower modality has columns are given.
        regularization: `r_m` as a share of the mean variance of the columns of modality m.
        blocks: columns of each modality where `X` is an array; None takes its first half for one
            and the rest for the other.

    Learned: `blocks_`, columns of each modality; `blocks_out_`, columns of its variates in the output;
    `means_` and `weights_` by modality, `(D_m,)` and `(D_m, k)`; `correlations_`, `(k,)`, from the largest:
    with a ridge they are a little smaller than those of the variates; `n_features_in_`,
    and `feature_names_in_` where `X` has names.
    """

    n_components: int = 16
    regularization: float = 1e-3
    blocks: Mapping[str, slice] | None = None

    def fit(self, X: Any, y: Any = None) -> CanonicalCorrelation:
        """Learns the variates.

        Args:
            X: `FeatureTable` of `n` rows, or array of shape `(n, D)`.
            y: not used.

        Raises:
            ValueError: what sklearn refuses (NaN, wrong shapes); bad parameters; not two modalities;
                fewer than two rows that have both.
        """
        require_positive(self, "n_components", integer=True)
        require_positive(self, "regularization", zero=True)
        unlabelled = np.zeros(_num_samples(X))  # `read_inputs` asks for labels while fitting
        inputs = _halved(self, read_inputs(self, X, unlabelled, reset=True)[0])
        names = inputs.modalities
        if len(names) != 2:
            raise UsageError(
                f"CanonicalCorrelation joins exactly two modalities, found {listing(names)}; "
                "choose two by table.select([...]), or by blocks of an array"
            )
        both = inputs.masks[names[0]] & inputs.masks[names[1]]
        if both.sum() < 2:
            raise UsageError(
                f"CanonicalCorrelation needs two rows that have both {names[0]} and {names[1]}, "
                f"found {both.sum()} (n_samples = {len(both)}); give more rows"
            )
        rows = [inputs.values[name][both].astype(np.float64) for name in names]
        self.means_ = {name: x.mean(axis=0) for name, x in zip(names, rows, strict=True)}
        first, second = (x - x.mean(axis=0) for x in rows)
        found = canonical(first, second, self.n_components, self.regularization)
        self.weights_, self.correlations_ = dict(zip(names, found[:2], strict=True)), found[2]
        count = len(self.correlations_)
        self.blocks_out_ = {name: slice(m * count, (m + 1) * count) for m, name in enumerate(names)}
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Variates of both modalities side by side, shape `(n, 2k)`; zeros where a row lacks the modality."""
        check_is_fitted(self)
        names = list(self.weights_)
        if isinstance(X, FeatureTable):  # names of halves are ours; they take the columns as they stand
            X = X.to_numpy() if tuple(names) == HALVES and set(names) - set(X.modalities) else X.select(names)
        inputs = read_inputs(self, X, reset=False)[0]
        shown = [
            ((inputs.values[name] - self.means_[name]) @ self.weights_[name]) * inputs.masks[name][:, None]
            for name in names
        ]
        return np.hstack(shown)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the output's columns, such as `text_cca0`; `input_features` is not used."""
        check_is_fitted(self)
        count = range(len(self.correlations_))
        return np.array([f"{name}_cca{number}" for name in self.weights_ for number in count], dtype=object)


def _halved(estimator: CanonicalCorrelation, inputs: Inputs) -> Inputs:
    """Two modalities of an array that came without blocks."""
    if estimator.blocks is not None or inputs.modalities != (ANONYMOUS,):
        return inputs
    values, has = inputs.values[ANONYMOUS], inputs.masks[ANONYMOUS]
    columns = values.shape[1]
    if columns < 2:
        raise UsageError(f"CanonicalCorrelation needs a column of each of two modalities, found n_features = {columns}")
    parts = slice(0, columns // 2), slice(columns // 2, columns)
    estimator.blocks_ = dict(zip(HALVES, parts, strict=True))
    return Inputs({name: values[:, part] for name, part in estimator.blocks_.items()}, dict.fromkeys(HALVES, has))


def canonical(
    first: np.ndarray, second: np.ndarray, count: int, regularization: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights `(D_1, k)` and `(D_2, k)` and correlations `(k,)` of centred rows `(n, D_1)` and `(n, D_2)`.

    The weight of `first` that is largest by size is positive, so that signs do not depend on LAPACK.
    """
    freedom = len(first) - 1
    factors = [_factor(x.T @ x / freedom, regularization) for x in (first, second)]
    half = solve_triangular(factors[0], first.T @ second / freedom, lower=True)
    u, correlations, vt = svd(solve_triangular(factors[1], half.T, lower=True).T, full_matrices=False)
    a, b = (solve_triangular(low, w[:, :count], lower=True, trans=1) for low, w in zip(factors, (u, vt.T), strict=True))
    sign = np.where(a[np.abs(a).argmax(axis=0), np.arange(a.shape[1])] < 0, -1.0, 1.0)
    return a * sign, b * sign, correlations[:count]


def _factor(covariance: np.ndarray, regularization: float) -> np.ndarray:
    """The lower Cholesky factor of a covariance `(D, D)` with its ridge."""
    variance = np.diag(covariance)
    ridge = np.maximum(regularization * variance.mean(), LEAST_RIDGE * variance)
    ridge[ridge == 0] = 1.0  # a constant column, which gets no weight
    factor: np.ndarray = cholesky(covariance + np.diag(ridge), lower=True)
    return factor
