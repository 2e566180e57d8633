"""Gated multimodal unit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fuse.feed import Part
from fuse.networks.model import Network, Present, Values


class GatedUnit(Network):
    """`h = sum_m g_m * h_m`, `h_m = tanh(W_m x_m + b_m)`, `g_m = sigmoid(G_m [x_1; ...; x_M] + c_m)`; `y = V h + d`.

    Arevalo et al. (2017), equations for more than two modalities.
    """

    def __init__(self, parts: Sequence[Part], outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        width = sum(part.columns for part in parts)
        self.maps = nn.ModuleList(nn.Linear(part.columns, hidden) for part in parts)
        self.gates = nn.ModuleList(nn.Linear(width, hidden) for _ in parts)
        self.out = nn.Linear(hidden, outputs)
        self.dropout = nn.Dropout(dropout)

    def gate(self, values: Values) -> Tensor:
        """How far each modality passes, `(b, M, hidden)`."""
        together = torch.cat(values, dim=1)
        return torch.stack([torch.sigmoid(one(together)) for one in self.gates], dim=1)

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        own = torch.stack([torch.tanh(one(x)) for one, x in zip(self.maps, values, strict=True)], dim=1)
        output: Tensor = self.out(self.dropout((self.gate(values) * own).sum(dim=1)))
        return output
