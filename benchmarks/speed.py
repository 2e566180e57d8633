"""How quick stage one is on the CPU: against sentence-transformers and timm, and against what the hardware gives.

    pip install -r requirements.txt -r benchmarks/requirements-race.txt
    python benchmarks/speed.py --ecnu FOLDER --minilm FOLDER
    python benchmarks/speed.py ... --only end --name speed_end             a section at a time; all take an hour
    python benchmarks/speed.py ... --only text --rounds 1 --texts 16       a quick try, which writes no result

Everything runs on two threads. All lanes take turns within a round, every figure is the median of the rounds,
and no time counts before the vectors were compared. BERT-base and ResNet-50 have random weights, which are as
slow as trained ones. Ours is `Extraction.encode_seconds`: from the first sample read to the last segment
durable, without the loading of models; the rivals' models are loaded and their loaders started beforehand.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "RAYON_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import torch

from benchmarks.forward import medians
from benchmarks.machine import Target, machine, target_lines, write_result
from benchmarks.rivals import THREADS
from benchmarks.sections import MODELS, SECTIONS, disk_of, make_bench

LEAST_ROUNDS = 5
OVERHEAD = ("write", "merge segments", "read and hash")
Figures = dict[str, dict[str, float]]
"""Medians by lane."""


def measure(sections: Mapping[str, Any], rounds: int) -> tuple[dict[str, Any], dict[str, list[dict[str, float]]]]:
    """Checks everything, then lets all lanes take turns; returns what was checked, and each lane's rounds."""
    checked = {name: section.check() for name, section in sections.items()}
    lanes = {f"{part}: {name}": lane for part, one in sections.items() for name, lane in one.lanes().items()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in lanes}
    for number in range(rounds):
        for name, lane in lanes.items():
            torch.set_num_threads(THREADS)
            started = time.perf_counter()
            found[name].append(lane())
            click.echo(f"round {number + 1}: {name}: {time.perf_counter() - started:.1f} s", err=True)
    return checked, found


def faster(found: Figures, ours: str, *theirs: str) -> float:
    """How many times as fast ours is as the quickest of theirs."""
    return min(found[name]["seconds"] for name in theirs if name in found) / found[ours]["seconds"]


def against_rivals(found: Figures, section: str, model: str, rival: str, goals: Sequence[float]) -> list[Target]:
    """Targets of one model: the rival as it comes, at its best, and float32 against float32."""
    ours = {one: f"{section}: {model}, ours {one}" for one in ("bf16", "fp32")}
    best = ours["bf16"] if ours["bf16"] in found else ours["fp32"]
    precision = best[-4:]
    plain, *tuned = (f"{section}: {model}, {rival} {way}" for way in ("as it comes", "tuned fp32", "tuned bf16"))
    rows = [
        (f"{model} {precision}, {rival} as it comes", goals[0], faster(found, best, plain)),
        (f"{model} {precision}, {rival} at its best", goals[1], faster(found, best, plain, *tuned)),
        (f"{model} fp32, {rival} fp32 at its best", goals[2], faster(found, ours["fp32"], plain, tuned[0])),
    ]
    return [(what, f">= {goal} x faster", f"{ratio:.2f} x", ratio >= goal) for what, goal, ratio in rows]


def share_of_products(found: Figures, gflop: float) -> Target:
    """BERT-base beside this machine's best rate of matrix products."""
    precision = "bf16" if "text: BERT-base, ours bf16" in found else "fp32"
    rate = gflop / found[f"text: BERT-base, ours {precision}"]["seconds"]
    most = max(found[f"text: matrix products {precision}"].values())
    value = f"{100 * rate / most:.0f} % ({rate:.0f} of {most:.0f} GFLOP/s)"
    return f"BERT-base {precision}, share of the rate of matrix products", ">= 60 %", value, rate >= 0.6 * most


def end_targets(found: Figures) -> list[Target]:
    rows: list[Target] = []
    for name in [name for name in found if name.endswith(", end to end")]:
        whole, lane = found[name], name.removeprefix("end: ").removesuffix(", end to end")
        ratio = found[name.replace("end to end", "bare")]["seconds"] / whole["seconds"]
        rows.append((f"end to end: {lane}", ">= 92 % of bare forward", f"{100 * ratio:.1f} %", ratio >= 0.92))
        share = sum(whole.get(f"stage: {stage}", 0.0) for stage in OVERHEAD)
        rows.append((f"writing and hashing: {lane}", "< 2 %", f"{100 * share:.2f} %", share < 0.02))
    return rows


def targets(found: Figures, checked: Mapping[str, Any]) -> list[Target]:
    rows: list[Target] = []
    if "text" in checked:
        for model in MODELS:
            rows += against_rivals(found, "text", model, "sentence-transformers", (3.5, 1.4, 1.4))
        if "BERT-base" in MODELS:
            rows.append(share_of_products(found, checked["text"]["BERT-base, GFLOP"]))
    if "image" in checked:
        rows += against_rivals(found, "image", "ResNet-50", "timm", (3.0, 1.6, 1.5))
        if "image: ResNet-50, timm bf16 weights" in found:
            ratio = faster(found, "image: ResNet-50, ours bf16", "image: ResNet-50, timm bf16 weights")
            what = "ResNet-50 bf16, timm with its weights cast by hand, too"
            rows.append((what, ">= 1.6 x faster", f"{ratio:.2f} x", ratio >= 1.6))
    return rows + end_targets(found)


