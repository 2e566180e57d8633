"""A million generated samples, in shards: by this process, and by a cluster of Ray on this machine.

    python benchmarks/cluster.py                       1 000 000 texts, results/cluster.*
    python benchmarks/cluster.py --rows 50000          a quick try, which writes no result

Texts lie in a folder of Parquet files and are read shard by shard; the encoder is a BERT of two layers and 32 columns
with random weights, so that what is measured is everything around it. Both have one worker that encodes (one thread);
what prepares runs beside it. Each runs in a process of its own, by turns, each time into a fresh store.

The rate of a worker is of the time from the first batches that were durable to the last ones; what comes before them
(the cluster, the keys of all rows, the workers' start) is told apart. Memory is the most that the process has held
that drives it all (VmHWM); workers of the cluster are other processes.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import numpy as np

from benchmarks.machine import machine, target_lines, write_result

ROWS, FILE_ROWS, GROUP_ROWS = 1_000_000, 100_000, 50_000
MOST_MEMORY, LEAST_RATE = 1e9, 0.85
WORDS = ["the", "a", "my", "day", "great", "awful", "city", "street", "love", "hate", "home", "coffee", "rain", "sun"]


def write_model(folder: Path) -> None:
    """A tiny BERT with random weights."""
    import torch
    from transformers import BertConfig, BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=24,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 24}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def write_rows(folder: Path, rows: int) -> None:
    """Texts of 6 to 18 words, nearly all different, in files of FILE_ROWS rows."""
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir()
    draw = np.random.default_rng(0)
    starts = range(0, rows, FILE_ROWS)
    for number, start in enumerate(starts):
        count = min(FILE_ROWS, rows - start)
        words = np.array(WORDS)[draw.integers(0, len(WORDS), (count, 18))]
        lengths = draw.integers(6, 19, count)
        texts = [" ".join(row[:length]) for row, length in zip(words.tolist(), lengths.tolist(), strict=True)]
        columns = {
            "id": [f"s{start + row}" for row in range(count)],
            "text": texts,
            "label": ["ab"[row % 2] for row in range(count)],
        }
        path = folder / f"train-{number:05d}-of-{len(starts):05d}.parquet"
        parquet.write_table(pa.table(columns), path, row_group_size=GROUP_ROWS)


def one_run(data: Path, model: Path, store: Path, engine: str) -> dict[str, Any]:
    """In a process of its own: what an extraction took, and the most memory that this process held."""
    from extract import EncoderSpec, Local, RayEngine, RayOptions, Settings, extract_shards, shards_of

    events: list[tuple[float, int]] = []

    def progress(what: str, done: int, total: int) -> None:
        if what == "text":
            events.append((time.perf_counter(), done))

    started = time.perf_counter()
    shards = shards_of(data, GROUP_ROWS)
    settings = Settings(store, "posts", (EncoderSpec("text", str(model)),), device="cpu")
    chosen = RayEngine(RayOptions(workers=1), "cpu") if engine == "ray" else Local("cpu", False)
    connected = time.perf_counter() - started
    found = extract_shards(shards, settings, chosen, progress).done
    seconds = time.perf_counter() - started
    (first, before), (last, done) = events[0], events[-1]
    status = Path("/proc/self/status").read_text(encoding="ascii")
    memory = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    return {
        "engine": engine,
        "samples": found.samples,
        "encoded": found.encoded,
        "seconds": seconds,
        "connect_seconds": connected,
        "key_seconds": found.stage_seconds["read and hash"],
        "until_first_seconds": first - started,
        "encoding_seconds": last - first,
        "view_seconds": found.stage_seconds["write the view"],
        "rate": (done - before) / max(1e-9, last - first),
        "memory": memory,
    }


SHOWN = {
    "connect_seconds": "to have a cluster",
    "key_seconds": "to read and key all rows",
    "until_first_seconds": "until the first vectors are durable, from the start",
    "encoding_seconds": "from there to the last",
    "view_seconds": "to write the view",
    "seconds": "in all",
}


def in_turn(work: Path, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """What each run tells, by engine."""
    found: dict[str, list[dict[str, Any]]] = {"local": [], "ray": []}
    for number in range(rounds):
        for engine in ("local", "ray") if number % 2 == 0 else ("ray", "local"):
            store = work / "store"
            places = map(str, (work / "data", work / "model", store))
            command = [sys.executable, __file__, "--run", *places, engine]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[engine].append(json.loads(out.splitlines()[-1]))
            print(f"round {number + 1}: {found[engine][-1]}", flush=True)
            shutil.rmtree(store)
    return found


def report(found: dict[str, list[dict[str, Any]]], rows: int) -> tuple[dict[str, Any], list[str]]:
    """The result, and the lines of its page."""
    middle = {
        engine: {key: statistics.median(one[key] for one in runs) for key in runs[0] if key != "engine"}
        for engine, runs in found.items()
    }
    local, ray = middle["local"], middle["ray"]
    share, memory = ray["rate"] / local["rate"], max(one["memory"] for one in found["ray"])
    lost = sum(one["samples"] != rows for runs in found.values() for one in runs)
    targets = [
        ("memory of the driver, the most of all rounds", "< 1 GB", f"{memory / 1e9:.2f} GB", memory < MOST_MEMORY),
        ("rate of a worker over the local engine's", f">= {LEAST_RATE}", f"{share:.2f}", share >= LEAST_RATE),
        ("runs that lost a row", "0", str(lost), not lost),
    ]
    shards, rounds = -(-rows // GROUP_ROWS), len(found["ray"])
    lines = [
        *target_lines(targets),
        "",
        f"{rows} texts in {shards} shards, a BERT of two layers and 32 columns, one worker of one thread; rounds by "
        f"turns: {rounds}, of which the medians are shown.",
        "",
        "| seconds | local | ray |",
        "|---|---|---|",
        *(f"| {what} | {local[key]:.1f} | {ray[key]:.1f} |" for key, what in SHOWN.items()),
        "",
        "| | local | ray |",
        "|---|---|---|",
        f"| texts a second and worker | {local['rate']:.0f} | {ray['rate']:.0f} |",
        f"| memory of the driver, GB | {local['memory'] / 1e9:.2f} | {ray['memory'] / 1e9:.2f} |",
    ]
    return {"machine": machine("ray", "pyarrow"), "targets": targets, "runs": found}, lines


@click.command()
@click.option("--rows", default=ROWS, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--run", nargs=4, hidden=True, type=str)
def main(rows: int, rounds: int, run: tuple[str, str, str, str] | None) -> None:
    """Runs both by turns, and writes what was found."""
    if run:
        print(json.dumps(one_run(Path(run[0]), Path(run[1]), Path(run[2]), run[3])))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_model(work / "model")
        write_rows(work / "data", rows)
        result, lines = report(in_turn(work, rounds), rows)
    if rows == ROWS:
        write_result("cluster", "A million samples in shards", result, lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
