"""A race of caches: the same texts, the same tiny encoder, the same machine, one run.

    pip install -r requirements.txt -r benchmarks/requirements-race.txt
    python benchmarks/race.py

Each competitor is a script that a user would write by the tool's own documentation, and runs
as a process of its own; they take turns. Every figure is the median of `ROUNDS` rounds.

- warm: the same script again on the same data, until the features and labels are in memory.
- grown: 1 % of new rows, the same script again.
- killed: kill -9 when half of the encoding time is over, then the same script again until it is done;
  the time of that second run counts.
"""

from __future__ import annotations

import csv
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

os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"OMP_NUM_THREADS": "2", "TRANSFORMERS_VERBOSITY": "error", "HF_DATASETS_OFFLINE": "1"}
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import numpy as np

from benchmarks.kills import WORDS
from benchmarks.machine import PIPELINE, Target, machine, target_lines, write_result

ROUNDS = 5
ROWS = 3000
OURS = "encode-once"

COMMON = """
import csv, sys
from pathlib import Path
data, model, work = sys.argv[1:4]
rows = list(csv.DictReader(open(data)))
"""
SCRIPTS = {
    OURS: """
import sys
sys.path.insert(0, sys.argv[4])
from pathlib import Path
data, model, work = sys.argv[1:4]
from cache import load
from extract import EncoderSpec, Settings, extract, read_manifest
told = []
def progress(what, done, total):
    if what == "text" and not told:
        told.append(print("encoding", flush=True))
extract(read_manifest(data), Settings(Path(work), "posts", (EncoderSpec("text", model),), device="cpu"), progress)
table = load(work, "posts")
X, y = table.to_numpy(), table.y
print(X.shape, float(X[-1, 0]))
""",
    "sentence-transformers + np.save": COMMON
    + """
import numpy as np
from sentence_transformers import SentenceTransformer
saved = Path(work) / "features.npy"
X = np.load(saved) if saved.exists() else None
if X is None or len(X) != len(rows):
    encoder = SentenceTransformer(model, device="cpu")
    print("encoding", flush=True)
    X = encoder.encode([row["text"] for row in rows], convert_to_numpy=True)
    saved.parent.mkdir(exist_ok=True)
    np.save(saved, X)
y = np.array([row["label"] for row in rows])
print(X.shape, float(X[-1, 0]))
""",
    "embetter cached": COMMON
    + """
import numpy as np
from embetter.text import SentenceEncoder
from embetter.utils import cached
encoder = cached(work, SentenceEncoder(model, device="cpu"))
print("encoding", flush=True)
X = encoder.transform([row["text"] for row in rows])
y = np.array([row["label"] for row in rows])
print(X.shape, float(X[-1, 0]))
""",
    "datasets.map": COMMON
    + """
from datasets import load_dataset
models = []
def encode(batch):
    if not models:
        from sentence_transformers import SentenceTransformer
        models.append(SentenceTransformer(sys.argv[2], device="cpu"))
        print("encoding", flush=True)
    return {"vector": models[0].encode(batch["text"])}
encode.__module__ = "__main__"
dataset = load_dataset("csv", data_files=data, cache_dir=work, split="train")
dataset = dataset.map(encode, batched=True, batch_size=256, new_fingerprint=dataset._fingerprint + "-encoded")
dataset.set_format("numpy")
X, y = dataset["vector"][:], dataset["label"][:]
print(X.shape, float(X[-1, 0]))
""",
}
UNCHECKED = {
    "encode-once, load alone": """
import sys
sys.path.insert(0, sys.argv[4])
from cache import load
table = load(sys.argv[3], "posts")
X = table.to_numpy()
print(X.shape, float(X[-1, 0]))
""",
    "np.load alone": """
import sys
import numpy as np
X = np.load(sys.argv[3] + "/features.npy")
print(X.shape, float(X[-1, 0]))
""",
}


def make_model(folder: Path) -> None:
    """A BERT of 4 layers and 256 columns with random weights, as sentence-transformers reads it: mean pooling."""
    import torch
    from transformers import BertConfig, BertModel

    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *(str(n) for n in range(10))]
    vocabulary += [f"##{n}" for n in range(10)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "model_max_length": 128}')
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(vocabulary), hidden_size=256, num_hidden_layers=4, num_attention_heads=4)
    config.intermediate_size, config.max_position_embeddings = 1024, 128
    BertModel(config).save_pretrained(folder)


