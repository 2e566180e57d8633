"""Concatenations: the MLP on all vectors, with losses a modality, blended, and on all tokens laid flat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cache import UsageError
from fuse.estimators import require_positive
from fuse.folds import inner_folds
from fuse.gradient import GradientClassifier, GradientHead, GradientRegressor
from fuse.inputs import Inputs
from fuse.tokens import TokenHead

if TYPE_CHECKING:
    from fuse.feed import Part
    from fuse.networks.model import Network
    from fuse.training import Trained


@dataclass(eq=False, repr=False)
class ConcatMLP(GradientHead):
    """Multilayer perceptron on the concatenation: `y = W_2 relu(W_1 [x_1; ...; x_M] + b_1) + b_2`.

    Args:
        hidden_sizes: width of each hidden layer.
        auxiliary: share of each modality's own loss. Above 0 each modality first has a hidden layer of
            its own, as wide as the first, from which it also predicts by itself while training.
        Others: as in `GradientHead`.
    """

    hidden_sizes: Sequence[int] = (128,)
    auxiliary: float = 0.0

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.concat import ConcatMLP as Formula

        shares = [1.0, *[float(self.auxiliary)] * len(parts)] if self.auxiliary else None
        return Formula(parts, self.outputs(), self.hidden_sizes, self.dropout, shares)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        require_positive(self, "auxiliary", zero=True)
        check_sizes(self, self.hidden_sizes)
        if self.auxiliary and not len(self.hidden_sizes):
            raise UsageError(f"{type(self).__name__}: auxiliary losses need a hidden layer, got hidden_sizes=()")


def check_sizes(head: GradientHead, sizes: Sequence[int]) -> None:
    """Raises a UsageError unless these are widths of layers."""
    whole = isinstance(sizes, Sequence | np.ndarray) and all(
        isinstance(size, int | np.integer) and not isinstance(size, bool) for size in sizes
    )
    if not whole or min(sizes, default=1) <= 0:
        raise UsageError(f"{type(head).__name__}: hidden_sizes must be a list of positive integers, got {sizes!r}")


@dataclass(eq=False, repr=False)
class ConcatMLPClassifier(ConcatMLP, GradientClassifier):
    """Classes by `ConcatMLP`."""


@dataclass(eq=False, repr=False)
class ConcatMLPRegressor(ConcatMLP, GradientRegressor):
    """A number by `ConcatMLP`."""


@dataclass(eq=False, repr=False)
class GradientBlending(GradientHead):
    """An MLP whose losses, of the joint output and of each modality's own, are weighted by how well each generalises.

    Wang, Tran and Feiszli (2020), offline: the joint network and each modality alone are trained
    with `validation_fraction` of the rows held out. Of loss L from the start to the end, `G` is how
    much the held-out loss fell and `O` by how much more the training loss did; shares are `G / O^2`,
    normalised. Then all is trained together on all rows.

    Args:
        hidden: width of the hidden layer of each modality and of the joint one.
        Others: as in `GradientHead`.

    Learned: `shares_`: of the joint output, and of each modality's own.
    """

    _widths: ClassVar[tuple[str, ...]] = ("hidden",)

    trained_at_once: ClassVar[bool] = False

    copies: ClassVar[float] = 6.0

    hidden: int = 64

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.concat import ConcatMLP as Formula

        sizes = (self.hidden, self.hidden)
        return Formula(parts, self.outputs(), sizes, self.dropout, [float(share) for share in self.shares_])

    def _fit_network(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray, seed: int) -> Trained:
        names = inputs.modalities
        if len(names) == 1:
            self.shares_ = np.array([1.0, 0.0])
            return super()._fit_network(inputs, target, weight, seed)
        alone = len(names) * [0.0]
        found = [self._generalisation(inputs, target, weight, seed, [1.0, *alone])]
        for m, name in enumerate(names):
            has = inputs.masks[name]
            own = inputs.only([name]).keep(has)
            if len(np.unique(own.row_groups())) < 2:  # too few rows have it to tell
                found.append(0.0)
            else:
                found.append(self._generalisation(own, target[has], weight[has], seed + m + 1, [1.0, 0.0]))
        shares = np.array(found)
        self.shares_ = shares / shares.sum() if shares.sum() > 0 else np.full(len(found), 1 / len(found))
        return super()._fit_network(inputs, target, weight, seed)

    def _generalisation(
        self, inputs: Inputs, target: np.ndarray, weight: np.ndarray, seed: int, shares: Sequence[float]
    ) -> float:
        """`G / O^2` of a network that is trained with these shares."""
        self.shares_ = np.array(shares)
        held = inner_folds(inputs, target, weight, max(2, round(1 / self.validation_fraction)), seed) == 0
        parts = (inputs.keep(~held), target[~held], weight[~held]), (inputs.keep(held), target[held], weight[held])
        super()._fit_network(*parts[0], seed)
        after = [self._mean_loss(*part) for part in parts]
        trained = self.weights_
        self.weights_ = {name: np.zeros_like(one) for name, one in trained.items()}
        before = [self._mean_loss(*part) for part in parts]
        self.weights_ = trained
        fell = max(before[1] - after[1], 0.0)
        overfitted = (before[0] - after[0]) - (before[1] - after[1])
        return fell / max(overfitted, 1e-3) ** 2

    def _mean_loss(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> float:
        import torch

        losses = self._loss()(torch.as_tensor(self._scores(inputs)), torch.as_tensor(target))
        return float(np.average(losses.numpy(), weights=weight))

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not self.validation_fraction:
            raise UsageError(f"{type(self).__name__}: validation_fraction must be above 0, got 0")


@dataclass(eq=False, repr=False)
class GradientBlendingClassifier(GradientBlending, GradientClassifier):
    """Classes by `GradientBlending`."""


@dataclass(eq=False, repr=False)
class GradientBlendingRegressor(GradientBlending, GradientRegressor):
    """A number by `GradientBlending`."""


@dataclass(eq=False, repr=False)
class FlatTokens(TokenHead):
    """All token vectors end to end, and the vectors of the other modalities, through one wide hidden layer.

    The head of the ECNU write-up: `y = V relu(W [t_1; ...; t_T; x] + b) + c`. Texts longer than any of
    the training rows are cut.

    Args:
        hidden: width of the hidden layer.
        Others: as in `TokenHead` and `GradientHead`; `tokens` is the text alone by default.
    """

    _widths: ClassVar[tuple[str, ...]] = ("hidden",)

    tokens: Sequence[str] | None = field(default=("text",), kw_only=True)
    hidden: int = 1024

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.concat import FlatTokens as Formula

        return Formula(parts, self.outputs(), self.hidden, self.dropout)


@dataclass(eq=False, repr=False)
class FlatTokensClassifier(FlatTokens, GradientClassifier):
    """Classes by `FlatTokens`."""


@dataclass(eq=False, repr=False)
class FlatTokensRegressor(FlatTokens, GradientRegressor):
    """A number by `FlatTokens`."""
