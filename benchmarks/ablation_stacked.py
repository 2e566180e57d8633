"""Whether several small networks train faster as one tensor program: `benchmarks/ablation.py stacked`.

Each way makes the same step of the same networks, `W_2 relu(W_1 x + b_1) + b_2`: take a batch of 128 rows,
forward, backward, AdamW (fused), on one thread. Milliseconds are of one network and one step.

- one by one: all steps of a network, then the next; its weights stay in the caches.
- side by side: what our engine does with a few small networks: each is its own, but all take the same batch and go
  back through one graph.
- baddbmm: weights of all networks stacked, one batched product a layer; each network has its own batch.
- vmap: `torch.func.vmap` of the gradient over the same stacked weights.
- one batch: as baddbmm, but all networks take the same batch, so that the first layer is one wide product;
  only networks that are trained on the same rows in the same order can do that.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fuse.training import one_thread

WIDTHS, HIDDEN, NETWORKS = (384, 896, 2816), (16, 64, 128), (4, 8)
ROUNDS, STEPS = 5, 20
ROWS, BATCH, CLASSES = 2560, 128, 3
WAYS = ("one by one", "side by side", "baddbmm", "vmap", "one batch")


class Stack:
    """Some networks of one shape, and the ways to train them a step."""

    def __init__(self, width: int, hidden: int, networks: int) -> None:
        torch.manual_seed(0)
        self._rows, self._target = torch.randn(ROWS, width), torch.randint(CLASSES, (ROWS,))
        self._single = [
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES)) for _ in range(networks)
        ]
        self._optimizers = [_adamw(list(one.parameters())) for one in self._single]
        self._stacked = {way: self._weights() for way in WAYS[2:]}
        self._joint = {way: _adamw(weights) for way, weights in self._stacked.items()}

    def _weights(self) -> list[Tensor]:
        """Copies of all networks' weights, as `(E, in, out)` and `(E, 1, out)`."""
        own = [[one.detach() for one in network.parameters()] for network in self._single]  # (out, in), (out,), ...
        together = [torch.stack(parts) for parts in zip(*own, strict=True)]
        shaped = [one.mT if one.ndim == 3 else one[:, None] for one in together]
        return [one.clone(memory_format=torch.contiguous_format).requires_grad_() for one in shaped]

    def run(self, way: str, batches: Sequence[Tensor]) -> None:
        """Trains every network as many steps as there are batches, each of shape `(E, 128)`."""
        if way == "one by one":
            for number, (model, optimizer) in enumerate(zip(self._single, self._optimizers, strict=True)):
                for own in batches:
                    optimizer.zero_grad()
                    functional.cross_entropy(model(self._rows[own[number]]), self._target[own[number]]).backward()
                    optimizer.step()
            return
        for one in batches:
            self._step(way, one)

    def _step(self, way: str, batches: Tensor) -> None:
        if way == "side by side":
            rows, target = self._rows[batches[0]], self._target[batches[0]]
            for optimizer in self._optimizers:
                optimizer.zero_grad()
            losses = [functional.cross_entropy(model(rows), target) for model in self._single]
            torch.stack(losses).sum().backward()
            for optimizer in self._optimizers:
                optimizer.step()
            return
        optimizer, weights = self._joint[way], self._stacked[way]
        optimizer.zero_grad()
        if way == "vmap":
            gradient = torch.func.vmap(torch.func.grad(_loss))
            found = gradient(tuple(one.detach() for one in weights), self._rows[batches], self._target[batches])
            for one, own in zip(weights, found, strict=True):
                one.grad = own
        else:
            _outputs_loss(self._outputs(way, weights, batches), self._target[self._taken(way, batches)]).backward()
        optimizer.step()

    def _taken(self, way: str, batches: Tensor) -> Tensor:
        return batches[:1].expand_as(batches) if way == "one batch" else batches

    def _outputs(self, way: str, weights: Sequence[Tensor], batches: Tensor) -> Tensor:
        first, bias, second, last = weights
        if way == "baddbmm":
            hidden = torch.baddbmm(bias, self._rows[batches], first)
        else:
            wide = self._rows[batches[0]] @ first.transpose(0, 1).flatten(1)
            hidden = wide.unflatten(1, (len(first), -1)).transpose(0, 1) + bias
        return torch.baddbmm(last, hidden.relu(), second)


def _adamw(weights: Sequence[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(list(weights), lr=1e-3, weight_decay=1e-2, fused=True)


def _loss(weights: Sequence[Tensor], rows: Tensor, target: Tensor) -> Tensor:
    """Of one network."""
    first, bias, second, last = weights
    return functional.cross_entropy((rows @ first + bias).relu() @ second + last, target)


def _outputs_loss(outputs: Tensor, target: Tensor) -> Tensor:
    """The sum of the networks' mean losses: each gets its own gradient."""
    return functional.cross_entropy(outputs.flatten(0, 1), target.flatten(), reduction="sum") / BATCH


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure_shape(width: int, hidden: int, networks: int, steps: int) -> dict[str, float]:
    """Milliseconds of one network and step by way, medians of interleaved rounds."""
    stack = Stack(width, hidden, networks)
    batches = [torch.randint(ROWS, (networks, BATCH)) for _ in range(steps)]
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for way in WAYS:
        stack.run(way, batches[:3])
    for _, way in itertools.product(range(ROUNDS), WAYS):
        times[way].append(_seconds(lambda way=way: stack.run(way, batches)))  # type: ignore[misc]
    return {way: 1000 * statistics.median(own) / steps / networks for way, own in times.items()}


def measure_stacked(steps: int) -> list[dict[str, float]]:
    """All shapes."""
    with one_thread():
        return [
            {"D": width, "hidden": hidden, "E": networks, **measure_shape(width, hidden, networks, steps)}
            for width, hidden, networks in itertools.product(WIDTHS, HIDDEN, NETWORKS)
        ]


def stacked_lines(found: Sequence[dict[str, float]], steps: int) -> list[str]:
    """The table, and what follows from it."""
    gains = {way: [one["one by one"] / one[way] for one in found] for way in WAYS[1:]}
    said = [
        f"{way}: {statistics.median(own):.2f} x as fast as one by one in the median ({min(own):.2f} to {max(own):.2f})"
        for way, own in gains.items()
    ]
    lines = [
        f"E networks of D columns, `hidden` units and {CLASSES} classes; milliseconds of one network and one step "
        f"(batch of {BATCH}, forward, backward, fused AdamW) on one thread; medians of {ROUNDS} interleaved rounds of "
        f"{steps} steps. What each way does stands in `benchmarks/ablation_stacked.py`.",
        "",
        *(f"- {one}" for one in said),
        "",
        "| D | hidden | E | " + " | ".join(WAYS) + " |",
        "|---" * (len(WAYS) + 3) + "|",
    ]
    for one in found:
        cells = " | ".join(f"{one[way]:.3f}" for way in WAYS)
        lines.append(f"| {one['D']} | {one['hidden']} | {one['E']} | {cells} |")
    return lines
