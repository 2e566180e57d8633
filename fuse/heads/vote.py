"""Late fusion: one model a modality, their predictions combined by a rule."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.optimize import minimize
from sklearn.base import clone

from cache import UsageError
from fuse.estimators import FusionClassifier, FusionHead, FusionRegressor, require_choice
from fuse.folds import inner_folds, out_of_fold
from fuse.heads.linear import Unimodal, UnimodalClassifier, UnimodalRegressor
from fuse.inputs import Inputs

TIE_BREAK = 1e-6
"""Share of the soft vote in a hard one: too little to overrule a vote, enough to break a tie."""

FLOOR = 1e-12
"""Probabilities are no smaller where their logarithm is taken."""

FOLDS = 5


@dataclass(eq=False, repr=False)
class LateHead(FusionHead):
    """Base of heads that combine one linear model a modality.

    Modalities that a row lacks have no say.

    Learned: `estimators_`, one a modality.
    """

    out_of_core: ClassVar[bool] = True

    @abstractmethod
    def _voter(self, modality: str) -> Unimodal:
        """The model of one modality, not fitted."""

    def _fit_voters(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> list[Unimodal]:
        """One model a modality; rows are checked and weighted already."""
        voters = []
        for name in inputs.modalities:
            voter = self._voter(name)
            voter.blocks_ = self.blocks_
            if isinstance(self, FusionClassifier):
                voter.classes_, voter.prior_ = self.classes_, self.prior_
            if inputs.masks[name].any():
                voter._fit_head(inputs, target, weight)
            else:
                voter = clone(voter)  # has nothing to say of any row
            voters.append(voter)
        return voters

    def _opinions(self, voters: list[Unimodal], inputs: Inputs) -> np.ndarray:
        """What each says, `(M, n, K)` or `(M, n)`."""
        out = [
            voter._head_output(inputs) if hasattr(voter, "scaler_") else self._silent(len(inputs)) for voter in voters
        ]
        return np.stack(out)

    def _silent(self, rows: int) -> np.ndarray:
        nothing = np.asarray(self._nothing(), dtype=np.float64)
        return np.broadcast_to(nothing, (rows, *nothing.shape)).copy()

    def _held_out(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Opinions on every training row of models that did not see it, `(M, n, K)` or `(M, n)`; 5 inner folds."""

        def predict(train: np.ndarray, held: np.ndarray) -> np.ndarray:
            voters = self._fit_voters(inputs.keep(train), target[train], weight[train])
            return np.moveaxis(self._opinions(voters, inputs.keep(held)), 0, 1)

        return np.moveaxis(out_of_fold(predict, inner_folds(inputs, target, weight, FOLDS)), 1, 0)


def stacked_masks(inputs: Inputs) -> np.ndarray:
    """`bool (M, n)`: which modalities a row has."""
    return np.stack([inputs.masks[name] for name in inputs.modalities])


def given_weights(head: FusionHead, weights: Mapping[str, float] | None, inputs: Inputs) -> np.ndarray:
    """Weight of each modality, `(M,)`; ones where None is given.

    Raises:
        UsageError: they are not numbers of 0 or more for the modalities that are there.
    """
    if weights is None:
        return np.ones(len(inputs.modalities))
    expected = f"weights must map each of {', '.join(inputs.modalities)} to a number of 0 or more, not all 0"
    try:
        found = np.array([weights.get(name, 0.0) for name in inputs.modalities], dtype=np.float64)
        known = set(weights) <= set(inputs.modalities)
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"{type(head).__name__}: {expected}; got {weights!r}") from error
    if not known or not np.isfinite(found).all() or found.min() < 0 or found.max() == 0:
        raise UsageError(f"{type(head).__name__}: {expected}; got {weights!r}")
    return found


