"""Attention between tokens of modalities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cache import UsageError
from fuse.gradient import GradientClassifier, GradientRegressor
from fuse.tokens import TokenHead

if TYPE_CHECKING:
    from fuse.feed import Part
    from fuse.networks.model import Network


@dataclass(eq=False, repr=False)
class CrossAttention(TokenHead):
    """Tokens of each modality attend to those of all others; means are joined. See `fuse.networks.attention`.

    Args:
        hidden: width of queries, keys and values.
        heads: of the attention; they divide `hidden`.
        Others: as in `TokenHead` and `GradientHead`.
    """

    _widths: ClassVar[tuple[str, ...]] = (
        "hidden",
        "heads",
    )
    because: ClassVar[str] = ": with a single key every attention weight is 1"
    needs_columns: ClassVar[bool] = True  # tokens have no place but in what they hold

    hidden: int = 64
    heads: int = 4

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.attention import CrossAttention as Formula

        return Formula(parts, self.outputs(), self.hidden, self.heads, self.dropout)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.hidden % self.heads:
            raise UsageError(f"{type(self).__name__}: heads must divide hidden, got {self.heads} and {self.hidden}")


@dataclass(eq=False, repr=False)
class CrossAttentionClassifier(CrossAttention, GradientClassifier):
    """Classes by `CrossAttention`."""


@dataclass(eq=False, repr=False)
class CrossAttentionRegressor(CrossAttention, GradientRegressor):
    """A number by `CrossAttention`."""


@dataclass(eq=False, repr=False)
class CrossModalTransformer(TokenHead):
    """MulT: for each pair of modalities a transformer from one's tokens to the other's; Tsai et al. (2019).

    Args:
        hidden: width of each stream.
        heads: of the attention; they divide `hidden`.
        layers: blocks for each pair of modalities.
        Others: as in `TokenHead` and `GradientHead`.
    """

    _widths: ClassVar[tuple[str, ...]] = (
        "hidden",
        "heads",
        "layers",
    )
    because: ClassVar[str] = ": with a single key every attention weight is 1"

    hidden: int = 32
    heads: int = 4
    layers: int = 2

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.attention import CrossModalTransformer as Formula

        return Formula(parts, self.outputs(), self.hidden, self.heads, self.layers, self.dropout)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.hidden % self.heads:
            raise UsageError(f"{type(self).__name__}: heads must divide hidden, got {self.heads} and {self.hidden}")


@dataclass(eq=False, repr=False)
class MulTClassifier(CrossModalTransformer, GradientClassifier):
    """Classes by `CrossModalTransformer`."""


@dataclass(eq=False, repr=False)
class MulTRegressor(CrossModalTransformer, GradientRegressor):
    """A number by `CrossModalTransformer`."""
