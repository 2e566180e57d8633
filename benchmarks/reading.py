"""How quick the store opens and reads, and how much of it a warm extraction and a plan of a million take.

    python benchmarks/reading.py

Makes its own data in a temporary folder (some 2.5 GB). Every figure is the median of `ROUNDS`
(of reading: `READS`) rounds; competitors take turns within a round; the page cache is warm, one thread.
"""

from __future__ import annotations

import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import h5py
import numpy as np

from benchmarks.machine import PIPELINE, Target, machine, target_lines, write_result
from cache import (
    Block,
    EncoderKey,
    FeatureStore,
    FeatureWriter,
    View,
    item_key,
    load,
    pack_items,
    placed,
    plan_extraction,
    standing_batches,
    write_batches,
    write_view,
)
from extract.batching import Budget, plan_batches

ROUNDS = 9
READS = 31
"""Rounds of reading: the first dozen are slower for all, until the machine has settled."""
N, TAKEN = 100_000, 2000
WIDTHS = {"text": 768, "image": 2048}
PLANNED = 1_000_000


def make_store(root: Path) -> None:
    """A store of 100 000 samples, written as an extraction writes and consolidates it."""
    store, draw = FeatureStore(root), np.random.default_rng(0)
    keys = [item_key(str(number)) for number in range(N)]
    blocks = {}
    for modality, width in WIDTHS.items():
        key = EncoderKey({"modality": modality, "schema": 1, "outputs": {"pool": width}, "dtype": "float32"})
        encoder = store.encoder(key.digest)
        encoder.create(key)
        writer = FeatureWriter(encoder, ["pool"], {})
        for start in range(0, N, 4000):
            values = draw.standard_normal((4000, width), dtype=np.float32)
            writer.write(keys[start : start + 4000], {"pool": values})
        encoder.compact(keys)
        state, row = np.ones(N, dtype=np.uint8), np.full(N, -1)
        arrays = {"items": pack_items(keys), "state": state, "row": row}
        blocks[modality] = placed(encoder, Block(modality, key.digest, "pool", width, arrays))[0]
    columns = {
        "ids": np.array([f"post-{number}" for number in range(N)], dtype=object),
        "labels": np.array([("positive", "neutral", "negative")[number % 3] for number in range(N)], dtype=object),
        "split": np.full(N, "", dtype=object),
        "groups": np.arange(N),
    }
    write_view(store, View("posts", columns, blocks, {"data": "posts"}))


def copy_plain(root: Path, folder: Path) -> None:
    """The same vectors as bare files, and as one contiguous HDF5 file."""
    table = load(root, "posts")
    with h5py.File(folder / "plain.h5", "w") as file:
        for modality in WIDTHS:
            values = table.block(modality)
            values.tofile(folder / f"{modality}.bin")
            file[modality] = values


def by_store(root: Path, rows: np.ndarray) -> np.ndarray:
    return load(root, "posts")[rows].to_numpy()


def by_memmap(folder: Path, rows: np.ndarray) -> np.ndarray:
    parts = [np.memmap(folder / f"{m}.bin", np.float32, "r", shape=(N, width)) for m, width in WIDTHS.items()]
    return np.hstack([part[rows] for part in parts])


def by_h5py(folder: Path, rows: np.ndarray) -> np.ndarray:
    order = np.argsort(rows)  # h5py wants increasing rows
    with h5py.File(folder / "plain.h5", "r") as file:
        found = np.hstack([file[modality][rows[order]] for modality in WIDTHS])
    out = np.empty_like(found)
    out[order] = found
    return out


