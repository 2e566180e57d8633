"""Bounds what several threads hold in memory at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Room:
    """Lets things in as long as all of them together are not larger than `limit`; one alone always gets in."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Waits until there is room, and keeps it while the block runs. A thread must not ask twice at once."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + size <= self._limit)
            self._held += size
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()
