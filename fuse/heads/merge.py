"""Merges by element: of each modality's logits, or of its features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from fuse.estimators import require_choice
from fuse.gradient import GradientClassifier, GradientHead, GradientRegressor

if TYPE_CHECKING:
    from fuse.feed import Part
    from fuse.networks.model import Network


@dataclass(eq=False, repr=False)
class LogitMerge(GradientHead):
    """`y = o_m (W_m x_m + b_m)`, o the maximum, mean or sum over the modalities that a row has.

    Args:
        merge: `"max"` (the head of the Fakeddit tutorial), `"mean"` or `"sum"`.
        Others: as in `GradientHead`.
    """

    merge: str = "max"
    learning_rate: float = field(default=1e-2, kw_only=True)

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.merge import LogitMerge as Formula

        return Formula(parts, self.outputs(), self.merge, self.dropout)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        require_choice(self, "merge", ("max", "mean", "sum"))


@dataclass(eq=False, repr=False)
class LogitMergeClassifier(LogitMerge, GradientClassifier):
    """Classes by `LogitMerge`."""


@dataclass(eq=False, repr=False)
class LogitMergeRegressor(LogitMerge, GradientRegressor):
    """A number by `LogitMerge`."""


@dataclass(eq=False, repr=False)
class FeatureMerge(GradientHead):
    """`y = V relu(o_m (W_m x_m + b_m)) + c`, o taken over the modalities that a row has.

    Args:
        merge: o: `"max"`, `"mean"`, `"sum"` or `"product"`.
        hidden: width of the merged features.
        Others: as in `GradientHead`.
    """

    _widths: ClassVar[tuple[str, ...]] = ("hidden",)

    merge: str = "max"
    hidden: int = 64

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.merge import FeatureMerge as Formula

        return Formula(parts, self.outputs(), self.merge, self.hidden, self.dropout)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        require_choice(self, "merge", ("max", "mean", "sum", "product"))


@dataclass(eq=False, repr=False)
class FeatureMergeClassifier(FeatureMerge, GradientClassifier):
    """Classes by `FeatureMerge`."""


@dataclass(eq=False, repr=False)
class FeatureMergeRegressor(FeatureMerge, GradientRegressor):
    """A number by `FeatureMerge`."""
