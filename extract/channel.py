"""A bounded queue between threads that can be closed from either end."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """Nothing more comes, or nothing more is taken."""


class Channel(Generic[T]):
    """First in, first out; `put` waits while it is full.

    Python's own queue can be shut down only from 3.13 on.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._items: deque[T] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Waits for room. Raises Closed once the channel is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._room)
            if self._closed:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> T:
        """Waits for the next item. Raises Closed at the end."""
        with self._changed:
            self._changed.wait_for(self._told)
            return self._taken()

    def get_until(self, moment: float) -> T | None:
        """The next item; None if there is none at that moment of the monotonic clock. Raises Closed at the end."""
        with self._changed:
            if not self._changed.wait_for(self._told, max(0.0, moment - time.monotonic())):
                return None
            return self._taken()

    def _told(self) -> bool:
        return self._closed or bool(self._items)

    def _taken(self) -> T:
        if not self._items:
            raise Closed
        item = self._items.popleft()
        self._changed.notify_all()
        return item

    def close(self, discard: bool = False) -> None:
        """Takes nothing more; with `discard` what waits is dropped, too."""
        with self._changed:
            self._closed = True
            if discard:
                self._items.clear()
            self._changed.notify_all()