def seconds_lines(found: Figures, checked: Mapping[str, Any]) -> list[str]:
    """Seconds and items/s of each lane of texts and of pictures, and the rates of matrix products."""
    count = {part: next(iter(checked[part].values())) for part in ("text", "image") if part in checked}
    lines = ["", "| lane | seconds | items/s |", "|---|---|---|"] if count else []
    for name, one in found.items():
        part, _, lane = name.partition(": ")
        if part in count and "seconds" in one:
            lines.append(f"| {lane} | {one['seconds']:.2f} | {count[part] / one['seconds']:.1f} |")
    products = {name: one for name, one in found.items() if "matrix products" in name}
    if products:
        lines += ["", "| GFLOP/s, 2048 x 2048 | way | rate |", "|---|---|---|"]
    for name, one in products.items():
        lines += [f"| {name.partition(': ')[2]} | {way} | {rate:.0f} |" for way, rate in one.items()]
    return lines


def stage_lines(found: Figures) -> list[str]:
    """The share of each stage, of the encoding threads' time: they are more than 100 % together, for others overlap."""
    whole = {name: one for name, one in found.items() if name.endswith(", end to end")}
    if not whole:
        return []
    stages = [name for name in dict.fromkeys(name for one in whole.values() for name in one) if name != "seconds"]
    lines = ["", "Shares of `replicas x seconds`; decoding, writing and preparing overlap with encoding.", ""]
    titles = " | ".join(stage.removeprefix("stage: ") for stage in stages)
    lines += [f"| end to end | seconds | bare | {titles} |", "|---|---|---|" + "---|" * len(stages)]
    for name, one in whole.items():
        cells = " | ".join(f"{100 * one.get(stage, 0.0):.1f} %" for stage in stages)
        bare = found[name.replace("end to end", "bare")]["seconds"]
        lane = name.removeprefix("end: ").removesuffix(", end to end")
        lines.append(f"| {lane} | {one['seconds']:.2f} | {bare:.2f} | {cells} |")
    return lines


def replica_lines(found: Figures) -> list[str]:
    lanes = {name: one for name, one in found.items() if name.startswith("replicas: ")}
    if not lanes:
        return []
    ways = list(dict.fromkeys(way for one in lanes.values() for way in one))
    lines = ["", f"| bare forward, items/s | {' | '.join(ways)} |", "|---|" + "---|" * len(ways)]
    for name, one in lanes.items():
        cells = " | ".join(f"{one[way]:.1f}" if way in one else "" for way in ways)
        lines.append(f"| {name.removeprefix('replicas: ')} | {cells} |")
    return lines


def checked_lines(checked: Mapping[str, Any], bf16: bool) -> list[str]:
    lines = ["", "| checked beforehand | |", "|---|---|"]
    for one in checked.values():
        lines += [
            f"| {what} | {f'{value:.5f}' if isinstance(value, float) else value} |" for what, value in one.items()
        ]
    if not bf16:
        lines += ["", "**This processor has no bf16: its lanes were left out, and float32 stands in their targets.**"]
    return lines


@click.command()
@click.option("--ecnu", type=click.Path(exists=True, path_type=Path), required=True, help="The ECNU posts.")
@click.option("--minilm", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of MiniLM-L6.")
@click.option("--rounds", default=LEAST_ROUNDS, show_default=True)
@click.option("--texts", default=2000, show_default=True, help="How many of the first unique texts.")
@click.option("--images", default=400, show_default=True, help="How many of the first labelled pictures.")
@click.option("--only", default=",".join(SECTIONS), show_default=True, help="Sections.")
@click.option("--models", default=",".join(MODELS), show_default=True, help="Text models.")
@click.option("--name", default="speed", show_default=True, help="Of the result's files.")
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), help="Folder on a disk; a temporary one.")
@click.option("--out", is_flag=True, help="Write the result even of a try.")
def main(
    ecnu: Path,
    minilm: Path,
    rounds: int,
    texts: int,
    images: int,
    only: str,
    models: str,
    **how: Any,
) -> None:
    """Measure, and write the results beside this script."""
    wanted = only.split(",")
    MODELS[:] = models.split(",")
    if strange := set(wanted) - set(SECTIONS):
        raise click.UsageError(f"--only takes {', '.join(SECTIONS)}, not {', '.join(sorted(strange))}")
    with tempfile.TemporaryDirectory(dir=how["work"]) as folder:
        bench = make_bench(Path(folder), ecnu, minilm.resolve(), texts, images)
        disk = disk_of(Path(folder))
        checked, turns = measure({name: SECTIONS[name](bench) for name in wanted}, rounds)
    found = {name: medians(some) for name, some in turns.items()}
    goals = targets(found, checked)
    about = f"Medians of {rounds} rounds; {THREADS} threads; stores on {disk}."
    lines = [*target_lines(goals), "", about, *seconds_lines(found, checked), *stage_lines(found)]
    lines += [*replica_lines(found), *checked_lines(checked, bench.runtime.has_bf16)]
    versions = machine("sentence-transformers", "timm")
    result = {"machine": versions, "targets": goals, "checked": checked, "medians": found, "rounds": turns}
    if rounds >= LEAST_ROUNDS or how["out"]:
        title = f"Stage one on the CPU: {', '.join(wanted)}"
        click.echo(write_result(how["name"], title, result, lines, "speed"))
    else:
        click.echo("\n".join([*lines, "", "A try: nothing was written."]))


if __name__ == "__main__":
    main()
