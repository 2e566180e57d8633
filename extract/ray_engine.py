"""A data set in shards on a cluster of machines: Ray Data moves, retries and scales; what is done is `extract`'s own.

Shards are read, planned, tokenised and decoded by tasks on CPUs, encoded by a pool of actors on GPUs or CPUs, and
written by tasks again, straight to the store. What is on its way lies in Ray's object store, which is bounded; what a
lost machine held is made again from the shard that it came from. Segments are named by what is in them, so that one
that is written a second time takes its own place.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cache import (
    DeviceError,
    FeatureStore,
    PipelineError,
    Progress,
    SegmentWriter,
    UsageError,
    Values,
    digest,
    join_items,
    silent,
)
from extract.batching import Budget
from extract.chosen import Chosen, require_key
from extract.clock import Clock
from extract.encoders import build_encoder, build_input
from extract.encoders.spec import Encoder, EncoderSpec, Input, outputs_of
from extract.engine import Broken, Outcome, Station, checked_batch, decode_items, load_items
from extract.engines import Asking, Choice, Found, Look, Numbered, work_of
from extract.keyed import Job, Wanted
from extract.packing import Packed
from extract.planner import Lane, Planner, Task

if TYPE_CHECKING:
    from extract.runtime import Runtime

BATCHES_A_BUNDLE = 16
BUNDLE_BYTES = 48 * 2**20
"""Inputs that travel together end at so many bytes, however few batches they are."""
BUNDLES_A_SEGMENT = 8
"""A segment is written once so many were encoded, whoever did it. What Ray hands on has a price by the piece."""
CONNECT_SECONDS = 10.0
PREPARE_CPUS, WRITE_CPUS = 0.5, 0.25
ENCODING_SHARE = 0.75
"""Of the cluster's CPUs, where encoders run on CPUs and nothing is said."""


@dataclass(frozen=True)
class RayOptions:
    """Which cluster, and how much of it.

    Attributes:
        address: of a running cluster, `auto` for the one that this machine belongs to; None takes what the
            environment names, or starts one on this machine alone.
        workers: at most so many encode at a time; None takes what the cluster has.
        gpus_per_worker: GPUs of each; None takes one where GPUs are used.
        bundle: batches that travel together: few keep every worker busy, many keep Ray's own work small.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    bundle: int = BATCHES_A_BUNDLE


@dataclass
class Bundle:
    """Batches on their way: first with inputs, then with vectors and what is broken."""

    tasks: list[Task] = field(default_factory=list)
    inputs: list[Packed] = field(default_factory=list)
    vectors: list[dict[str, Values]] = field(default_factory=list)
    made_by: Mapping[str, Any] = field(default_factory=dict)
    truncated: int = 0


def require_ray() -> Any:
    """The library. Raises UsageError where it is not installed."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError(
            f"--engine ray needs Ray Data ({error}): pip install -r requirements-ray.txt; one machine needs no Ray, "
            "leave the option out"
        ) from error
    return ray


