"""The one fit loop of every head that is trained by gradient."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fuse.feed import Feed, MappedFeed, as_arrays
from fuse.networks.model import Model, Present, Term, Values

MIN_STEPS = 400
"""Small data is seen more often, so that it gets at least this many steps."""

SIDE_BY_SIDE = 2**20
"""Models are trained side by side that have no more weights than this in all: larger ones gain nothing but memory."""

BLOCK_BYTES, WINDOW_BLOCKS = 2**17, 256
"""Rows that stay on disk are read in blocks of this size, in an order drawn anew for each pass, and so many blocks
are mixed row by row: 32 MB. Single rows would be one read each on a cold disk; blocks are long enough for any disk,
and a batch takes its rows from so many places that rows in the order of their classes do no harm."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Losses `(n,)` of outputs `(n, K)` for targets `(n,)`."""

Build = Callable[[], Model]


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

    def take(self, rows: Tensor | slice) -> Batch:
        """Some of the rows."""
        values, present = self.feed.take(rows)
        return Batch(values, present, self.target[rows], self.weight[rows])

    def mixed(self, kept: Tensor, size: int, draw: torch.Generator) -> Iterator[Batch]:
        """Batches of some rows, each row once, in an order that is drawn."""
        if not isinstance(self.feed, MappedFeed):
            for part in kept[torch.randperm(len(kept), generator=draw)].split(size):
                yield self.take(part)
            return
        for rows in _windows(kept, self.feed.row_bytes, size, draw):
            window = Rows(self.feed.window(rows), self.target[rows], self.weight[rows], self.held[rows])
            for part in torch.randperm(len(rows), generator=draw).split(size):
                yield window.take(part)
            del window  # before the next one is read


def _windows(kept: Tensor, row_bytes: int, size: int, draw: torch.Generator) -> Iterator[Tensor]:
    """Row numbers of window after window, each of random blocks of rows that follow each other."""
    block = max(1, BLOCK_BYTES // row_bytes)
    starts = torch.arange(0, len(kept), block)
    order = starts[torch.randperm(len(starts), generator=draw)][:, None] + torch.arange(block)
    order = order.flatten()
    # Whole batches, so that a pass has as many steps as one in memory.
    for rows in kept[order[order < len(kept)]].split(-(-WINDOW_BLOCKS * block // size) * size):
        yield rows.sort().values


@dataclass(frozen=True)
class Batch:
    """`b` rows as a network takes them, their targets and weights."""

    values: Values
    present: Present
    target: Tensor
    weight: Tensor

    def loss(self, model: Model, loss: Loss) -> Tensor:
        """Weighted mean loss: of all terms while training, else of the output alone."""
        total = torch.zeros((), dtype=self.weight.dtype, device=self.weight.device)
        values, present = self.values, self.present
        for term in model.terms(values, present) if model.training else [Term(model(values, present))]:
            counted = self.weight if term.rows is None else self.weight * term.rows
            total = total + term.share * (loss(term.output, self.target) * counted).mean()
        return total


def train(
    builds: Sequence[Callable[[], Model]], rows: Rows, loss: Loss, schedules: Sequence[Schedule]
) -> list[Trained]:
    """Trains models by AdamW on the rows that are not held out.

    A round is a pass over them; of small data as many steps as make `MIN_STEPS` in all rounds.
    Where rows are held out, the training of a model ends once their loss has not fallen for `patience`
    rounds, and its best weights are kept.

    Several small models are trained side by side and share their batches, which saves up to half of the time
    (`benchmarks/ablation.py stacked`). None knows of the others, but for what is drawn at random while training.

    Args:
        builds: make the models; each is called under its schedule's seed.
        rows: in float64 if all of them fit in one batch, which then is not shuffled.
        loss: of each row.
        schedules: one a model. What chooses batches must be the same in all: epochs, batch size, device, share.

    Returns:
        Equal arguments give equal weights on the CPU, whatever the state of torch's generator,
        which is left as it was.
    """
    if len(builds) > 1 and not _small(builds):
        return [train([one], rows, loss, [own])[0] for one, own in zip(builds, schedules, strict=True)]
    device = torch.device(schedules[0].device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), one_thread():
        models = []
        for build, schedule in zip(builds, schedules, strict=True):
            _seed(schedule.seed, device)
            models.append(build().to(device=device, dtype=rows.weight.dtype).train())
        return _Training(models, rows, loss, schedules).run()


def _small(builds: Sequence[Build]) -> bool:
    """Whether all models together are: large ones have no overhead worth sharing, and fill the memory."""
    numbers = 0
    with torch.random.fork_rng(devices=[]):
        for build in builds:
            numbers += sum(one.numel() for one in build().parameters())
            if numbers > SIDE_BY_SIDE:
                return False
    return True


def built(build: Build, seed: int) -> Model:
    """A model in float32 with the weights from which `train` starts; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build().float()


def _seed(seed: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU, too
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def warm_up() -> None:
    """Has torch import what its optimisers need, some 900 modules: seconds that are not the first head's."""
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)], fused=True)


