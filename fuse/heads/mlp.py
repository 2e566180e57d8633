"""Concat MLP: a perceptron on the standardised concatenation of all modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import check_random_state

from cache import UsageError
from fuse.estimators import FusionClassifier, require_positive, softmax
from fuse.inputs import BlockScaler, Inputs

if TYPE_CHECKING:
    from torch import nn


class ConcatMLPClassifier(FusionClassifier):
    """Multilayer perceptron on the concatenation: `softmax(W_2 relu(W_1 z + b_1) + b_2)`.

    `z` comes from `BlockScaler`. A row that lacks a modality counts with that modality's mean.
    Trained by `fuse.training` (AdamW, cosine decay); predictions are made in float64 so that a
    row's probabilities do not depend on the rows beside it.

    Args:
        hidden_sizes: width of each hidden layer.
        dropout: share of hidden units dropped while training.
        learning_rate: AdamW's first step size.
        weight_decay: AdamW's decoupled decay.
        epochs: passes over the training rows; small data gets more, at least 400 steps in all.
        batch_size: rows a step; data that fits in one batch is trained in float64, unshuffled.
        class_weight: `"balanced"`, or weights by label.
        random_state: seed of initial weights, order and dropout.
        blocks: columns of each modality where `X` is an array.
    """

    def __init__(
        self,
        hidden_sizes: Sequence[int] = (128,),
        dropout: float = 0.0,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        epochs: int = 20,
        batch_size: int = 128,
        class_weight: Mapping[Any, float] | str | None = None,
        random_state: int | np.random.RandomState | None = None,
        blocks: Mapping[str, slice] | None = None,
    ) -> None:
        self.hidden_sizes = hidden_sizes
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.class_weight = class_weight
        self.random_state = random_state
        self.blocks = blocks

    def _fit_head(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        from fuse.training import Schedule, train, weights_of

        self._check_parameters()
        self.scaler_ = BlockScaler().fit(inputs, weight)
        scaled = self.scaler_.transform(inputs)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        schedule = Schedule(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            seed=seed,
        )
        module = train(lambda: self._module(scaled.shape[1]), scaled, target, weight, schedule)
        self.weights_ = weights_of(module)

    def _head_proba(self, inputs: Inputs) -> np.ndarray:
        from fuse.training import scores

        scaled = self.scaler_.transform(inputs)
        return softmax(scores(lambda: self._module(scaled.shape[1]), self.weights_, scaled))

    def _module(self, columns: int) -> nn.Sequential:
        from torch import nn

        layers: list[nn.Module] = []
        for width in self.hidden_sizes:
            layers += [nn.Linear(columns, int(width)), nn.ReLU(), nn.Dropout(self.dropout)]
            columns = int(width)
        return nn.Sequential(*layers, nn.Linear(columns, len(self.classes_)))

    def _check_parameters(self) -> None:
        require_positive(self, "learning_rate")
        require_positive(self, "epochs", "batch_size", integer=True)
        require_positive(self, "weight_decay", "dropout", zero=True)
        if self.dropout >= 1:
            raise UsageError(f"ConcatMLPClassifier: dropout must be below 1, got {self.dropout!r}")
        sizes = self.hidden_sizes
        whole = isinstance(sizes, Sequence | np.ndarray) and all(isinstance(size, int | np.integer) for size in sizes)
        if not whole or min(sizes, default=1) <= 0:
            raise UsageError(f"ConcatMLPClassifier: hidden_sizes must be a list of positive integers, got {sizes!r}")
