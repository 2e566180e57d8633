"""How the time of an ablation grows with rows and with heads: `benchmarks/ablation.py growth`."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

import cache
from benchmarks.machine import RESULTS, Target, target_lines
from fuse import Asked, Settings, ablate
from fuse.ablation.plan import COMMON

ROWS = (1000, 10_000, 100_000)
WIDTHS = {"a": 384, "b": 512}
CLASSES = ("low", "mid", "high")
LINEAR = ("logreg", "ridge", "vote", "mlp", "logit-max")
HEADS_ROWS = 2000
PICTURE = RESULTS / "ablation_growth.png"


def make_features(root: Path, rows: int) -> cache.FeatureTable:
    """A store of two modalities whose means depend on the class; returns its table."""
    store, draw = cache.FeatureStore(root), np.random.default_rng(0)
    keys = [cache.item_key(str(number)) for number in range(rows)]
    kind = draw.integers(0, len(CLASSES), rows)
    blocks = {}
    for modality, width in WIDTHS.items():
        means = 0.1 * draw.standard_normal((len(CLASSES), width), dtype=np.float32)
        key = cache.EncoderKey({"modality": modality, "schema": 1, "outputs": {"pool": width}, "dtype": "float32"})
        encoder = store.encoder(key.digest)
        encoder.create(key)
        values = means[kind] + draw.standard_normal((rows, width), dtype=np.float32)
        cache.FeatureWriter(encoder, ["pool"], {}).write(keys, {"pool": values})
        arrays = {"items": cache.pack_items(keys), "state": np.ones(rows, np.uint8), "row": np.full(rows, -1)}
        blocks[modality] = cache.placed(encoder, cache.Block(modality, key.digest, "pool", width, arrays))[0]
    texts = {"ids": np.arange(rows).astype(str), "labels": np.array(CLASSES)[kind], "split": np.full(rows, "")}
    columns = {name: values.astype(object) for name, values in texts.items()} | {"groups": np.arange(rows)}
    cache.write_view(store, cache.View("generated", columns, blocks))
    return cache.load(root, "generated")


def timed_ablation(table: cache.FeatureTable, heads: Sequence[str], folds: int, jobs: int) -> dict[str, float]:
    """Seconds of an ablation from the table to the report, by stage."""
    marks: dict[tuple[str, int], float] = {}

    def told(what: str, done: int, _: int) -> None:
        marks[what, done] = time.perf_counter()

    settings = Settings(heads=tuple(heads), seeds=(0,), folds=folds, controls=())
    with tempfile.TemporaryDirectory() as work:  # a folder of its own: fits of an ablation beside it would be used
        started = time.perf_counter()
        done = ablate(table, settings, Asked("", ""), out=Path(work) / "ablation", jobs=jobs, progress=told)
        seconds = time.perf_counter() - started
    if done.failed:
        raise RuntimeError(done.failed[0])
    fitted = marks["report", 1] - started
    looked = marks["report", 2] - marks["report", 1]
    return {
        "seconds": seconds,
        "fits": fitted,
        "closer look, near duplicates": looked,
        "the rest": seconds - fitted - looked,
    }


def by_heads(rows: int, jobs: int, work: Path) -> list[dict[str, float]]:
    """Ablations by the number of heads: of a half and a quarter of the common ones the mean over such parts."""
    table, points = _started(jobs, rows, work), []
    for parts in (4, 2, 1):
        runs = [timed_ablation(table, COMMON[part::parts], 5, jobs) for part in range(parts)]
        points.append({"heads": len(COMMON) / parts, **_combined(runs, statistics.mean)})
        click.echo(points[-1], err=True)
    return points


def by_rows(sizes: Sequence[int], jobs: int, work: Path) -> list[dict[str, float]]:
    """Ablations by the number of rows."""
    points = []
    for rows in sizes:
        table = _started(jobs, rows, work)
        points.append({"rows": rows, **timed_ablation(table, LINEAR, 2, jobs)})
        click.echo(points[-1], err=True)
    return points


def _started(jobs: int, rows: int, work: Path) -> cache.FeatureTable:
    """A table of so many rows; workers have started and imported before it is measured."""
    with tempfile.TemporaryDirectory(dir=work) as few:
        timed_ablation(make_features(Path(few), 300), LINEAR, 2, jobs)
    return make_features(Path(tempfile.mkdtemp(dir=work)), rows)


def _combined(runs: Sequence[Mapping[str, float]], how: Callable[[list[float]], float]) -> dict[str, float]:
    return {name: how([one[name] for one in runs]) for name in runs[0]}


def slopes(points: Sequence[Mapping[str, float]], by: str, what: str = "seconds") -> list[float]:
    """Of neighbours, by how much the logarithm of the seconds grows with that of the size: 1 is linear."""
    x, y = np.log([one[by] for one in points]), np.log([one[what] for one in points])
    return [float(one) for one in np.diff(y) / np.diff(x)]


def growth_targets(found: Mapping[str, Any]) -> list[Target]:
    rows = []
    for by, points in found.items():
        whole = slopes([points[0], points[-1]], by)[0]
        about = f"{points[0][by]} to {points[-1][by]} {by}"
        rows.append((f"slope of log seconds, {about}", "<= 1.05: linear or better", f"{whole:.2f}", whole <= 1.05))
    return rows


def growth_lines(result: Mapping[str, Any]) -> list[str]:
    lines = [*target_lines(result["targets"]), ""]
    lines += [
        f"Generated features, {' + '.join(map(str, WIDTHS.values()))} columns, {len(CLASSES)} classes; from the table "
        f"to the report, {result['jobs']} processes that had started before. By rows: {', '.join(LINEAR)} on all "
        f"subsets, 1 seed x 2 folds, each measured once. By heads: {result['heads_rows']} rows, "
        "1 seed x 5 folds; of fewer heads the mean over equal parts of the common ones, so that every line does the "
        "same work in all.",
    ]
    for by, points in result["growth"].items():
        stages = [name for name in points[0] if name != by]
        grown = ["", *(f"{one:.2f}" for one in slopes(points, by))]
        lines += ["", f"| {by} | " + " | ".join(stages) + " | slope |", "|---" * (len(stages) + 2) + "|"]
        for one, slope in zip(points, grown, strict=True):
            lines.append(f"| {one[by]} | {' | '.join(f'{one[name]:.2f}' for name in stages)} | {slope} |")
    return [*lines, "", "![seconds against rows and heads, with lines of slope 1](ablation_growth.png)"]


def picture(found: Mapping[str, Any], path: Path) -> None:
    """Seconds against rows and against heads, both axes logarithmic, with lines of slope 1."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter, NullLocator

    figure, axes = plt.subplots(1, len(found), figsize=(5 * len(found), 4.2), layout="constrained", squeeze=False)
    for axis, (by, points) in zip(axes[0], found.items(), strict=True):
        x, y = np.array([one[by] for one in points]), np.array([one["seconds"] for one in points])
        axis.loglog(x, y, "o-", label="from the table to the report")
        axis.loglog(x, [one["fits"] for one in points], "s:", label="the fits alone")
        axis.loglog(x, y[-1] * x / x[-1], "--", color="grey", label="slope 1")
        axis.set_xticks(x, [f"{one:,}" for one in x], minor=False)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_minor_formatter(NullFormatter())
        for one, seconds in zip(x, y, strict=True):
            axis.annotate(f"{seconds:.1f} s", (one, seconds), textcoords="offset points", xytext=(-4, 8), fontsize=9)
        axis.set_xlabel(by)
        axis.set_ylabel("seconds")
        axis.margins(0.15, 0.15)
        axis.legend(frameon=False, fontsize=9)
    figure.suptitle("Time of an ablation")
    figure.savefig(path, dpi=110)
    plt.close(figure)
