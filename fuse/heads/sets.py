"""Several vectors a sample in no order, such as the images of a product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fuse.estimators import require_choice
from fuse.gradient import GradientClassifier, GradientRegressor
from fuse.tokens import TokenHead

if TYPE_CHECKING:
    from fuse.feed import Part
    from fuse.networks.model import Network


@dataclass(eq=False, repr=False)
class SetFusion(TokenHead):
    """`y = V relu([s_1; ...; s_M]) + b`, `s_m` the pooled vectors of modality m; the order of vectors does not count.

    Args:
        pooling: `"mean"`, `"max"`, `"deepsets"` (Zaheer et al. 2017) or `"attention"` (gated; Ilse et al. 2018).
        hidden: width of each `s_m`.
        Others: as in `TokenHead` and `GradientHead`.
    """

    _widths: ClassVar[tuple[str, ...]] = ("hidden",)
    one_is_enough: ClassVar[bool] = True

    pooling: str = "mean"
    hidden: int = 64

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.sets import SetFusion as Formula

        return Formula(parts, self.outputs(), self.pooling, self.hidden, self.dropout)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        require_choice(self, "pooling", ("mean", "max", "deepsets", "attention"))


@dataclass(eq=False, repr=False)
class SetFusionClassifier(SetFusion, GradientClassifier):
    """Classes by `SetFusion`."""


@dataclass(eq=False, repr=False)
class SetFusionRegressor(SetFusion, GradientRegressor):
    """A number by `SetFusion`."""
