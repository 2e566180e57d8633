"""A run: one head trained, judged and kept in a folder of its own."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache import (
    DataSet,
    FeatureTable,
    PipelineError,
    Progress,
    UsageError,
    check_seal,
    from_json,
    make_folder,
    new_folder,
    silent,
    spare,
    tables_of,
    with_seal,
    write_json,
)
from fuse.bundle import RUN_SCHEMA
from fuse.bundle import load as load_bundle
from fuse.bundle import save as save_bundle
from fuse.estimators import FusionHead
from fuse.evaluate import Evaluation, evaluate, labelled_in_parts, task_for
from fuse.leaks import refuse_tuned, without_tuned
from fuse.memory import Planned, part_rows, plan_fit, rows_at_once
from fuse.registry import make_classifier, make_regressor
from fuse.report.files import write_judged, write_predictions
from fuse.splits import Protocol, protocol_for
from fuse.task import CLASSIFICATION, task_of

RUN_FILE = "run.json"
RUN_NAMES = {
    "schema",
    "created",
    "settings",
    "data",
    "data_digest",
    "protocol",
    "model",
    "classes",
    "encoders",
    "versions",
}
_ENCODER_FIELDS = {"encoder", "output", "dim", "spec"}
PACKAGES = ("numpy", "scikit-learn", "torch", "h5py", "safetensors")


@dataclass(frozen=True)
class Run:
    """A finished run that was read back.

    `encoders` maps each modality to its encoder's `key`, `output`, `dim` and `spec`.
    """

    folder: Path
    model: FusionHead
    encoders: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Judged:
    """One head's evaluation and the folder of its run; `metrics` is what `metrics.json` holds."""

    folder: Path
    evaluation: Evaluation
    protocol: Protocol
    metrics: Mapping[str, Any]


def run_head(
    data: DataSet | Planned,
    head: str,
    params: Mapping[str, Any] | None = None,
    *,
    task: str | None = None,
    seed: int = 0,
    folds: int = 5,
    progress: Progress = silent,
) -> tuple[Evaluation, Protocol]:
    """Judges one head on the labelled rows of a data set.

    Args:
        data: features; rows without a label are left out. Whether vectors stay on disk goes by the memory that is
            found, unless `plan_fit` was asked.
        head: a name of `HEADS`.
        params: parameters of the head.
        task: classification or regression; None goes by the labels, see `task_of`.
        seed: of the folds, where the data gives none, and of the head's initial weights.
        folds: K where the data gives no splits.

    Raises:
        DataError: no labelled rows, or labels and splits that do not fit, see `protocol_for`.
        UsageError: unknown head or parameters.
        TooLarge: see `plan_fit`.
    """
    planned = data if isinstance(data, Planned) else plan_fit(data, head, params)
    labelled: DataSet = planned.data[planned.data.labelled]
    task = task_of(tables_of(labelled)[0].y, task)
    chosen = head_for(head, task, params or {}, seed)
    protocol = protocol_for(labelled, folds, seed, task)
    refuse_tuned(labelled, protocol.judged)
    protocol = without_tuned(labelled, protocol)
    at_once = part_rows(tables_of(labelled)[0]) if planned.out_of_core else None
    return evaluate(chosen, labelled, protocol, progress, planned.out_of_core, at_once), protocol


def head_for(name: str, task: str, params: Mapping[str, Any], seed: int) -> FusionHead:
    """The head of a name for a task, not fitted; `seed` is that of its chance unless the parameters say so.

    Raises:
        UsageError: unknown head or parameters.
    """
    make = make_classifier if task == CLASSIFICATION else make_regressor
    head: FusionHead = make(name, **dict(params))
    if "random_state" in head.get_params() and "random_state" not in params:
        head.set_params(random_state=seed)
    return head


def judge(
    data: DataSet | Planned,
    head: str,
    params: Mapping[str, Any] | None = None,
    *,
    store: Path,
    out: Path | None = None,
    task: str | None = None,
    seed: int = 0,
    folds: int = 5,
    progress: Progress = silent,
) -> Judged:
    """Judges one head on the modalities that it reads, and writes its run.

    Args:
        data, head, params, task, seed, folds: as in `run_head`.
        store: where the data comes from, for the record.
        out: folder of the run; None makes a new one under `runs`.

    Raises:
        UsageError: `out` holds a run already; see also `run_head`.
    """
    if out is not None:
        check_free(out)
    planned = data if isinstance(data, Planned) else plan_fit(data, head, params)
    evaluation, protocol = run_head(planned, head, params, task=task, seed=seed, folds=folds, progress=progress)
    data = planned.data
    folder = out or new_folder(f"{data.name}-{head}")
    settings = {"head": head, "params": dict(params or {}), "seed": seed, "folds": folds, "store": str(store)}
    settings["task"] = task_for(evaluation.model)
    if planned.out_of_core:
        settings["out_of_core"] = {"needed_bytes": planned.needed, "memory_bytes": round(planned.room.bytes)}
    metrics = write_run(folder, data, evaluation, protocol, settings)
    return Judged(folder, evaluation, protocol, metrics)


