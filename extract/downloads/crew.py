"""Threads that fetch many files at once, each file whole or not at all."""

from __future__ import annotations

import contextlib
import queue
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cache import replacing
from extract.decode import DecodeError, ReadError, decode_image
from extract.downloads.guard import FetchError
from extract.downloads.line import Body, Line, Moved
from extract.downloads.manners import Manners
from extract.downloads.turns import Job, Turns
from extract.sound import seconds_of

LOOKED_AT = 64
"""Pixels of the shorter side that are enough to see whether a JPEG is whole; every byte of it is read."""

LOOK_EVERY = 0.2
"""Seconds between two looks whether the program is to stop."""

_decoding = threading.Lock()
"""A picture may take half a gigabyte while it is decoded: one at a time."""


@dataclass(frozen=True)
class Ended:
    """How it went with a job: bytes, or why not."""

    job: Job
    size: int = 0
    failed: FetchError | None = None


class Crew:
    """The threads that fetch."""

    def __init__(self, jobs: Sequence[Job], manners: Manners) -> None:
        self._manners, self._count = manners, len(jobs)
        self._turns = Turns(jobs, manners)
        self._told: queue.SimpleQueue[Ended | BaseException] = queue.SimpleQueue()

    def run(self) -> Iterator[Ended]:
        """Each job as it ends. Raises StoreError where a file cannot be written."""
        if not self._count:
            return
        self._line = Line(self._manners)
        for _ in range(min(self._manners.threads, self._count)):
            # A thread waits for its server for minutes; who stops the program does not.
            threading.Thread(target=self._work, daemon=True).start()
        try:
            for _ in range(self._count):
                said = self._next()
                if isinstance(said, BaseException):
                    raise said
                yield said
        finally:
            self._turns.stop()
            self._line.close()

    def _next(self) -> Ended | BaseException:
        # Not one long wait: an interrupt that the system hands to another thread does not end it.
        while True:
            with contextlib.suppress(queue.Empty):
                return self._told.get(timeout=LOOK_EVERY)

    def _work(self) -> None:
        try:
            while (job := self._turns.take()) is not None:
                ended = self._step(job)
                if ended is not None:
                    self._told.put(ended)
                    self._turns.end()
        except BaseException as error:  # raised again where the jobs' ends are read
            self._told.put(error)

    def _step(self, job: Job) -> Ended | None:
        """Goes one request further; None where the job goes on later."""
        try:
            if job.dropped:
                raise FetchError(job.dropped, passing=False)
            answer = self._asked(job)
            if isinstance(answer, Moved):
                if job.hops == self._manners.redirects:
                    raise FetchError(f"redirects more than {job.hops} times", final=True)
                job.go(answer.address, job.hops + 1)
                self._turns.put(job)
                return None
            check_body(answer, job.file.kind)
            with replacing(job.file.path) as temporary:
                temporary.write_bytes(answer.raw)
            return Ended(job, len(answer.raw))
        except FetchError as error:
            return self._failed(job, error)

    def _asked(self, job: Job) -> Body | Moved:
        failed = None
        try:
            return self._line.get(job.at)
        except FetchError as error:
            failed = error
            raise
        finally:
            self._turns.leave(job, failed)

    def _failed(self, job: Job, error: FetchError) -> Ended | None:
        """Tries again later where that may help: from the first address on, for the others may have been for once."""
        manners = self._manners
        job.attempts += not job.dropped
        if not error.passing or job.attempts >= manners.attempts or error.wait > manners.longest_wait:
            if error.wait > manners.longest_wait:
                error.reason += f" and asked to be left alone for {error.wait:.0f} s"
            return Ended(job, failed=error)
        wait = manners.backoff * 2 ** (job.attempts - 1) * (1 + random.random() / 2)  # noqa: S311 - no secret  # nosec B311
        job.go(job.file.url, 0)
        self._turns.put(job, max(wait, error.wait))
        return None


def check_body(body: Body, kind: str) -> None:
    """Raises FetchError unless what was sent is a whole picture, or starts as an audio file does.

    What the server calls it does not matter.
    """
    try:
        if kind == "image":
            with _decoding:
                decode_image(body.raw, draft=LOOKED_AT)
        else:
            seconds_of(body.raw)
    except ReadError:  # it starts as an audio file, and a library that would tell more is not installed
        return
    except DecodeError as error:
        called = f" (the server calls it {body.kind!r})" if body.kind else ""
        # Where no length was announced, the connection may have broken.
        raise FetchError(f"{error}{called}", final=body.whole) from error
