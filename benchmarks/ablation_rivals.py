"""The same grid of heads by `ablate` and by sklearn: what `benchmarks/ablation.py race` runs.

Each side works through the same outer folds, subsets of the modalities, candidate settings and epochs, with two
processes of one thread each. A side runs as a process of its own, by the hidden command `side` of that script,
and its workers stay from part to part:

- `ours`: `run_ablation` with `--grid small`; settings are chosen on one fifth of the training rows.
- `sklearn`: as it is mostly written, `GridSearchCV(n_jobs=2)` over 5 stratified folds that keep groups.
- `sklearn, hold-out`: as near to ours as sklearn comes, and its quickest way: settings are chosen on the very
  same fifth of the rows, and the outer folds, not the candidates, are shared out, which keeps both processes busy.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np

from benchmarks.machine import Target, target_lines
from cache import FeatureTable, load
from fuse import Settings, protocol_for
from fuse.ablation import engine
from fuse.ablation.plan import Cell, Plan, make, plan_ablation
from fuse.ablation.search import PARTS, candidates
from fuse.folds import deal
from fuse.metrics import classification_metrics
from fuse.splits import Fold
from fuse.task import CLASSIFICATION

HEADS = ("logreg", "mlp", "vote", "stacking")
OURS, USUAL, NEAREST = "ours", "sklearn", "sklearn, hold-out"
SIDES = (OURS, USUAL, NEAREST)
FOLDS, GRID, JOBS, EPOCHS = 5, "small", 2, 20
Splits = list[tuple[np.ndarray, np.ndarray]]
SCRIPT = Path(__file__).with_name("ablation.py")
PINNED = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Asked:
    """A part of the race: the first `folds` outer folds of one seed."""

    heads: tuple[str, ...]
    seed: int
    folds: int


def chosen_rows(store: Path, name: str, rows: int | None) -> FeatureTable:
    """The labelled rows of a data set, or so many random ones of them."""
    table = load(store, name)
    table = table[table.labelled]
    if rows is None or rows >= len(table):
        return table
    return table[np.sort(np.random.default_rng(0).choice(len(table), rows, replace=False))]


def subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Every subset of the modalities, as an ablation has them."""
    return [one for size in range(1, len(modalities) + 1) for one in itertools.combinations(modalities, size)]


def answer(side: str, table: FeatureTable, lines: Iterable[str]) -> None:
    """Works through the parts that are asked for, one a line; what was found goes to the standard output."""
    sys.stdout.write("ready\n")
    for line in lines:
        sys.stdout.flush()
        content = json.loads(line)
        asked = Asked(**{**content, "heads": tuple(content["heads"])})
        with tempfile.TemporaryDirectory() as work:
            found = ours(table, asked, Path(work)) if side == OURS else sklearns(table, asked, side)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


def ours(table: FeatureTable, asked: Asked, work: Path) -> dict[str, Any]:
    """`run_ablation` on the folds asked for."""
    settings = Settings(heads=asked.heads, seeds=(asked.seed,), folds=FOLDS, grid=GRID, controls=())

    def first_folds(*args: Any) -> Plan:
        plan = plan_ablation(*args)
        return replace(plan, rounds=plan.rounds[: asked.folds])

    data = engine.read_data(table)
    started = time.perf_counter()
    with mock.patch.object(engine, "plan_ablation", first_folds):
        done = engine.run_ablation(data, settings, work / "ablation", jobs=JOBS)
    seconds = time.perf_counter() - started
    if done.failed:
        raise RuntimeError(f"{len(done.failed)} fits failed: {done.failed[0].reason}")
    with (work / "ablation" / engine.RESULTS).open(newline="") as file:
        scores = [
            {
                **{key: row[key] for key in ("head", "modalities", "fold")},
                **{key: float(row[key]) for key in ("accuracy", "macro_f1")},
            }
            for row in csv.DictReader(file)
        ]
    return {"seconds": seconds, "scores": scores}


def sklearns(table: FeatureTable, asked: Asked, side: str) -> dict[str, Any]:
    """The same by sklearn; seconds by head, too, for it works through one head after another."""
    import joblib

    X = {name: table.block(name).astype(np.float32) for name in table.modalities}
    y, groups, by_head, scores = table.y, table.groups, {}, []
    os.environ["PYTHONWARNINGS"] = "ignore"  # of workers: 20 epochs are what is asked for, not an accident
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    folds = protocol_for(table, FOLDS, asked.seed).judged[: asked.folds]
    inner = [inner_splits(y[fold.train], groups[fold.train], asked.seed, side) for fold in folds]
    run = joblib.Parallel(n_jobs=JOBS, batch_size=1)
    run(joblib.delayed(as_sklearn)("stacking", {"a": 1}, 0) for _ in range(JOBS))  # workers start and import
    for head in asked.heads:
        begun = time.perf_counter()
        jobs = [
            (head, {name: X[name] for name in one}, y, fold, own, asked.seed)
            for one in subsets(table.modalities)
            for fold, own in zip(folds, inner, strict=True)
        ]
        if side == USUAL:
            scores += [judged(*job, JOBS) for job in jobs]
        else:
            scores += run(joblib.delayed(judged)(*job, 1) for job in jobs)
        by_head[head] = time.perf_counter() - begun
    return {"seconds": time.perf_counter() - started, "by_head": by_head, "scores": scores}


