"""The only extraction loop: decode, encode and write, overlapped through bounded queues."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from cache import TOKENS, DeviceError, EncoderKey, Ragged, SegmentWriter, Values, join_items, take_items
from extract.channel import Channel, Closed
from extract.clock import Clock
from extract.decode import DecodeError, ReadError
from extract.encoders.spec import BrokenInputs, Encoder, Input, stored_dtype, with_content
from extract.manifest import Content, content_key, read_content
from extract.planner import Task

AT_ONCE = 16
"""Items that a reading or decoding thread takes at a time."""
READERS = 4
"""Threads that read files where they do not decode them, too."""
SAVE_EVERY = 0.5
"""Seconds between two segments, if the encoder is quicker than that: a kill loses little more than them."""
SAVE_BYTES = 64 * 2**20
"""Vectors that wait to be written; this and the queues bound the memory."""


@dataclass(frozen=True)
class Broken:
    """Why an item could not be encoded; `final` unless trying again may help."""

    reason: str
    final: bool = True


@dataclass
class Outcome:
    """What became of a batch: items encoded, the reason for each that could not be, items stored by others.

    `truncated` counts contents that were cut, where it is not known of the encoder.
    """

    modality: str
    encoded: list[bytes] = field(default_factory=list)
    failed: dict[bytes, Broken] = field(default_factory=dict)
    elsewhere: int = 0
    truncated: int = 0


class Machine(Protocol):
    """What the engine must know of the device; see `extract.runtime.Runtime`."""

    @property
    def replicas(self) -> int:
        """Threads that encode at the same time, each a batch of its own."""

    @property
    def decoders(self) -> int:
        """Threads that read and decode; 0 where each thread that encodes decodes its own batches."""

    def replica(self) -> contextlib.AbstractContextManager[None]:
        """Makes the calling thread one that encodes."""

    def out_of_memory(self, error: Exception) -> bool:
        """Whether a smaller batch may succeed where this error was raised."""


_Inputs = list[np.ndarray | Broken]


@dataclass
class Station:
    """Where the batches of one modality are encoded and written.

    `limit` is the largest padded cost that the device's memory has been seen to hold.
    """

    encoder: Encoder
    writer: SegmentWriter
    limit: int | None = None

    def vectors(self, task: Task, inputs: _Inputs, machine: Machine) -> dict[str, Values]:
        """The vectors of a batch, in as many parts as the memory demands.

        Inputs that only the model finds broken are replaced in `inputs`.
        """
        while True:
            size = len(inputs) if self.limit is None else max(1, self.limit // max(1, task.cost))
            sound = [self.encoder.blank() if isinstance(one, Broken) else one for one in inputs]
            try:
                parts = [self.encoder.encode(sound[at : at + size]) for at in range(0, len(sound), size)]
                return {name: join_items([part[name] for part in parts]) for name in parts[0]}
            except BrokenInputs as error:
                for one in error.inputs:
                    place = next(at for at, value in enumerate(sound) if value is one)
                    inputs[place] = Broken(error.reason)
            except Exception as error:
                if not machine.out_of_memory(error):
                    raise
                size = min(size, len(inputs))
                if size == 1:
                    raise DeviceError(
                        f"the device's memory does not hold a single {task.modality} input: {error}"
                    ) from error
                self.limit = min(self.limit or size * task.cost, size * task.cost // 2)  # of all replicas


_Encoded = tuple[Task, _Inputs, dict[str, Values]]


class Crew:
    """Threads that take batches through decoding, encoding and writing.

    One feeds, some read and decode, `replicas` encode, one writes. A broken item keeps its place in
    the batch as a blank input whose output is dropped, so that the others get the very vectors
    that they get beside a sound one.

    Args:
        stations: by modality.
        machine: how many threads, and what each of them has to do first.
        clock: told what each stage takes.
    """

    def __init__(self, stations: Mapping[str, Station], machine: Machine, clock: Clock) -> None:
        self._stations = stations
        self._machine = machine
        self._clock = clock
        self._ready: Channel[tuple[Task, list[Future[list[Any]]]]] = Channel(machine.replicas + 2)
        self._encoded: Channel[_Encoded] = Channel(machine.replicas)
        self._outcomes: Channel[Outcome] = Channel(2**31)
        self._error: BaseException | None = None
        self._encoding = machine.replicas
        self._lock = threading.Lock()

    def run(self, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        """Yields the outcome of each batch once it is durable.

        Whenever it ends, by an error or because nobody asks for more, what was encoded is written.
        """
        works: list[Callable[[], None]] = [lambda: self._feed(tasks), self._write]
        works += [self._encode] * self._machine.replicas
        threads = [threading.Thread(target=self._guarded, args=(work,), daemon=True) for work in works]
        for thread in threads:
            thread.start()
        try:
            while True:
                yield self._outcomes.get()
        except Closed:
            pass
        finally:
            self._ready.close(discard=True)
            for thread in threads:
                thread.join()
        if self._error is not None:
            raise self._error

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Closed:
            pass
        except BaseException as error:  # raised again where the outcomes are read
            self._error = self._error or error
            self._ready.close(discard=True)
            if work == self._write:
                self._encoded.close(discard=True)
                self._outcomes.close()

    def _feed(self, tasks: Iterable[Task]) -> None:
        with ThreadPoolExecutor(self._machine.decoders or READERS) as pool:
            try:
                for task in tasks:
                    numbers = range(0, len(task.items), AT_ONCE)
                    futures = [pool.submit(self._load, task, number) for number in numbers]
                    self._ready.put((task, futures))
            finally:
                self._ready.close()

    def _load(self, task: Task, start: int) -> list[Any]:
        """Some items of a batch from the disk; decoded, if other threads than those that encode do it."""
        chosen = slice(start, start + AT_ONCE)
        loaded = load_items(task.items[chosen], task.lights[chosen])
        return self._decode(task.modality, loaded) if self._machine.decoders else loaded

    def _decode(self, modality: str, loaded: Sequence[Any]) -> _Inputs:
        encoder = self._stations[modality].encoder
        with self._clock.measure(f"{modality}: decode"):
            return decode_items(encoder, loaded)

    def _encode(self) -> None:
        try:
            with self._machine.replica():
                while True:
                    with self._clock.measure("wait for input"):
                        task, futures = self._ready.get()
                        inputs = [one for future in futures for one in future.result()]
                    if not self._machine.decoders:
                        inputs = self._decode(task.modality, inputs)
                    with self._clock.measure(f"{task.modality}: encode"):
                        vectors = self._stations[task.modality].vectors(task, inputs, self._machine) if inputs else {}
                    with self._clock.measure("wait for the disk"):
                        self._encoded.put((task, inputs, vectors))
        finally:
            with self._lock:
                self._encoding -= 1
                if not self._encoding:
                    self._encoded.close()

    def _write(self) -> None:
        waiting: list[_Encoded] = []
        saved = time.monotonic()
        ended = False
        try:
            while not ended:
                try:
                    found = self._encoded.get_until(saved + SAVE_EVERY) if waiting else self._encoded.get()
                    if found is not None:
                        waiting.append(found)
                except Closed:
                    ended = True
                late = time.monotonic() >= saved + SAVE_EVERY
                if waiting and (ended or late or sum(map(_bytes, waiting)) >= SAVE_BYTES):
                    with self._clock.measure("write"):
                        outcomes = self._save(waiting)
                    waiting, saved = [], time.monotonic()
                    for outcome in outcomes:
                        self._outcomes.put(outcome)
        finally:
            self._outcomes.close()

    def _save(self, waiting: Sequence[_Encoded]) -> list[Outcome]:
        """One durable segment a modality."""
        outcomes: list[Outcome] = []
        for modality in dict.fromkeys(task.modality for task, _, _ in waiting):
            station = self._stations[modality]
            checked = [checked_batch(station.encoder.key, *one) for one in waiting if one[0].modality == modality]
            outcomes += [outcome for outcome, _ in checked]
            full = [(outcome.encoded, outputs) for outcome, outputs in checked if outcome.encoded]
            if full:
                joined = {name: join_items([outputs[name] for _, outputs in full]) for name in full[0][1]}
                station.writer.write([item for encoded, _ in full for item in encoded], joined)
        return outcomes


def load_items(items: Sequence[bytes], lights: Sequence[Any]) -> list[Any]:
    """Light forms with what is in their files; or why that is not to be had."""
    return [_loaded(item, light) for item, light in zip(items, lights, strict=True)]


def decode_items(encoder: Input, loaded: Sequence[Any]) -> list[np.ndarray | Broken]:
    """What `load_items` gave, as the model takes it."""
    return [_decoded(encoder, one) for one in loaded]


def _loaded(item: bytes, light: Any) -> Any:
    """What is to be decoded: the bytes of a file, or what was prepared; or why it is not to be had."""
    try:
        return with_content(light, functools.partial(_read, item))
    except ReadError as error:
        return Broken(str(error), final=False)


def _decoded(encoder: Input, loaded: Any) -> np.ndarray | Broken:
    try:
        return loaded if isinstance(loaded, Broken) else encoder.decode(loaded)
    except DecodeError as error:
        return Broken(str(error), final=not isinstance(error, ReadError))


def _read(item: bytes, content: Content) -> Content:
    try:
        found = read_content(content)
    except OSError as error:
        raise ReadError(f"cannot be read: {error.strerror}") from error
    if content_key(found) != item:
        raise ReadError("the file changed while it was being encoded; run extract again")
    return found


def _bytes(encoded: _Encoded) -> int:
    return sum((one.values if isinstance(one, Ragged) else one).nbytes for one in encoded[2].values())


def checked_batch(
    key: EncoderKey, task: Task, inputs: Sequence[np.ndarray | Broken], vectors: Mapping[str, Values]
) -> tuple[Outcome, dict[str, Values]]:
    """What became of a batch, and the vectors of its sound items in the type in which they are stored."""
    outcome = Outcome(task.modality, elsewhere=task.elsewhere)
    outcome.failed = {item: one for item, one in zip(task.items, inputs, strict=True) if isinstance(one, Broken)}
    outputs = {}
    for name, values in vectors.items():
        outputs[name], wrong = _cast(values, stored_dtype(key.fields, name), name)
        for number, broken in wrong.items():
            outcome.failed.setdefault(task.items[number], broken)
    outcome.encoded = [item for item in task.items if item not in outcome.failed]
    if len(outcome.encoded) == len(task.items):
        return outcome, outputs
    kept = np.array([number for number, item in enumerate(task.items) if item not in outcome.failed], dtype=np.int64)
    return outcome, {name: take_items(values, kept) for name, values in outputs.items()}


def _cast(values: Values, dtype: np.dtype, name: str) -> tuple[Values, dict[int, Broken]]:
    """The vectors in the type in which they are stored, and what is wrong with which of them."""
    flat = values.values if isinstance(values, Ragged) else values
    with np.errstate(over="ignore"):  # looked for below
        stored = flat.astype(dtype, copy=False)
    cast = Ragged(stored, values.offsets) if isinstance(values, Ragged) else stored
    if np.isfinite(stored).all():
        return cast, {}
    remedy = "leave out --tokens" if name == TOKENS else "extract with --dtype float32"
    wrong = {}
    for number in range(len(values)):
        if not np.isfinite(values[number]).all():
            wrong[number] = Broken("the encoder gave NaN or infinite values")
        elif not np.isfinite(cast[number]).all():
            largest = np.abs(values[number]).max()
            wrong[number] = Broken(f"its {name} vector has a value of {largest:.4g}, too large for {dtype}: {remedy}")
    return cast, wrong
