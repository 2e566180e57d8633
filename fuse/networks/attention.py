"""Attention between the tokens of modalities: cross-attention and MulT's cross-modal transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from fuse.feed import Part
from fuse.networks.model import Network, Present, Values, masked_mean, masked_softmax


def as_steps(values: Values, present: Present) -> tuple[Values, Present]:
    """Vectors as sequences of one token: everything `(b, T, D)` and `(b, T)`."""
    steps = [x if x.ndim == 3 else x[:, None] for x in values]
    there = [one if one.ndim == 2 else one[:, None] for one in present]
    return steps, there


class Attention(nn.Module):
    """Multi-head attention, `softmax(Q K' / sqrt(d)) V` a head; Vaswani et al. (2017). Absent keys get 0."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def weights(self, queries: Tensor, keys: Tensor, there: Tensor) -> Tensor:
        """Weights `(b, heads, Q, T)`."""
        q, k = (self._split(layer(x)) for layer, x in ((self.query, queries), (self.key, keys)))
        return masked_softmax(q @ k.mT / math.sqrt(q.shape[-1]), there[:, None, None])

    def forward(self, queries: Tensor, keys: Tensor, there: Tensor) -> Tensor:
        """What each query takes from the keys, `(b, Q, width)`."""
        weights = self.dropout(self.weights(queries, keys, there))
        taken = weights @ self._split(self.value(keys))
        output: Tensor = self.out(taken.transpose(1, 2).flatten(2))
        return output

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class CrossAttention(Network):
    """Tokens of each modality attend to those of all others: `c_m = mean_t LN(t_m + Attention(t_m, others))`.

    `t_m = P_m x_m`; `y = V [c_1; ...; c_M] + b`. One modality alone attends to itself.
    """

    attends = True

    def __init__(self, parts: Sequence[Part], outputs: int, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(part.columns, hidden) for part in parts)
        self.attention = nn.ModuleList(Attention(hidden, heads, dropout) for _ in parts)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in parts)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden * len(parts), outputs)

    def _mapped(self, values: Values, present: Present) -> tuple[Values, Present]:
        steps, there = as_steps(values, present)
        return [layer(x) for layer, x in zip(self.maps, steps, strict=True)], there

    @staticmethod
    def _others(steps: Values, there: Present, m: int) -> tuple[Tensor, Tensor]:
        if len(steps) == 1:
            return steps[0], there[0]
        rest = [number for number in range(len(steps)) if number != m]
        return torch.cat([steps[n] for n in rest], dim=1), torch.cat([there[n] for n in rest], dim=1)

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        steps, there = self._mapped(values, present)
        context = []
        for m, x in enumerate(steps):
            keys, shown = self._others(steps, there, m)
            joined = self.norms[m](x + self.attention[m](x, keys, shown))
            context.append(masked_mean(joined, there[m]))
        output: Tensor = self.out(self.dropout(torch.cat(context, dim=1)))
        return output

    def looked_at(self, values: Values, present: Present) -> tuple[Tensor, Tensor]:
        """How much the first modality's tokens take from each key on average: of the second, and so on, in turn."""
        steps, there = self._mapped(values, present)
        keys, shown = self._others(steps, there, 0)
        weights = cast(Attention, self.attention[0]).weights(steps[0], keys, shown).mean(dim=1)
        return masked_mean(weights, there[0]), shown


class Block(nn.Module):
    """A layer of MulT: `z = y + Attention(LN(y), LN(x))`, then `z + W_2 relu(W_1 LN(z))`; Tsai et al. (2019)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.norm, self.source_norm, self.last_norm = (nn.LayerNorm(width) for _ in range(3))
        self.forward_layers = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, target: Tensor, source: Tensor, there: Tensor) -> Tensor:
        """The target's tokens with what they take from the source's, `(b, T, width)`."""
        taken = self.attention(self.norm(target), self.source_norm(source), there)
        z = target + self.dropout(taken)
        output: Tensor = z + self.dropout(self.forward_layers(self.last_norm(z)))
        return output


class CrossModalTransformer(Network):
    """MulT; Tsai et al. (2019).

    Each modality's tokens are mapped to one width and get sinusoidal positions. For each target
    and each other modality as source, `layers` cross-modal blocks; what a target got from all its
    sources stands side by side and goes through a self-attention block; the last token that is
    there is kept. `y = V (h + W_2 relu(W_1 h)) + b` on all targets' side by side, h. One modality
    alone is its own source.
    """

    def __init__(
        self, parts: Sequence[Part], outputs: int, hidden: int, heads: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        count = len(parts)
        self.sources = [[n for n in range(count) if n != m] or [m] for m in range(count)]
        self.maps = nn.ModuleList(nn.Linear(part.columns, hidden, bias=False) for part in parts)
        self.cross = nn.ModuleList(
            nn.ModuleList(nn.ModuleList(Block(hidden, heads, dropout) for _ in range(layers)) for _ in sources)
            for sources in self.sources
        )
        self.alone = nn.ModuleList(Block(hidden * len(sources), heads, dropout) for sources in self.sources)
        width = hidden * sum(map(len, self.sources))
        self.first, self.second, self.out = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        steps, there = as_steps(values, present)
        mapped = [layer(x) for layer, x in zip(self.maps, steps, strict=True)]
        placed = [x + positions(x) for x in mapped]
        last = []
        for m, sources in enumerate(self.sources):
            blocks = list(self.cross[m].children())
            taken = [_through(blocks[i], placed[m], placed[n], there[n]) for i, n in enumerate(sources)]
            joined = torch.cat(taken, dim=2)
            joined = self.alone[m](joined, joined, there[m])
            last.append(last_there(joined, there[m]))
        h = torch.cat(last, dim=1)
        h = h + self.second(self.dropout(torch.relu(self.first(h))))
        output: Tensor = self.out(h)
        return output


def _through(blocks: nn.Module, target: Tensor, source: Tensor, there: Tensor) -> Tensor:
    for block in blocks.children():
        target = block(target, source, there)
    return target


def positions(x: Tensor) -> Tensor:
    """Sinusoidal positions `(T, D)` of tokens `(b, T, D)`; Vaswani et al. (2017)."""
    steps, width = x.shape[1:]
    rate = torch.exp(torch.arange(0, width, 2, device=x.device, dtype=x.dtype) * (-math.log(10000.0) / width))
    angle = torch.arange(steps, device=x.device, dtype=x.dtype)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :width]


def last_there(values: Tensor, present: Tensor) -> Tensor:
    """The last token that is there, `(b, T, D)` to `(b, D)`."""
    places = torch.arange(present.shape[1], device=present.device) * present
    return values[torch.arange(len(values), device=values.device), places.amax(dim=1)]