class RayEngine:
    """An `extract.engines.Engine` on a cluster.

    Args:
        options: which cluster, and how much of it.
        device: `auto` takes GPUs where the cluster has some; `cpu`; `cuda` for GPUs.
        compile_encoders: run them through `torch.compile`.

    Raises:
        UsageError: Ray is not installed, or a device that is no cluster's.
        DeviceError: the cluster cannot be reached, or has no GPUs where they were asked for.
    """

    def __init__(self, options: RayOptions, device: str = "auto", compile_encoders: bool = False) -> None:
        self._ray = require_ray()
        self._connected = not self._ray.is_initialized()
        if self._connected:
            _connect(self._ray, options.address)
        try:
            self._worker = _worker_of(self._ray.cluster_resources(), options, device, compile_encoders)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leaves the cluster; one that was started here ends."""
        if self._connected:
            self._ray.shutdown()

    def choose(self, specs: Sequence[EncoderSpec], asked: Asking, progress: Progress) -> Choice:
        """Settles the encoders on a worker: what is fast there is what counts."""
        task = self._ray.remote(num_cpus=1, num_gpus=self._worker.gpus, max_retries=3)(_choose)
        chosen, *device = self._told(self._ray.get, task.remote(tuple(specs), asked, self._worker))
        return Choice(chosen, lambda: (device[0], device[1]))

    def each(self, shards: Numbered, look: Look[Found]) -> Generator[Found, None, None]:
        """A task a shard."""
        rows = self._rows([{"number": number, "shard": shard} for number, shard in shards])
        looked = rows.map(functools.partial(_looked, look), num_cpus=1)
        yield from (row["found"] for row in self._stream(looked))

    def encode(
        self, jobs: Sequence[Job], wanted: Wanted, clock: Clock, progress: Progress = silent
    ) -> Generator[Outcome, None, None]:
        """The way of all jobs through the cluster."""
        ray = self._ray
        totals = {job.lane: sum(len(one.missing) for one in jobs if one.lane == job.lane) for job in jobs}
        done = dict.fromkeys(totals, 0)
        prepared = self._rows([{"job": job} for job in jobs]).flat_map(
            functools.partial(_prepared, wanted, self._worker), num_cpus=PREPARE_CPUS
        )
        encoded = prepared.map_batches(
            _Encode,
            fn_constructor_args=(wanted, self._worker),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=self._worker.most),
            num_cpus=1,
            num_gpus=self._worker.gpus,
        )
        write = functools.partial(_written, wanted, time.time_ns())
        written = encoded.map_batches(write, batch_size=BUNDLES_A_SEGMENT, num_cpus=WRITE_CPUS)
        with clock.measure("on the cluster"):
            for row in self._stream(written):
                outcome = row["outcome"]
                done[outcome.modality] += len(outcome.encoded) + len(outcome.failed)
                total = totals[outcome.modality]
                progress(outcome.modality, min(total, done[outcome.modality]), total)
                yield outcome

    def _rows(self, rows: list[dict[str, Any]]) -> Any:
        """A data set of Ray with a block a row."""
        data = self._ray.data.from_items(rows, override_num_blocks=len(rows))
        data.context.enable_progress_bars = False  # its own, and not that of all data sets of this process
        data.context.target_max_block_size = 1  # or what a task gives piece by piece waits for its end in one block
        return data

    def _stream(self, data: Any) -> Iterator[dict[str, Any]]:
        rows = iter(data.iter_rows())
        while (row := self._told(next, rows, None)) is not None:
            yield row

    def _told(self, do: Any, *args: Any) -> Any:
        """What it gives; an error of ours that was raised on a worker is raised here as it was there."""
        try:
            return do(*args)
        except self._ray.exceptions.RayError as error:
            seen: BaseException | None = error
            while seen is not None:
                for one in (seen, getattr(seen, "cause", None)):
                    if isinstance(one, PipelineError):
                        raise _plain(one) from error
                seen = seen.__cause__
            raise DeviceError(
                f"the cluster failed: {str(error).strip().splitlines()[-1]}. What was encoded is kept; mend it and "
                "run the same command again"
            ) from error


def _plain(error: PipelineError) -> PipelineError:
    """Without the worker's traceback, which Ray puts into the class."""
    kind = next(one for one in type(error).__mro__ if one.__module__ == "cache.errors")
    return kind(str(error)) if type(error) is not kind else error


@dataclass(frozen=True)
class _Worker:
    """What each that encodes gets: a device and a share of GPUs; and how many there may be at most."""

    device: str
    compile: bool
    gpus: float
    most: int
    bundle: int = BATCHES_A_BUNDLE

    def runtime(self) -> Runtime:
        """Of one worker: it encodes one batch at a time."""
        from extract.runtime import choose_runtime

        return replace(choose_runtime(self.device, self.compile), replicas=1, decoders=0)

    def budget(self, kind: str) -> Budget:
        """Of its batches; asked by those that plan for it, who have no such device."""
        import torch

        from extract.runtime import Runtime

        return Runtime(torch.device(self.device), self.device).budget(kind)


