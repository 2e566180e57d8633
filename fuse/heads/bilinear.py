"""Products of modalities: bilinear, and its factorised and compact forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from fuse.gradient import GradientClassifier, GradientHead, GradientRegressor

if TYPE_CHECKING:
    from fuse.feed import Part
    from fuse.networks.model import Network


@dataclass(eq=False, repr=False)
class Bilinear(GradientHead):
    """`y_k = u_1' W_k u_2 + b_k` with `u_m = U_m x_m + a_m`. One modality alone is multiplied with itself.

    Args:
        hidden: width of `u_m`.
        Others: as in `GradientHead`.
    """

    most_modalities: ClassVar[int | None] = 2
    _widths: ClassVar[tuple[str, ...]] = ("hidden",)

    hidden: int = 32

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.bilinear import Bilinear as Formula

        return Formula(parts, self.outputs(), self.hidden, self.dropout)


@dataclass(eq=False, repr=False)
class BilinearClassifier(Bilinear, GradientClassifier):
    """Classes by `Bilinear`."""


@dataclass(eq=False, repr=False)
class BilinearRegressor(Bilinear, GradientRegressor):
    """A number by `Bilinear`."""


@dataclass(eq=False, repr=False)
class LowRankBilinear(GradientHead):
    """MLB: `y = P' (tanh(U_1 x_1) * ... * tanh(U_M x_M)) + b`; Kim et al. (2017).

    Args:
        hidden: width of the product.
        Others: as in `GradientHead`.
    """

    _widths: ClassVar[tuple[str, ...]] = ("hidden",)

    hidden: int = 64

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.bilinear import LowRankBilinear as Formula

        return Formula(parts, self.outputs(), self.hidden, self.dropout)


@dataclass(eq=False, repr=False)
class MLBClassifier(LowRankBilinear, GradientClassifier):
    """Classes by `LowRankBilinear`."""


@dataclass(eq=False, repr=False)
class MLBRegressor(LowRankBilinear, GradientRegressor):
    """A number by `LowRankBilinear`."""


@dataclass(eq=False, repr=False)
class FactorizedBilinear(GradientHead):
    """MFB: products of `hidden * factors` columns, summed by `factors`, signed root, unit length; Yu et al. (2017).

    Args:
        hidden: width after the sum.
        factors: columns that are summed, k.
        Others: as in `GradientHead`.
    """

    _widths: ClassVar[tuple[str, ...]] = (
        "hidden",
        "factors",
    )

    hidden: int = 64
    factors: int = 5

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.bilinear import FactorizedBilinear as Formula

        return Formula(parts, self.outputs(), self.hidden, self.factors, self.dropout)


@dataclass(eq=False, repr=False)
class MFBClassifier(FactorizedBilinear, GradientClassifier):
    """Classes by `FactorizedBilinear`."""


@dataclass(eq=False, repr=False)
class MFBRegressor(FactorizedBilinear, GradientRegressor):
    """A number by `FactorizedBilinear`."""


@dataclass(eq=False, repr=False)
class Mutan(GradientHead):
    """MUTAN: `y = V sum_r (A_r^1 x_1 * ... * A_r^M x_M) + b`; Ben-younes et al. (2017).

    Args:
        hidden: width of each product.
        rank: how many products are summed, R.
        Others: as in `GradientHead`.
    """

    _widths: ClassVar[tuple[str, ...]] = (
        "hidden",
        "rank",
    )

    hidden: int = 64
    rank: int = 5

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.bilinear import Mutan as Formula

        return Formula(parts, self.outputs(), self.hidden, self.rank, self.dropout)


@dataclass(eq=False, repr=False)
class MutanClassifier(Mutan, GradientClassifier):
    """Classes by `Mutan`."""


@dataclass(eq=False, repr=False)
class MutanRegressor(Mutan, GradientRegressor):
    """A number by `Mutan`."""


@dataclass(eq=False, repr=False)
class CompactBilinear(GradientHead):
    """MCB: the outer product of all modalities as a count sketch, signed root, unit length; Fukui et al. (2016).

    Args:
        sketch: columns of the sketch.
        Others: as in `GradientHead`.
    """

    _widths: ClassVar[tuple[str, ...]] = ("sketch",)

    sketch: int = 1024
    learning_rate: float = field(default=1e-2, kw_only=True)

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.bilinear import CompactBilinear as Formula

        return Formula(parts, self.outputs(), self.sketch, self.dropout)


@dataclass(eq=False, repr=False)
class MCBClassifier(CompactBilinear, GradientClassifier):
    """Classes by `CompactBilinear`."""


@dataclass(eq=False, repr=False)
class MCBRegressor(CompactBilinear, GradientRegressor):
    """A number by `CompactBilinear`."""
