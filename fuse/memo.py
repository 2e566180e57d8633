"""What was computed from some rows, kept for other heads that are fitted to the same rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Clock:
    """Seconds that were saved by what had been computed before."""

    def __init__(self) -> None:
        self.saved = 0.0


class Memo:
    """Results by key, of one set of rows; its parts hold those of subsets.

    A comparison fits many heads to the same fold. What several of them need, such as a logistic
    regression of each modality or its out-of-fold fits, is computed by the first that asks.
    Results are the very same as without: whatever they depend on is in their key. `clock` counts
    what the others were spared, so that the cost of each alone is still known.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = Clock() if clock is None else clock
        self._held: dict[Hashable, tuple[Any, float]] = {}
        self._parts: dict[Hashable, Memo] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returned when this key was first asked for; it must not be changed."""
        if key in self._held:
            self.clock.saved += self._held[key][1]
        else:
            started = time.perf_counter()
            self._held[key] = make(), time.perf_counter() - started
        found: T = self._held[key][0]
        return found

    def part(self, key: Hashable) -> Memo:
        """The memo of some of the rows, or of the rows as if they lacked something."""
        return self._parts.setdefault(key, Memo(self.clock))