def read_through(folder: Path) -> None:
    """Brings every file into the page cache the same way, however it was written."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.read(1 << 22):
                pass


def measure_reading(folder: Path) -> dict[str, Any]:
    root = folder / "features"
    read_through(folder)
    draw = np.random.default_rng(1)
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "store": lambda rows: by_store(root, rows),
        "memmap": lambda rows: by_memmap(folder, rows),
        "h5py": lambda rows: by_h5py(folder, rows),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(READS + 1):
        rows = draw.choice(N, TAKEN, replace=False)
        results = {}
        for name, way in ways.items():
            started = time.perf_counter()
            results[name] = way(rows)
            if number:
                times[name].append(time.perf_counter() - started)
        assert np.array_equal(results["store"], results["memmap"])
        assert np.array_equal(results["store"], results["h5py"])
    found = {f"{name}_ms": 1000 * statistics.median(values) for name, values in times.items()}
    found |= measure_kept_open(folder)
    found["open_ms"] = 1000 * statistics.median(timeit.repeat(lambda: load(root, "posts"), repeat=ROUNDS, number=1))
    return found | {f"{name}_memory_mb": memory_of(name, folder) for name in ("store", "memmap")}


def measure_kept_open(folder: Path) -> dict[str, float]:
    """The same without the opening, after as many takes as an ablation makes: folds of one table."""
    table = load(folder / "features", "posts")
    maps = [np.memmap(folder / f"{m}.bin", np.float32, "r", shape=(N, width)) for m, width in WIDTHS.items()]
    draw = np.random.default_rng(4)
    times: dict[str, list[float]] = {"store": [], "memmap": [], "h5py": []}
    with h5py.File(folder / "plain.h5", "r") as file:
        ways: dict[str, Callable[[np.ndarray], Any]] = {
            "store": lambda rows: table[rows].to_numpy(),
            "memmap": lambda rows: np.hstack([one[rows] for one in maps]),
            "h5py": lambda rows: np.hstack([file[modality][np.sort(rows)] for modality in WIDTHS]),
        }
        for number in range(5 * ROUNDS):
            rows = draw.choice(N, TAKEN, replace=False)
            for name, way in ways.items():
                started = time.perf_counter()
                way(rows)
                if number >= 4 * ROUNDS:
                    times[name].append(time.perf_counter() - started)
    return {f"{name}_kept_open_ms": 1000 * statistics.median(values) for name, values in times.items()}


MEMORY = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from benchmarks import reading
from pathlib import Path
folder, rows = Path(sys.argv[2]), np.random.default_rng(2).choice(reading.N, reading.TAKEN, replace=False)
way = reading.by_store if sys.argv[3] == "store" else reading.by_memmap
where = folder / "features" if sys.argv[3] == "store" else folder
way(where, rows[:1])
before = reading.status_mb("VmRSS")
kept = way(where, rows)
print(reading.status_mb("VmRSS") - before)
"""


