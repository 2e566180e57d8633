"""Products of modalities: bilinear and its factorised and compact forms.

One modality alone is multiplied with itself.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fuse.feed import Part
from fuse.networks.model import Network, Present, Values

SMALL = 1e-12
"""Keeps roots and norms differentiable at zero; changes no value by more than 1e-6."""


def twice(items: Sequence[Part]) -> Sequence[Part]:
    """A lone modality stands for both sides of a product."""
    return list(items) * 2 if len(items) == 1 else items


def signed_root(x: Tensor) -> Tensor:
    """`sign(x) sqrt(|x|)`."""
    return x / (x.abs() + SMALL).sqrt()


def unit(x: Tensor) -> Tensor:
    """Rows divided by their L2 norm."""
    return x / (x.square().sum(dim=1, keepdim=True) + SMALL).sqrt()


def maps(parts: Sequence[Part], width: int) -> nn.ModuleList:
    """One linear map a factor."""
    return nn.ModuleList(nn.Linear(part.columns, width) for part in twice(parts))


def mapped(layers: nn.ModuleList, values: Values) -> list[Tensor]:
    """Each factor's map of its modality."""
    sources = values * 2 if len(values) == 1 else values
    return [layer(x) for layer, x in zip(layers, sources, strict=True)]


class Bilinear(Network):
    """`y_k = u_1' W_k u_2 + b_k`, `u_m = U_m x_m + a_m`."""

    def __init__(self, parts: Sequence[Part], outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.maps = maps(parts, hidden)
        self.dropout = nn.Dropout(dropout)
        self.product = nn.Bilinear(hidden, hidden, outputs)

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        first, second = (self.dropout(u) for u in mapped(self.maps, values))
        output: Tensor = self.product(first, second)
        return output


class LowRankBilinear(Network):
    """MLB: `y = P' (tanh(U_1 x_1) * ... * tanh(U_M x_M)) + b`; Kim et al. (2017)."""

    def __init__(self, parts: Sequence[Part], outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.maps = maps(parts, hidden)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        product = torch.stack([torch.tanh(u) for u in mapped(self.maps, values)]).prod(dim=0)
        output: Tensor = self.out(self.dropout(product))
        return output


class FactorizedBilinear(Network):
    """MFB: `y = V l2(root(sum-pool_k(U_1 x_1 * ... * U_M x_M))) + b`, root the signed square root; Yu et al. (2017)."""

    def __init__(self, parts: Sequence[Part], outputs: int, hidden: int, factors: int, dropout: float) -> None:
        super().__init__()
        self.factors = factors
        self.maps = maps(parts, hidden * factors)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        product = self.dropout(torch.stack(mapped(self.maps, values)).prod(dim=0))
        pooled = product.unflatten(1, (-1, self.factors)).sum(dim=2)
        output: Tensor = self.out(unit(signed_root(pooled)))
        return output


class Mutan(Network):
    """MUTAN: `y = V sum_r (A_r^1 x_1 * ... * A_r^M x_M) + b`; Ben-younes et al. (2017)."""

    def __init__(self, parts: Sequence[Part], outputs: int, hidden: int, rank: int, dropout: float) -> None:
        super().__init__()
        self.rank = rank
        self.maps = maps(parts, hidden * rank)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        product = torch.stack(mapped(self.maps, values)).prod(dim=0)
        joined = product.unflatten(1, (self.rank, -1)).sum(dim=1)
        output: Tensor = self.out(self.dropout(joined))
        return output


class CompactBilinear(Network):
    """MCB: `y = V l2(root(ifft(prod_m fft(sketch_m([1; x_m]))))) + b`; Fukui et al. (2016).

    The 1, which is ours, lets each modality count alone, too: standardised features have no mean
    that would. `sketch(x)_j = sum_{i: h(i) = j} s(i) x_i` with random `h` and signs `s` that stay as they are:
    the product of transforms is the sketch of the outer product (Pham and Pagh 2013).
    """

    places: Tensor
    signs: Tensor

    def __init__(self, parts: Sequence[Part], outputs: int, sketch: int, dropout: float) -> None:
        super().__init__()
        self.sketch, self.widths = sketch, [part.columns + 1 for part in twice(parts)]
        total = sum(self.widths)
        self.register_buffer("places", torch.randint(sketch, (total,)))
        self.register_buffer("signs", torch.randint(2, (total,)) * 2.0 - 1.0)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(sketch, outputs)

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        sources = values * 2 if len(values) == 1 else values
        transforms = []
        for x, places, signs in zip(
            sources, self.places.split(self.widths), self.signs.split(self.widths), strict=True
        ):
            sketch = x.new_zeros(len(x), self.sketch).index_add(1, places, with_one(x) * signs)
            transforms.append(torch.fft.rfft(sketch))
        joined = torch.fft.irfft(functools.reduce(torch.mul, transforms), n=self.sketch)
        output: Tensor = self.out(self.dropout(unit(signed_root(joined))))
        return output


class TensorFusion(Network):
    """`y = W vec([1; u_1] o ... o [1; u_M]) + b`, o the outer product, `u_m = tanh(U_m x_m + a_m)`; Zadeh (2017)."""

    def __init__(self, parts: Sequence[Part], outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.maps = maps(parts, hidden)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear((hidden + 1) ** len(self.maps), outputs)

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        product = values[0].new_ones(len(values[0]), 1)
        for u in mapped(self.maps, values):
            extended = with_one(self.dropout(torch.tanh(u)))
            product = (product[:, :, None] * extended[:, None, :]).flatten(1)
        output: Tensor = self.out(product)
        return output


class LowRankFusion(Network):
    """`y = V h + c`, `h = sum_r prod_m F_m^r [1; x_m] + b`; Liu et al. (2018)."""

    def __init__(self, parts: Sequence[Part], outputs: int, hidden: int, rank: int, dropout: float) -> None:
        super().__init__()
        self.factors = nn.ParameterList(
            nn.Parameter(torch.empty(rank, part.columns + 1, hidden)) for part in twice(parts)
        )
        for factor in self.factors:
            nn.init.normal_(factor, std=1 / math.sqrt(factor.shape[1]))
            with torch.no_grad():
                factor[:, 0] = 1.0  # so that each modality counts alone, too, from the start
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, outputs)

    def fused(self, values: Values) -> Tensor:
        """`h`, `(b, hidden)`."""
        sources = values * 2 if len(values) == 1 else values
        own = [
            torch.einsum("bd,rdh->rbh", with_one(x), factor) for x, factor in zip(sources, self.factors, strict=True)
        ]
        return torch.stack(own).prod(dim=0).sum(dim=0) + self.bias

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        output: Tensor = self.out(self.dropout(self.fused(values)))
        return output


def with_one(x: Tensor) -> Tensor:
    """`[1; x]`, `(b, D + 1)`."""
    return torch.cat([x.new_ones(len(x), 1), x], dim=1)


class FeatureWise(Network):
    """FiLM: `y = V relu(gamma(x_1) * u_2 + beta(x_1)) + c`, `u_2 = U x_2 + a`; Perez et al. (2018)."""

    def __init__(self, parts: Sequence[Part], outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        first, second = twice(parts)
        self.gamma = nn.Linear(first.columns, hidden)
        self.beta = nn.Linear(first.columns, hidden)
        self.features = nn.Linear(second.columns, hidden)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, outputs)
        nn.init.ones_(self.gamma.bias)  # starts by passing the features on

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        first, second = values * 2 if len(values) == 1 else values
        modulated = torch.relu(self.gamma(first) * self.features(second) + self.beta(first))
        output: Tensor = self.out(self.dropout(modulated))
        return output


class Multiplicative(Network):
    """`y_k = u_1' W_k u_2 + (U x_1 + V x_2)_k + b_k`, `u_m = P_m x_m + a_m`; Jayakumar et al. (2020)."""

    def __init__(self, parts: Sequence[Part], outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.maps = maps(parts, hidden)
        self.dropout = nn.Dropout(dropout)
        self.product = nn.Bilinear(hidden, hidden, outputs)
        self.linear = nn.ModuleList(nn.Linear(part.columns, outputs, bias=False) for part in twice(parts))

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        first, second = (self.dropout(u) for u in mapped(self.maps, values))
        output: Tensor = self.product(first, second) + torch.stack(mapped(self.linear, values)).sum(dim=0)
        return output