class _Training:
    """Models as they are trained, batch by batch."""

    def __init__(self, models: Sequence[Model], rows: Rows, loss: Loss, schedules: Sequence[Schedule]) -> None:
        self._rows, self._size, self._seed = rows, schedules[0].batch_size, schedules[0].seed
        self._kept = torch.nonzero(~rows.held).flatten()
        epochs, rounds = schedules[0].epochs, max(1, round(schedules[0].epochs * schedules[0].share))
        # Not whole passes: a few rows less must not double the steps.
        whole = max(MIN_STEPS, -(-len(self._kept) // self._size) * epochs)
        self._ends = [(number + 1) * whole // epochs for number in range(rounds)]
        self._learners = [
            _Learner(model, loss, schedule, self._ends[-1]) for model, schedule in zip(models, schedules, strict=True)
        ]

    def run(self) -> list[Trained]:
        """All rounds."""
        held = [part for part in torch.nonzero(self._rows.held).flatten().split(self._size) if len(part)]
        batches, going = self._batches(), self._learners
        for start, end in zip([0, *self._ends], self._ends, strict=False):
            for _ in range(start, end):
                batch = next(batches)
                torch.stack([one.loss(batch) for one in going]).sum().backward()
                for one in going:
                    one.step()
            going = [one for one in going if one.end_round(self._rows, held)]
            if not going:
                break
        return [one.trained() for one in self._learners]

    def _batches(self) -> Iterator[Batch]:
        """Pass after pass, without end."""
        draw = torch.Generator().manual_seed(self._seed)  # its own: what models draw does not change the order
        while True:
            if len(self._kept) <= self._size:
                yield self._rows.take(self._kept)
            else:
                yield from self._rows.mixed(self._kept, self._size, draw)


class _Learner:
    """One model, what trains it, and what is known of its training."""

    def __init__(self, model: Model, loss: Loss, schedule: Schedule, steps: int) -> None:
        self._model, self._loss, self._schedule = model, loss, schedule
        self._optimizer = torch.optim.AdamW(model.groups(schedule.learning_rate, schedule.weight_decay), fused=True)
        self._cosine = self._plateau = None
        if schedule.schedule == "cosine":
            self._cosine = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, steps)
        elif schedule.schedule == "plateau":
            self._plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                self._optimizer, factor=0.5, patience=max(1, schedule.patience // 3)
            )
        self._best, self._since = np.inf, 0
        self._weights: Mapping[str, Tensor] | None = None
        self._losses: list[Tensor] = []
        self._history: list[tuple[float, float]] = []

    def loss(self, batch: Batch) -> Tensor:
        """Of a training batch; what was known of the gradient is forgotten."""
        self._optimizer.zero_grad()
        self._model.dropped = self._schedule.modality_dropout
        value = batch.loss(self._model, self._loss)
        self._losses.append(value.detach())
        return value

    def step(self) -> None:
        """Follows the gradient."""
        if self._schedule.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._schedule.clip_norm)
        self._optimizer.step()
        if self._cosine is not None:
            self._cosine.step()

    def end_round(self, rows: Rows, held: Sequence[Tensor]) -> bool:
        """Looks at the rows that are held out, given in parts; whether another round is worth it."""
        trained, lost = float(torch.stack(self._losses).mean()), self._held_loss(rows, held) if held else np.nan
        self._losses = []
        self._history.append((trained, lost))
        if self._plateau is not None:
            self._plateau.step(lost if held else trained)
        if not held:
            return True
        if lost < self._best:
            self._best, self._weights, self._since = lost, copy.deepcopy(self._model.state_dict()), 0
        else:
            self._since += 1
        return self._since < self._schedule.patience

    def trained(self) -> Trained:
        """The best weights, or the last where no rows are held out."""
        return Trained(
            as_arrays(self._weights or self._model.state_dict()), len(self._history), np.array(self._history)
        )

    def _held_loss(self, rows: Rows, held: Sequence[Tensor]) -> float:
        self._model.eval()
        with torch.inference_mode():
            mass = sum(float(rows.take(part).loss(self._model, self._loss)) * len(part) for part in held)
        self._model.train()
        return mass / sum(map(len, held))


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
