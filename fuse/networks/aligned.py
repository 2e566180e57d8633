"""Modalities that are aligned token by token: CM-BERT's attention and the early-fusion LSTM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fuse.feed import Part
from fuse.networks.attention import last_there
from fuse.networks.model import Network, Present, Values

FAR = -1e4
"""CM-BERT's mask of padded keys."""


def evened(values: Values, steps: int) -> Values:
    """All with this number of tokens: a modality that is missing has only the one that stands in for it."""
    return [nn.functional.pad(x, (0, 0, 0, steps - x.shape[1])) for x in values]


class MaskedMultimodalAttention(Network):
    """CM-BERT's fusion; Yang, Xu and Gao (2020), equations 1 to 9.

    `A_m = relu(P_m P_m')` for each modality, `P_m` its tokens mapped to `width` columns without bias
    and divided by the root of their L2 norm; `W = softmax(sum_m w_m A_m + b + M)` over keys, `M` -1e4
    at padded keys; `X = W X_t`, `H = LN(dropout(L(X + X_t)))`, `y = V dropout(H[0]) + c`. `X_t` are the
    tokens of the first modality, the text. `w_m` start at 1, `b` at 0.

    Args:
        rate: learning rate of `w_m` and `b`; None: as of all.
        scale: `"sample"`: the norm is that of a sample's own tokens. `"batch"`: as the released
            code does, of the first modality alone, by the norm of the whole batch, detached; a
            sample's output then depends on its batch. `"none"`: not divided.
    """

    attends = True

    def __init__(
        self, parts: Sequence[Part], outputs: int, width: int, scale: str, dropout: float, rate: float | None = None
    ) -> None:
        super().__init__()
        if rate is not None:
            self.rates = {"weight": rate, "bias": rate}
        columns = parts[0].columns
        self.scale = scale
        self.maps = nn.ModuleList(nn.Linear(part.columns, width, bias=False) for part in parts)
        self.weight = nn.Parameter(torch.ones(len(parts)))
        self.bias = nn.Parameter(torch.zeros(1))
        self.dense, self.norm = nn.Linear(columns, columns), nn.LayerNorm(columns)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(columns, outputs)

    def _scaled(self, x: Tensor, m: int) -> Tensor:
        if self.scale == "none" or (self.scale == "batch" and m > 0):
            return x
        if self.scale == "batch":
            return x / x.detach().norm().sqrt().clamp(min=1e-6)
        return x / (x.square().sum(dim=(1, 2), keepdim=True) + 1e-12).sqrt().sqrt()

    def attention(self, values: Values, present: Present) -> Tensor:
        """Weights `(b, T)`: how much the first token, from which alone the output is made, takes from each."""
        scores: Tensor = self.bias
        for m, (layer, x) in enumerate(zip(self.maps, values, strict=True)):
            mapped = self._scaled(layer(x), m)
            scores = scores + self.weight[m] * torch.relu((mapped @ mapped[:, 0, :, None])[..., 0])
        return (scores + FAR * (~present[0]).to(scores.dtype)).softmax(dim=1)

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        text = values[0]
        values = evened(values, text.shape[1])
        joined = (self.dropout(self.attention(values, present))[:, None] @ text)[:, 0]
        hidden = self.norm(self.dropout(self.dense(joined + text[:, 0])))
        output: Tensor = self.out(self.dropout(hidden))
        return output

    def looked_at(self, values: Values, present: Present) -> tuple[Tensor, Tensor]:
        """What the first token, from which the output is made, takes from each."""
        return self.attention(evened(values, values[0].shape[1]), present), present[0]


class EarlyFusionLSTM(Network):
    """EF-LSTM: `y = V h_T + b`, h the states of an LSTM over `[x_1t; ...; x_Mt]`; Hochreiter and Schmidhuber (1997).

    T is the last token that any modality has: a row that lacks the first is read to its end all the same.
    """

    def __init__(self, parts: Sequence[Part], outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(sum(part.columns for part in parts), hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        steps = max(x.shape[1] for x in values)
        states, _ = self.lstm(torch.cat(evened(values, steps), dim=2))
        there = [nn.functional.pad(one, (0, steps - one.shape[1])) for one in present]
        output: Tensor = self.out(self.dropout(last_there(states, torch.stack(there).any(dim=0))))
        return output
