"""One modality changes how the other is read: FiLM and multiplicative interaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fuse.gradient import GradientClassifier, GradientHead, GradientRegressor

if TYPE_CHECKING:
    from fuse.feed import Part
    from fuse.networks.model import Network


@dataclass(eq=False, repr=False)
class FeatureWise(GradientHead):
    """FiLM, the first modality changes the second: `y = V relu(gamma(x_1) * u_2 + beta(x_1)) + c`; Perez et al. (2018).

    Args:
        hidden: width of `u_2`.
        Others: as in `GradientHead`.
    """

    most_modalities: ClassVar[int | None] = 2
    _widths: ClassVar[tuple[str, ...]] = ("hidden",)

    hidden: int = 64

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.bilinear import FeatureWise as Formula

        return Formula(parts, self.outputs(), self.hidden, self.dropout)


@dataclass(eq=False, repr=False)
class FiLMClassifier(FeatureWise, GradientClassifier):
    """Classes by `FeatureWise`."""


@dataclass(eq=False, repr=False)
class FiLMRegressor(FeatureWise, GradientRegressor):
    """A number by `FeatureWise`."""


@dataclass(eq=False, repr=False)
class Multiplicative(GradientHead):
    """`y = u_1' W u_2 + U x_1 + V x_2 + b`, `u_m = P_m x_m + a_m`; Jayakumar et al. (2020).

    Args:
        hidden: width of `u_m`.
        Others: as in `GradientHead`.
    """

    most_modalities: ClassVar[int | None] = 2
    _widths: ClassVar[tuple[str, ...]] = ("hidden",)

    hidden: int = 32

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.bilinear import Multiplicative as Formula

        return Formula(parts, self.outputs(), self.hidden, self.dropout)


@dataclass(eq=False, repr=False)
class MultiplicativeClassifier(Multiplicative, GradientClassifier):
    """Classes by `Multiplicative`."""


@dataclass(eq=False, repr=False)
class MultiplicativeRegressor(Multiplicative, GradientRegressor):
    """A number by `Multiplicative`."""
