"""What every network shares: missing modalities, modality dropout, and further losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from fuse.feed import Part

Values = list[Tensor]
"""One tensor a modality: `(b, D)`, or `(b, T, D)` where it is read token by token."""

Present = list[Tensor]
"""One `bool` tensor a modality: `(b,)`, or `(b, T)`."""


@dataclass(frozen=True)
class Term:
    """One summand of the loss: an output `(b, K)`, its share, and which rows count (None: all)."""

    output: Tensor
    share: float = 1.0
    rows: Tensor | None = None


class Network(nn.Module, ABC):
    """A formula of the field, from values of all modalities to `(b, K)` outputs."""

    skips = False
    """True where the formula itself leaves out what a row lacks; else a learned vector stands in."""
    attends = False
    """True where the output is a weighted mean of tokens, and `looked_at` gives the weights."""
    rates: Mapping[str, float] = MappingProxyType({})
    """Learning rates of parameters, by name, that have one of their own."""

    @abstractmethod
    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""

    def terms(self, values: Values, present: Present, shown: Present) -> Sequence[Term]:
        """What is trained; the output alone unless a network has more to learn by.

        `shown` is `bool (b,)` a modality: which rows have it, no vector standing in.
        """
        return [Term(self(values, present))]

    def looked_at(self, values: Values, present: Present) -> tuple[Tensor, Tensor]:
        """Weights `(b, T)` of tokens, and which are there, `bool (b, T)`; of networks that attend."""
        raise TypeError(f"{type(self).__name__} does not attend to tokens")


class Model(nn.Module):
    """A network with what stands in for missing modalities.

    A row that lacks a modality gets a learned vector for it (of tokens: one). It starts at
    zero, the mean of the scaled features, and stays there unless training rows lack it.

    Args:
        network: the formula.
        parts: modalities.
        lacking: which of them some training rows lack; only these are learned.
    """

    def __init__(self, network: Network, parts: Sequence[Part], lacking: Sequence[bool]) -> None:
        super().__init__()
        self.network = network
        learned = [not network.skips and lacks for lacks in lacking]
        self.missing = nn.ParameterList(
            [
                nn.Parameter(torch.zeros(part.columns), requires_grad=one)
                for part, one in zip(parts, learned, strict=True)
            ]
        )
        self.dropped = 0.0
        """Share of the modalities hidden from each row while training."""

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        output: Tensor = self.network(*self._filled(values, present))
        return output

    def terms(self, values: Values, present: Present) -> Sequence[Term]:
        """What is trained on a batch."""
        if self.training and self.dropped:
            present = _hidden(present, self.dropped)
        return self.network.terms(*self._filled(values, present), [has(one) for one in present])

    def groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameters that learn, as optimisers take them: all at this rate, but for those that have their own."""
        rates = {f"network.{name}": rate for name, rate in self.network.rates.items()}
        by_rate: dict[float, list[nn.Parameter]] = {}
        for name, part in self.named_parameters():
            if part.requires_grad:
                by_rate.setdefault(rates.get(name, learning_rate), []).append(part)
        return [{"params": parts, "lr": rate, "weight_decay": weight_decay} for rate, parts in by_rate.items()]

    def looked_at(self, values: Values, present: Present) -> tuple[Tensor, Tensor]:
        """Weights of tokens, where the network attends."""
        return self.network.looked_at(*self._filled(values, present))

    def _filled(self, values: Values, present: Present) -> tuple[Values, Present]:
        if self.network.skips:
            shown = [torch.where(there[..., None], value, 0.0) for value, there in zip(values, present, strict=True)]
            return shown, present
        filled, there = [], []
        for value, here, vector in zip(values, present, self.missing, strict=True):
            if self.training and not vector.requires_grad:  # no training row lacks it
                filled.append(value)
                there.append(here)
                continue
            some = has(here)
            if here.ndim == 1:
                filled.append(torch.where(some[:, None], value, vector))
                there.append(torch.ones_like(here))
            else:
                first = torch.zeros_like(here)
                first[:, 0] = ~some
                value = torch.where(here[..., None], value, 0.0)
                filled.append(torch.where(first[..., None], vector, value))
                there.append(here | first)
        return filled, there


def has(present: Tensor) -> Tensor:
    """`bool (b,)`: which rows have a modality, be it a vector or tokens."""
    return present if present.ndim == 1 else present.any(dim=1)


def _hidden(present: Present, share: float) -> Present:
    """Hides modalities at random, but never all that a row has: the one with the largest draw is kept."""
    shown = torch.stack([has(one) for one in present], dim=1)
    draw = torch.rand(shown.shape, device=shown.device).masked_fill(~shown, -1.0)
    kept = shown & ((draw >= share) | (draw == draw.amax(dim=1, keepdim=True)))
    return [one & (kept[:, [m]] if one.ndim == 2 else kept[:, m]) for m, one in enumerate(present)]


def masked_mean(values: Tensor, present: Tensor) -> Tensor:
    """Mean over the tokens that are there, `(b, T, D)` to `(b, D)`; zeros where there is none."""
    shown = present.to(values.dtype)
    # A product takes a third of the time of masking and adding up, which copy all tokens.
    return (shown[:, None] @ values)[:, 0] / shown.sum(dim=1, keepdim=True).clamp(min=1)


def masked_max(values: Tensor, present: Tensor) -> Tensor:
    """Largest value over the tokens that are there, `(b, T, D)` to `(b, D)`; zeros where there is none."""
    largest = torch.where(present[..., None], values, -torch.inf).amax(dim=1)
    return torch.where(present.any(dim=1)[:, None], largest, 0.0)


def masked_softmax(scores: Tensor, present: Tensor) -> Tensor:
    """Softmax over the last axis among what is there; zeros where nothing is."""
    scores = scores.masked_fill(~present, -torch.inf)
    largest = scores.detach().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    raised = (scores - largest).exp()
    return raised / raised.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
