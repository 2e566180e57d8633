"""Whose turn it is: hosts get few requests at once and not too often, and nobody waits for a host's sake."""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

from extract.downloads.address import Download
from extract.downloads.guard import FetchError
from extract.downloads.line import host_of
from extract.downloads.manners import Manners


@dataclass(eq=False)
class Job:
    """A file that is to be fetched.

    Attributes:
        file: what.
        at: the address to ask next, another one after a redirect.
        hops: redirects that were followed.
        attempts: that failed.
        dropped: why it is not tried in this run any more, if so.
    """

    file: Download
    at: str = ""
    hops: int = 0
    attempts: int = 0
    dropped: str = ""

    def __post_init__(self) -> None:
        self.go(self.file.url, 0)

    def go(self, address: str, hops: int) -> None:
        """To another address."""
        self.at, self.hops, self.host = address, hops, host_of(address)


@dataclass(eq=False)
class _Host:
    waiting: list[tuple[float, int, Job]] = field(default_factory=list)
    active: int = 0
    free_at: float = 0.0
    failing: int = 0
    given_up: str = ""
    entry: int = 0
    """The number of its valid entry among the hosts that are next."""


class Turns:
    """Hands out jobs, one to a thread.

    A job that must wait, be it for its host's sake or its own, holds no thread up: others go first.
    """

    def __init__(self, jobs: Iterable[Job], manners: Manners) -> None:
        self._manners = manners
        self._hosts: dict[str, _Host] = {}
        self._next: list[tuple[float, int, str]] = []
        self._dropped: deque[Job] = deque()
        self._numbers = count(1)
        self._changed = threading.Condition()
        self._open = 0
        for job in jobs:
            self._open += 1
            self._put(job, 0.0)
        for name in self._hosts:
            self._enter(name)

    def take(self) -> Job | None:
        """Waits for the next job; None once all are ended. One that is `dropped` is only to be reported."""
        with self._changed:
            while self._open > 0:
                if self._dropped:
                    return self._dropped.popleft()
                while self._next and self._next[0][1] != self._hosts[self._next[0][2]].entry:
                    heapq.heappop(self._next)  # the host has changed since
                now = time.monotonic()
                if self._next and self._next[0][0] <= now:
                    return self._started(heapq.heappop(self._next)[2], now)
                self._changed.wait(self._next[0][0] - now if self._next else None)
            return None

    def _started(self, name: str, now: float) -> Job:
        host = self._hosts[name]
        job = heapq.heappop(host.waiting)[2]
        host.active += 1
        host.free_at = max(host.free_at, now + self._manners.interval)
        self._enter(name)
        return job

    def leave(self, job: Job, failed: FetchError | None) -> None:
        """The request that a job was taken for is over; tells its host's state by how it ended."""
        with self._changed:
            host = self._hosts[job.host]
            host.active -= 1
            host.failing = host.failing + 1 if failed is not None and failed.passing else 0
            if failed is not None and failed.busy:
                rest = min(max(failed.wait, self._manners.backoff), self._manners.longest_wait)
                host.free_at = max(host.free_at, time.monotonic() + rest)
            if failed is not None and host.failing >= self._manners.give_up and not host.given_up:
                host.given_up = (
                    f"left for the next run: {host.failing} requests to {job.host} failed in a row ({failed.reason})"
                )
                for _, _, waiting in host.waiting:
                    self._drop(waiting, host)
                host.waiting.clear()
            self._enter(job.host)
            self._changed.notify_all()

    def put(self, job: Job, wait: float = 0.0) -> None:
        """A job comes back, to go on after so many seconds."""
        with self._changed:
            self._put(job, time.monotonic() + wait)
            self._enter(job.host)
            self._changed.notify_all()

    def end(self) -> None:
        """A job is done, or has failed for good."""
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Hands out nothing more."""
        with self._changed:
            self._open = 0
            self._changed.notify_all()

    def _put(self, job: Job, moment: float) -> None:
        host = self._hosts.setdefault(job.host, _Host())
        if host.given_up:
            self._drop(job, host)
        else:
            heapq.heappush(host.waiting, (moment, next(self._numbers), job))

    def _drop(self, job: Job, host: _Host) -> None:
        job.dropped = host.given_up
        self._dropped.append(job)

    def _enter(self, name: str) -> None:
        """Puts a host in its place among those that are next, if it is to be asked at all."""
        host = self._hosts[name]
        host.entry = next(self._numbers)
        if host.waiting and host.active < self._manners.per_host:
            heapq.heappush(self._next, (max(host.free_at, host.waiting[0][0]), host.entry, name))
