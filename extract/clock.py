"""Where the time goes: seconds by stage, summed over all threads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping


class Clock:
    """Adds up what each stage took. A stage that runs in several threads counts each of them."""

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Counts what is done within it."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add({stage: time.perf_counter() - started})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Counts what another clock has measured."""
        with self._lock:
            self._seconds.update(seconds)

    def seconds(self) -> dict[str, float]:
        """Of every stage so far."""
        with self._lock:
            return dict(self._seconds)