def _connect(ray: Any, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here tells nobody of it
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters is raised
    # Workers import what this process imports: from the same folder, or from where it is installed there.
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {name: os.environ[name] for name in ("HF_HUB_OFFLINE",) if name in os.environ}
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    host, _, port = (address or "").rpartition(":")
    loopback = {"_node_ip_address": host} if host.startswith("127.") else {}  # Ray would look for itself elsewhere
    try:
        if host and port.isdigit() and "/" not in host:  # Ray would try for minutes
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        ray.init(
            **loopback,
            address=address,
            runtime_env={"env_vars": {"PYTHONPATH": path, **kept}},
            logging_level=logging.ERROR,
            log_to_driver=False,
            include_dashboard=False if address is None and "RAY_ADDRESS" not in os.environ else None,
        )
    except (OSError, RuntimeError, ValueError) as error:  # ConnectionError is an OSError
        where = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise DeviceError(
            f"no Ray cluster at {where}: {str(error).strip().splitlines()[0]}. Start one by `ray start --head`, give "
            "its address by --address, or leave --engine out to encode on this machine alone"
        ) from error


def _worker_of(held: Mapping[str, float], options: RayOptions, device: str, compile_encoders: bool) -> _Worker:
    """What a worker gets of a cluster that holds so many `CPU` and `GPU`."""
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device} names a device of one machine; on a cluster it is auto, cpu or cuda")
    if options.workers is not None and options.workers < 1:
        raise UsageError(f"--workers {options.workers}: at least one must encode")
    cpus, gpus = held.get("CPU", 0.0), held.get("GPU", 0.0)
    each = options.gpus_per_worker
    if each is None:
        each = 1.0 if device == "cuda" or (device == "auto" and gpus) else 0.0
    if each < 0 or (each > 1 and each != int(each)):
        raise UsageError(f"--gpus-per-worker {each:g}: a share of one GPU, or whole ones")
    if device == "cpu" and each:
        raise UsageError("--device cpu and --gpus-per-worker contradict each other")
    if each and gpus < each:
        raise DeviceError(
            f"each worker is to have {each:g} GPUs, and the cluster has {gpus:g} in all; leave out --gpu and "
            "--gpus-per-worker to encode on its CPUs"
        )
    most = int(gpus // each) if each else max(1, int(cpus * ENCODING_SHARE))
    return _Worker("cuda" if each else "cpu", compile_encoders, each, options.workers or most, options.bundle)


def _choose(
    specs: Sequence[EncoderSpec], asked: Asking, worker: _Worker
) -> tuple[dict[str, Chosen], str, dict[str, str]]:
    """On a worker: the encoders, and the name and the record of what they run on."""
    runtime = worker.runtime()
    with runtime.replica():
        chooser = asked.chooser(lambda: runtime)
        chosen = {spec.modality: replace(chooser.choose(spec), encoder=None) for spec in specs}
    return chosen, f"up to {worker.most} x {runtime.name}", runtime.record()


def _looked(look: Look[Any], row: Mapping[str, Any]) -> dict[str, Any]:
    return {"found": look(row["number"], row["shard"])}


@functools.lru_cache(maxsize=8)
def _input_of(spec: EncoderSpec) -> Input:
    """Loaded once a process."""
    return build_input(spec)


def _prepared(wanted: Wanted, worker: _Worker, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The batches of a job, ready to be encoded, in bundles."""
    job: Job = row["job"]
    spec, key = wanted.encoders[job.lane]
    source = _input_of(spec)
    store = FeatureStore(wanted.store).encoder(key.digest)
    writer = SegmentWriter(store, list(outputs_of(key.fields)), {})
    work = work_of(job, wanted)
    lane = Lane(cast(Encoder, source), work, store, writer, worker.budget(spec.kind), job.lane)  # which only prepares
    counted = source.truncated
    bundle = Bundle()
    for window in Planner(lane, Clock()).windows():
        bundle.truncated += source.truncated - counted
        counted = source.truncated
        for batch, lights, cost in window:
            inputs = decode_items(source, load_items(batch, [lights[item] for item in batch]))
            bundle.tasks.append(Task(job.lane, batch, [], cost, 0))
            bundle.inputs.append(Packed.of(inputs))
            if len(bundle.tasks) == worker.bundle or _size(bundle) >= BUNDLE_BYTES:
                yield {"bundle": bundle}
                bundle = Bundle()
    if bundle.tasks:
        yield {"bundle": bundle}


def _size(bundle: Bundle) -> int:
    return sum(one.values.nbytes for one in bundle.inputs)


class _Encode:
    """An actor: loads encoders when their first bundle comes, and keeps them."""

    def __init__(self, wanted: Wanted, worker: _Worker) -> None:
        self._wanted = wanted
        self._runtime = worker.runtime()
        self._stations: dict[str, Station] = {}

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Bundles with vectors in the place of inputs."""
        with self._runtime.replica():
            return {"bundle": _column([self._encoded(bundle) for bundle in rows["bundle"]])}

    def _encoded(self, bundle: Bundle) -> Bundle:
        made = Bundle(bundle.tasks, made_by=self._runtime.record(), truncated=bundle.truncated)
        for task, packed in zip(bundle.tasks, bundle.inputs, strict=True):
            inputs = packed.inputs()
            made.vectors.append(self._station(task.modality).vectors(task, inputs, self._runtime))
            made.inputs.append(Packed.of([one if isinstance(one, Broken) else _SOUND for one in inputs]))
        return made

    def _station(self, lane: str) -> Station:
        if lane not in self._stations:
            spec, key = self._wanted.encoders[lane]
            encoder = build_encoder(spec, self._runtime)
            require_key(spec, encoder, key)
            store = FeatureStore(self._wanted.store).encoder(key.digest)
            writer = SegmentWriter(store, list(outputs_of(key.fields)), self._runtime.record())
            self._stations[lane] = Station(encoder, writer)
        return self._stations[lane]


_SOUND = np.empty(0)
"""Stands for an input that went into the vectors."""


def _column(values: Sequence[Any]) -> np.ndarray:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _written(wanted: Wanted, run: int, rows: Mapping[str, Any]) -> dict[str, Any]:
    """One durable segment an encoder, and what became of its items."""
    told: dict[str, Outcome] = {}
    held: dict[str, list[dict[str, Values]]] = {}
    made_by: Mapping[str, Any] = {}
    for bundle in rows["bundle"]:
        made_by = bundle.made_by
        for task, packed, vectors in zip(bundle.tasks, bundle.inputs, bundle.vectors, strict=True):
            outcome, outputs = checked_batch(wanted.encoders[task.modality][1], task, packed.inputs(), vectors)
            one = told.setdefault(task.modality, Outcome(task.modality))
            one.encoded += outcome.encoded
            one.failed |= outcome.failed
            if outcome.encoded:
                held.setdefault(task.modality, []).append(outputs)
        told[bundle.tasks[0].modality].truncated += bundle.truncated
    for lane, parts in held.items():
        _, key = wanted.encoders[lane]
        joined = {name: join_items([part[name] for part in parts]) for name in parts[0]}
        writer = SegmentWriter(FeatureStore(wanted.store).encoder(key.digest), list(outputs_of(key.fields)), made_by)
        writer.write(told[lane].encoded, joined, f"{run:016x}-{digest(*told[lane].encoded)[:8]}")
    return {"outcome": _column([*told.values()])}
