"""The one fit loop of every head that is trained by gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

MIN_STEPS = 400
"""Small data is seen more often, so that it gets at least this many steps."""

PREDICT_ROWS = 8192


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: AdamW with cosine decay of the learning rate to 0."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int


def train(
    build: Callable[[], nn.Module], X: np.ndarray, target: np.ndarray, weight: np.ndarray, schedule: Schedule
) -> nn.Module:
    """Trains a module by the weighted mean cross-entropy.

    Args:
        build: makes the module; called under the schedule's seed.
        X: inputs, shape `(n, D)`.
        target: class numbers, shape `(n,)`.
        weight: positive weights, shape `(n,)`; only their ratios count.

    Returns:
        The module, in eval mode. Equal arguments give equal weights, whatever the state of
        torch's generator, which is left as it was.
    """
    whole = len(X) <= schedule.batch_size
    dtype = torch.float64 if whole else torch.float32
    batches = 1 if whole else -(-len(X) // schedule.batch_size)
    epochs = max(schedule.epochs, -(-MIN_STEPS // batches))
    inputs = torch.as_tensor(X, dtype=dtype)
    targets = torch.as_tensor(target, dtype=torch.long)
    shares = torch.as_tensor(weight / weight.mean(), dtype=dtype)
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.default_generator.manual_seed(schedule.seed)  # torch.manual_seed would seed every GPU, too
        module = build().to(dtype).train()
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
        )
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
        for rows in _batches(len(X), epochs, None if whole else schedule.batch_size):
            losses = nn.functional.cross_entropy(module(inputs[rows]), targets[rows], reduction="none")
            optimizer.zero_grad()
            (losses * shares[rows]).mean().backward()
            optimizer.step()
            decay.step()
    return module.eval()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
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


def _batches(n: int, epochs: int, size: int | None) -> Iterator[torch.Tensor | slice]:
    for _ in range(epochs):
        if size is None:
            yield slice(None)
        else:
            yield from torch.randperm(n).split(size)


def weights_of(module: nn.Module) -> dict[str, np.ndarray]:
    """The module's parameters and buffers as arrays, to be pickled or saved without torch."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in module.state_dict().items()}


def scores(build: Callable[[], nn.Module], weights: Mapping[str, np.ndarray], X: np.ndarray) -> np.ndarray:
    """Outputs of the module with these weights for `(n, D)` inputs: `(n, K)`, computed in float64."""
    with torch.random.fork_rng(devices=[]):  # building draws initial weights
        module = build().double().eval()
    module.load_state_dict({name: torch.as_tensor(value, dtype=torch.float64) for name, value in weights.items()})
    with torch.inference_mode(), _one_thread():
        parts = [
            module(torch.as_tensor(X[start : start + PREDICT_ROWS], dtype=torch.float64))
            for start in range(0, len(X), PREDICT_ROWS)
        ]
    return torch.cat(parts).numpy()
