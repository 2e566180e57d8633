"""The one fit loop of every head that is trained by gradient."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fuse.feed import Feed, as_arrays
from fuse.networks.model import Model, Term

MIN_STEPS = 400
"""Small data is seen more often, so that it gets at least this many steps."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Losses `(n,)` of outputs `(n, K)` for targets `(n,)`."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast; what the fields mean stands in `fuse.gradient.GradientHead`."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    schedule: str
    patience: int
    clip_norm: float | None
    modality_dropout: float
    device: str
    seed: int
    share: float = 1.0


@dataclass(frozen=True)
class Trained:
    """What a training left: weights by name, rounds that were run, losses a round (training, held out)."""

    weights: Mapping[str, np.ndarray]
    rounds: int
    history: np.ndarray


@dataclass(frozen=True)
class Rows:
    """Training rows: `n` of a feed, their targets, positive weights, and which are held out."""

    feed: Feed
    target: Tensor
    weight: Tensor
    held: Tensor

    def loss(self, model: Model, loss: Loss, rows: Tensor | slice) -> Tensor:
        """Weighted mean loss for these rows: of all terms while training, else of the output alone."""
        values, present = self.feed.take(rows)
        target, weight = self.target[rows], self.weight[rows]
        total = torch.zeros((), dtype=weight.dtype, device=weight.device)
        for term in model.terms(values, present) if model.training else [Term(model(values, present))]:
            counted = weight if term.rows is None else weight * term.rows
            total = total + term.share * (loss(term.output, target) * counted).mean()
        return total


def train(build: Callable[[], Model], rows: Rows, loss: Loss, schedule: Schedule) -> Trained:
    """Trains a model by AdamW on the rows that are not held out.

    A round is a pass over them; of small data as many steps as make `MIN_STEPS` in all rounds.
    Where rows are held out, training ends once their loss has not fallen for `patience` rounds,
    and the best weights are kept.

    Args:
        build: makes the model; called under the schedule's seed.
        rows: in float64 if all of them fit in one batch, which then is not shuffled.
        loss: of each row.

    Returns:
        Equal arguments give equal weights on the CPU, whatever the state of torch's generator,
        which is left as it was.
    """
    device = torch.device(schedule.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), one_thread():
        _seed(schedule.seed, device)
        model = build().to(device=device, dtype=rows.weight.dtype).train()
        return _Training(model, rows, loss, schedule).run()


def _seed(seed: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU, too
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def warm_up() -> None:
    """Has torch import what its optimisers need, some 900 modules: seconds that are not the first head's."""
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)], fused=True)


class _Training:
    """One training as it goes."""

    def __init__(self, model: Model, rows: Rows, loss: Loss, schedule: Schedule) -> None:
        self._model, self._rows, self._loss, self._schedule = model, rows, loss, schedule
        self._kept = torch.nonzero(~rows.held).flatten()
        self._held = torch.nonzero(rows.held).flatten()
        batches = -(-len(self._kept) // schedule.batch_size)
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
        )
        # Not whole passes: a few rows less must not double the steps.
        whole = max(MIN_STEPS, batches * schedule.epochs)
        self._rounds = max(1, round(schedule.epochs * schedule.share))
        self._ends = [(number + 1) * whole // schedule.epochs for number in range(self._rounds)]
        steps = self._ends[-1]
        self._cosine = self._plateau = None
        if schedule.schedule == "cosine":
            self._cosine = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, steps)
        elif schedule.schedule == "plateau":
            self._plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                self._optimizer, factor=0.5, patience=max(1, schedule.patience // 3)
            )

    def run(self) -> Trained:
        """All rounds."""
        best, weights, since, history = np.inf, None, 0, []
        batches = self._batches()
        for start, end in zip([0, *self._ends], self._ends, strict=False):
            losses = [self._step(next(batches)) for _ in range(start, end)]
            trained = float(torch.stack(losses).mean())
            held = self._held_loss() if len(self._held) else np.nan
            history.append((trained, held))
            if self._plateau is not None:
                self._plateau.step(held if len(self._held) else trained)
            if not len(self._held):
                continue
            if held < best:
                best, weights, since = held, copy.deepcopy(self._model.state_dict()), 0
            else:
                since += 1
            if since >= self._schedule.patience:
                break
        return Trained(as_arrays(weights or self._model.state_dict()), len(history), np.array(history))

    def _batches(self) -> Iterator[Tensor]:
        """Pass after pass, without end."""
        size = self._schedule.batch_size
        while True:
            if len(self._kept) <= size:
                yield self._kept
            else:
                yield from self._kept[torch.randperm(len(self._kept))].split(size)

    def _step(self, rows: Tensor) -> Tensor:
        self._model.dropped = self._schedule.modality_dropout
        value = self._rows.loss(self._model, self._loss, rows)
        self._optimizer.zero_grad()
        value.backward()
        if self._schedule.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._schedule.clip_norm)
        self._optimizer.step()
        if self._cosine is not None:
            self._cosine.step()
        return value.detach()

    def _held_loss(self) -> float:
        self._model.eval()
        with torch.inference_mode():
            parts = self._held.split(self._schedule.batch_size)
            mass = sum(float(self._rows.loss(self._model, self._loss, part)) * len(part) for part in parts)
        self._model.train()
        return mass / len(self._held)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Computes on one thread.

    A step of a head takes under a millisecond: sharing it among threads gains little on idle
    cores, and on busy ones every operation waits for the slowest thread (5 to 25 times slower
    where it was measured). Folds in parallel use the cores better.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def rebuilt(build: Callable[[], Model], weights: Mapping[str, np.ndarray]) -> Model:
    """A model with these weights, in float64, to predict with."""
    with torch.random.fork_rng(devices=[]):  # building draws initial weights
        model = build().double().eval()
    model.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})
    return model


def predict(model: Model, feed: Feed, rows_at_once: int) -> np.ndarray:
    """Outputs `(n, K)` of a model that is ready to predict."""
    with torch.inference_mode(), one_thread():
        parts = [model(*feed.take(slice(start, start + rows_at_once))) for start in range(0, len(feed), rows_at_once)]
    return torch.cat(parts).numpy()