def make_posts(path: Path, rows: int) -> None:
    draw = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "label"])
        for number in range(rows):
            words = draw.choice(WORDS, int(draw.integers(4, 50)))
            writer.writerow([number, f"{number} {' '.join(words)}", "ab"[number % 2]])


class Race:
    """The data, and a folder for each competitor's cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_model(folder / "model")
        make_posts(folder / "posts.csv", ROWS)
        make_posts(folder / "grown.csv", ROWS + ROWS // 100)
        self.last: dict[str, float] = {}

    def start(self, script: str, data: str, work: Path) -> subprocess.Popen[str]:
        """A competitor's script as a process."""
        arguments = [str(self.folder / data), str(self.folder / "model"), str(work), str(PIPELINE.parent)]
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def run(self, script: str, data: str, work: Path) -> tuple[float, float, float]:
        """Seconds of a run to its end, seconds until it began to encode, and the last row's first value."""
        started = time.perf_counter()
        begun = 0.0
        with self.start(script, data, work) as process:
            lines = []
            for line in process.stdout or ():
                if line.startswith("encoding"):
                    begun = time.perf_counter() - started
                lines.append(line)
        if process.returncode:
            raise RuntimeError(f"a competitor ended with {process.returncode}")
        return time.perf_counter() - started, begun, float(lines[-1].split(")")[1])

    def killed(self, script: str, work: Path, after: float) -> float:
        """Kills a first run `after` seconds from its first batch on; seconds of the second run."""
        with self.start(script, "posts.csv", work) as process:
            for line in process.stdout or ():
                if line.startswith("encoding"):
                    break
            time.sleep(after)
            process.kill()
        return self.run(script, "posts.csv", work)[0]

    def round(self, name: str) -> dict[str, float]:
        """One competitor, once: first run, warm, grown, killed."""
        script, work = SCRIPTS[name], self.folder / name.split()[0]
        shutil.rmtree(work, ignore_errors=True)
        first, begun, value = self.run(script, "posts.csv", work)
        found = {"first": first, "warm": self.run(script, "posts.csv", work)[0]}
        self.last[name] = value
        for other, unchecked in UNCHECKED.items():
            if (other.startswith(OURS) and name == OURS) or (other.startswith("np") and "np.save" in name):
                found["unchecked"] = self.run(unchecked, "posts.csv", work)[0]
        found["grown"] = self.run(script, "grown.csv", work)[0]
        shutil.rmtree(work)
        found["killed"] = self.killed(script, work, (first - begun) / 2)
        shutil.rmtree(work)
        return found


def race(folder: Path) -> dict[str, dict[str, float]]:
    arena = Race(folder)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in SCRIPTS}
    for _ in range(ROUNDS):
        for name in SCRIPTS:
            rounds[name].append(arena.round(name))
    values = list(arena.last.values())
    if max(values) - min(values) > 1e-4:
        raise RuntimeError(f"the competitors do not give the same vectors: {arena.last}")
    return {
        name: {what: statistics.median(one[what] for one in found) for what in found[0]}
        for name, found in rounds.items()
    }


def targets(found: dict[str, dict[str, float]]) -> list[Target]:
    rows: list[Target] = []
    for what, title in (("warm", "warm reload"), ("grown", "+1 % rows"), ("killed", "killed at 50 %, finish")):
        for name, one in found.items():
            if name != OURS:
                ratio = one[what] / found[OURS][what]
                rows.append((f"{title}, against {name}", "ahead", f"{ratio:.1f} x faster", ratio > 1))
    return rows


@click.command()
def main() -> None:
    """Race, and write the results beside this script."""
    with tempfile.TemporaryDirectory() as work:
        found = race(Path(work))
    goals = targets(found)
    lines = [
        *target_lines(goals),
        "",
        "| seconds | first run | warm | +1 % | finish after a kill |",
        "|---|---|---|---|---|",
    ]
    for name, one in found.items():
        cells = " | ".join(f"{one[what]:.2f}" for what in ("first", "warm", "grown", "killed"))
        lines.append(f"| {name} | {cells} |")
    plain = {name: one["unchecked"] for name, one in found.items() if "unchecked" in one}
    ours, bare = plain[OURS], plain["sentence-transformers + np.save"]
    lines += ["", f"Loading alone, without looking at the data: `cache.load` {ours:.2f} s, `np.load` {bare:.2f} s."]
    result: dict[str, Any] = {"machine": machine("sentence-transformers", "embetter", "datasets"), "targets": goals}
    click.echo(write_result("race", "Against other caches", json.loads(json.dumps({**result, **found})), lines))


if __name__ == "__main__":
    main()