def predict(model: FusionHead, table: FeatureTable, output: Path, memory: float | None = None) -> dict[str, Any]:
    """Writes `id, label, p_<class>...` for each row, in regression `id, label`.

    Args:
        model: a fitted head.
        table: the rows.
        output: the file.
        memory: bytes that may be taken; None takes what is found. Rows that do not fit are predicted in parts.

    Returns:
        `rows`, and what the labels are: `labels`, how many rows got each, or `mean`, `least` and
        `largest` of the numbers (None without rows).
    """
    labels, proba = labelled_in_parts(model, table, rows_at_once(model, table, memory))
    classes = [str(one) for one in getattr(model, "classes_", ())]
    write_predictions(output, table.ids, labels, proba, classes)
    if classes:
        return {"rows": len(labels), "labels": {one: int((labels == one).sum()) for one in classes}}
    spread = (labels.mean(), labels.min(), labels.max()) if len(labels) else (None, None, None)
    return {"rows": len(labels), **dict(zip(("mean", "least", "largest"), spread, strict=True))}


def check_free(folder: Path) -> None:
    """Raises a UsageError when the folder holds a run already, or files of others: nothing is ever overwritten."""
    if (folder / RUN_FILE).exists():
        raise UsageError(f"{folder} holds a run already; choose another --out or remove it")
    spare(folder, "metrics.json", ["predictions.csv"])  # which a run that was stopped wrote first


def write_run(
    folder: Path, data: DataSet, evaluation: Evaluation, protocol: Protocol, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes `metrics.json`, `predictions.csv`, `model/` and, when all is there, `run.json`.

    The encoders that `run.json` names, by which `predict` goes, are those of the model: of a cross-fitted data set
    those of fold 0.

    Args:
        settings: at least `head`, `seed` and `store`; kept as they are, with the `columns` of the data beside them.

    Returns:
        What `metrics.json` holds.
    """
    check_free(folder)
    make_folder(folder)
    table = tables_of(data)[0]
    metrics = {
        **evaluation.metrics,
        "protocol": protocol.name,
        "model": protocol.model,
        "task": task_for(evaluation.model),
        "head": settings["head"],
        "modalities": list(table.modalities),
        "seed": settings["seed"],
        **({"out_of_core": True} if "out_of_core" in settings else {}),
    }
    write_json(folder / "metrics.json", metrics)
    write_judged(folder / "predictions.csv", table[table.labelled].ids, evaluation.predictions)
    save_bundle(evaluation.model, folder / "model")
    blocks = table.view.blocks
    about = with_seal(
        {
            "schema": RUN_SCHEMA,
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "settings": {**settings, "columns": _content_columns(table)},
            "data": data.name,
            "data_digest": data.digest,
            "protocol": protocol.description,
            "model": protocol.model,
            "classes": list(table.classes),
            "encoders": {
                name: {key: getattr(blocks[name], key) for key in ("encoder", "output", "dim", "spec")}
                for name in table.modalities
            },
            "versions": versions(),
        }
    )
    write_json(folder / RUN_FILE, about)
    return metrics


def _content_columns(table: FeatureTable) -> dict[str, str]:
    """The columns that the user named for what was encoded; of new data the same ones are meant."""
    named = table.view.source.get("named", {})
    return {role: column for role, column in named.items() if role == "words" or role in table.modalities}


@functools.cache
def versions() -> dict[str, str]:
    """Versions of this program and of what results depend on."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"encode-once": encode_once_version(), "python": platform.python_version(), **found}


def encode_once_version() -> str:
    """Version of this program; a checkout that was not installed says so."""
    try:
        return importlib.metadata.version("encode-once")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def load_run(folder: str | Path) -> Run:
    """Reads a finished run.

    Raises:
        UsageError: the folder holds no finished run.
        PipelineError: its model is damaged.
    """
    folder = Path(folder)
    try:
        content = from_json((folder / RUN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder} holds no finished run (looked for {RUN_FILE}); give a folder that fuse wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / RUN_FILE} cannot be read: {error}") from error
    if not isinstance(content, dict) or "schema" not in content:
        raise UsageError(f"{folder / RUN_FILE} is damaged; run fuse again")
    if content["schema"] != RUN_SCHEMA:
        raise PipelineError(f"{folder} has schema {content['schema']!r}, this version reads {RUN_SCHEMA}")
    try:
        check_seal(content, RUN_NAMES)
    except ValueError as error:
        raise UsageError(f"{folder / RUN_FILE} is damaged ({error}); run fuse again") from error
    encoders, settings = content["encoders"], content["settings"]
    if not isinstance(encoders, dict) or not isinstance(settings, dict) or not _are_columns(settings.get("columns")):
        raise UsageError(f"{folder / RUN_FILE} is damaged; run fuse again")
    if not all(
        isinstance(one, dict) and set(one) >= _ENCODER_FIELDS and isinstance(one["spec"], dict)
        for one in encoders.values()
    ):
        raise UsageError(f"{folder / RUN_FILE} is damaged; run fuse again")
    return Run(folder, load_bundle(folder / "model"), encoders, settings)


def _are_columns(said: Any) -> bool:
    """Whether it is what `_content_columns` gives; runs of before said nothing."""
    return said is None or (isinstance(said, dict) and all(isinstance(part, str) for part in said.values()))
