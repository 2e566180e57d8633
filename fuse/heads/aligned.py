"""Modalities that are aligned token by token, such as words and the sound of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fuse.estimators import require_choice, require_positive
from fuse.gradient import GradientClassifier, GradientRegressor
from fuse.tokens import TokenHead

if TYPE_CHECKING:
    from fuse.feed import Part
    from fuse.networks.model import Network


@dataclass(eq=False, repr=False)
class MaskedMultimodalAttention(TokenHead):
    """CM-BERT's masked multimodal attention over tokens of the text and of what is aligned with it; Yang et al. (2020).

    Args:
        width: columns to which tokens are mapped before their products.
        scale: `"sample"`, `"batch"` (as the released code does; outputs depend on batch-mates) or `"none"`.
        fusion_rate: learning rate of the weights of the modalities; None takes `learning_rate`, the paper 0.01.
        Others: as in `TokenHead` and `GradientHead`; the paper drops 0.3.
    """

    _widths: ClassVar[tuple[str, ...]] = ("width",)
    aligned: ClassVar[bool] = True
    because: ClassVar[str] = ": with a single key every attention weight is 1"
    needs_columns: ClassVar[bool] = True  # the layer norm of a single column is a constant

    width: int = 30
    scale: str = "sample"
    fusion_rate: float | None = None

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.aligned import MaskedMultimodalAttention as Formula

        return Formula(parts, self.outputs(), self.width, self.scale, self.dropout, self.fusion_rate)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        require_choice(self, "scale", ("sample", "batch", "none"))
        if self.fusion_rate is not None:
            require_positive(self, "fusion_rate")


@dataclass(eq=False, repr=False)
class CMBERTClassifier(MaskedMultimodalAttention, GradientClassifier):
    """Classes by `MaskedMultimodalAttention`."""


@dataclass(eq=False, repr=False)
class CMBERTRegressor(MaskedMultimodalAttention, GradientRegressor):
    """A number by `MaskedMultimodalAttention`."""


@dataclass(eq=False, repr=False)
class EarlyFusionLSTM(TokenHead):
    """EF-LSTM: an LSTM over the tokens of all modalities side by side; its last state decides.

    Args:
        hidden: width of the state.
        Others: as in `TokenHead` and `GradientHead`.
    """

    _widths: ClassVar[tuple[str, ...]] = ("hidden",)
    aligned: ClassVar[bool] = True

    hidden: int = 64

    def _network(self, parts: Sequence[Part]) -> Network:
        from fuse.networks.aligned import EarlyFusionLSTM as Formula

        return Formula(parts, self.outputs(), self.hidden, self.dropout)


@dataclass(eq=False, repr=False)
class EFLSTMClassifier(EarlyFusionLSTM, GradientClassifier):
    """Classes by `EarlyFusionLSTM`."""


@dataclass(eq=False, repr=False)
class EFLSTMRegressor(EarlyFusionLSTM, GradientRegressor):
    """A number by `EarlyFusionLSTM`."""