def inner_splits(known: np.ndarray, groups: np.ndarray, seed: int, side: str) -> Splits:
    """Within the training rows: 5 stratified folds that keep groups, or the fifth that ours holds out."""
    from sklearn.model_selection import StratifiedGroupKFold

    if side == USUAL:
        return list(StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(known, known, groups))
    held = deal(groups, np.unique(known, return_inverse=True)[1], np.ones(len(known)), PARTS) == 0
    return [(np.flatnonzero(~held), np.flatnonzero(held))]


def judged(
    head: str, X: Mapping[str, np.ndarray], y: np.ndarray, fold: Fold, inner: Splits, seed: int, jobs: int
) -> dict[str, Any]:
    """One outer fold: settings chosen within the training rows, fitted to all of them, judged on the others."""
    from sklearn.model_selection import GridSearchCV

    warnings.simplefilter("ignore")
    together = np.hstack(list(X.values()))
    model, grid = as_sklearn(head, {name: values.shape[1] for name, values in X.items()}, seed)
    search = GridSearchCV(model, grid, scoring="neg_log_loss", n_jobs=jobs, cv=inner)
    search.fit(together[fold.train], y[fold.train])
    label = search.classes_[search.predict_proba(together[fold.test]).argmax(axis=1)]
    found = classification_metrics(y[fold.test], label, tuple(search.classes_.tolist()))
    scores = {key: float(found[key]) for key in ("accuracy", "macro_f1")}
    return {"head": head, "modalities": "+".join(X), "fold": fold.name, **scores}


def as_sklearn(head: str, widths: Mapping[str, int], seed: int) -> tuple[Any, list[dict[str, list[Any]]]]:
    """A head as a user of sklearn writes it, and our candidates of it.

    Our scaler divides a standardised modality by the root of its D columns, and so our C is C / D here; of two
    modalities side by side, C over the mean of their widths.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import StackingClassifier, VotingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    stops = np.cumsum(list(widths.values())).tolist()
    columns = {name: slice(start, stop) for name, start, stop in zip(widths, [0, *stops], stops, strict=False)}
    cell = Cell(head, tuple(widths))
    tried = candidates(make(Settings(grid=GRID), cell, CLASSIFICATION, seed), GRID, {})

    def scaled(names: Sequence[str], model: Any) -> Any:
        blocks = ColumnTransformer([(name, StandardScaler(), columns[name]) for name in names])
        return Pipeline([("scale", blocks), ("model", model)])

    def logistic() -> Any:
        return LogisticRegression(max_iter=1000)

    if head == "logreg":
        mean = sum(widths.values()) / len(widths)
        return scaled(list(widths), logistic()), [{"model__C": [one["C"] / mean]} for one in tried]
    if head == "mlp":
        network = MLPClassifier(batch_size=128, max_iter=EPOCHS, n_iter_no_change=EPOCHS, random_state=seed)
        names = {"model__learning_rate_init": "learning_rate", "model__hidden_layer_sizes": "hidden_sizes"}
        return scaled(list(widths), network), [{name: [one[own]] for name, own in names.items()} for one in tried]
    voters = [(name, scaled([name], logistic())) for name in widths]
    grid = [{f"{name}__model__C": [one["C"] / width] for name, width in widths.items()} for one in tried]
    if head == "vote":
        return VotingClassifier(voters, voting="soft"), grid
    return StackingClassifier(voters, cv=5), grid


def seconds_by_head(parts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Seconds of each side by head, and of the whole grid; ours by head are of runs of that head alone."""
    found: dict[str, dict[str, float]] = {}
    for side in SIDES:
        own = [part for part in parts if part["side"] == side and len(part["heads"]) == len(HEADS)]
        found[side] = {"grid": sum(part["seconds"] for part in own)}
        for head in HEADS:
            alone = [part["seconds"] for part in parts if part["side"] == side and part["heads"] == [head]]
            found[side][head] = sum(alone) if side == OURS else sum(part["by_head"][head] for part in own)
    return found


