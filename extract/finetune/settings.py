"""How encoders are tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cache import UsageError, listing

SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "plateau": "reduce_lr_on_plateau",
    "constant": "constant_with_warmup",
}
"""Of the learning rate, and transformers' names for them."""
EPOCHS, MIN_STEPS, MOST_EPOCHS = 3, 240, 20
PRECISIONS = ("auto", "fp32", "bf16")
RATES = {"text": 5e-5, "image": 1e-4}
"""Learning rates of encoders."""


@dataclass(frozen=True)
class Tuning:
    """How encoders are tuned, together with the head.

    Attributes:
        epochs: passes over the training rows; None makes 3, of small data as many as give `MIN_STEPS` steps of the
            optimizer, 20 at most: small data needs more of them (Mosbach et al. 2021).
        batch_size: rows a step and process; times `accumulate` for one step of the optimizer.
        accumulate: batches whose gradients are added up for one step.
        rates: learning rates by modality; those that are not named are `RATES`. The head has its own.
        schedule: `linear`, `cosine` or `constant`, after the warm-up; `plateau` (no warm-up, a tenth once
            the watched loss has not fallen for two epochs).
        warm_up: share of the steps in which rates rise from 0.
        weight_decay: of the encoders' weights but biases and norms (AdamW); the head has its own.
        clip_norm: largest norm of the gradient; None does not clip.
        patience: epochs for which the validation loss may fail to fall before the training ends; the best weights
            are kept. None trains all epochs and keeps the last weights.
        freeze: by modality, how many of the lowest parts stay as they are.
        lora: rank of the low-rank updates of a text model's linear layers that are learned instead of its weights
            (Hu et al. 2022); 0 learns the weights.
        augment: whether pictures are cropped and mirrored at random.
        checkpointing: recompute a text model's activations in the backward pass, which saves memory.
        precision: `fp32`, `bf16` (autocast), or `auto`: bf16 where the device has it.
        seed: of order, dropout and augmentation.
    """

    epochs: int | None = None
    batch_size: int = 32
    accumulate: int = 1
    rates: Mapping[str, float] = field(default_factory=dict)
    schedule: str = "linear"
    warm_up: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0
    patience: int | None = None
    freeze: Mapping[str, int] = field(default_factory=dict)
    lora: int = 0
    augment: bool = False
    checkpointing: bool = False
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError for a value that means nothing."""
        for name in ("epochs", "batch_size", "accumulate"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name.replace('_', ' ')} must be 1 or more, got {value}")
        if self.schedule not in SCHEDULES:
            raise UsageError(f"the schedule is one of {listing(list(SCHEDULES))}, not {self.schedule!r}")
        if self.precision not in PRECISIONS:
            raise UsageError(f"the precision is one of {listing(PRECISIONS)}, not {self.precision!r}")
        if not 0 <= self.warm_up < 1 or self.weight_decay < 0 or self.lora < 0:
            raise UsageError(
                f"warm-up is a share below 1, weight decay and LoRA's rank are 0 or more; got {self.warm_up}, "
                f"{self.weight_decay}, {self.lora}"
            )
        if self.patience is not None and self.patience < 1:
            raise UsageError(f"patience must be 1 or more, got {self.patience}")
        wrong = [name for name, rate in self.rates.items() if not rate >= 0]
        if wrong:
            raise UsageError(f"learning rates must be 0 or more; got {self.rates[wrong[0]]} for {wrong[0]}")

    @property
    def watches(self) -> bool:
        """Whether it needs validation rows."""
        return self.patience is not None or self.schedule == "plateau"

    def passes(self, rows: int) -> int:
        """Over so many training rows."""
        if self.epochs is not None:
            return self.epochs
        steps = -(-rows // (self.batch_size * self.accumulate))
        return min(max(EPOCHS, -(-MIN_STEPS // max(steps, 1))), MOST_EPOCHS)

    def rate(self, modality: str, kind: str) -> float:
        """The learning rate of a modality's encoder, which is for texts or pictures."""
        return self.rates.get(modality, RATES[kind])
