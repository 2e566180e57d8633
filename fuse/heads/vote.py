"""Late voting: one classifier a modality, their probabilities or decisions combined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cache import UsageError
from fuse.estimators import FusionClassifier
from fuse.heads.linear import UnimodalClassifier
from fuse.inputs import Inputs

TIE_BREAK = 1e-6
"""Share of the soft vote in a hard one: too little to overrule a vote, enough to break a tie."""


class LateVotingClassifier(FusionClassifier):
    """One logistic regression a modality, combined by vote (Kittler et al. 1998).

    Soft: `p = sum_m w_m p_m`. Hard: each modality gives its weight to its most probable class;
    a tie goes to the class with the larger soft vote, then to the first in `classes_`.
    Modalities that a row lacks do not vote; a row that lacks all gets the classes' shares in
    the training rows.

    Args:
        voting: `"soft"` or `"hard"`.
        weights: weight of each modality by name, not negative; None weighs all alike.
        C, class_weight, max_iter, tol: of each modality's logistic regression.
        blocks: columns of each modality where `X` is an array.
    """

    def __init__(
        self,
        voting: str = "soft",
        weights: Mapping[str, float] | None = None,
        C: float = 1.0,
        class_weight: Mapping[Any, float] | str | None = None,
        max_iter: int = 1000,
        tol: float = 1e-4,
        blocks: Mapping[str, slice] | None = None,
    ) -> None:
        self.voting = voting
        self.weights = weights
        self.C = C
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.tol = tol
        self.blocks = blocks

    def _fit_head(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        if self.voting not in ("soft", "hard"):
            raise UsageError(f"LateVotingClassifier: voting must be 'soft' or 'hard', got {self.voting!r}")
        self.weights_ = self._checked_weights(inputs)
        self.estimators_ = []
        for name in inputs.modalities:
            voter = UnimodalClassifier(name, C=self.C, max_iter=self.max_iter, tol=self.tol)
            # Rows are checked and weighted by class already: the voter shares both, and the classes.
            voter.classes_, voter.prior_ = self.classes_, self.prior_
            voter._fit_head(inputs, target, weight)
            self.estimators_.append(voter)
        self.n_iter_ = max(voter.n_iter_ for voter in self.estimators_)

    def _checked_weights(self, inputs: Inputs) -> np.ndarray:
        if self.weights is None:
            return np.ones(len(inputs.modalities))
        expected = f"weights must map each of {', '.join(inputs.modalities)} to a number of 0 or more, not all 0"
        try:
            weights = np.array([self.weights.get(name, 0.0) for name in inputs.modalities], dtype=np.float64)
            known = set(self.weights) <= set(inputs.modalities)
        except (AttributeError, TypeError, ValueError) as error:
            raise UsageError(f"LateVotingClassifier: {expected}; got {self.weights!r}") from error
        if not known or not np.isfinite(weights).all() or weights.min() < 0 or weights.max() == 0:
            raise UsageError(f"LateVotingClassifier: {expected}; got {self.weights!r}")
        return weights

    def _head_proba(self, inputs: Inputs) -> np.ndarray:
        """Weighted mean over the modalities that each row has."""
        soft = np.stack([voter._head_proba(inputs) for voter in self.estimators_])
        mask = np.stack([inputs.masks[name] for name in inputs.modalities])
        share = self.weights_[:, None] * mask
        total = share.sum(axis=0)
        voters = share / np.where(total > 0, total, 1.0)
        proba = np.einsum("mn,mnk->nk", voters, soft)
        if self.voting == "hard":
            votes = np.eye(len(self.classes_))[np.argmax(soft, axis=2)]
            proba = (1 - TIE_BREAK) * np.einsum("mn,mnk->nk", voters, votes) + TIE_BREAK * proba
        return np.where(total[:, None] > 0, proba, self.prior_)
