"""Tensor fusion and its low-rank form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cache import UsageError
from fuse.gradient import GradientClassifier, GradientHead, GradientRegressor

if TYPE_CHECKING:
    from fuse.feed import Part
    from fuse.networks.model import Network

MOST_CELLS = 2_000_000
"""Of an outer product: beyond it a row takes too long, and its weights too much memory."""


@dataclass(eq=False, repr=False)
class TensorFusion(GradientHead):
    """`y = W vec([1; u_1] o ... o [1; u_M]) + b`, outer products of `u_m = tanh(U_m x_m + a_m)`; Zadeh et al. (2017).

    Args:
        hidden: width of each `u_m`; the product has `(hidden + 1)^M` cells.
        Others: as in `GradientHead`.
    """

    _widths: ClassVar[tuple[str, ...]] = ("hidden",)

    hidden: int = 32

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.bilinear import TensorFusion as Formula

        return Formula(parts, self.outputs(), self.hidden, self.dropout)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        cells = (self.hidden + 1) ** max(len(self.blocks_), 2)
        if cells > MOST_CELLS:
            raise UsageError(
                f"{type(self).__name__}: the outer product of {len(self.blocks_)} modalities of {self.hidden} columns "
                f"has {cells} cells, at most {MOST_CELLS} are computed; choose a smaller hidden, or the head lowrank"
            )


@dataclass(eq=False, repr=False)
class TensorFusionClassifier(TensorFusion, GradientClassifier):
    """Classes by `TensorFusion`."""


@dataclass(eq=False, repr=False)
class TensorFusionRegressor(TensorFusion, GradientRegressor):
    """A number by `TensorFusion`."""


@dataclass(eq=False, repr=False)
class LowRankFusion(GradientHead):
    """`y = V (sum_r prod_m F_m^r [1; x_m] + b) + c`; Liu et al. (2018).

    Args:
        hidden: width of the product.
        rank: how many products are summed.
        Others: as in `GradientHead`.
    """

    _widths: ClassVar[tuple[str, ...]] = (
        "hidden",
        "rank",
    )

    hidden: int = 64
    rank: int = 4

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.bilinear import LowRankFusion as Formula

        return Formula(parts, self.outputs(), self.hidden, self.rank, self.dropout)


@dataclass(eq=False, repr=False)
class LowRankFusionClassifier(LowRankFusion, GradientClassifier):
    """Classes by `LowRankFusion`."""


@dataclass(eq=False, repr=False)
class LowRankFusionRegressor(LowRankFusion, GradientRegressor):
    """A number by `LowRankFusion`."""
