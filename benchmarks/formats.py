"""Formats that could hold the vectors: what a kill -9 leaves of each, and what writing and reading cost.

    pip install -r requirements.txt -r benchmarks/requirements-formats.txt
    python benchmarks/formats.py

Each is used as its documentation says: one batch after the other is made durable as far as the
format can, then announced. A kill is right if a new process reads every announced batch as it was.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import h5py
import numpy as np

from benchmarks.machine import machine, write_result
from cache import EncoderKey, FeatureStore, FeatureWriter, item_key

KILLS, ROUNDS = 20, 9
BATCH, WIDTH, BATCHES, TAKEN = 256, 2048, 60, 2000


def batch(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal((BATCH, WIDTH), dtype=np.float32)


@dataclass(frozen=True)
class Format:
    """`write` yields after each batch that it has made durable; `open` gives a reader of rows in any order."""

    name: str
    write: Callable[[Path], Iterator[None]]
    open: Callable[[Path], Callable[[np.ndarray], np.ndarray]]


def h5_append(flush: bool, **options: Any) -> Callable[[Path], Iterator[None]]:
    def write(folder: Path) -> Iterator[None]:
        with h5py.File(folder / "all.h5", "w", libver=options.get("libver")) as file:
            data = file.create_dataset("x", (0, WIDTH), "f4", maxshape=(None, WIDTH), chunks=(BATCH, WIDTH))
            if options.get("swmr"):
                file.swmr_mode = True
            for number in itertools.count():
                data.resize((number + 1) * BATCH, axis=0)
                data[-BATCH:] = batch(number)
                if flush:
                    file.flush()
                yield

    return write


def h5_read(**options: Any) -> Callable[[Path], Callable[[np.ndarray], np.ndarray]]:
    def read(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
        data = h5py.File(folder / "all.h5", "r", **options)["x"]

        def take(rows: np.ndarray) -> np.ndarray:
            order = np.argsort(rows)
            out = np.empty((len(rows), WIDTH), dtype=np.float32)
            out[order] = data[rows[order]]
            return out

        return take

    return read


def from_parts(parts: Sequence[np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Reads rows of batches that lie apart."""

    def take(rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), WIDTH), dtype=np.float32)
        for number in np.unique(rows // BATCH):
            chosen = rows // BATCH == number
            out[chosen] = parts[number][rows[chosen] % BATCH]
        return out

    return take


def zarr_write(folder: Path) -> Iterator[None]:
    import zarr

    array = zarr.create_array(
        folder / "all.zarr", shape=(0, WIDTH), chunks=(BATCH, WIDTH), dtype="f4", compressors=None
    )
    for number in itertools.count():
        array.append(batch(number))
        yield


def zarr_read(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    import zarr

    array = zarr.open_array(folder / "all.zarr", mode="r")
    return lambda rows: array.oindex[rows]


def arrow_write(folder: Path) -> Iterator[None]:
    import pyarrow as pa

    schema = pa.schema([("x", pa.list_(pa.float32(), WIDTH))])
    with pa.OSFile(str(folder / "all.arrow"), "wb") as out, pa.ipc.new_stream(out, schema) as writer:
        for number in itertools.count():
            values = pa.FixedSizeListArray.from_arrays(pa.array(batch(number).ravel()), WIDTH)
            writer.write_batch(pa.record_batch([values], schema=schema))
            out.flush()
            yield


def arrow_read(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    import pyarrow as pa

    parts = []
    with pa.memory_map(str(folder / "all.arrow")) as source:
        reader = pa.ipc.open_stream(source)
        with contextlib.suppress(pa.ArrowInvalid, OSError):  # a stream without its end; what was read is whole
            for one in reader:
                parts.append(one.column(0).values.to_numpy().reshape(-1, WIDTH))

    return from_parts(parts)


def lmdb_write(folder: Path) -> Iterator[None]:
    import lmdb

    with lmdb.open(str(folder / "all.lmdb"), map_size=2**32) as base:
        for number in itertools.count():
            with base.begin(write=True) as transaction:
                for row, values in enumerate(batch(number), number * BATCH):
                    transaction.put(row.to_bytes(8, "big"), values.tobytes())
            yield


def lmdb_read(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    import lmdb

    base = lmdb.open(str(folder / "all.lmdb"), readonly=True, lock=False)

    def take(rows: np.ndarray) -> np.ndarray:
        with base.begin(buffers=True) as transaction:
            found = [np.frombuffer(transaction.get(row.to_bytes(8, "big")), np.float32) for row in rows.tolist()]
            return np.stack(found)

    return take


KEY = EncoderKey({"modality": "image", "schema": 1, "outputs": {"pool": WIDTH}, "dtype": "float32"})


def ours_write(folder: Path) -> Iterator[None]:
    encoder = FeatureStore(folder).encoder(KEY.digest)
    encoder.create(KEY)
    writer = FeatureWriter(encoder, ["pool"], {})
    for number in itertools.count():
        keys = [item_key(str(row)) for row in range(number * BATCH, (number + 1) * BATCH)]
        writer.write(keys, {"pool": batch(number)})
        yield


def ours_read(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Before a run has merged its segments: one file a batch, as after a kill."""
    segments = FeatureStore(folder).encoder(KEY.digest).segments()
    maps = [np.asarray(segment.map("pool")) for segment in segments]
    return from_parts(maps)


FORMATS = (
    Format("one HDF5 file, no flush", h5_append(False), h5_read()),
    Format("one HDF5 file, flush a batch", h5_append(True), h5_read()),
    Format("one HDF5 file, flush, libver=latest", h5_append(True, libver="latest"), h5_read()),
    Format(
        "HDF5 SWMR, flush a batch", h5_append(True, libver="latest", swmr=True), h5_read(libver="latest", swmr=True)
    ),
    Format("zarr, no compression", zarr_write, zarr_read),
    Format("Arrow IPC stream, flush a batch", arrow_write, arrow_read),
    Format("LMDB, a transaction a batch", lmdb_write, lmdb_read),
    Format("encode-once, a sealed segment a batch", ours_write, ours_read),
)


def forked(work: Callable[[Any], None]) -> tuple[int, Any]:
    """Starts `work` in a process of its own, with a pipe to tell what it has done."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
        try:
            with os.fdopen(writer, "w") as out:
                work(lambda said: print(said, file=out, flush=True))
        finally:  # whatever happens, what the parent goes on with is not for the child
            os._exit(0)
    os.close(writer)
    return child, os.fdopen(reader)


def killed(format_: Format, folder: Path, seconds: float) -> bool:
    """Whether everything that was announced before a kill is there after it."""

    def write(tell: Callable[[Any], None]) -> None:
        for number, _ in enumerate(format_.write(folder)):
            tell(number)

    def read(tell: Callable[[Any], None]) -> None:
        take = format_.open(folder)
        tell(all(np.array_equal(take(np.arange(n * BATCH, (n + 1) * BATCH)), batch(n)) for n in range(announced)))

    child, told = forked(write)
    with told:
        lines = [told.readline()]
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        lines += told.readlines()
    os.waitpid(child, 0)
    announced = len([line for line in lines if line.endswith("\n")])
    child, told = forked(read)
    with told:
        said = told.read()
    os.waitpid(child, 0)
    return bool(said.strip() == "True")


def measure(format_: Format, folder: Path) -> dict[str, float]:
    """Milliseconds to write a batch, and to open and take 2000 random rows, the median of each."""
    folder.mkdir()
    writing, steps = [], format_.write(folder)
    for _ in range(BATCHES):
        started = time.perf_counter()
        next(steps)
        writing.append(time.perf_counter() - started)
    steps.close()  # type: ignore[attr-defined]
    making = statistics.median(_timed(lambda: batch(0)) for _ in range(ROUNDS))
    draw, reading = np.random.default_rng(0), []
    for _ in range(ROUNDS):
        rows = draw.choice(BATCH * BATCHES, TAKEN, replace=False)
        reading.append(_timed(lambda rows=rows: format_.open(folder)(rows)))  # type: ignore[misc]
    shutil.rmtree(folder)
    return {"write_ms": 1000 * (statistics.median(writing) - making), "read_ms": 1000 * statistics.median(reading)}


def _timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@click.command()
def main() -> None:
    """Kill, write and read each format; write the results beside this script."""
    random.seed(0)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as work:
        for number, format_ in enumerate(FORMATS):
            right = 0
            for trial in range(KILLS):
                folder = Path(work) / f"{number}-{trial}"
                folder.mkdir()
                right += killed(format_, folder, random.uniform(0, 0.5))  # noqa: S311
                shutil.rmtree(folder)
            found[format_.name] = {"right_after_kill": right, **measure(format_, Path(work) / f"{number}")}
    lines = [
        f"| format | right after {KILLS} kills | write a batch, ms | open and read {TAKEN} rows, ms |",
        "|---|---|---|---|",
    ]
    for name, one in found.items():
        lines.append(f"| {name} | {one['right_after_kill']} | {one['write_ms']:.1f} | {one['read_ms']:.0f} |")
    lines += [
        "",
        f"Batches of {BATCH} x {WIDTH} float32, {BATCHES} of them for the times; page cache warm. Only LMDB and",
    ]
    lines += ["encode-once sync to the disk; the others survive a kill, where they do, but not a loss of power."]
    click.echo(write_result("formats", "Formats", {"machine": machine("zarr", "pyarrow", "lmdb"), **found}, lines))


if __name__ == "__main__":
    main()
