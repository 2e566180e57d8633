"""Heads that are trained by gradient: what a formula in torch needs to be a sklearn estimator."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from sklearn.utils import check_random_state

from cache import UsageError
from fuse.estimators import (
    FusionClassifier,
    FusionHead,
    FusionRegressor,
    require_choice,
    require_positive,
    require_share,
    softmax,
)
from fuse.folds import inner_folds
from fuse.inputs import PART_BYTES, BlockScaler, Inputs

if TYPE_CHECKING:
    from fuse.feed import Part
    from fuse.networks.model import Model, Network
    from fuse.training import Loss, Rows, Schedule, Trained

VECTOR_ROWS, TOKEN_ROWS = 8192, 256
"""Rows that are predicted at once."""


@dataclass(eq=False, repr=False, kw_only=True)
class GradientHead(FusionHead):
    """Base of heads that are trained by AdamW. Modalities are standardised by `BlockScaler`.

    A row that lacks a modality gets a learned vector in its place (its mean, where no training
    row lacks it), unless the head's formula says how it leaves it out. Predictions are made in
    float64, so that a row's output does not depend on the rows beside it.

    Args:
        epochs: passes over the training rows; small data gets more, at least 400 steps in all.
        batch_size: rows a step; data that fits in one batch is trained in float64, unshuffled.
        learning_rate: AdamW's first step size.
        weight_decay: AdamW's decoupled decay; 0 is Adam.
        schedule: of the learning rate: `"cosine"` to 0, `"plateau"` (halved when the loss stalls), `"constant"`.
        early_stopping: whether to hold out training rows, stop when their loss has not fallen for
            `patience` epochs, and keep the best weights. Groups are held out as a whole.
        validation_fraction: share of the training rows that early stopping holds out.
        patience: epochs.
        dropout: share of hidden units dropped while training.
        modality_dropout: share of modalities hidden from each row while training, never all.
        clip_norm: largest norm of the gradient; None does not clip.
        device: `"cpu"`, `"cuda"` or `"cuda:N"`, to train on; predictions run on the CPU.
        random_state: seed of initial weights, order and dropout.

    Learned: `weights_`, arrays by name; `scaler_`; `n_iter_`, epochs run; `history_`, `(epochs, 2)`,
    losses of training and of held-out rows.
    """

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    schedule: str = "cosine"
    early_stopping: bool = False
    validation_fraction: float = 0.1
    patience: int = 5
    dropout: float = 0.0
    modality_dropout: float = 0.0
    clip_norm: float | None = None
    device: str = "cpu"
    random_state: Any = None

    out_of_core: ClassVar[bool] = True

    copies: ClassVar[float] = 3.5

    trained_at_once: ClassVar[bool] = True
    """Whether one training makes the head, so that `fit_together` can."""

    _together = cast("tuple[Sequence[GradientHead], float]", ((), 1.0))

    @abstractmethod
    def _network(self, parts: Sequence[Part]) -> Network:
        """The formula for these modalities, with `self.outputs()` outputs."""

    @abstractmethod
    def _loss(self) -> Loss:
        """What is minimised."""

    def _fit_head(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        self._check_parameters()
        self._fit_network(inputs, target, weight, self._drawn_seed())

    def _drawn_seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    @staticmethod
    def fit_together(heads: Sequence[GradientHead], X: Any, y: Any, share: float = 1.0) -> None:
        """Fits heads of one kind to the same rows side by side, which is quicker than one after another.

        Args:
            heads: they may differ in what their networks are, and in learning rate, decay, schedule,
                patience, clipping and dropout.
            X, y: as `fit` takes them.
            share: of their steps that they are trained for, as candidates of a search.
        """
        first, *others = heads
        if others and not first.trained_at_once:
            for head in heads:
                GradientHead.fit_together([head], X, y, share)
            return
        first._together = others, share  # for as long as it is fitted: no parameter, nothing learned
        try:
            first.fit(X, y)
        finally:
            del first._together

    def _fit_network(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray, seed: int) -> Trained:
        from fuse.training import train

        parts = self._begin(inputs, weight)
        others, share = self._together
        for other in others:
            other._check_parameters()
            for name in [name for name in vars(self) if name.endswith("_")]:  # what fit has learned so far
                setattr(other, name, getattr(self, name))
        rows = self._rows(inputs, parts, target, weight, seed)
        heads = [self, *others]
        options = [one._schedule(seed, share) for one in heads]
        found = train([one._model for one in heads], rows, self._loss(), options)
        for one, trained in zip(heads, found, strict=True):
            one._keep(trained)
        return found[0]

    def _begin(self, inputs: Inputs, weight: np.ndarray) -> tuple[Part, ...]:
        """Learns what there is to know before training: scales, and what the modalities are."""
        from fuse.feed import parts_of

        self.scaler_ = BlockScaler().fit(inputs, weight)
        parts = parts_of(inputs)
        self.parts_ = inputs.modalities, [part.columns for part in parts], [part.steps or 0 for part in parts]
        self.lacking_ = [not inputs.masks[name].all() or self.modality_dropout > 0 for name in inputs.modalities]
        return parts

    def _keep(self, trained: Trained) -> None:
        self.weights_, self.history_, self.n_iter_ = dict(trained.weights), trained.history, trained.rounds

    def _schedule(self, seed: int, share: float) -> Schedule:
        from fuse.training import Schedule

        names = ("epochs", "batch_size", "learning_rate", "weight_decay", "schedule", "patience", "clip_norm")
        options = {name: getattr(self, name) for name in (*names, "modality_dropout", "device")}
        return Schedule(**options, seed=seed, share=share)

    def _rows(self, inputs: Inputs, parts: Sequence[Part], target: np.ndarray, weight: np.ndarray, seed: int) -> Rows:
        import torch

        from fuse.feed import feed_of
        from fuse.training import Rows

        held = np.zeros(len(inputs), dtype=bool)
        if self.early_stopping:
            held = inner_folds(inputs, target, weight, max(2, round(1 / self.validation_fraction)), seed) == 0
        # A mean of 1 among the rows of either part: then both losses are weighted means.
        share = weight / np.where(held, weight[held].mean() if held.any() else 1.0, weight[~held].mean())
        dtype = torch.float64 if len(inputs) - held.sum() <= self.batch_size else torch.float32
        kind = torch.long if np.issubdtype(target.dtype, np.integer) else dtype
        return Rows(
            feed_of(inputs, self.scaler_, parts, dtype, self.device),
            torch.as_tensor(target, dtype=kind).to(self.device),
            torch.as_tensor(share, dtype=dtype).to(self.device),
            torch.as_tensor(held),
        )

    def _parts(self) -> list[Part]:
        from fuse.feed import Part

        return [Part(name, columns, steps or None) for name, columns, steps in zip(*self.parts_, strict=True)]

    def _model(self) -> Model:
        from fuse.networks.model import Model

        parts = self._parts()
        return Model(self._network(parts), parts, self.lacking_)

    def _scores(self, inputs: Inputs) -> np.ndarray:
        """Outputs of the network, `(n, K)`."""
        import torch

        from fuse.feed import feed_of
        from fuse.training import predict, rebuilt

        feed = feed_of(inputs, self.scaler_, self._parts(), torch.float64)
        at_once = VECTOR_ROWS if inputs.table is None else max(1, PART_BYTES // inputs.row_bytes)
        return predict(rebuilt(self._model, self.weights_), feed, TOKEN_ROWS if inputs.tokens else at_once)

    def _check_parameters(self) -> None:
        require_positive(self, "learning_rate")
        require_positive(self, "epochs", "batch_size", "patience", integer=True)
        require_positive(self, "weight_decay", zero=True)
        require_share(self, "dropout", "modality_dropout", "validation_fraction")
        require_choice(self, "schedule", ("cosine", "plateau", "constant"))
        if self.clip_norm is not None:
            require_positive(self, "clip_norm")
        for name in self._widths:
            require_positive(self, name, integer=True)
        if self.early_stopping and self.validation_fraction == 0:
            raise UsageError(f"{type(self).__name__}: early_stopping needs a validation_fraction above 0")
        check_device(self.device)

    _widths: ClassVar[tuple[str, ...]] = ()
    """Parameters that are positive integers."""


def check_device(device: str) -> None:
    """Raises a UsageError unless torch can compute there."""
    import torch

    try:
        if torch.device(device).type not in ("cpu", "cuda"):
            raise RuntimeError("no device of this kind is supported")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"cannot train on the device {device!r}: {reason}; choose cpu, cuda or cuda:N") from error


@dataclass(eq=False, repr=False, kw_only=True)
class GradientClassifier(FusionClassifier, GradientHead):
    """Base of heads that learn classes by cross-entropy.

    Args:
        label_smoothing: share of each label that is spread over all classes; Szegedy et al. (2016).
        focal_gamma: losses are multiplied by `(1 - p)^gamma`; 0 leaves them; Lin et al. (2017).
        logit_adjustment: `tau`; `tau log prior` is added to the scores while training, which favours
            rare classes in prediction; Menon et al. (2021).
    """

    label_smoothing: float = 0.0
    focal_gamma: float = 0.0
    logit_adjustment: float = 0.0

    def _head_output(self, inputs: Inputs) -> np.ndarray:
        return softmax(self._scores(inputs))

    def _check_parameters(self) -> None:
        super()._check_parameters()
        require_share(self, "label_smoothing")
        require_positive(self, "focal_gamma", "logit_adjustment", zero=True)

    def _loss(self) -> Loss:
        from fuse.losses import classification_loss

        return classification_loss(self.label_smoothing, self.focal_gamma, self.logit_adjustment, self.prior_)


@dataclass(eq=False, repr=False, kw_only=True)
class GradientRegressor(FusionRegressor, GradientHead):
    """Base of heads that learn a number.

    Args:
        loss: of the standardised target: `"squared"`, `"absolute"` or `"huber"`.
    """

    loss: str = "squared"

    def _head_output(self, inputs: Inputs) -> np.ndarray:
        return self._scores(inputs)[:, 0]

    def _check_parameters(self) -> None:
        super()._check_parameters()
        require_choice(self, "loss", ("squared", "absolute", "huber"))

    def _loss(self) -> Loss:
        from fuse.losses import regression_loss

        return regression_loss(self.loss)
