"""Which items are encoded together: a pure function of their costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Limits of a batch: the padded cost (tokens, or pictures) and the number of items."""

    cost: int
    items: int


def fits(costs: Sequence[int], budget: Budget) -> bool:
    """Whether items of these costs make a batch: one alone always does."""
    return len(costs) == 1 or (len(costs) <= budget.items and len(costs) * max(costs) <= budget.cost)


def plan_batches(costs: Sequence[int], budget: Budget) -> list[list[int]]:
    """Parts items into batches of like cost.

    Items are taken from the costliest down, so that a batch that is too large for the memory
    fails at once; equal costs keep their order. A batch is padded to its costliest item:
    `len(batch) * max(costs of batch) <= budget.cost`, unless one item alone is above it.

    Args:
        costs: of each item, such as its length in tokens.
        budget: what a batch may hold.

    Returns:
        Batches of item numbers; each item stands in exactly one.
    """
    batches: list[list[int]] = []
    order = sorted(range(len(costs)), key=lambda item: (-costs[item], item))
    widest = 0
    for item in order:
        batch = batches[-1] if batches else []
        if not batch or len(batch) >= budget.items or (len(batch) + 1) * widest > budget.cost:
            batches.append([item])
            widest = max(1, costs[item])
        else:
            batch.append(item)
    return batches
