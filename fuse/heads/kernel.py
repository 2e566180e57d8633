"""Kernel combination: one kernel a modality, their weighted sum or product, a support vector machine on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import SVC, SVR

from cache import UsageError
from fuse.estimators import FusionHead, FusionRegressor, require_choice, require_positive
from fuse.inputs import BlockScaler, Inputs
from fuse.scores import ScoreClassifier


@dataclass(eq=False, repr=False)
class KernelFusion(FusionHead):
    """Kernels a modality, combined: `K = sum_m beta_m K_m` or `prod_m K_m`; Goenen and Alpaydin (2011).

    `K_m` is `exp(-gamma |z - z'|^2)` or `z'z` on the standardised vectors of modality m, of which
    each has a mean square of 1. A row that lacks a modality counts with that modality's mean.

    Args:
        combine: `"sum"` or `"product"`.
        kernel: `"rbf"` or `"linear"`.
        gamma: of `"rbf"`.
        beta: weight of each modality by name in a sum; None: by alignment with the labels (Cortes et
            al. 2012); not used in a product.
        C: inverse strength of the machine's penalty.
        tol: at which libsvm stops.
        blocks: as in `FusionHead`.

    Learned: `beta_`; `support_`, scaled vectors of the training rows that count, `(s, D)`; `dual_`,
    `(outputs, s)`; `intercept_`, `(outputs,)`.
    """

    combine: str = "sum"
    kernel: str = "rbf"
    gamma: float = 0.5
    beta: Mapping[str, float] | None = None
    C: float = 1.0
    tol: float = 1e-8

    def _fit_kernel(self, inputs: Inputs, wanted: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """The kernel matrix of the training rows; `wanted`, `(n, outputs)`, is what it should align with."""
        self._check_parameters()
        self.scaler_ = BlockScaler().fit(inputs, weight)
        self.columns_ = [[name, part.start, part.stop] for name, part in inputs.columns().items()]
        self.support_ = self.scaler_.transform(inputs)
        kernels = self._kernels(self.support_)
        self.beta_ = self._weights(kernels, wanted, weight)
        return self._combined(kernels)

    def _check_parameters(self) -> None:
        require_choice(self, "combine", ("sum", "product"))
        require_choice(self, "kernel", ("rbf", "linear"))
        require_positive(self, "gamma", "C", "tol")

    def _kernels(self, rows: np.ndarray) -> list[np.ndarray]:
        """For each modality the kernel of rows `(n, D)` with the support, `(n, s)`."""
        # In float64 at once: of float32, sklearn widens piece by piece, which takes twice as long.
        wide, support = rows.astype(np.float64), self.support_.astype(np.float64)
        parts = [(wide[:, start:stop], support[:, start:stop]) for _, start, stop in self.columns_]
        if self.kernel == "linear":
            return [a @ b.T for a, b in parts]
        return [rbf_kernel(a, b, gamma=self.gamma) for a, b in parts]

    def _combined(self, kernels: list[np.ndarray]) -> np.ndarray:
        if self.combine == "product":
            return np.prod(kernels, axis=0)
        return np.tensordot(self.beta_, kernels, axes=1)

    def _weights(self, kernels: list[np.ndarray], wanted: np.ndarray, weight: np.ndarray) -> np.ndarray:
        names = [name for name, _, _ in self.columns_]
        if self.combine == "product" or len(names) == 1:
            return np.ones(len(names))
        if self.beta is None:
            aligned = np.array([alignment(one, wanted, weight) for one in kernels]).clip(min=0)
            return aligned / aligned.sum() if aligned.sum() > 0 else np.full(len(names), 1 / len(names))
        try:
            beta = np.array([self.beta.get(name, 0.0) for name in names], dtype=np.float64)
            known = set(self.beta) <= set(names)
        except (AttributeError, TypeError, ValueError):
            known = False
        if not known or not np.isfinite(beta).all() or beta.min() < 0 or beta.max() == 0:
            raise UsageError(
                f"{type(self).__name__}: beta must map each of {', '.join(names)} to a number of 0 or more, not all 0; "
                f"got {self.beta!r}"
            )
        return beta

    def _keep(self, dual: np.ndarray, intercept: np.ndarray) -> None:
        used = (dual != 0).any(axis=0)
        used[0] |= not used.any()
        self.dual_, self.support_, self.intercept_ = dual[:, used], self.support_[used], intercept

    def _decision(self, inputs: Inputs) -> np.ndarray:
        rows = self.scaler_.transform(inputs)
        parts = [rows[start : start + 4096] for start in range(0, len(rows), 4096)]
        return np.concatenate([self._combined(self._kernels(part)) @ self.dual_.T + self.intercept_ for part in parts])


def alignment(kernel: np.ndarray, wanted: np.ndarray, weight: np.ndarray) -> float:
    """Centred alignment `<K, Y Y'> / (|K| |Y Y'|)` with outputs `(n, c)`, rows weighted; Cortes et al. (2012)."""
    share = weight / weight.sum()
    centred = kernel - share @ kernel
    centred = centred - (centred @ share)[:, None]
    root = np.sqrt(share)
    centred *= root[:, None] * root
    y = (wanted - share @ wanted) * root[:, None]
    return float(np.sum((centred @ y) * y) / max(np.linalg.norm(centred) * np.linalg.norm(y.T @ y), 1e-300))


@dataclass(eq=False, repr=False)
class KernelClassifier(KernelFusion, ScoreClassifier):
    """Support vector machine on combined kernels, one class against the rest: `s = K a + b`; `p = softmax(t s)`."""

    def _fit_scores(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        wanted = np.eye(len(self.classes_))[target]
        gram = self._fit_kernel(inputs, wanted, weight)
        seen = np.unique(target)
        dual, intercept = np.zeros((len(self.classes_), len(gram))), np.full(len(self.classes_), -1.0)
        for k in seen if len(seen) > 2 else seen[1:]:
            dual[k], intercept[k] = fit_dual(
                SVC(kernel="precomputed", C=self.C, tol=self.tol), gram, target == k, weight
            )
        if len(seen) == 2:
            dual[seen[0]], intercept[seen[0]] = -dual[seen[1]], -intercept[seen[1]]
        self._keep(dual, intercept)

    def _scores(self, inputs: Inputs) -> np.ndarray:
        return self._decision(inputs)


@dataclass(eq=False, repr=False)
class KernelRegressor(KernelFusion, FusionRegressor):
    """Support vector regression on combined kernels.

    Args:
        epsilon: errors below it do not count, in deviations of the target.
        Others: as in `KernelFusion`.
    """

    epsilon: float = 0.1

    def _fit_head(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        require_positive(self, "epsilon", zero=True)
        gram = self._fit_kernel(inputs, target[:, None], weight)
        model = SVR(kernel="precomputed", C=self.C, epsilon=self.epsilon, tol=self.tol)
        dual, intercept = fit_dual(model, gram, target, weight)
        self._keep(dual[None], np.array([intercept]))

    def _head_output(self, inputs: Inputs) -> np.ndarray:
        return self._decision(inputs)[:, 0]


def fit_dual(model: Any, gram: np.ndarray, target: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Dual coefficients `(n,)` of all training rows, and the intercept."""
    model.fit(gram, target, sample_weight=weight)
    dual = np.zeros(len(gram))
    dual[model.support_] = model.dual_coef_[0]
    return dual, float(model.intercept_[0])
