"""What an ablation costs: the default one, against sklearn, as it grows, and whether networks should be stacked.

    python benchmarks/ablation.py default --store STORE --name NAME
    python benchmarks/ablation.py race --store STORE --name NAME
    python benchmarks/ablation.py growth --only rows
    python benchmarks/ablation.py growth --only heads
    python benchmarks/ablation.py stacked

`default`: `pipeline.py ablate` from nothing, seconds and memory. `race`: the same grid by sklearn, see
`ablation_rivals.py`. `growth`: seconds against rows and heads, on generated features. `stacked`: see
`ablation_stacked.py`. Each writes `results/ablation_*` beside this script; with settings that make it
smaller, for a trial, it prints only.
"""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click

from benchmarks import ablation_growth as grown
from benchmarks import ablation_rivals as rivals
from benchmarks.machine import PIPELINE, RESULTS, Target, machine, target_lines, write_result

SAMPLED = 1.0
"""Seconds between two looks at the memory; more of them would take the cores from what is measured."""


class Memory:
    """Watches the memory of a process and of all its descendants, from /proc."""

    def __init__(self, process: int) -> None:
        self.peak, self.looks, self.processes = 0.0, 0, 0
        self._root, self._own_peaks, self._ended = process, dict[int, float](), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, float]:
        """The largest sum of proportional set sizes (memory that is shared counts once), and more, in GB."""
        self._ended.set()
        self._thread.join()
        most = sum(self._own_peaks.values())
        found = {"peak_pss_gb": self.peak, "sum_of_own_peaks_rss_gb": most}
        return found | {"looks": self.looks, "processes": self.processes}

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLED):
            family = _family(self._root)
            self.peak = max(self.peak, sum(_field(one, "smaps_rollup", "Pss") for one in family))
            for one in family:
                self._own_peaks[one] = max(self._own_peaks.get(one, 0.0), _field(one, "status", "VmHWM"))
            self.processes, self.looks = max(self.processes, len(family)), self.looks + 1


def _family(root: int) -> set[int]:
    """A process and its descendants."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:  # it has ended
                continue
    family, size = {root}, 0
    while len(family) > size:
        size = len(family)
        family |= {one for one, parent in parents.items() if parent in family}
    return family


def _field(process: int, file: str, name: str) -> float:
    """A size of a process in GB; 0 if it has ended."""
    try:
        text = Path(f"/proc/{process}/{file}").read_text()
    except OSError:
        return 0.0
    sizes = [int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:")]
    return sum(sizes) * 1024 / 1e9


def measure_default(store: Path, name: str, more: Sequence[str], out: Path) -> dict[str, Any]:
    """The whole command as a process: its seconds, its memory, and what it fitted."""
    command = [sys.executable, str(PIPELINE), "ablate", "--store", str(store.resolve()), "--name", name]
    command += ["--out", str(out), "--json", *more]
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=out.parent
    ) as process:
        memory = Memory(process.pid)
        content, said = process.communicate()
    seconds = time.perf_counter() - started
    held = memory.stop()
    if process.returncode:
        raise click.ClickException(f"ablate ended with {process.returncode}: {said.strip()[-2000:]}")
    result = json.loads(content.strip().splitlines()[-1])
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    by_head: dict[str, float] = {}
    for row in rows:
        own = sum(float(row[key]) for key in ("fit_seconds", "search_seconds", "predict_seconds"))
        by_head[row["head"]] = by_head.get(row["head"], 0.0) + own
    return {
        "seconds": seconds,
        **held,
        "heads": len(by_head),
        "configurations": len({(row["head"], row["modalities"]) for row in rows}),
        "fits": len(rows),
        "control_fits": result["fitted"] - len(rows),
        "rows": int(rows[0]["n_train"]) + int(rows[0]["n_test"]),
        "seeds": len({row["seed"] for row in rows}),
        "folds": len({row["fold"] for row in rows}),
        "seconds_by_head": by_head,
        "best": result["best"],
    }


def default_lines(result: Mapping[str, Any]) -> list[str]:
    runs = result["runs"]
    last = runs[-1]
    lines = [*target_lines(result["targets"]), ""]
    lines += [
        f"`pipeline.py ablate` as a process of its own, from nothing to the report: {last['rows']} rows, "
        f"{last['heads']} heads, {last['configurations']} configurations, {last['seeds']} seeds x {last['folds']} "
        f"folds, {last['fits']} fits and {last['control_fits']} of controls. Runs: {len(runs)}, medians.",
        "",
        "Memory: the sum of the proportional set sizes (PSS) of the command and its workers, looked at every "
        f"{SAMPLED} s ({last['looks']} times, {last['processes']} processes at most); what they share counts once. The "
        "largest resident sizes that each reached at some time, shared memory counted by each, would add up to "
        f"{last['sum_of_own_peaks_rss_gb']:.2f} GB.",
        "",
        "Seconds of one core by head, as if each had been fitted alone (what heads share is computed once):",
        "",
        "| head | seconds |",
        "|---|---|",
    ]
    return lines + [f"| {head} | {own:.1f} |" for head, own in last["seconds_by_head"].items()]


def finish(trial: bool, name: str, title: str, result: dict[str, Any], lines: Sequence[str]) -> None:
    """Prints a result and, unless it was a trial, writes it."""
    whole = {"machine": machine("joblib", "matplotlib"), **result}
    click.echo("\n".join(lines) if trial else write_result(name, title, whole, lines, "ablation"))


def store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--store` and `--name`."""
    store = click.option("--store", type=click.Path(exists=True, path_type=Path), required=True, help="Feature store.")
    return store(click.option("--name", required=True, help="Data set in it; two modalities, labelled.")(command))


