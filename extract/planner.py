"""What is encoded together and in which order, as a stream that never holds more than two windows of a data set."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from cache import Batch, EncoderStore, SegmentWriter, standing_batches, write_batches
from extract.batching import Budget, fits, plan_batches
from extract.clock import Clock
from extract.encoders.spec import Encoder
from extract.manifest import Content

WINDOW = 16384
"""Items that are tokenised and sorted at once: enough for batches of even length, and few in memory."""


@dataclass(frozen=True)
class Work:
    """What is to be encoded.

    Attributes:
        contents: by item key, a text, or the path or the bytes of a file.
        missing: keys of the items that are to be encoded, sorted.
        refused: keys of items that are known to be broken. They are only touched where they
            stand in a batch that was planned before it was known.
        plan: what the names of its plans begin with, hex digits, where they are a shard's own.
    """

    contents: Mapping[bytes, Content]
    missing: Sequence[bytes]
    refused: Sequence[bytes] = ()
    plan: str = ""


@dataclass(frozen=True)
class Lane:
    """One modality's way through stage one.

    Attributes:
        encoder: on its device; or what comes before it, where other processes encode.
        work: what is to be encoded.
        store: the encoder's part of the store, which keeps the plan.
        writer: of this store.
        budget: limits of a batch.
        name: of the modality, if it is not the one of the encoder's key.
    """

    encoder: Encoder
    work: Work
    store: EncoderStore
    writer: SegmentWriter
    budget: Budget
    name: str = ""

    @property
    def modality(self) -> str:
        """Such as `text`."""
        return self.name or self.encoder.key.modality


@dataclass(frozen=True)
class Task:
    """One batch on its way.

    Attributes:
        modality: of its items.
        items: item keys, those left out that another process has stored meanwhile.
        lights: of each item a text's tokens, or the path or the bytes of a file.
        cost: of its costliest item.
        elsewhere: how many items were left out.
    """

    modality: str
    items: Batch
    lights: list[Any]
    cost: int
    elsewhere: int


_Planned = tuple[Batch, dict[bytes, Any], int]


class Planner:
    """The batches of one lane, window by window.

    Batches are written down before they are encoded, and a later run keeps to them: on the same
    machine it gets the same bits. Two processes that encode the same at once meet in the middle:
    who planned a window goes through it forward, who found it there backward.

    Attributes:
        total: items in all batches.
    """

    def __init__(self, lane: Lane, clock: Clock) -> None:
        self._lane = lane
        self._clock = clock
        work = lane.work
        self._standing = standing_batches(lane.store.folder, work.missing, work.refused, work.plan)
        self.total = len({*lane.work.missing, *(item for batch in self._standing for item in batch)})

    def windows(self) -> Iterator[list[_Planned]]:
        """Of each batch its items, the light forms of a window's items, and the cost of its costliest."""
        kept: set[bytes] = set()
        for batches in _chunks([*reversed(self._standing)]):
            lights, cost = self._prepare([item for batch in batches for item in batch])
            batches = [batch for batch in batches if fits([cost[item] for item in batch], self._lane.budget)]
            kept.update(item for batch in batches for item in batch)
            yield _planned(batches, lights, cost)
        left = [item for item in self._lane.work.missing if item not in kept]
        for start in range(0, len(left), WINDOW):
            window = left[start : start + WINDOW]
            lights, cost = self._prepare(window)
            numbers = plan_batches([cost[item] for item in window], self._lane.budget)
            batches = [[window[number] for number in batch] for batch in numbers]
            if not write_batches(self._lane.store.folder, batches, self._lane.work.plan):
                batches.reverse()  # another process has planned the very same in this moment
            yield _planned(batches, lights, cost)

    def _prepare(self, items: Sequence[bytes]) -> tuple[dict[bytes, Any], dict[bytes, int]]:
        with self._clock.measure(f"{self._lane.modality}: prepare"):
            lights, costs = self._lane.encoder.prepare([self._lane.work.contents[item] for item in items])
        return dict(zip(items, lights, strict=True)), dict(zip(items, costs, strict=True))


def _chunks(batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    chunk: list[Batch] = []
    for batch in batches:
        if chunk and sum(map(len, chunk)) + len(batch) > WINDOW:
            yield chunk
            chunk = []
        chunk.append(batch)
    if chunk:
        yield chunk


def _planned(batches: Sequence[Batch], lights: dict[bytes, Any], cost: Mapping[bytes, int]) -> list[_Planned]:
    return [(batch, lights, max(cost[item] for item in batch)) for batch in batches]


class _Feed:
    """One lane's batches; the next window is prepared while this one is encoded."""

    def __init__(self, lane: Lane, planner: Planner, pool: ThreadPoolExecutor) -> None:
        self._lane = lane
        self._total = max(1, planner.total)
        self._given = 0
        self._window: deque[_Planned] = deque()
        self._windows = planner.windows()
        self._pool = pool
        self.next: Future[list[_Planned] | None] = pool.submit(next, self._windows, None)

    @property
    def share(self) -> float:
        """How much of the lane was given out."""
        return self._given / self._total

    @property
    def ready(self) -> bool:
        """Whether `take` need not wait."""
        return bool(self._window) or self.next.done()

    def take(self) -> Task | None:
        """The next batch; None after the last."""
        while not self._window:
            found = self.next.result()
            if found is None:
                return None
            self._window.extend(found)
            self.next = self._pool.submit(next, self._windows, None)
        batch, lights, cost = self._window.popleft()
        self._given += len(batch)
        items = self._lane.writer.lacking(batch)
        chosen = [lights[item] for item in items]
        return Task(self._lane.modality, items, chosen, cost, len(batch) - len(items))


def stream_tasks(lanes: Sequence[Lane], planners: Sequence[Planner]) -> Generator[Task, None, None]:
    """All lanes' batches, side by side, so that all lanes end at about the same time."""
    with ThreadPoolExecutor(max(1, len(lanes))) as pool:
        feeds = [_Feed(lane, planner, pool) for lane, planner in zip(lanes, planners, strict=True)]
        while feeds:
            if not any(feed.ready for feed in feeds):
                wait([feed.next for feed in feeds], return_when=FIRST_COMPLETED)
            feed = min((feed for feed in feeds if feed.ready), key=lambda feed: feed.share)
            task = feed.take()
            if task is None:
                feeds.remove(feed)
            else:
                yield task
