"""Runs an ablation: everything that is not yet fitted, over the cores, kept as it comes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from joblib.externals.loky.process_executor import TerminatedWorkerError

from cache import (
    DataError,
    DataSet,
    FeatureTable,
    PipelineError,
    Progress,
    UsageError,
    canonical_json,
    from_json,
    listing,
    make_folder,
    replacing,
    silent,
    spare,
    tables_of,
    write_json,
)
from fuse.ablation.fits import Fits
from fuse.ablation.keys import SCHEMA, wanted_fits
from fuse.ablation.plan import Cell, Plan, Round, Settings, plan_ablation
from fuse.ablation.results import Results, column, rows_of
from fuse.ablation.work import Data, Failed, Task, Wanted, run_task
from fuse.heads.linear import LinearHead
from fuse.heads.vote import LateHead
from fuse.inputs import Inputs
from fuse.registry import HEADS
from fuse.runs import RUN_FILE, new_folder
from fuse.task import CLASSIFICATION, targets, task_of

STATE_FILE = "ablation.json"
FITS, RESULTS = "fits", "results.csv"
TABLES = ("table.csv", "table.md", "table.tex")
WRITTEN = (RESULTS, "summary.json", "report.html", *TABLES, "metrics.json", "predictions.csv")
"""What an ablation writes, and others might, too."""


@dataclass(frozen=True)
class Done:
    """An ablation whose fits are made.

    `keys` holds by cell the keys of its fits, one a round in the order of the plan, of cells that
    have all of them; `failed` what could not be made.
    """

    folder: Path
    data: Data
    settings: Settings
    plan: Plan
    keys: Mapping[Cell, Sequence[str]]
    failed: Sequence[Failed]
    fitted: int
    reused: int

    def results(self) -> Results:
        """Predictions of all cells whose fits are all there, read from the folder."""
        rows, fits = rows_of(self.data, self.plan), Fits(self.folder / FITS)
        columns = []
        for cell, keys in self.keys.items():
            held = [found for key in keys if (found := fits.read(key)) is not None]
            columns.append(column(cell, held, rows))
        if not columns:
            reasons = sorted({one.reason for one in self.failed})
            raise DataError(f"no head could be fitted: {listing(reasons)}")
        return Results(rows, tuple(columns), self.data.table.modalities)


def read_data(source: DataSet, task: str | None = None) -> Data:
    """The labelled rows of a data set in memory; of a cross-fitted one each tuned modality K times, the others once.

    Raises:
        DataError: no labelled rows, numbers that are not finite, labels that do not fit the task.
    """
    source = source[source.labelled]
    tables = tables_of(source)
    if not len(source):
        raise DataError(f"{source.name} has no labelled rows: see --columns label=...")
    kind = task_of(tables[0].y, task)
    y, classes = targets(tables[0], kind), tables[0].classes if kind == CLASSIFICATION else ()
    parts: list[Data] = []
    for table in tables:
        values = {name: _shared(parts, table, name) for name in table.modalities}
        parts.append(Data(table, Inputs(values, table.masks, groups=table.groups), y, classes, kind))
    return parts[0] if len(parts) == 1 else replace(parts[0], source=source, folds=tuple(parts))


def _shared(earlier: Sequence[Data], table: FeatureTable, modality: str) -> np.ndarray:
    """Vectors of a modality; the very array of an earlier fold that has the same encoder."""
    block = table.view.blocks[modality]
    for part in earlier:
        other = part.table.view.blocks[modality]
        same = (other.encoder, other.output) == (block.encoder, block.output)
        if same and np.array_equal(other.items, block.items) and np.array_equal(other.state, block.state):
            return part.inputs.values[modality]
    return _vectors(table, modality)


def _vectors(table: FeatureTable, modality: str) -> np.ndarray:
    values = table.block(modality)
    values = values.astype(np.float32) if values.dtype == np.float16 else values
    wrong = ~np.isfinite(values).all(axis=1)
    if wrong.any():
        raise DataError(
            f"{int(wrong.sum())} rows of {table.name} hold NaN or infinity in their {modality} vectors: "
            f"{listing(table.ids[wrong])}; `cache verify` finds what is damaged"
        )
    return values


Prepared = tuple[Plan, Mapping[tuple[Cell, int], Wanted]]


def prepare(data: Data, settings: Settings) -> Prepared:
    """The plan and its fits; nothing is written, and whatever is wrong with the settings is raised."""
    plan = plan_ablation(data.source, settings, data.task)
    return plan, wanted_fits(data, settings, plan)


def run_ablation(
    data: Data,
    settings: Settings,
    folder: Path,
    jobs: int | None = None,
    progress: Progress = silent,
    prepared: Prepared | None = None,
) -> Done:
    """Makes the fits that `folder`, or an ablation beside it, does not hold, and writes `results.csv` as they come.

    Args:
        data: from `read_data`.
        settings: what is compared.
        folder: of the ablation.
        jobs: processes; None takes one a core. More than one of them needs the CPU as device.
        progress: told after each task, in fits.
        prepared: from `prepare`, where the caller has it already.
    """
    plan, wanted = prepared or prepare(data, settings)
    fits = Fits(folder / FITS)
    fits.make()
    beside = [Fits(path) for path in sorted(folder.parent.glob(f"*/{FITS}")) if path.parent != folder]
    held: dict[str, Mapping[str, Any]] = {}
    for key in {one.key for one in wanted.values()}:
        found = fits.adopt(key, beside)
        if found is not None:
            held[key] = found.about
    missing = {place: one for place, one in wanted.items() if one.key not in held}
    sink = _Results(folder / RESULTS, plan, {place: one.key for place, one in wanted.items()})
    reused, failed, count = len(held), [], 0
    tasks = _tasks(plan, missing, jobs or joblib.cpu_count())
    total = sum(len(task.wanted) for task in tasks)
    for task, lost in _worked(data, settings, tasks, folder / FITS, jobs):
        failed += lost
        for one in task.wanted:
            found = fits.read(one.key)
            if found is not None:
                held[one.key] = found.about
        count += len(task.wanted)
        sink.write(held)
        progress("fit", count, total)
    sink.write(held)
    by_cell = {cell: [wanted[cell, number].key for number in range(len(plan.rounds))] for cell in plan.cells}
    whole = {cell: own for cell, own in by_cell.items() if all(key in held for key in own)}
    return Done(folder, data, settings, plan, whole, tuple(failed), total - len(failed), reused)


def _tasks(plan: Plan, missing: Mapping[tuple[Cell, int], Wanted], jobs: int) -> list[Task]:
    """Fits by fold: those that share what they compute together, the others in parts that keep the cores busy."""
    found: list[Task] = []
    first = {one.key: place for place, one in reversed(list(missing.items()))}  # of equal fits, only one is made
    apart = max(1, -(-4 * jobs // len(plan.rounds)))
    for number, round_ in enumerate(plan.rounds):
        wanted = [one for place, one in missing.items() if place[1] == number and first[one.key] == place]
        sharing = [one for one in wanted if _shares(one.cell)]
        others = [one for one in wanted if not _shares(one.cell)]
        parts = [sharing, *(others[start::apart] for start in range(apart))]
        found += [Task(round_, tuple(part)) for part in parts if part]
    # What is long comes first, so that the cores finish together.
    return sorted(found, key=lambda task: _shares(task.wanted[0].cell))


def _shares(cell: Cell) -> bool:
    """Whether what its fits compute is of use to others: logistic and ridge regressions."""
    return issubclass(HEADS[cell.head].any_class, LinearHead | LateHead)


def _worked(
    data: Data, settings: Settings, tasks: Sequence[Task], folder: Path, jobs: int | None
) -> Iterator[tuple[Task, list[Failed]]]:
    """Tasks as they are done; workers share the arrays of `data`, and compute on one thread each."""
    count = min(jobs or joblib.cpu_count(), max(len(tasks), 1)) if settings.device == "cpu" else 1
    if count == 1:
        for task in tasks:
            yield task, run_task(data.of(task.round.fold), settings, task, folder)
        return
    try:
        with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
            run = joblib.Parallel(n_jobs=count, return_as="generator_unordered", batch_size=1)
            yield from run(
                joblib.delayed(_numbered_task)(data.of(task.round.fold), settings, task, folder) for task in tasks
            )
    except TerminatedWorkerError as error:
        raise PipelineError(
            "a worker process ended, perhaps killed for want of memory; what was fitted is kept, run the same "
            f"command again with fewer --jobs than {count}"
        ) from error


def _numbered_task(data: Data, settings: Settings, task: Task, folder: Path) -> tuple[Task, list[Failed]]:
    return task, run_task(data, settings, task, folder)


class _Results:
    """`results.csv`: one row a head x modalities x seed x fold, in the order of the plan."""

    def __init__(self, path: Path, plan: Plan, keys: Mapping[tuple[Cell, int], str]) -> None:
        self._path, self._plan, self._keys = path, plan, keys

    def write(self, held: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes the file anew with all fits that there are."""
        rows = [
            result_row(cell, round_, held[self._keys[cell, number]])
            for cell in self._plan.cells
            for number, round_ in enumerate(self._plan.rounds)
            if not cell.control and self._keys[cell, number] in held
        ]
        if not rows:
            return
        with replacing(self._path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def result_row(cell: Cell, round_: Round, about: Mapping[str, Any]) -> dict[str, Any]:
    """One row of `results.csv`."""
    metrics = {name: value for name, value in about["metrics"].items() if name not in ("per_class", "n")}
    recall = {f"recall_{label}": one["recall"] for label, one in about["metrics"].get("per_class", {}).items()}
    return {
        "head": cell.head,
        "modalities": "+".join(cell.modalities),
        "seed": round_.seed,
        "split_seed": round_.split_seed,
        "fold": round_.fold.name,
        "n_train": about["n_train"],
        "n_test": about["n_test"],
        **metrics,
        **recall,
        "temperature": about["temperature"],
        "params": json.dumps(about["params"], sort_keys=True),
        **{name: round(about[name], 4) for name in ("fit_seconds", "search_seconds", "predict_seconds")},
        "weights": about["weights"],
    }


def open_folder(data: Data, settings: Settings, out: Path | None, root: Path) -> Path:
    """The folder of an ablation, and its state written down.

    `out` may hold an ablation of the same data: its fits are used again. Without `out` an
    unfinished ablation of the same data and settings goes on, else a new folder is made.

    Raises:
        UsageError: `out` holds another run, an ablation of other data, or files of something else.
    """
    state = {
        "schema": SCHEMA,
        "data": data.source.name,
        "data_digest": data.source.digest,
        "settings": json.loads(canonical_json(asdict(settings))),
    }
    if out is None:
        found = [path.parent for path in sorted(root.glob(f"*/{STATE_FILE}"))]
        going_on = [folder for folder in found if not (folder / RUN_FILE).exists() and _is_of(folder, state)]
        folder = going_on[-1] if going_on else new_folder(f"{data.source.name}-ablation", root)
    else:
        folder = out
        _refuse_other(folder, state)
    make_folder(folder)
    (folder / RUN_FILE).unlink(missing_ok=True)  # it says that all is there
    write_json(folder / STATE_FILE, state)
    return folder


def _is_of(folder: Path, state: Mapping[str, Any]) -> bool:
    """Whether a folder holds an ablation of this data and these settings; one that cannot be read does not."""
    try:
        found = _state(folder) or {}
    except UsageError:
        return False
    return {name: found.get(name) for name in state} == state


def _refuse_other(folder: Path, state: Mapping[str, Any]) -> None:
    found = _state(folder)
    if found is None:
        if (folder / RUN_FILE).exists():
            raise UsageError(f"{folder} holds the run of a head; choose another --out")
        spare(folder, STATE_FILE, WRITTEN)
        return
    if found.get("data_digest") != state["data_digest"]:
        raise UsageError(
            f"{folder} holds an ablation of {found.get('data')} as it was then (digest {found.get('data_digest')}); "
            f"{state['data']} is {state['data_digest']} now; choose another --out"
        )


def _state(folder: Path) -> dict[str, Any] | None:
    try:
        content = from_json((folder / STATE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / STATE_FILE} cannot be read: {error}; choose another --out") from error
    return content if isinstance(content, dict) else {}