def memory_of(way: str, folder: Path) -> float:
    """Growth of resident memory while 2000 rows are taken, in MB; the result itself is 22 MB."""
    command = [sys.executable, "-c", MEMORY, str(PIPELINE.parent), str(folder), way]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_warm_extract(folder: Path) -> dict[str, float]:
    """The whole command on 4000 unchanged texts and pictures, and the same without the work."""
    from PIL import Image

    posts = folder / "posts"
    posts.mkdir()
    draw = np.random.default_rng(3)
    with (posts / "posts.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "text", "image", "label"])
        for number in range(4000):
            pixels = draw.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((400, 300)).save(posts / f"{number}.jpg")
            rows.writerow([number, f"post {number} of many", f"{number}.jpg", "ab"[number % 2]])
    demo = folder / "demo"
    run = [sys.executable, str(PIPELINE)]
    subprocess.run([*run, "demo", "--out", str(demo)], capture_output=True, check=True)
    model = next(path for path in (demo / "input").iterdir() if (path / "config.json").exists())
    extract = [*run, "extract", str(posts), "--text-model", str(model), "--image-model", "squeezenet1_1"]
    extract += ["--random-init", "0", "--store", str(folder / "warm")]
    subprocess.run(extract, capture_output=True, check=True)
    imports = [sys.executable, "-c", "import click, numpy, h5py, PIL.Image, charset_normalizer, tqdm"]
    times: dict[str, list[float]] = {"warm_extract_s": [], "imports_s": []}
    for _ in range(ROUNDS):
        for name, command in (("warm_extract_s", extract), ("imports_s", imports)):
            started = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


PLANS = """
import sys
sys.path.insert(0, sys.argv[1])
from benchmarks import reading
from pathlib import Path
print(*reading.plan_a_million(Path(sys.argv[2])))
"""


def plan_a_million(folder: Path) -> tuple[float, float]:
    """Compares a million items with a store that has half of them, plans the rest, writes the plan, reads it again.

    Returns seconds, and the process's largest resident memory in MB.
    """
    items = [item_key(str(number)) for number in range(PLANNED)]
    key = EncoderKey({"modality": "text", "schema": 1, "outputs": {"pool": 2}, "dtype": "float32"})
    encoder = FeatureStore(folder / "million").encoder(key.digest)
    encoder.create(key)
    half = items[: PLANNED // 2]
    FeatureWriter(encoder, ["pool"], {}).write(half, {"pool": np.zeros((len(half), 2), dtype=np.float32)})
    costs = dict(zip(items, np.random.default_rng(0).integers(3, 128, PLANNED).tolist(), strict=True))
    started = time.perf_counter()
    plan = plan_extraction(items, encoder.items())
    batches = plan_batches([costs[item] for item in plan.missing], Budget(cost=1024, items=256))
    write_batches(encoder.folder, [[plan.missing[number] for number in batch] for batch in batches])
    again = standing_batches(encoder.folder, plan.missing)
    taken = time.perf_counter() - started
    assert sum(map(len, again)) == PLANNED - len(half)
    return taken, status_mb("VmHWM")


def status_mb(field: str) -> float:
    """A field of this process's status, in MB. `ru_maxrss` would count the parent's at the fork."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields[field].split()[0]) / 1024


def targets(found: dict[str, float]) -> list[Target]:
    memmap, h5 = found["store_ms"] / found["memmap_ms"], found["h5py_ms"] / found["store_ms"]
    kept = found["h5py_kept_open_ms"] / found["store_kept_open_ms"]
    extra = found["store_memory_mb"]
    read = TAKEN * sum(WIDTHS.values()) * 4 / 2**20
    ratio = found["imports_s"] / found["warm_extract_s"]
    seconds_and_memory = f"{found['plan_s']:.1f} s, {found['plan_mb']:.0f} MB"
    return [
        ("open 100 000 x 2816, take 2000 random rows", "<= 1.5 x np.memmap", f"{memmap:.2f} x", memmap <= 1.5),
        ("the same beside h5py fancy indexing", ">= 4 x faster", f"{h5:.1f} x", h5 >= 4),
        ("both kept open, 2000 random rows, beside h5py", ">= 4 x faster", f"{kept:.1f} x", kept >= 4),
        ("growth of resident memory", f"<= what is read, {read:.1f} MB", f"{extra:.1f} MB", extra <= 1.05 * read),
        ("warm extract of 4000 posts", "< 2 s", f"{found['warm_extract_s']:.2f} s", found["warm_extract_s"] < 2),
        ("share of imports in it", "the most", f"{100 * ratio:.0f} %", ratio > 0.5),
        (
            "1 000 000 items planned",
            "< 10 s, < 2 GB",
            seconds_and_memory,
            found["plan_s"] < 10 and found["plan_mb"] < 2000,
        ),
    ]


@click.command()
def main() -> None:
    """Measure reading and write the results beside this script."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        make_store(folder / "features")
        copy_plain(folder / "features", folder)
        found = measure_reading(folder)
        command = [sys.executable, "-c", PLANS, str(PIPELINE.parent), work]
        plan = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        found |= {"plan_s": float(plan[0]), "plan_mb": float(plan[1])}
        found |= measure_warm_extract(folder)
    goals = targets(found)
    lines = [*target_lines(goals), "", "| figure | value |", "|---|---|"]
    lines += [f"| {name} | {value:.3g} |" for name, value in found.items()]
    result = {"machine": machine(), "targets": goals, **found}
    click.echo(write_result("reading", "Opening and reading", result, lines))


if __name__ == "__main__":
    main()
