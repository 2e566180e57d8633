"""Which items are encoded together: a pure function of their costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_PADDING = 0.1
"""Share of a batch that may be padding, if the batch is otherwise large enough to keep the device busy."""
SMALLEST = 8
"""A batch that is closed for its padding holds at least this part of the budget."""


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
    `len(batch) * max(costs of batch) <= budget.cost`, unless one item alone is above it. A batch
    of at least an eighth of the budget ends early where more than a tenth of it would be padding.

    Args:
        costs: of each item, such as its length in tokens.
        budget: what a batch may hold.

    Returns:
        Batches of item numbers; each item stands in exactly one.
    """
    batches: list[list[int]] = []
    order = sorted(range(len(costs)), key=lambda item: (-costs[item], item))
    widest = wasted = 0
    for item in order:
        batch = batches[-1] if batches else []
        padded = (len(batch) + 1) * widest
        wasted += widest - costs[item]
        too_loose = wasted > padded * MOST_PADDING and padded * SMALLEST > budget.cost
        if not batch or len(batch) >= budget.items or padded > budget.cost or too_loose:
            batches.append([item])
            widest, wasted = max(1, costs[item]), 0
        else:
            batch.append(item)
    return batches
