"""Throws damaged and hostile input at the pipeline and counts what becomes of it.

    python benchmarks/fuzz.py                       the long loop, some ten minutes on 2 cores; results/fuzz.{json,md}
    python benchmarks/fuzz.py --pictures FOLDER     with some of a folder's pictures among those that are damaged
    python benchmarks/fuzz.py --images 300 --tables 200 --stores 0 --runs 0 --json    a short loop, nothing is written

Every case depends on its number alone and runs in a watched process: an exception that is not for users, a crash, no
answer in time, memory beyond the limit, a misaligned row or another vector is a finding. Ends with 1 if there are any.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TRANSFORMERS_VERBOSITY": "error"}
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click

from benchmarks.fuzzing import pictures, stores, tables
from benchmarks.fuzzing.watch import Found, Work, watched
from benchmarks.machine import Target, machine, target_lines, write_result

SECONDS = 10.0
"""Of the clock for a case; hypothesis gives each of its examples as many."""
LONG = 120.0
"""For a case of many examples, or one that loads models and runs commands."""
MEMORY_MB = 3072
"""For a decoder: a picture at the limit of pixels takes 2.7 GB, as WebP."""
MODELS_MB = 16_384
"""With torch, which reserves more than it uses."""
BATCH = 250
TABLES = {"hypotheses": 0.4, "damaged data sets": 0.3, "damaged arrays": 0.15, "damaged sounds": 0.15}
"""Shares of --tables."""


@dataclass(frozen=True)
class Section:
    """Cases of one kind. `each` is how many inputs a case has."""

    work: Work
    cases: int
    limit: float = SECONDS
    memory_mb: int = MEMORY_MB
    each: int = 1


def sections(images: int, count: int, folder: Path | None) -> dict[str, Section]:
    """Those that need no model in advance."""
    whole, sounds = pictures.whole_pictures(folder), tables.whole_sounds()
    parts = {name: round(share * count) for name, share in TABLES.items()}
    examples = -(-parts["hypotheses"] // tables.EXAMPLES)
    if images >= BATCH:
        import_models()
    many = partial(pictures.extract_many, size=BATCH, whole=whole)
    return {
        "pictures, decoded": Section(partial(pictures.decode_one, whole=whole), images),
        "pictures, extracted": Section(many, images // BATCH, LONG, MODELS_MB, BATCH),
        "tables by hypothesis": Section(tables.hypotheses, examples, LONG, each=tables.EXAMPLES),
        "damaged data sets": Section(tables.damaged, parts["damaged data sets"]),
        "damaged .npy files": Section(tables.damaged_arrays, parts["damaged arrays"]),
        "damaged sounds": Section(partial(tables.damaged_sounds, whole=sounds), parts["damaged sounds"]),
    }


def import_models() -> None:
    """Before the processes are forked, so that no case pays for it."""
    import pipeline  # noqa: F401
    from extract import extract  # noqa: F401
    from fuse import HEADS  # noqa: F401


def run(chosen: dict[str, Section], start: int, jobs: int) -> dict[str, Any]:
    """What became of the cases of each section."""
    result = {}
    for name, section in chosen.items():
        if not section.cases:
            continue
        began = time.perf_counter()
        cases = range(start, start + section.cases)
        found = watched(section.work, cases, jobs, section.limit, section.memory_mb)
        result[name] = summary(found, section)
        told = json.dumps({**result[name], "findings": len(result[name]["findings"])})
        click.echo(f"{name}: {time.perf_counter() - began:.0f} s, {told}", err=True)
    return result


def summary(found: Sequence[Found], section: Section) -> dict[str, Any]:
    """Counts, the slowest case, the largest memory, and every finding."""
    outcomes: Counter[str] = Counter()
    for one in found:
        if section.each == 1:
            outcomes[one.get("outcome", "finding")] += 1
        outcomes.update({key: one[key] for key in ("read", "refused", "rows", "failed") if key in one})
    return {
        "cases": len(found),
        "inputs": len(found) * section.each,
        "outcomes": dict(sorted(outcomes.items())),
        "slowest_seconds": round(max(_slowest(one, section) for one in found), 2),
        "peak_mb": round(max(one.get("peak_mb", 0.0) for one in found)),
        "findings": [{"case": one["case"], "what": one["finding"]} for one in found if "finding" in one],
    }


def _slowest(one: Found, section: Section) -> float:
    """Seconds of a case, or of its slowest command."""
    known = {"seconds": section.limit, **one}
    return float(known.get("slowest", known["seconds"]))


def house_sections(root: Path, store_cases: int, run_cases: int) -> dict[str, Section]:
    """Stores and runs, which are made once, in a process of their own: this one must not have used torch."""
    if not store_cases and not run_cases:
        return {}
    import_models()
    made = watched(lambda _: stores.make(root), [0], 1, 10 * LONG, MODELS_MB)
    if "finding" in made[0]:
        raise RuntimeError(f"no sound store could be made: {made[0]['finding']}")
    house = stores.look(root)
    return {
        "damaged stores": Section(partial(stores.damage_store, house=house), store_cases, LONG, MODELS_MB),
        "damaged runs": Section(partial(stores.damage_run, house=house), run_cases, LONG, MODELS_MB),
    }


def targets(result: dict[str, Any]) -> list[Target]:
    """What was asked for."""
    goals = {
        "pictures": (5000, ("pictures, decoded", "pictures, extracted")),
        "tables": (2000, ("tables by hypothesis", "damaged data sets", "damaged .npy files", "damaged sounds")),
        "stores": (500, ("damaged stores",)),
    }
    rows: list[Target] = []
    for what, (least, names) in goals.items():
        there = [result[name]["inputs"] for name in names if name in result]
        count = (min if what == "pictures" else sum)(there or [0])
        rows.append((f"{what} thrown", f">= {least}", f"{count}", count >= least))
    findings = sum(len(one["findings"]) for one in result.values())
    rows.append(("tracebacks, crashes, hangs, misaligned rows, other vectors", "0", f"{findings}", findings == 0))
    slowest = max(one["slowest_seconds"] for one in result.values() if one["inputs"] == one["cases"])
    what = "seconds of the processor for an input, or a command on a store or run, at most"
    rows.append((what, f"<= {SECONDS:g}", f"{slowest}", slowest <= SECONDS))
    peak = max(one["peak_mb"] for one in result.values())
    rows.append(("memory that a case took at most, MB", f"<= {MEMORY_MB}", f"{peak}", peak <= MEMORY_MB))
    return rows


def result_lines(result: dict[str, Any]) -> list[str]:
    lines = ["| what | inputs | of them | slowest, s of the processor | peak, MB | findings |"]
    lines.append("|---|---|---|---|---|---|")
    for name, one in result.items():
        counts = ", ".join(f"{key} {count}" for key, count in one["outcomes"].items())
        cells = (one["slowest_seconds"], one["peak_mb"], len(one["findings"]))
        lines.append(f"| {name} | {one['inputs']} | {counts} | {' | '.join(map(str, cells))} |")
    return lines


@click.command()
@click.option("--images", default=5000, show_default=True, help="Pictures, each decoded and extracted.")
@click.option("--tables", "count", default=2500, show_default=True, help="Tables, data sets, arrays and sounds.")
@click.option("--stores", "store_cases", default=500, show_default=True, help="Damaged stores.")
@click.option("--runs", "run_cases", default=300, show_default=True, help="Damaged runs.")
@click.option(
    "--pictures", "folder", type=click.Path(exists=True, path_type=Path), help="Real pictures to damage, too."
)
@click.option("--start", default=0, show_default=True, help="Number of the first case of each kind.")
@click.option("--jobs", default=2, show_default=True, help="Processes.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found and write no results.")
def main(
    images: int, count: int, store_cases: int, run_cases: int, folder: Path | None, start: int, jobs: int, as_json: bool
) -> None:
    """Throw, count and look."""
    result = run(sections(images, count, folder), start, jobs)
    with tempfile.TemporaryDirectory() as work:
        result |= run(house_sections(Path(work), store_cases, run_cases), start, jobs)
    goals = targets(result)
    if as_json:
        click.echo(json.dumps({"targets": goals, **result}))
    else:
        made = len(pictures.whole_pictures(None))
        real = len(pictures.whole_pictures(folder)) - made
        about = (
            f"Cases {start} and on; {jobs} processes. What is damaged of pictures: {made} that were made, of the kinds "
        )
        about += f"that are read and some that are refused, and {real} of a data set."
        versions = machine("pillow", "hypothesis")
        content = {"machine": versions, "targets": goals, **result}
        lines = [*target_lines(goals), "", about, "", *result_lines(result)]
        click.echo(write_result("fuzz", "Damaged and hostile input", content, lines))
    for one in [one for section in result.values() for one in section["findings"]][:10]:
        click.echo(f"case {one['case']}: {one['what']}", err=True)
    if any(section["findings"] for section in result.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
