"""Who does the work of a data set in shards: this process, or a cluster (`extract.ray_engine`)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from cache import FeatureStore, FeatureWriter, Progress, UsageError, silent, unpack_items
from extract.chosen import Chooser, Chosen
from extract.clock import Clock
from extract.datasets.shards import Shard
from extract.encoders.spec import Encoder, EncoderSpec, outputs_of
from extract.engine import Outcome
from extract.keyed import Job, Wanted
from extract.planner import Lane, Work
from extract.workers import encode_all

if TYPE_CHECKING:
    from extract.runtime import Runtime

Numbered = Sequence[tuple[int, Shard]]
Found = TypeVar("Found")
Look = Callable[[int, Shard], Found]
"""Reads a shard of this number, wherever that is: it pickles."""


@dataclass(frozen=True)
class Choice:
    """The encoders with their precision settled, by modality, and on what they run.

    `device` gives its name and its record. It is asked where something is to be encoded: to find a device, torch is
    loaded.
    """

    chosen: Mapping[str, Chosen]
    device: Callable[[], tuple[str, Mapping[str, str]]]


@dataclass(frozen=True)
class Asking:
    """What a chooser is asked, wherever it does its work: for which store and data set, and what is expected.

    A measurement takes samples of the first shard.
    """

    store: str | Path
    name: str
    expected: Mapping[str, str]
    first: Shard

    def chooser(self, device: Callable[[], Runtime], progress: Progress = silent) -> Chooser:
        """On a device that is found when a model has to be loaded."""
        store = FeatureStore(self.store)
        return Chooser(store, self.name, self.expected, self.first.read().samples, device, progress)


class Engine(Protocol):
    """Chooses encoders, looks at shards, encodes them. Whatever it yields is done and durable."""

    def choose(self, specs: Sequence[EncoderSpec], asked: Asking, progress: Progress) -> Choice:
        """Settles the encoders, where they will run."""

    def each(self, shards: Numbered, look: Look[Found]) -> Generator[Found, None, None]:
        """What is found in all shards, in any order."""

    def encode(
        self, jobs: Sequence[Job], wanted: Wanted, clock: Clock, progress: Progress
    ) -> Generator[Outcome, None, None]:
        """Does the jobs, in any order."""


class Local:
    """This process: a shard after another, each by the crew that encodes small data sets, too.

    Raises:
        UsageError: several devices were named.
    """

    def __init__(self, device: str, compile_encoders: bool) -> None:
        if "," in device:
            raise UsageError(f"data in shards is encoded by one device a machine, not by {device}; name one of them")
        self._device = device
        self._compile = compile_encoders
        self._runtimes: list[Runtime] = []
        self._encoders: dict[str, Encoder] = {}
        self._chooser: Chooser | None = None

    def _runtime(self) -> Runtime:
        if not self._runtimes:
            from extract.runtime import choose_runtime

            self._runtimes.append(choose_runtime(self._device, self._compile))
        return self._runtimes[0]

    def choose(self, specs: Sequence[EncoderSpec], asked: Asking, progress: Progress) -> Choice:
        """Settles the encoders; those that had to be loaded for it stay in memory."""
        self._chooser = asked.chooser(self._runtime, progress)
        chosen = {spec.modality: self._chooser.choose(spec) for spec in specs}
        self._encoders = {one.key.digest: one.encoder for one in chosen.values() if one.encoder is not None}
        return Choice(chosen, lambda: (self._runtime().name, self._runtime().record()))

    def each(self, shards: Numbered, look: Look[Found]) -> Generator[Found, None, None]:
        """Looks at one after another."""
        for number, shard in shards:
            yield look(number, shard)

    def encode(
        self, jobs: Sequence[Job], wanted: Wanted, clock: Clock, progress: Progress
    ) -> Generator[Outcome, None, None]:
        """Shard by shard; the small segments of each are merged before the next begins."""
        totals = {job.lane: sum(len(one.missing) for one in jobs if one.lane == job.lane) for job in jobs}
        done = dict.fromkeys(totals, 0)

        def told(what: str, count: int, total: int) -> None:
            """Of all shards; the crew knows of one."""
            progress(what, min(totals[what], done[what] + count), totals[what])

        for number in dict.fromkeys(job.number for job in jobs):
            mine = [job for job in jobs if job.number == number]
            lanes = [self._lane(job, wanted, clock) for job in mine]
            before = [lane.encoder.truncated for lane in lanes]
            with contextlib.closing(encode_all(lanes, self._runtime(), clock, told)) as outcomes:
                yield from outcomes
            for job, lane, truncated in zip(mine, lanes, before, strict=True):
                done[job.lane] += len(job.missing)
                yield Outcome(job.lane, truncated=lane.encoder.truncated - truncated)
                with clock.measure("merge segments"):
                    lane.store.consolidate(lane.work.missing)
            self._runtime().give_back()

    def _lane(self, job: Job, wanted: Wanted, clock: Clock) -> Lane:
        spec, key = wanted.encoders[job.lane]
        if key.digest not in self._encoders:
            if self._chooser is None:
                raise RuntimeError("encoders are chosen before they encode")
            with clock.measure("load models"):
                self._encoders[key.digest] = self._chooser.load_as(spec, key)
        with clock.measure("read again"):
            work = work_of(job, wanted)
        store = FeatureStore(wanted.store).encoder(key.digest)
        writer = FeatureWriter(store, list(outputs_of(key.fields)), self._runtime().record())
        return Lane(self._encoders[key.digest], work, store, writer, self._runtime().budget(spec.kind), job.lane)


def work_of(job: Job, wanted: Wanted) -> Work:
    """What a planner has to plan for a job."""
    return Work(job.contents(wanted), unpack_items(job.missing), unpack_items(job.refused), job.plan)
