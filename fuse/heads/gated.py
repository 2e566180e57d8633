"""Gated multimodal unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fuse.gradient import GradientClassifier, GradientHead, GradientRegressor

if TYPE_CHECKING:
    from fuse.feed import Part
    from fuse.networks.model import Network


@dataclass(eq=False, repr=False)
class GatedUnit(GradientHead):
    """Each modality passes a gate that sees all: `y = V sum_m sigmoid(G_m x) * tanh(W_m x_m)`; Arevalo et al. (2017).

    Args:
        hidden: width of the unit.
        Others: as in `GradientHead`.
    """

    _widths: ClassVar[tuple[str, ...]] = ("hidden",)

    hidden: int = 64

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.gated import GatedUnit as Formula

        return Formula(parts, self.outputs(), self.hidden, self.dropout)


@dataclass(eq=False, repr=False)
class GatedUnitClassifier(GatedUnit, GradientClassifier):
    """Classes by `GatedUnit`."""


@dataclass(eq=False, repr=False)
class GatedUnitRegressor(GatedUnit, GradientRegressor):
    """A number by `GatedUnit`."""
