"""Several vectors a sample in no order, such as the images of a product: pooled, then joined."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fuse.feed import Part
from fuse.networks.attention import as_steps
from fuse.networks.model import Network, Present, Values, masked_max, masked_mean, masked_softmax


class MeanPool(nn.Module):
    """`mean_i x_i`, or `max_i x_i` by element."""

    def __init__(self, columns: int, hidden: int, largest: bool) -> None:
        super().__init__()
        self.pool = masked_max if largest else masked_mean
        self.map = nn.Linear(columns, hidden)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """`(b, T, D)` to `(b, hidden)`."""
        output: Tensor = self.map(self.pool(x, there))
        return output


class DeepSet(nn.Module):
    """`rho(sum_i phi(x_i))` with `phi = relu(P x + a)` and `rho` linear; Zaheer et al. (2017)."""

    def __init__(self, columns: int, hidden: int) -> None:
        super().__init__()
        self.phi, self.rho = nn.Linear(columns, hidden), nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """`(b, T, D)` to `(b, hidden)`."""
        output: Tensor = self.rho(torch.where(there[..., None], torch.relu(self.phi(x)), 0.0).sum(dim=1))
        return output


class GatedAttentionPool(nn.Module):
    """`sum_i a_i x_i`, `a = softmax_i(w' (tanh(V x_i) * sigmoid(U x_i)))`; Ilse et al. (2018)."""

    def __init__(self, columns: int, hidden: int) -> None:
        super().__init__()
        self.v, self.u = nn.Linear(columns, hidden), nn.Linear(columns, hidden)
        self.w = nn.Linear(hidden, 1, bias=False)
        self.map = nn.Linear(columns, hidden)

    def weights(self, x: Tensor, there: Tensor) -> Tensor:
        """`(b, T)`."""
        scores = self.w(torch.tanh(self.v(x)) * torch.sigmoid(self.u(x)))[..., 0]
        return masked_softmax(scores, there)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """`(b, T, D)` to `(b, hidden)`."""
        pooled = (self.weights(x, there)[..., None] * x).sum(dim=1)
        output: Tensor = self.map(pooled)
        return output


class SetFusion(Network):
    """`y = V relu([s_1; ...; s_M]) + b`, `s_m` the pooled set of modality m."""

    def __init__(self, parts: Sequence[Part], outputs: int, pooling: str, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attends = pooling == "attention"
        pools: dict[str, type[nn.Module]] = {"deepsets": DeepSet, "attention": GatedAttentionPool}
        self.pools = nn.ModuleList(
            pools[pooling](part.columns, hidden)
            if pooling in pools
            else MeanPool(part.columns, hidden, pooling == "max")
            for part in parts
        )
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden * len(parts), outputs)

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        steps, there = as_steps(values, present)
        pooled = [pool(x, one) for pool, x, one in zip(self.pools, steps, there, strict=True)]
        output: Tensor = self.out(self.dropout(torch.relu(torch.cat(pooled, dim=1))))
        return output

    def looked_at(self, values: Values, present: Present) -> tuple[Tensor, Tensor]:
        """Of gated attention: the weights of the first modality's vectors."""
        pool = self.pools[0]
        if not isinstance(pool, GatedAttentionPool):
            raise TypeError("only gated attention has weights")
        steps, there = as_steps(values, present)
        return pool.weights(steps[0], there[0]), there[0]
