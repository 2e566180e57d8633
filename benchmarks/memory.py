"""How much memory an extraction takes, and that it does not grow with the data set.

    python benchmarks/memory.py
    python benchmarks/memory.py --samples 4000 --images 200     a quick try, which writes no result

Makes its own table of short texts, all different, of which the first few have a picture, and tiny encoders with
random weights. Extracts a small table and a large one, each in a process of its own, and compares the peaks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import numpy as np

from benchmarks.kills import WORDS, make_model
from benchmarks.machine import PIPELINE, Target, machine, target_lines, write_result

SMALL, LARGE, PICTURES = 2000, 100_000, 20_000
MOST_MB = 200
IMAGE_MODEL = "shufflenet_v2_x0_5"

WRAPPER = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
if done.returncode:
    print(done.stderr, file=sys.stderr)
print(done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "{}")
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""A small process that starts the large one: a child's peak counts its parent's memory at the fork."""


def make_table(folder: Path, samples: int, pictures: int) -> Path:
    """A JSONL table of so many texts, of which the first `pictures` have a PNG of 8 x 8 pixels, all different."""
    from PIL import Image

    folder.mkdir()
    draw = np.random.default_rng(0)
    with (folder / "posts.jsonl").open("w") as table:
        for number in range(samples):
            row = {"id": str(number), "text": f"{number} {' '.join(draw.choice(WORDS, 1 + number % 17))}"}
            row["label"] = "ab"[number % 2]
            if number < pictures:
                row["image"] = f"{number}.png"
                pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / row["image"])
            table.write(json.dumps(row) + "\n")
    return folder


def peak_of(data: Path, model: Path, store: Path) -> dict[str, Any]:
    """Extracts a table in a fresh process; its peak of resident memory in MB, its seconds, what it encoded."""
    command = [sys.executable, str(PIPELINE), "extract", str(data), "--store", str(store), "--json"]
    command += ["--text-model", str(model), "--image-model", IMAGE_MODEL, "--random-init", "0"]
    command += ["--device", "cpu", "--precision", "fp32"]
    started = time.perf_counter()
    told = subprocess.run(
        [sys.executable, "-c", WRAPPER, *command],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    ).stdout.splitlines()
    code, kilobytes = map(int, told[1].split())
    if code:
        raise RuntimeError(f"extract ended with {code} on {data}")
    seconds = time.perf_counter() - started
    return {"peak_mb": kilobytes / 1024, "seconds": seconds, "encoded": json.loads(told[0])["encoded"]}


def measure(work: Path, samples: int, pictures: int) -> dict[str, dict[str, Any]]:
    """Both tables have the same share of pictures."""
    make_model(work / "model")
    found = {}
    for name, number in (("small", SMALL), ("large", samples)):
        some = pictures * number // samples
        data = make_table(work / name, number, some)
        peak = peak_of(data, work / "model", work / f"store-{name}")
        if peak["encoded"] != number + some:
            raise RuntimeError(f"{peak['encoded']} items were encoded of {number + some}")
        found[name] = {"samples": number, "pictures": some, **peak}
    return found


@click.command()
@click.option("--samples", default=LARGE, show_default=True, help="Of the large table.")
@click.option("--images", default=PICTURES, show_default=True, help="How many of them have a picture.")
@click.option("--out", is_flag=True, help="Write the result even of a try.")
def main(samples: int, images: int, out: bool) -> None:
    """Measure, and write the results beside this script."""
    with tempfile.TemporaryDirectory() as work:
        found = measure(Path(work), samples, images)
    more = found["large"]["peak_mb"] - found["small"]["peak_mb"]
    what = f"peak memory with {samples} samples beside {SMALL}"
    goals: list[Target] = [(what, f"within {MOST_MB} MB", f"{more:+.0f} MB", more <= MOST_MB)]
    lines = [*target_lines(goals), "", "| samples | pictures | peak, MB | seconds |", "|---|---|---|---|"]
    for one in found.values():
        lines.append(f"| {one['samples']} | {one['pictures']} | {one['peak_mb']:.0f} | {one['seconds']:.0f} |")
    if out or samples >= LARGE:
        result = {"machine": machine(), "targets": goals, **found}
        click.echo(write_result("memory", "Memory of an extraction", result, lines))
    else:
        click.echo("\n".join([*lines, "", "A try: nothing was written."]))


if __name__ == "__main__":
    main()
