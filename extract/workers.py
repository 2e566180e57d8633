"""Encodes on one device in this process, or on several in a worker process each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache import DeviceError, FeatureStore, FeatureWriter, ModelError, PipelineError, Progress
from extract.clock import Clock
from extract.encoders import build_encoder
from extract.encoders.spec import EncoderSpec, outputs_of
from extract.engine import Crew, Machine, Outcome, Station
from extract.planner import Lane, Planner, Task, stream_tasks

TASKS_AHEAD = 2
"""Batches a worker process that wait for it."""
LOOK_EVERY = 0.5
"""Seconds between two looks whether a worker process still lives."""


Outcomes = Generator[Outcome, None, None]


def encode_all(lanes: Sequence[Lane], machine: Machine, clock: Clock, progress: Progress) -> Outcomes:
    """Encodes all lanes' items at once, in this process; yields the outcome of each batch once it is durable."""
    stations = {lane.modality: Station(lane.encoder, lane.writer) for lane in lanes}
    return _told(lanes, clock, progress, lambda tasks: Crew(stations, machine, clock).run(tasks))


_Run = Callable[[Iterator[Task]], Outcomes]


@dataclass(frozen=True)
class Order:
    """What a worker process is told: where the vectors go, and by which encoders they are made.

    `encoders` holds by modality the spec and the digest of the key that it must have; `processes` is
    the number of all workers.
    """

    store: Path
    encoders: Mapping[str, tuple[EncoderSpec, str]]
    device: str
    compile: bool
    processes: int


def encode_all_in_processes(
    lanes: Sequence[Lane], orders: Sequence[Order], clock: Clock, progress: Progress
) -> Outcomes:
    """The same, by a process for each order. This process plans; a worker takes the next batch whenever it can.

    Raises:
        DeviceError: a worker process died.
    """
    return _told(lanes, clock, progress, lambda tasks: _Workers(orders, clock).run(tasks))


def _told(lanes: Sequence[Lane], clock: Clock, progress: Progress, run: _Run) -> Outcomes:
    planners = [Planner(lane, clock) for lane in lanes]
    totals = {lane.modality: planner.total for lane, planner in zip(lanes, planners, strict=True)}
    done: Counter[str] = Counter()
    with (
        contextlib.closing(stream_tasks(lanes, planners)) as tasks,
        contextlib.closing(run(tasks)) as outcomes,
    ):
        for outcome in outcomes:
            done[outcome.modality] += len(outcome.encoded) + len(outcome.failed) + outcome.elsewhere
            progress(outcome.modality, min(done[outcome.modality], totals[outcome.modality]), totals[outcome.modality])
            yield outcome


class _Workers:
    """Worker processes, what they are given, and what they tell."""

    def __init__(self, orders: Sequence[Order], clock: Clock) -> None:
        # A process that has used a GPU cannot be forked.
        context = multiprocessing.get_context("spawn")
        self._clock = clock
        self._tasks: Any = context.Queue(TASKS_AHEAD * len(orders))
        self._told: Any = context.Queue()
        self._stopped = threading.Event()
        self._ended: set[int] = set()
        self._processes = [
            context.Process(target=_work, args=(number, order, self._tasks, self._told), daemon=True)
            for number, order in enumerate(orders)
        ]

    def run(self, tasks: Iterator[Task]) -> Outcomes:
        """As `Crew.run`."""
        for process in self._processes:
            process.start()
        feeder = threading.Thread(target=self._feed, args=(tasks,), daemon=True)
        feeder.start()
        try:
            while len(self._ended) < len(self._processes):
                for number, said in self._listen():
                    if isinstance(said, Outcome):
                        yield said
                    elif isinstance(said, BaseException):
                        raise said
                    else:
                        self._clock.add(said)
                        self._ended.add(number)
        finally:
            self._stop(feeder)

    def _stop(self, feeder: threading.Thread) -> None:
        """Lets every worker finish and write what it has begun."""
        self._stopped.set()
        self._tasks.cancel_join_thread()
        while any(process.is_alive() for process in self._processes):
            if any(process.exitcode for process in self._processes):  # it may hold a lock that the others wait for
                for process in self._processes:
                    process.terminate()
            with contextlib.suppress(queue.Empty):  # a worker cannot end before its words are taken
                self._told.get(timeout=0.05)
        feeder.join()

    def _listen(self) -> Iterator[tuple[int, Any]]:
        """Who says what next; an error where a worker ended without its last word."""
        try:
            yield self._told.get(timeout=LOOK_EVERY)
        except queue.Empty:
            for number, process in enumerate(self._processes):
                if process.exitcode is not None and number not in self._ended:
                    yield number, _died(process.exitcode)

    def _feed(self, tasks: Iterator[Task]) -> None:
        try:
            for task in tasks:
                if not self._put(task):
                    break
        except BaseException as error:  # raised again where the outcomes are read
            self._told.put((-1, error))
        for _ in self._processes:
            self._put(None, patient=True)

    def _put(self, task: Task | None, patient: bool = False) -> bool:
        while patient or not self._stopped.is_set():
            try:
                self._tasks.put(task, timeout=LOOK_EVERY)
                return True
            except queue.Full:
                if not any(process.is_alive() for process in self._processes):
                    return False
        return False


def _died(exitcode: int) -> DeviceError:
    return DeviceError(
        f"a worker process ended with {exitcode}, perhaps killed for want of memory; what was encoded is kept, run "
        "the same command again with fewer devices"
    )


def _work(number: int, order: Order, tasks: Any, told: Any) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it says when it ends
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        from extract.runtime import choose_runtime

        runtime = choose_runtime(order.device, order.compile).shared(order.processes)
        stations = {}
        for modality, (spec, expected) in order.encoders.items():
            encoder = build_encoder(spec, runtime)
            if encoder.key.digest != expected:
                raise ModelError(f"{spec.model} changed while it was in use; run the same command again")
            store = FeatureStore(order.store).encoder(expected)
            writer = FeatureWriter(store, list(outputs_of(encoder.key.fields)), runtime.record())
            stations[modality] = Station(encoder, writer)
        clock = Clock()
        for outcome in Crew(stations, runtime, clock).run(iter(tasks.get, None)):
            told.put((number, outcome))
        told.put((number, clock.seconds()))
    except PipelineError as error:  # raised again in the process that started it
        told.put((number, error))
    except BaseException:  # perhaps of a kind that cannot be pickled
        told.put((number, RuntimeError(f"in the worker process of {order.device}:\n{traceback.format_exc()}")))


def _end_with_parent() -> None:
    """A worker whose starter was killed would wait for tasks for ever, and keep a GPU's memory."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
