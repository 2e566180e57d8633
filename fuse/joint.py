"""A head as the top of encoders that are trained with it, and what becomes of it afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from cache import FeatureTable, UsageError, listing
from fuse.estimators import FusionClassifier, FusionRegressor
from fuse.feed import Feed
from fuse.gradient import GradientHead
from fuse.task import targets
from fuse.training import Batch, Loss, Trained, built

if TYPE_CHECKING:
    from fuse.estimators import FusionHead

LEAST_SCALE = 0.01
"""No column of an encoder that learns is scaled up by more than the inverse of it, beside the median column."""

Given = tuple[Tensor, Tensor]
"""What an encoder gives for a batch: vectors `(b, D)` and `bool (b,)`, or tokens `(b, T, D)` and `bool (b, T)`."""


class Joint(nn.Module):
    """A head's network as a module that takes what encoders give and returns the loss.

    It is the very network that `head.fit` would train on cached features, with the same scales,
    initial weights and loss, so that with encoders that do not learn both trainings are one. Scales
    are those of the features as they are before the encoders learn. Modalities whose encoders do not
    learn are read from the table. Of encoders that learn, columns that hardly vary are not scaled up.

    Args:
        head: not fitted; one that is trained by gradient, in one training.
        table: all labelled rows, with features of the encoders as they start.
        train: row numbers that the head may learn from.
        tuned: modalities whose encoders learn.
        device: on which to compute.

    Attributes:
        by_token: modalities that the head reads token by token.
        seed: of the order in which `head.fit` would take the rows.
        groups: the parameters with the head's learning rates and decay, as optimisers take them.

    Raises:
        UsageError: the head cannot be trained with encoders, or its parameters are wrong.
    """

    def __init__(
        self, head: FusionHead, table: FeatureTable, train: np.ndarray, tuned: Sequence[str], device: str = "cpu"
    ) -> None:
        super().__init__()
        self._head = _checked(head)
        y = targets(table, "classification" if isinstance(head, FusionClassifier) else "regression")
        inputs, _, weight = self._head._prepared(table[train], y[train], None, None)
        if len(inputs) < len(train):
            raise UsageError(
                f"{len(train) - len(inputs)} of the training rows have none of the modalities "
                f"{listing(table.modalities)}; leave them out of those that train"
            )
        self._head._check_parameters()
        self.seed = self._head._drawn_seed()
        self._head._begin(inputs, weight)
        self._spare_dead_columns([name for name in table.modalities if name in tuned], inputs.columns())
        self.by_token = tuple(getattr(head, "read_by_token_", ()))
        self.model = built(self._head._model, self.seed)
        self.model.dropped = self._head.modality_dropout
        self.groups = self.model.groups(float(self._head.learning_rate), float(self._head.weight_decay))
        self._loss: Loss = self._head._loss()
        self._tuned = [name for name in table.modalities if name in tuned]
        everything = self._head._read_again(table).without(self._head.unseen_)
        self._feed = Feed(everything, self._head.scaler_, self._head._parts(), torch.float32, device)
        self._frozen = [name for name in table.modalities if name not in tuned]
        self._affine = {name: self._scales(name, inputs.columns(), device) for name in self._tuned}
        shares = np.ones(len(table))
        shares[train] = weight / weight.mean()
        self._weight = torch.as_tensor(shares, dtype=torch.float32).to(device)
        self._target = self._targets(y).to(device)

    def _spare_dead_columns(self, tuned: Sequence[str], columns: Mapping[str, slice]) -> None:
        """Bounds scales from below: an encoder that learns may wake a column that was all but constant.

        Standardised by what it was, its gradient would be infinite: MiniLM has columns that vary by 1e-32.
        """
        scaler = self._head.scaler_
        scaler.scale_, scaler.token_scale_ = scaler.scale_.copy(), dict(scaler.token_scale_)
        for name in tuned:
            if name in scaler.token_scale_:
                scaler.token_scale_[name] = _bounded(scaler.token_scale_[name])
            else:
                scaler.scale_[columns[name]] = _bounded(scaler.scale_[columns[name]])

    def _scales(self, name: str, columns: Mapping[str, slice], device: str) -> tuple[Tensor, Tensor]:
        scaler = self._head.scaler_
        if name in self.by_token:
            pair = scaler.token_mean_[name], scaler.token_scale_[name]
        else:
            pair = scaler.mean_[columns[name]], scaler.scale_[columns[name]]
        mean, scale = (torch.as_tensor(one, dtype=torch.float32).to(device) for one in pair)
        return mean, scale

    def _targets(self, y: np.ndarray) -> Tensor:
        head: Any = self._head
        if isinstance(head, FusionRegressor):
            return torch.as_tensor((y - head.target_mean_) / head.target_scale_, dtype=torch.float32)
        return torch.as_tensor(np.searchsorted(head.classes_, y), dtype=torch.long)

    def forward(self, rows: Tensor, given: Mapping[str, Given]) -> Tensor:
        """The loss of some rows: of all terms while training, else of the output alone."""
        values, present = self._inputs(rows, given)
        return Batch(values, present, self._target[rows], self._weight[rows]).loss(self.model, self._loss)

    def scores(self, rows: Tensor, given: Mapping[str, Given]) -> Tensor:
        """Outputs `(b, K)`."""
        output: Tensor = self.model(*self._inputs(rows, given))
        return output

    def _inputs(self, rows: Tensor, given: Mapping[str, Given]) -> tuple[list[Tensor], list[Tensor]]:
        frozen = dict(zip(self._frozen, zip(*self._feed.take(rows, self._frozen), strict=True), strict=True))
        found = []
        for part in self._head._parts():
            if part.name in frozen:
                found.append(frozen[part.name])
            else:
                found.append(self._scaled(part.name, given.get(part.name), len(rows), part.columns, part.steps))
        return [values for values, _ in found], [there for _, there in found]

    def _scaled(self, name: str, given: Given | None, rows: int, columns: int, steps: int | None) -> Given:
        """Standardised as the head's features are; zeros where nothing is."""
        mean, scale = self._affine[name]
        if given is None or name in self._head.unseen_:
            shape = (rows,) if steps is None else (rows, 1)
            return mean.new_zeros((*shape, columns)), torch.zeros(shape, dtype=torch.bool, device=mean.device)
        values, there = given
        if steps is not None:  # longer than any row of training: the network has no place for more
            values, there = values[:, :steps], there[:, :steps]
        return torch.where(there[..., None], (values - mean) / scale, 0.0), there

    def fitted(self, history: Sequence[Mapping[str, float]] = ()) -> FusionHead:
        """The head with the weights as they are now; it predicts from features of the tuned encoders."""
        from fuse.feed import as_arrays

        losses = [[epoch.get("train_loss", np.nan), epoch.get("valid_loss", np.nan)] for epoch in history]
        trained = Trained(as_arrays(self.model.state_dict()), len(losses), np.array(losses).reshape(-1, 2))
        self._head._keep(trained)
        return self._head


def _bounded(scale: np.ndarray) -> np.ndarray:
    return np.maximum(scale, LEAST_SCALE * np.median(scale))


def _checked(head: FusionHead) -> GradientHead:
    name = type(head).__name__
    if not isinstance(head, GradientHead) or not head.trained_at_once:
        raise UsageError(
            f"{name} cannot be trained together with encoders: its training is not one descent by gradient. Take one "
            "that is, such as linear, mlp, gmu or cmbert, and compare the others on the tuned features"
        )
    if head.early_stopping:
        raise UsageError(f"{name}: rows are held out for all parts together here; give --patience, not early_stopping")
    return head
