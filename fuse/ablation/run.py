"""An ablation from the features to the report."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache import FAILURES_FILE, Block, DataSet, Progress, canonical_json, remove, replacing, silent, write_json
from fuse.ablation.closer import closer_look, look
from fuse.ablation.conclusions import conclusions
from fuse.ablation.engine import FITS, STATE_FILE, Done, open_folder, prepare, read_data, run_ablation
from fuse.ablation.fits import Fits
from fuse.ablation.plan import Settings, make
from fuse.ablation.report import SCHEMA, Ablated, Show, compared, shown, write_report
from fuse.ablation.results import Column, as_json, write_rows
from fuse.ablation.search import candidates, search
from fuse.ablation.summary import Comparison
from fuse.ablation.work import Data
from fuse.estimators import FusionHead
from fuse.evaluate import Evaluation, Predictions
from fuse.leaks import TUNED_ON, describe, near_duplicates
from fuse.report.page import Shown
from fuse.runs import versions, write_run


@dataclass(frozen=True)
class Asked:
    """How an ablation was asked for, for the record: the store, and the command as it was typed."""

    store: str
    command: str


def ablate(
    source: DataSet,
    settings: Settings,
    asked: Asked,
    *,
    out: Path | None = None,
    root: Path = Path("runs"),
    jobs: int | None = None,
    show: Show | None = None,
    progress: Progress = silent,
) -> Ablated:
    """Compares heads x subsets of the modalities x seeds x folds, and reports.

    Writes into its folder `results.csv`, `summary.json`, `report.html`, the table as `table.csv`, `.md` and
    `.tex`, the fits, and the run of the best configuration (`metrics.json`, `predictions.csv`, `model/`, `run.json`).
    Every fit is kept as soon as it is made: what was stopped goes on, and of changed settings only
    what changed is fitted.

    Args:
        source: features; rows without a label are left out.
        settings: what is compared.
        asked: for the record.
        out: folder; None goes on with an unfinished ablation of the same settings, or makes a new one
            under `root`.
        jobs: processes; None takes one a core.
        show: gives texts and pictures of the mistakes that the report shows.
        progress: told after each task.

    Raises:
        UsageError: unknown heads or parameters; `out` holds something else.
        DataError: labels, splits or vectors that cannot be used; rows that tuned their encoder.
    """
    started = time.perf_counter()
    data = read_data(source, settings.task)
    prepared = prepare(data, settings)  # before a folder is touched
    folder = open_folder(data, settings, out, root)
    done = run_ablation(data, settings, folder, jobs, progress, prepared)
    comparison = Comparison(done.results())
    progress("report", 1, 4)
    best = comparison.best(comparison.table)
    summary = _summary(done, comparison, asked, jobs, progress)
    model, params = _final(done, best)
    progress("report", 3, 4)
    summary["provenance"]["seconds"] = round(time.perf_counter() - started, 1)
    _write(done, comparison, summary, shown(summary, show))
    _write_best(done, best, model, {"params": params, **asdict(asked)})
    progress("report", 4, 4)
    _write_failures(done)
    failed = [f"{one.cell}, seed {one.round.seed}, fold {one.round.fold.name}: {one.reason}" for one in done.failed]
    return Ablated(folder, summary, failed, done.fitted, done.reused)


def _summary(done: Done, comparison: Comparison, asked: Asked, jobs: int | None, progress: Progress) -> dict[str, Any]:
    data, plan = done.data, done.plan
    summary = {
        "schema": SCHEMA,
        "task": data.task,
        "primary": comparison.primary,
        "data": _data(data),
        "protocol": {
            "name": plan.protocol.name,
            "description": plan.protocol.description,
            "folds": len(plan.protocol.judged),
            "seeds": list(done.settings.seeds),
            "split_seeds": [*dict.fromkeys(one.split_seed for one in plan.rounds if not plan.protocol.cross_fitted)],
        },
        **compared(comparison),
        "closer": _closer(done, comparison, jobs),
        "near_duplicates": _near(done),
        "left_out": [*plan.left_out, *_lost(done)],
        "provenance": _provenance(done, asked),
    }
    progress("report", 2, 4)
    summary["conclusions"] = conclusions(summary)
    return summary


def _data(data: Data) -> dict[str, Any]:
    table = data.table
    return {
        "name": data.source.name,
        "view": table.name,
        "rows": len(table),
        "classes": list(data.classes),
        "counts": {label: int((data.y == label).sum()) for label in data.classes},
        "modalities": list(table.modalities),
        "present": {name: int(mask.sum()) for name, mask in table.masks.items()},
        "kept_together": len(table) - len(np.unique(table.groups)),
        "digest": data.source.digest,
    }


def _lost(done: Done) -> list[str]:
    """Cells that have no line in the table, for their fits failed; each with the first reason."""
    reasons: dict[str, str] = {}
    for one in done.failed:
        reasons.setdefault(str(one.cell), one.reason)
    return [f"{cell}: {reason}" for cell, reason in reasons.items()]


def _closer(done: Done, comparison: Comparison, jobs: int | None) -> dict[str, Any] | None:
    """The best configuration of several modalities, which is looked at more closely."""
    fused = [one for one in comparison.table if len(one.cell.modalities) > 1]
    if not fused:
        return None
    best = comparison.best(fused)
    rounds = [one for one in done.plan.rounds if one.seed == done.plan.rounds[0].seed]
    fits, keys = Fits(done.folder / FITS), done.keys[best.cell]
    held = {
        one.fold.name: found for one, key in zip(rounds, keys, strict=False) if (found := fits.read(key)) is not None
    }
    looks = look(done, best.cell, rounds, held, jobs)
    return {"why": "the best of several modalities", **closer_look(done.data, best, looks)}


def _near(done: Done) -> dict[str, Any]:
    """By modality, rows that nearly repeat a row of another fold.

    Not by vectors of a tuned encoder: they gather by label, and near means no more that rows are alike.
    """
    data, table = done.data, done.data.table
    fold = np.full(len(table), -1)
    first = [one for one in done.plan.rounds if one.seed == done.plan.rounds[0].seed]
    for number, round_ in enumerate(first):
        fold[round_.fold.test] = number
    blocks = table.view.blocks
    return {
        name: describe(near_duplicates(values, data.inputs.masks[name], table.groups), table.ids, fold)
        for name, values in data.inputs.values.items()
        if not blocks[name].spec.get(TUNED_ON)
    }


def _provenance(done: Done, asked: Asked) -> dict[str, Any]:
    return {
        **asdict(asked),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "encoders": _encoders(done.data),
        "data_digest": done.data.source.digest,
        "settings": json.loads(canonical_json(asdict(done.settings))),
    }


def _encoders(data: Data) -> dict[str, dict[str, Any]]:
    """Encoders by modality; of a modality that folds have encoders of their own for, by modality and fold."""
    found: dict[str, dict[str, Any]] = {}
    for name in data.table.modalities:
        blocks = [part.table.view.blocks[name] for part in data.folds or (data,)]
        if len({(block.encoder, block.output) for block in blocks}) == 1:
            found[name] = _encoder(blocks[0])
        else:
            found |= {f"{name}, fold {number}": _encoder(block) for number, block in enumerate(blocks)}
    return found


def _encoder(block: Block) -> dict[str, Any]:
    model = str(block.spec.get("model", ""))
    return {"encoder": block.encoder, "model": model, "output": block.output, "dim": block.dim}


def _write(done: Done, comparison: Comparison, summary: Mapping[str, Any], samples: Mapping[str, Shown]) -> None:
    """All files but the run of the best configuration."""
    write_rows(done.folder, comparison.rows)
    state = json.loads((done.folder / STATE_FILE).read_text(encoding="utf-8"))
    state |= {"modalities": list(comparison.modalities), "cells": as_json(done.keys)}
    write_json(done.folder / STATE_FILE, state)
    write_report(done.folder, summary, samples)


def _final(done: Done, best: Column) -> tuple[FusionHead, dict[str, Any]]:
    """The best configuration fitted to all rows that may train it, and the settings that were chosen.

    Of a cross-fitted data set these are the training rows of fold 0, on its table.
    """
    data, settings, cell = done.data, done.settings, best.cell
    table = data.table.select(cell.modalities)
    protocol = done.plan.protocol
    rows = np.arange(len(table)) if protocol.refitted else protocol.judged[0].train
    seed = done.plan.rounds[0].seed

    def build(params: Mapping[str, Any]) -> FusionHead:
        return make(settings, cell, data.task, seed).set_params(**params)

    tried = candidates(build({}), settings.grid, settings.params.get(cell.head, {}))
    X, y = table[rows], data.y[rows]
    params = dict(search(build, tried, X, y, table.groups[rows]).params) if len(tried) > 1 else {}
    return build(params).fit(X, y), {**settings.params.get(cell.head, {}), **params}


def _write_failures(done: Done) -> None:
    """Every fit that failed, one a line as JSON; no file where none did."""
    path = done.folder / FAILURES_FILE
    if not done.failed:
        remove(path)
        return
    entries = [
        {"fit": str(one.cell), "seed": one.round.seed, "fold": one.round.fold.name, "reason": one.reason}
        for one in done.failed
    ]
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def _write_best(done: Done, best: Column, model: FusionHead, said: Mapping[str, Any]) -> None:
    """The run of the best configuration, judged as in the first repeat; `run.json` comes last of all files."""
    rows, data = best.rows, done.data
    names = np.array(data.classes)
    predictions = Predictions(
        rows=np.flatnonzero(np.isin(data.table.ids, rows.ids)),
        fold=np.array([one.name for one in done.plan.protocol.judged])[rows.fold[0]],
        true=names[rows.true] if data.classes else rows.true,
        label=names[best.label[0]] if data.classes else best.label[0],
        proba=best.proba[0],
        majority=names[rows.majority[0]] if data.classes else rows.majority[0],
        classes=data.classes,
    )
    majority = rows.metrics(rows.majority[0])
    metrics = dict(best.metrics[0])
    metrics["majority_accuracy" if data.classes else "mean_mae"] = majority["accuracy" if data.classes else "mae"]
    first = [one for one in best.about if one["seed"] == rows.seeds[0]]
    metrics["folds"] = [  # by the plan's name: a fit that was taken over may have another there
        {"fold": fold.name, **{key: value for key, value in one["metrics"].items() if key != "per_class"}}
        for fold, one in zip(done.plan.protocol.judged, first, strict=True)
    ]
    metrics["chosen_from"] = len(done.keys)
    settings = {
        "head": best.cell.head,
        "seed": int(rows.seeds[0]),
        "folds": done.settings.folds,
        "task": data.task,
        **said,
        "ablation": json.loads(canonical_json(asdict(done.settings))),
    }
    evaluation = Evaluation(predictions, metrics, majority, model)
    write_run(done.folder, data.source.select(best.cell.modalities), evaluation, done.plan.protocol, settings)
