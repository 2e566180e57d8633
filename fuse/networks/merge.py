"""Merges by element: of each modality's logits, or of its features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fuse.feed import Part
from fuse.networks.model import Network, Present, Values

Merge = Callable[[Tensor, Tensor], Tensor]
"""Joins `(b, M, D)` where `(b, M, 1)` says a modality is there; to `(b, D)`, zeros where none is."""


def _sum(values: Tensor, there: Tensor) -> Tensor:
    return torch.where(there, values, 0.0).sum(dim=1)


def _mean(values: Tensor, there: Tensor) -> Tensor:
    return _sum(values, there) / there.sum(dim=1).clamp(min=1)


def _max(values: Tensor, there: Tensor) -> Tensor:
    return torch.where(there.any(dim=1), torch.where(there, values, -torch.inf).amax(dim=1), 0.0)


def _product(values: Tensor, there: Tensor) -> Tensor:
    return torch.where(there.any(dim=1), torch.where(there, values, 1.0).prod(dim=1), 0.0)


MERGES: dict[str, Merge] = {"max": _max, "mean": _mean, "sum": _sum, "product": _product}


class LogitMerge(Network):
    """`y = o_m (W_m x_m + b_m)`, o the maximum, mean or sum over the modalities that a row has."""

    skips = True

    def __init__(self, parts: Sequence[Part], outputs: int, merge: str, dropout: float) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(part.columns, outputs) for part in parts)
        self.merge, self.dropout = MERGES[merge], nn.Dropout(dropout)

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        own = torch.stack([one(self.dropout(x)) for one, x in zip(self.maps, values, strict=True)], dim=1)
        return self.merge(own, torch.stack(present, dim=1)[..., None])


class FeatureMerge(Network):
    """`y = V relu(o_m (W_m x_m + b_m)) + c`, o the maximum, mean, sum or product over what a row has."""

    skips = True

    def __init__(self, parts: Sequence[Part], outputs: int, merge: str, hidden: int, dropout: float) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(part.columns, hidden) for part in parts)
        self.merge, self.dropout = MERGES[merge], nn.Dropout(dropout)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        own = torch.stack([one(x) for one, x in zip(self.maps, values, strict=True)], dim=1)
        joined = torch.relu(self.merge(own, torch.stack(present, dim=1)[..., None]))
        output: Tensor = self.out(self.dropout(joined))
        return output