def mean_of(opinions: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Mean of `(M, n, ...)` opinions by shares `(M, n)`; zeros where all shares are 0."""
    total = share.sum(axis=0)
    return np.einsum("mn,mn...->n...", share / np.where(total > 0, total, 1.0), opinions)


LEAST = 1e-3
"""A fitted weight is no smaller, so that a row with this modality alone is still judged by it."""


def fitted_weights(count: int, loss: Callable[[np.ndarray], float]) -> np.ndarray:
    """Weights that sum to 1 and have the least `loss(weights)`."""
    total = {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    found = minimize(loss, np.full(count, 1 / count), method="SLSQP", bounds=[(LEAST, 1.0)] * count, constraints=total)
    clipped = found.x.clip(min=LEAST)
    return clipped / clipped.sum()


@dataclass(eq=False, repr=False)
class LateVotingClassifier(LateHead, FusionClassifier):
    """One logistic regression a modality, combined by vote (Kittler et al. 1998), over the modalities that a row has.

    `"soft"`: `sum_m w_m p_m`. `"hard"`: each gives its weight to its most probable class; a tie goes to
    the class with the larger soft vote, then to the first in `classes_`. `"product"`: `prod_m p_m^{w_m}`.
    `"prior"`: `prior^{1 - sum_m w_m} prod_m p_m^{w_m}`, Bayes' rule for modalities that are independent
    given the class. `"max"`, `"min"`, `"median"`: by class. `"fitted"`: soft, by the weights of the
    largest likelihood on rows that the voters did not see, in 5 inner folds. All scaled to sum to 1.

    Args:
        voting: one of these.
        weights: weight of each modality by name, not negative; None weighs all alike. Not used by
            `max`, `min`, `median` and `fitted`.
        C, max_iter, tol: of each modality's logistic regression.
        class_weight, blocks: as in `FusionClassifier`.

    Learned: `weights_`, `(M,)`; `estimators_`, one a modality.
    """

    voting: str = "soft"
    weights: Mapping[str, float] | None = None
    C: float = 1.0
    max_iter: int = 1000
    tol: float = 1e-6

    def _voter(self, modality: str) -> Unimodal:
        return UnimodalClassifier(modality=modality, C=self.C, max_iter=self.max_iter, tol=self.tol)

    def _fit_head(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        require_choice(self, "voting", ("soft", "hard", *RULES, "fitted"))
        self.weights_ = given_weights(self, self.weights, inputs)
        self.estimators_ = self._fit_voters(inputs, target, weight)
        self.n_iter_ = max(getattr(voter, "n_iter_", 0) for voter in self.estimators_)
        if self.voting == "fitted" and len(inputs.modalities) > 1:
            opinions, mask = self._held_out(inputs, target, weight), stacked_masks(inputs)
            own = opinions[:, np.arange(len(target)), target]

            def loss(weights: np.ndarray) -> float:
                chosen = mean_of(own, weights[:, None] * mask)
                return -float(np.average(np.log(chosen.clip(min=FLOOR)), weights=weight))

            self.weights_ = fitted_weights(len(mask), loss)

    def _head_output(self, inputs: Inputs) -> np.ndarray:
        opinions, mask = self._opinions(self.estimators_, inputs), stacked_masks(inputs)
        share = self.weights_[:, None] * mask
        if self.voting in RULES:
            proba = RULES[self.voting](opinions, mask if self.voting in UNWEIGHTED else share, self.prior_)
        else:
            proba = mean_of(opinions, share)
        if self.voting == "hard":
            votes = np.eye(len(self.classes_))[np.argmax(opinions, axis=2)]
            proba = (1 - TIE_BREAK) * mean_of(votes, share) + TIE_BREAK * proba
        total = proba.sum(axis=1, keepdims=True)
        counted = mask if self.voting in UNWEIGHTED else share > 0
        return np.where(
            (total > 0) & np.any(counted, axis=0, keepdims=True).T, proba / np.where(total > 0, total, 1.0), self.prior_
        )


def _log(p: np.ndarray) -> np.ndarray:
    return np.log(p.clip(min=FLOOR))


def _normal(scores: np.ndarray) -> np.ndarray:
    return np.exp(scores - scores.max(axis=1, keepdims=True))


def _product(opinions: np.ndarray, share: np.ndarray, prior: np.ndarray) -> np.ndarray:
    return _normal(np.einsum("mn,mnk->nk", share, _log(opinions)))


def _prior_corrected(opinions: np.ndarray, share: np.ndarray, prior: np.ndarray) -> np.ndarray:
    return _normal(np.einsum("mn,mnk->nk", share, _log(opinions) - _log(prior)) + _log(prior))


def _largest(opinions: np.ndarray, mask: np.ndarray, prior: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None], opinions, 0.0).max(axis=0)


def _smallest(opinions: np.ndarray, mask: np.ndarray, prior: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None], opinions, 1.0).min(axis=0)


def _median(opinions: np.ndarray, mask: np.ndarray, prior: np.ndarray) -> np.ndarray:
    return masked_median(opinions, np.broadcast_to(mask[..., None], opinions.shape))


def masked_median(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Median over the first axis of what is there; 0 where nothing is."""
    shown = np.where(mask.any(axis=0), np.where(mask, values, np.nan), 0.0)
    found: np.ndarray = np.nanmedian(shown, axis=0)
    return found


RULES = {"product": _product, "prior": _prior_corrected, "max": _largest, "min": _smallest, "median": _median}
UNWEIGHTED = ("max", "min", "median")


@dataclass(eq=False, repr=False)
class LateVotingRegressor(LateHead, FusionRegressor):
    """One ridge regression a modality; the mean, the median, or the mean by fitted weights of those that a row has.

    Args:
        voting: `"mean"`, `"median"`, or `"fitted"`: weights of the least squared error on rows that the
            voters did not see, in 5 inner folds.
        weights: weight of each modality by name in the mean; None weighs all alike.
        alpha: strength of each ridge's penalty.
        blocks: as in `FusionHead`.

    Learned: `weights_`, `(M,)`; `estimators_`, one a modality.
    """

    voting: str = "mean"
    weights: Mapping[str, float] | None = None
    alpha: float = 1.0

    def _voter(self, modality: str) -> Unimodal:
        return UnimodalRegressor(modality=modality, alpha=self.alpha)

    def _fit_head(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        require_choice(self, "voting", ("mean", "median", "fitted"))
        self.weights_ = given_weights(self, self.weights, inputs)
        self.estimators_ = self._fit_voters(inputs, target, weight)
        if self.voting == "fitted" and len(inputs.modalities) > 1:
            opinions, mask = self._held_out(inputs, target, weight), stacked_masks(inputs)

            def loss(weights: np.ndarray) -> float:
                error = mean_of(opinions, weights[:, None] * mask) - target
                return float(np.average(error**2, weights=weight))

            self.weights_ = fitted_weights(len(mask), loss)

    def _head_output(self, inputs: Inputs) -> np.ndarray:
        opinions, mask = self._opinions(self.estimators_, inputs), stacked_masks(inputs)
        if self.voting == "median":
            return masked_median(opinions, mask)
        return mean_of(opinions, self.weights_[:, None] * mask)
