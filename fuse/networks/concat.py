"""Concatenations: of vectors, with further losses a modality, and of all tokens laid flat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fuse.feed import Part
from fuse.networks.model import Network, Present, Term, Values


def perceptron(columns: int, hidden_sizes: Sequence[int], outputs: int, dropout: float) -> nn.Sequential:
    """Linear layers with ReLU and dropout between them."""
    layers: list[nn.Module] = []
    for width in hidden_sizes:
        layers += [nn.Linear(columns, int(width)), nn.ReLU(), nn.Dropout(dropout)]
        columns = int(width)
    return nn.Sequential(*layers, nn.Linear(columns, outputs))


class ConcatMLP(Network):
    """`y = W_2 relu(W_1 [x_1; ...; x_M] + b_1) + b_2`.

    With `shares`, one for the joint output and one a modality, each modality first has a hidden
    layer of its own, `h_m = relu(U_m x_m + a_m)`, as wide as the first. The joint output reads them
    side by side in place of `x_m`, and each modality also learns to predict by itself,
    `y_m = V_m h_m + c_m`, from the rows that have it.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        outputs: int,
        hidden_sizes: Sequence[int],
        dropout: float,
        shares: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.shares = shares
        if shares is None:
            self.layers = perceptron(sum(part.columns for part in parts), hidden_sizes, outputs, dropout)
            return
        width = int(hidden_sizes[0])
        self.towers = nn.ModuleList(nn.Sequential(nn.Linear(part.columns, width), nn.ReLU()) for part in parts)
        self.alone = nn.ModuleList(nn.Linear(width, outputs) for _ in parts)
        self.dropout = nn.Dropout(dropout)
        self.layers = perceptron(width * len(parts), list(hidden_sizes[1:]) or hidden_sizes, outputs, dropout)

    def _features(self, values: Values) -> Values:
        if self.shares is None:
            return values
        return [self.dropout(tower(x)) for tower, x in zip(self.towers, values, strict=True)]

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        output: Tensor = self.layers(torch.cat(self._features(values), dim=1))
        return output

    def terms(self, values: Values, present: Present, shown: Present) -> Sequence[Term]:
        """The joint output and, with shares, that of each modality."""
        if self.shares is None:
            return super().terms(values, present, shown)
        features = self._features(values)
        joint = Term(self.layers(torch.cat(features, dim=1)), self.shares[0])
        return [
            joint,
            *(
                Term(one(x), share, there.to(x.dtype))
                for one, x, share, there in zip(self.alone, features, self.shares[1:], shown, strict=True)
            ),
        ]


class FlatTokens(Network):
    """`y = V relu(W [t_1; ...; t_T; x] + b) + c`: tokens end to end, zeros where there are no more.

    The head of the ECNU write-up: all token vectors of the text and the vector of the image.
    """

    def __init__(self, parts: Sequence[Part], outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.widths = [part.columns * (part.steps or 1) for part in parts]
        self.layers = perceptron(sum(self.widths), [hidden], outputs, dropout)

    def forward(self, values: Values, present: Present) -> Tensor:
        """Outputs `(b, K)`."""
        flat = [
            nn.functional.pad(x.flatten(1), (0, width - x[0].numel()))
            for x, width in zip(values, self.widths, strict=True)
        ]
        output: Tensor = self.layers(torch.cat(flat, dim=1))
        return output