@click.group()
def main() -> None:
    """Measure ablations and write the results beside this script."""


@main.command("default")
@store_options
@click.option("--repeats", default=1, show_default=True, help="Runs, each from nothing; medians count.")
@click.option("--seeds", help="As of ablate; a trial.")
@click.option("--heads", help="As of ablate; a trial.")
def default_command(store: Path, name: str, repeats: int, seeds: str | None, heads: str | None) -> None:
    """The default ablation as a user runs it: wall-clock seconds, and memory of all its processes."""
    more = [*(["--seeds", seeds] if seeds else []), *(["--heads", heads] if heads else [])]
    runs = []
    for number in range(repeats):
        with tempfile.TemporaryDirectory() as work:
            runs.append(measure_default(store, name, more, Path(work) / "ablation"))
        click.echo(f"run {number + 1}: {runs[-1]['seconds']:.1f} s, {runs[-1]['peak_pss_gb']:.2f} GB", err=True)
    seconds, memory = (statistics.median(one[key] for one in runs) for key in ("seconds", "peak_pss_gb"))
    targets: list[Target] = [
        ("default ablation", "< 180 s", f"{seconds:.0f} s", seconds < 180),
        ("memory of all its processes", "< 3 GB", f"{memory:.2f} GB", memory < 3),
    ]
    result = {"targets": targets, "runs": runs}
    finish(bool(more), "ablation_default", "The default ablation", result, default_lines(result))


@main.command("race")
@store_options
@click.option("--seeds", default=3, show_default=True, help="Of the folds and of initial weights; fewer: a trial.")
@click.option("--folds-measured", default=6, show_default=True, help="(seed, fold) pairs; 15 is the whole grid.")
@click.option("--rows", type=int, help="Only so many rows; a trial.")
def race_command(store: Path, name: str, seeds: int, folds_measured: int, rows: int | None) -> None:
    """The same grid by sklearn, side by side in turns."""
    data = ["--store", str(store), "--name", name, *(["--rows", str(rows)] if rows else [])]
    pairs = min(folds_measured, rivals.FOLDS * seeds)
    parts = rivals.measure_race(data, seeds, pairs)
    seconds, scores = rivals.seconds_by_head(parts), rivals.mean_scores(parts)
    result = {"targets": rivals.race_targets(seconds, scores), "seconds": seconds, "scores": scores, "pairs": pairs}
    result["parts"] = [{key: value for key, value in part.items() if key != "scores"} for part in parts]
    result["notes"] = rivals.race_notes(seeds, pairs, len(rivals.chosen_rows(store, name, rows)))
    trial = rows is not None or seeds < 3
    finish(trial, "ablation_race", "The grid of an ablation against sklearn", result, rivals.race_lines(result))


@main.command("side", hidden=True)
@click.argument("side", type=click.Choice(rivals.SIDES))
@store_options
@click.option("--rows", type=int)
def side_command(side: str, store: Path, name: str, rows: int | None) -> None:
    """One side of the race: parts are asked for on the standard input."""
    rivals.answer(side, rivals.chosen_rows(store, name, rows), sys.stdin)


@main.command("growth")
@click.option("--only", type=click.Choice(["rows", "heads"]), help="One half; the other stays as it was measured.")
@click.option("--jobs", default=2, show_default=True, help="Processes.")
@click.option("--rows", help="Sizes, comma-separated, two at least; a trial.")
@click.option("--heads-rows", type=int, help="Rows while heads grow; a trial.")
def growth_command(only: str | None, jobs: int, rows: str | None, heads_rows: int | None) -> None:
    """Seconds of an ablation against rows and against heads."""
    trial = bool(rows or heads_rows)
    known = RESULTS / "ablation_growth.json"
    held = json.loads(known.read_text())["growth"] if only and not trial and known.exists() else {}
    sizes, few = tuple(map(int, rows.split(","))) if rows else grown.ROWS, heads_rows or grown.HEADS_ROWS
    with tempfile.TemporaryDirectory() as work:
        if only != "heads":
            held["rows"] = grown.by_rows(sizes, jobs, Path(work))
        if only != "rows":
            held["heads"] = grown.by_heads(few, jobs, Path(work))
    found = {by: held[by] for by in ("rows", "heads") if by in held}
    result = {"targets": grown.growth_targets(found), "jobs": jobs, "growth": found, "heads_rows": few}
    grown.picture(found, Path("ablation_growth_trial.png") if trial else grown.PICTURE)
    finish(trial, "ablation_growth", "How the time of an ablation grows", result, grown.growth_lines(result))


@main.command("stacked")
@click.option("--steps", type=int, help="Of each way in a round; a trial.")
def stacked_command(steps: int | None) -> None:
    """Whether several small networks train faster as one tensor program, on one thread."""
    from benchmarks import ablation_stacked as stacks  # torch is for this one alone

    trial, steps = steps is not None, steps or stacks.STEPS
    found = stacks.measure_stacked(steps)
    result = {"rounds": stacks.ROUNDS, "steps": steps, "ms": found}
    title = "Several networks as one tensor program"
    finish(trial, "ablation_stacked", title, result, stacks.stacked_lines(found, steps))


if __name__ == "__main__":
    main()
