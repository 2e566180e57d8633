"""One task of an ablation: cells that are fitted to the same fold, and what is kept of each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from cache import DataSet, FeatureTable, PipelineError, tables_of
from fuse.ablation.fits import Fit, Fits
from fuse.ablation.plan import Cell, Round, Settings, make
from fuse.ablation.search import candidates, search
from fuse.calibration import probability_metrics
from fuse.controls import noise, shuffled
from fuse.estimators import FusionHead
from fuse.evaluate import labelled_by
from fuse.gradient import GradientHead
from fuse.inputs import Inputs
from fuse.memo import Memo
from fuse.metrics import classification_metrics, regression_metrics
from fuse.registry import HEADS
from fuse.splits import Fold


@dataclass(frozen=True)
class Data:
    """The labelled rows, read once; arrays are shared with the workers.

    `table` gives tokens to the heads that read them; `y` are labels, or numbers in regression. Of a cross-fitted
    data set `folds` holds the same of each fold's table, `of` chooses among them, and `table` and `inputs` are those
    of fold 0: for what all folds share, and for what one table must stand for.
    """

    source: DataSet
    inputs: Inputs
    y: np.ndarray
    classes: tuple[str, ...]
    task: str
    folds: tuple[Data, ...] = ()

    @property
    def table(self) -> FeatureTable:
        """The table; of a cross-fitted data set that of fold 0."""
        return tables_of(self.source)[0]

    def of(self, fold: Fold) -> Data:
        """What a fold is fitted and judged on."""
        return self.folds[fold.table] if self.folds else self


@dataclass(frozen=True)
class Wanted:
    """One fit that is to be made. `calibrate` tells whether a temperature is fitted, too."""

    key: str
    cell: Cell
    calibrate: bool


@dataclass(frozen=True)
class Task:
    """Fits of one fold."""

    round: Round
    wanted: tuple[Wanted, ...]


@dataclass(frozen=True)
class Failed:
    """A fit that could not be made."""

    cell: Cell
    round: Round
    reason: str


def run_task(data: Data, settings: Settings, task: Task, folder: Path) -> list[Failed]:
    """Makes the fits of a task and keeps each as soon as it is made.

    Args:
        data: of the fold of the task, see `Data.of`.
        settings: what is compared.
        task: the fits.
        folder: where they are kept.

    Returns:
        Those that could not be made, such as a head that this fold gives too little.
    """
    failed, fits = [], Fits(folder)
    if any(issubclass(HEADS[one.cell.head].any_class, GradientHead) for one in task.wanted):
        from fuse.training import warm_up

        warm_up()
    fold = task.round.fold
    with threadpool_limits(1):
        train = replace(data.inputs.keep(fold.train), memo=Memo())
        test = data.inputs.keep(fold.test)
        for wanted in task.wanted:
            try:
                fits.write(wanted.key, _Fitting(data, settings, task.round, wanted).run(train, test))
            except (PipelineError, ValueError) as error:  # sklearn's own word for data it cannot use
                failed.append(Failed(wanted.cell, task.round, str(error)))
    return failed


class _Fitting:
    """One fit as it is made."""

    def __init__(self, data: Data, settings: Settings, round_: Round, wanted: Wanted) -> None:
        self._data, self._settings, self._round, self._wanted = data, settings, round_, wanted
        self._cell = wanted.cell
        self._y = data.y[round_.fold.train]
        self._truth = data.y[round_.fold.test]

    def run(self, train: Inputs, test: Inputs) -> Fit:
        """Fits, judges, and tells what it cost."""
        X, X_test = self._features(train, self._round.fold.train, 0), self._features(test, self._round.fold.test, 1)
        saved, started = _saved(train), time.perf_counter()
        found = self._searched(X)
        searched = time.perf_counter() - started + _saved(train) - saved
        head = self._build(found.params if found else {})
        saved, started = _saved(train), time.perf_counter()
        head.fit(X, self._y)
        fitted = time.perf_counter() - started + _saved(train) - saved
        started = time.perf_counter()
        label, proba = labelled_by(head, X_test)
        predicted = time.perf_counter() - started
        about = {
            **_said(self._cell, self._round),
            "n_train": len(self._y),
            "n_test": len(self._truth),
            "metrics": self._metrics(label, proba, head),
            "params": dict(found.params) if found else {},
            "tried": list(found.tried) if found else [],
            "temperature": found.temperature if found and self._wanted.calibrate else None,
            "fit_seconds": fitted,
            "search_seconds": searched,
            "predict_seconds": predicted,
            "weights": numbers_in(head),
        }
        arrays = {"label": self._numbers(label), **self._hidden(head, X_test)}
        if self._data.classes:
            arrays["proba"] = self._spread(proba, head).astype(np.float32)
        if isinstance(head, GradientHead):
            arrays["history"] = head.history_
        return Fit(about, arrays)

    def _build(self, params: Mapping[str, Any]) -> FusionHead:
        return make(self._settings, self._cell, self._data.task, self._round.seed).set_params(**params)

    def _features(self, rows: Inputs, numbers: np.ndarray, part: int) -> Any:
        """The cell's modalities of some rows; a control's are spoilt, training and test rows each by themselves."""
        if HEADS[self._cell.head].reads_tokens:
            return self._data.table.select(self._cell.modalities)[numbers]
        chosen = rows.only(self._cell.modalities)
        if not self._cell.control:
            return chosen
        spoil = {"shuffled": shuffled, "noise": noise}[self._cell.control]
        key = (self._cell.control, self._cell.spoilt)
        memo = None if rows.memo is None else rows.memo.part(key)
        return replace(spoil(chosen, self._cell.spoilt, 2 * self._round.seed + part), memo=memo)

    def _searched(self, X: Any) -> Any:
        fixed = self._settings.params.get(self._cell.head, {})
        tried = candidates(self._build({}), self._settings.grid, fixed)
        if len(tried) == 1 and not self._wanted.calibrate:
            return None
        groups = self._data.inputs.row_groups()[self._round.fold.train]
        return search(self._build, tried, X, self._y, groups)

    def _metrics(self, label: np.ndarray, proba: np.ndarray, head: FusionHead) -> dict[str, Any]:
        if not self._data.classes:
            return regression_metrics(self._truth, label)
        found = classification_metrics(self._truth, label, self._data.classes)
        return found | probability_metrics(self._truth, self._spread(proba, head), self._data.classes)

    def _numbers(self, label: np.ndarray) -> np.ndarray:
        if not self._data.classes:
            return label.astype(np.float64)
        return np.searchsorted(np.array(self._data.classes), label).astype(np.int32)

    def _spread(self, proba: np.ndarray, head: Any) -> np.ndarray:
        """Probabilities in the order of all classes, `(n, K)`; 0 for one that the training rows lack."""
        out = np.zeros((len(proba), len(self._data.classes)))
        out[:, np.searchsorted(np.array(self._data.classes), head.classes_)] = proba
        return out

    def _hidden(self, head: FusionHead, X_test: Any) -> dict[str, np.ndarray]:
        """Input knockout: labels with a modality hidden from the head that was fitted on all of the cell's."""
        if len(self._cell.modalities) == 1 or self._cell.control or not isinstance(X_test, Inputs):
            return {}
        return {
            f"hidden {name}": self._numbers(labelled_by(head, X_test.without([name]))[0])
            for name in self._cell.modalities
        }


def _saved(rows: Inputs) -> float:
    return 0.0 if rows.memo is None else rows.memo.clock.saved


def _said(cell: Cell, round_: Round) -> dict[str, Any]:
    return {
        "head": cell.head,
        "modalities": list(cell.modalities),
        "control": cell.control,
        "spoilt": cell.spoilt,
        "seed": round_.seed,
        "split_seed": round_.split_seed,
        "fold": round_.fold.name,
    }


def numbers_in(value: Any) -> int:
    """How many learned numbers a fitted head holds, those of the heads in it too."""
    if isinstance(value, FusionHead):
        learned = {name: one for name, one in vars(value).items() if name.endswith("_") and name not in _NO_WEIGHTS}
        return numbers_in(learned)
    if isinstance(value, np.ndarray):
        return value.size if value.dtype.kind == "f" else 0
    if isinstance(value, Mapping):
        return sum(map(numbers_in, value.values()))
    if isinstance(value, list):
        return sum(map(numbers_in, value))
    return 0


_NO_WEIGHTS = ("history_", "prior_", "scaler_")
