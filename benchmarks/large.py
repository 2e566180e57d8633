"""`fuse` on vectors that are three times larger than the memory that it may take, beside the same fit in memory.

    python benchmarks/large.py
    python benchmarks/large.py --gigabytes 0.3     a quick try, which writes no result

Makes its own vectors in a temporary folder: 768 and 2048 columns, of 40 hidden numbers a row that tell something of
three classes, with noise. Every run is a process of its own that finds the files out of the page cache; the limit
is `ulimit -d` of a third of the vectors' bytes over all that the process takes, its imports included.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import numpy as np

from benchmarks.machine import PIPELINE, Target, machine, target_lines, write_result
from cache import (
    KEY_SCHEMA,
    Block,
    EncoderKey,
    FeatureStore,
    FeatureWriter,
    View,
    item_key,
    pack_items,
    placed,
    write_view,
)

GIGABYTES = 4.5
WIDTHS = {"text": 768, "image": 2048}
HIDDEN, SIGNAL = 40, 1.2
HEADS = ("logreg", "mlp")
POINTS = 0.5
ROWS_AT_ONCE = 4000
LIMITED = ("sh", "-c", 'ulimit -d "$0" && exec "$@"')
PAUSE = 0.02


def make_store(root: Path, rows: int) -> None:
    """Vectors of so many rows; every fifth is a test row."""
    store, keys = FeatureStore(root), [item_key(str(number)) for number in range(rows)]
    target = np.random.default_rng(0).integers(0, 3, rows)
    blocks = {name: _make_block(store, name, width, keys, target) for name, width in WIDTHS.items()}
    columns = {
        "ids": np.array([f"post-{number}" for number in range(rows)], dtype=object),
        "labels": np.array(["negative", "neutral", "positive"], dtype=object)[target],
        "split": np.where(np.arange(rows) % 5 == 0, "test", "train").astype(object),
        "groups": np.arange(rows),
    }
    write_view(store, View("posts", columns, blocks, {"data": "posts"}))


def _make_block(store: FeatureStore, name: str, width: int, keys: list[bytes], target: np.ndarray) -> Block:
    draw = np.random.default_rng(width)
    mix = draw.standard_normal((HIDDEN, width), dtype=np.float32)
    means = SIGNAL * np.eye(3, HIDDEN, dtype=np.float32)
    key = EncoderKey({"modality": name, "schema": KEY_SCHEMA, "outputs": {"pool": width}, "dtype": "float32"})
    encoder = store.encoder(key.digest)
    encoder.create(key)
    writer = FeatureWriter(encoder, ["pool"], {})
    for start in range(0, len(keys), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        hidden = draw.standard_normal((len(target[part]), HIDDEN), dtype=np.float32) + means[target[part]]
        noise = draw.standard_normal((len(hidden), width), dtype=np.float32)
        writer.write(keys[part], {"pool": hidden @ mix + 3 * noise})
    encoder.compact(keys)
    n = len(keys)
    arrays = {"items": pack_items(keys), "state": np.ones(n, dtype=np.uint8), "row": np.full(n, -1)}
    return placed(encoder, Block(name, key.digest, "pool", width, arrays))[0]


def forget(folder: Path) -> None:
    """Takes files out of the page cache."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def fused(store: Path, head: str, limit: int | None) -> dict[str, Any]:
    """Seconds, peak of private memory in MB, and metrics; in memory, or in so many bytes if a limit is given."""
    forget(store)
    out = store.parent / f"{head}-{limit}"
    command = [sys.executable, str(PIPELINE), "fuse", "--store", str(store), "--head", head, "--json"]
    command += ["--out", str(out)]
    if limit is None:
        command += ["--memory", "100TB"]
    else:
        command = [*LIMITED, str(limit // 1024), *command]
    started, peak = time.perf_counter(), 0
    with (store.parent / "told").open("w+") as told:
        child = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT)
        while child.poll() is None:
            peak = max(peak, private_bytes(child.pid))
            time.sleep(PAUSE)
        told.seek(0)
        lines = told.read().splitlines()
    if child.returncode:
        raise RuntimeError(f"fuse ended with {child.returncode}: {lines[-3:]}")
    metrics = json.loads(lines[-1])
    if metrics.get("out_of_core", False) != (limit is not None):
        raise RuntimeError(f"the fit was to be {'in memory' if limit is None else 'out of core'}: {metrics}")
    kept = {name: metrics[name] for name in ("accuracy", "macro_f1", "majority_accuracy")}
    return {"seconds": time.perf_counter() - started, "peak_mb": peak / 1e6, **kept}


def dies(store: Path, head: str, limit: int) -> bool:
    """Whether the fit in memory ends for want of memory under the limit."""
    command = [*LIMITED, str(limit // 1024), sys.executable, str(PIPELINE), "fuse", "--store", str(store)]
    command += ["--head", head, "--memory", "100TB", "--out", str(store.parent / f"{head}-dead")]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode != 0 and bool(re.search("MemoryError|allocate", done.stderr))


def private_bytes(process: int) -> int:
    """Memory that is the process's own: neither mapped files nor what it shares."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # it has just ended
        return 0
    found = re.search(r"RssAnon:\s+(\d+)", status)
    return int(found[1]) * 1024 if found else 0


@click.command()
@click.option("--gigabytes", default=GIGABYTES, show_default=True, help="Of vectors.")
def main(gigabytes: float) -> None:
    """Measure, and write the results beside this script."""
    rows = round(gigabytes * 1e9 / (4 * sum(WIDTHS.values())))
    limit = round(gigabytes * 1e9 / 3)
    whole = gigabytes >= GIGABYTES
    if not whole:
        limit += 1_300_000_000  # imports alone take most of that
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        store = Path(work) / "features"
        make_store(store, rows)
        for head in HEADS:
            found[head] = {"in memory": fused(store, head, None), "out of core": fused(store, head, limit)}
            found[head]["in memory under the limit"] = "no memory" if dies(store, head, limit) else "finished"
            click.echo(f"{head}: {found[head]}", err=True)
    goals = [goal for head in HEADS for goal in _targets(head, found[head], limit)]
    lines = [f"{rows} rows of {sum(WIDTHS.values())} columns, {gigabytes:g} GB; the limit is {limit / 1e9:.2g} GB.", ""]
    lines += [*target_lines(goals), "", *_table(found)]
    if whole:
        about = {"rows": rows, "columns": sum(WIDTHS.values()), "limit": limit}
        result = {"machine": machine("scipy"), "targets": goals, "data": about, **found}
        click.echo(write_result("large", "Fits out of core", result, lines))
    else:
        click.echo("\n".join([*lines, "", "A try: nothing was written."]))


def _targets(head: str, found: dict[str, Any], limit: int) -> list[Target]:
    inside, outside = found["in memory"], found["out of core"]
    goals: list[Target] = []
    for name in ("accuracy", "macro_f1"):
        points = 100 * abs(outside[name] - inside[name])
        what = f"{head}: {name} from that in memory"
        goals.append((what, f"within {POINTS} points", f"{points:.2f}", points <= POINTS))
    peak = outside["peak_mb"] * 1e6
    goals.append((f"{head}: peak", f"below {limit / 1e6:.0f} MB", f"{peak / 1e6:.0f} MB", peak < limit))
    dead = found["in memory under the limit"]
    goals.append((f"{head}: in memory under the limit", "no memory", dead, dead == "no memory"))
    return goals


def _table(found: dict[str, Any]) -> list[str]:
    lines = ["| head | vectors | seconds | peak, MB | accuracy | macro-F1 |", "|---|---|---|---|---|---|"]
    for head in HEADS:
        for way in ("in memory", "out of core"):
            one = found[head][way]
            figures = f"{one['seconds']:.0f} | {one['peak_mb']:.0f} | {100 * one['accuracy']:.2f}"
            lines.append(f"| {head} | {way} | {figures} | {one['macro_f1']:.4f} |")
    return [*lines, "", f"Majority: {100 * found[HEADS[0]]['in memory']['majority_accuracy']:.2f} %."]


if __name__ == "__main__":
    main()