def mean_scores(parts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean accuracy and macro-F1 over the folds, by `head on modalities` and side."""
    held: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for part in parts:
        if len(part["heads"]) == len(HEADS):
            for one in part["scores"]:
                own = held.setdefault(f"{one['head']} on {one['modalities']}", {})
                own.setdefault(part["side"], []).append(one)
    return {
        name: {
            side: {key: float(np.mean([one[key] for one in ones])) for key in ("macro_f1", "accuracy")}
            for side, ones in sides.items()
        }
        for name, sides in held.items()
    }


class Session:
    """A side as a process of its own, whose workers stay between the parts."""

    def __init__(self, side: str, data: Sequence[str]) -> None:
        self._side = side
        command = [sys.executable, str(SCRIPT), "side", side, *data]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | PINNED
        )
        self._read()

    def part(self, heads: Sequence[str], seed: int, folds: int) -> dict[str, Any]:
        """What the side finds for one part."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"heads": list(heads), "seed": seed, "folds": folds}) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._read())
        click.echo(f"{self._side}, seed {seed}, {', '.join(heads)}: {found['seconds']:.1f} s", err=True)
        return {"side": self._side, "heads": list(heads), "seed": seed, "folds": folds, **found}

    def end(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException(f"{self._side} ended with {self._process.wait()}")
        return line


def measure_race(data: Sequence[str], seeds: int, pairs: int) -> list[dict[str, Any]]:
    """All parts: by seed, the sides in turn, in the other order every other seed; then ours, head by head.

    Args:
        data: options that choose the rows.
        seeds: how many.
        pairs: how many (seed, fold) pairs, dealt out evenly over the seeds.
    """
    sessions = {side: Session(side, data) for side in SIDES}
    parts = []
    try:
        for seed in range(min(seeds, pairs)):
            folds = min(FOLDS, len(range(seed, pairs, seeds)))
            for side in SIDES[:: -1 if seed % 2 else 1]:
                parts.append(sessions[side].part(HEADS, seed, folds))
            parts += [sessions[OURS].part([head], seed, folds) for head in HEADS]
    finally:
        for session in sessions.values():
            session.end()
    return parts


def race_targets(seconds: Mapping[str, Mapping[str, float]], scores: Mapping[str, Any]) -> list[Target]:
    own, rows = seconds[OURS]["grid"], list[Target]()
    for side, what in ((USUAL, "GridSearchCV, cv=5"), (NEAREST, "the same hold-out as ours")):
        times = seconds[side]["grid"] / own
        rows.append((f"whole grid, against sklearn, {what}", ">= 5 x faster", f"{times:.1f} x", times >= 5))
    for side in (USUAL, NEAREST):
        ahead = {name: one[OURS]["macro_f1"] - one[side]["macro_f1"] for name, one in scores.items()}
        mean, worst = statistics.mean(ahead.values()), min(ahead, key=lambda name: ahead[name])
        rows.append((f"macro-F1 beside {side}, mean of {len(ahead)}", ">= -0.01", f"{mean:+.4f}", mean >= -0.01))
        found = f"{ahead[worst]:+.4f} ({worst})"
        rows.append((f"macro-F1 beside {side}, worst", ">= -0.01", found, ahead[worst] >= -0.01))
    return rows


def race_lines(result: Mapping[str, Any]) -> list[str]:
    seconds, scores = result["seconds"], result["scores"]
    lines = [*target_lines(result["targets"]), "", *result["notes"], ""]
    lines += ["| seconds | " + " | ".join(SIDES) + " | ratios |", "|---" * (len(SIDES) + 2) + "|"]
    for what in ("grid", *HEADS):
        own = [seconds[side][what] for side in SIDES]
        ratios = ", ".join(f"{one / own[0]:.1f} x" for one in own[1:])
        name = "whole grid" if what == "grid" else f"{what} alone"
        lines.append(f"| {name} | {' | '.join(f'{one:.1f}' for one in own)} | {ratios} |")
    titles = [f"{side}: {what}" for side in SIDES for what in ("macro-F1", "accuracy")]
    lines += ["", "| mean over folds | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for name, one in scores.items():
        cells = [f"{one[side][key]:.4f}" for side in SIDES for key in ("macro_f1", "accuracy")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def race_notes(seeds: int, pairs: int, rows: int) -> list[str]:
    whole = FOLDS * seeds
    return [
        f"{rows} rows; outer folds are those of `protocol_for`, seeds 0 to {seeds - 1}; all sides on the "
        + (f"same {whole} (seed, fold) pairs." if pairs >= whole else f"same {pairs} of {whole} (seed, fold) pairs,"),
        *([] if pairs >= whole else ["the first folds of each seed."]),
        f"Candidates are those of `--grid small`, loss is log loss, networks get {EPOCHS} epochs of batches of 128",
        "(ours 400 steps at least; a third of them for candidates that fall behind). Our C stands for C / D in",
        "sklearn's standardised columns (of two blocks side by side, over their mean width). Two processes of one",
        "thread a side; seconds from the table in memory to all predictions. The start of workers counts in the whole",
        "grid, not head by head; sides take turns seed by seed, and their workers stay in between.",
        "",
        "`ours` chooses settings on a fifth of the training rows. `sklearn`: `GridSearchCV(n_jobs=2)`, 5 inner folds",
        "that keep groups. `sklearn, hold-out`: the same fifth of the rows as ours, outer folds shared out over the",
        "processes. The inner folds of `StackingClassifier(cv=5)` cannot keep groups. Ours by head: an ablation of",
        "that head alone, which shares nothing with other heads.",
    ]
