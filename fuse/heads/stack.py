"""Models on models: stacking, and greedy ensemble selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils import check_random_state

from cache import UsageError, listing
from fuse.estimators import FusionClassifier, FusionHead, FusionRegressor, require_positive, softmax
from fuse.folds import inner_folds
from fuse.heads.linear import Unimodal, UnimodalClassifier, UnimodalRegressor, _fit_softmax
from fuse.heads.vote import FLOOR, LateHead
from fuse.inputs import Inputs
from fuse.tokens import TokenHead


@dataclass(eq=False, repr=False)
class StackingClassifier(LateHead, FusionClassifier):
    """Logistic regression on what one logistic regression a modality says of rows that it did not see.

    `p = softmax(sum_m A_m log p_m + b)`, `A` and `b` fitted to probabilities from 5 inner folds;
    Wolpert (1992). A modality that a row lacks says the classes' shares.

    Args:
        C: of each modality's logistic regression.
        second_c: inverse strength of the penalty on `A`.
        max_iter, tol: of all logistic regressions.
        class_weight, blocks: as in `FusionClassifier`.

    Learned: `estimators_`, one a modality; `coef_`, `(K, M K)`; `intercept_`, `(K,)`.
    """

    C: float = 1.0
    second_c: float = 1.0
    max_iter: int = 1000
    tol: float = 1e-6

    def _voter(self, modality: str) -> Unimodal:
        return UnimodalClassifier(modality=modality, C=self.C, max_iter=self.max_iter, tol=self.tol)

    def _fit_head(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        require_positive(self, "second_c")
        self.estimators_ = self._fit_voters(inputs, target, weight)
        said = self._features(self._held_out(inputs, target, weight))
        model = LogisticRegression(C=self.second_c, max_iter=self.max_iter, tol=self.tol)
        self.coef_, self.intercept_ = _fit_softmax(model, said, target, weight, len(self.classes_))
        self.n_iter_ = int(np.max(model.n_iter_))

    @staticmethod
    def _features(opinions: np.ndarray) -> np.ndarray:
        """Logarithms of `(M, n, K)` probabilities side by side, `(n, M K)`."""
        said = np.log(opinions.clip(min=1e-4))
        return np.concatenate(list(said), axis=1)

    def _head_output(self, inputs: Inputs) -> np.ndarray:
        return softmax(self._features(self._opinions(self.estimators_, inputs)) @ self.coef_.T + self.intercept_)


@dataclass(eq=False, repr=False)
class StackingRegressor(LateHead, FusionRegressor):
    """Ridge regression on what one ridge regression a modality says of rows that it did not see; Wolpert (1992).

    Args:
        alpha: strength of each modality's penalty.
        final_alpha: strength of the penalty on the combination.
        blocks: as in `FusionHead`.

    Learned: `estimators_`, one a modality; `coef_`, `(M,)`; `intercept_`.
    """

    alpha: float = 1.0
    final_alpha: float = 1.0

    def _voter(self, modality: str) -> Unimodal:
        return UnimodalRegressor(modality=modality, alpha=self.alpha)

    def _fit_head(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        require_positive(self, "final_alpha")
        self.estimators_ = self._fit_voters(inputs, target, weight)
        model = Ridge(alpha=self.final_alpha)
        model.fit(self._held_out(inputs, target, weight).T, target, sample_weight=weight)
        self.coef_, self.intercept_ = model.coef_, float(model.intercept_)

    def _head_output(self, inputs: Inputs) -> np.ndarray:
        return self._opinions(self.estimators_, inputs).T @ self.coef_ + self.intercept_


@dataclass(eq=False, repr=False)
class EnsembleSelection(FusionHead):
    """A mean of heads, chosen greedily: what lowers the loss on held-out rows most is added, again and again.

    Caruana et al. (2004), with replacement: a member that is chosen twice counts twice. The loss, log
    loss or squared error, is that on training rows which the members did not see; those that are
    chosen are then fitted to all rows.

    Args:
        members: names of heads; `"unimodal"` is one for each modality. None takes `unimodal`, `mlp-aux`,
            and `logreg` for classes or `ridge` for numbers.
        rounds: how many are added; the best prefix is kept.
        parts: one part in so many of the training rows is held out for the choice.
        random_state: seed of members that take one.
        Others: as in `FusionHead`.

    Learned: `estimators_`, the members that were chosen; `shares_`, their shares; `chosen_`, their names.
    """

    members: Sequence[str] | None = None
    rounds: int = 25
    parts: int = 3
    random_state: Any = None

    def _member(self, name: str, seed: int) -> FusionHead:
        from fuse.registry import make_classifier, make_regressor  # the registry lists this head, too

        make = make_classifier if isinstance(self, FusionClassifier) else make_regressor
        head = make(name)
        if type(head) is type(self):
            raise UsageError(f"{type(self).__name__}: members cannot hold the ensemble itself, got {name!r}")
        return head.set_params(random_state=seed) if "random_state" in head.get_params() else head

    def _fit_head(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        require_positive(self, "rounds", integer=True)
        require_positive(self, "parts", integer=True)
        if isinstance(self.members, str) or (self.members is not None and not self.members) or self.parts < 2:
            raise UsageError(f"{type(self).__name__}: members must be a list of heads, and parts 2 or more")
        library = self._library(inputs)
        held = inner_folds(inputs, target, weight, self.parts) == 0
        rows = inputs.keep(~held), target[~held], weight[~held]
        said = np.stack([self._fitted(one, *rows)._known(inputs.keep(held)) for one in library.values()])
        counts = self._select(said, target[held], weight[held])
        self.chosen_ = [name for name, count in zip(library, counts, strict=True) if count]
        self.shares_ = counts[counts > 0] / counts.sum()
        self.estimators_ = [self._fitted(library[name], inputs, target, weight) for name in self.chosen_]

    def _library(self, inputs: Inputs) -> dict[str, FusionHead]:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        library: dict[str, FusionHead] = {}
        linear = "logreg" if isinstance(self, FusionClassifier) else "ridge"
        for name in ("unimodal", linear, "mlp-aux") if self.members is None else self.members:
            if name == "unimodal":
                single = {m: self._member(name, seed).set_params(modality=m) for m in inputs.modalities}
                library |= {f"unimodal {m}": head for m, head in single.items() if inputs.masks[m].any()}
            else:
                library[name] = self._member(name, seed)
        token = [name for name, head in library.items() if isinstance(head, TokenHead)]
        if token:
            raise UsageError(f"{type(self).__name__}: members see one vector a modality, {listing(token)} needs tokens")
        return library

    def _fitted(self, member: FusionHead, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> FusionHead:
        head = clone(member)
        head.blocks_ = self.blocks_
        if isinstance(self, FusionClassifier):
            head.classes_, head.prior_ = self.classes_, self.prior_
        if isinstance(head, Unimodal) and not inputs.masks[str(head.modality)].any():
            raise UsageError(f"no row outside the held-out part has the modality {head.modality!r}; leave it out")
        head._fit_head(inputs, target, weight)
        return head

    def _select(self, said: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """How often each member is taken, `(members,)`."""
        total, counts, best = np.zeros_like(said[0]), np.zeros(len(said)), (np.inf, np.zeros(len(said)))
        for size in range(1, self.rounds + 1):
            losses = [self._cost((total + one) / size, target, weight) for one in said]
            chosen = int(np.argmin(losses))
            total, counts = total + said[chosen], counts + np.eye(len(said))[chosen]
            if losses[chosen] < best[0]:
                best = losses[chosen], counts
        return best[1]

    def _cost(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
        if isinstance(self, FusionClassifier):
            chosen = output[np.arange(len(target)), target]
            return -float(np.average(np.log(chosen.clip(min=FLOOR)), weights=weight))
        return float(np.average((output - target) ** 2, weights=weight))

    def _head_output(self, inputs: Inputs) -> np.ndarray:
        return np.tensordot(self.shares_, [head._known(inputs) for head in self.estimators_], axes=1)


@dataclass(eq=False, repr=False)
class EnsembleSelectionClassifier(EnsembleSelection, FusionClassifier):
    """The mean of the members' probabilities."""


@dataclass(eq=False, repr=False)
class EnsembleSelectionRegressor(EnsembleSelection, FusionRegressor):
    """The mean of the members' values."""
