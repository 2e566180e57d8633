"""Predictions of all configurations on the same rows, ready to be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cache import DataError, UsageError, replacing
from fuse.ablation.fits import Fit, Fits
from fuse.ablation.plan import Cell, Plan
from fuse.ablation.work import Data
from fuse.calibration import probability_metrics
from fuse.metrics import classification_metrics, regression_metrics

ROWS_FILE = "rows.npz"


@dataclass(frozen=True)
class Rows:
    """The `n` judged rows under S seeds.

    `true` holds class numbers, or numbers in regression; `fold`, `(S, n)`, the number of the fold that
    judged each row; `majority`, `(S, n)`, what the most frequent training label, or the mean, predicts.
    `test_share` is the share of the rows that a fold tests.
    """

    ids: np.ndarray
    true: np.ndarray
    groups: np.ndarray
    fold: np.ndarray
    majority: np.ndarray
    seeds: np.ndarray
    classes: np.ndarray
    test_share: float

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def classify(self) -> bool:
        """Whether there are classes."""
        return len(self.classes) > 0

    def metrics(self, label: np.ndarray) -> dict[str, Any]:
        """Metrics of labels `(n,)`, numbers of classes or values."""
        if not self.classify:
            return regression_metrics(self.true, label)
        return classification_metrics(self.classes[self.true], self.classes[label], self.classes.tolist())

    def take(self, places: np.ndarray, seeds: np.ndarray) -> Rows:
        """Some of the rows, under some of the seeds; both by their places."""
        chosen = np.ix_(seeds, places)
        return replace(
            self,
            ids=self.ids[places],
            true=self.true[places],
            groups=self.groups[places],
            fold=self.fold[chosen],
            majority=self.majority[chosen],
            seeds=self.seeds[seeds],
        )


@dataclass(frozen=True)
class Column:
    """One configuration: the labels that it gave, `(S, n)`, and what is known of its fits.

    `proba` has shape `(S, n, K)`, K 0 in regression; `hidden` holds labels with a modality hidden;
    `about` what each fit says, seed by seed and fold by fold.
    """

    cell: Cell
    rows: Rows
    label: np.ndarray
    proba: np.ndarray
    hidden: Mapping[str, np.ndarray]
    about: Sequence[Mapping[str, Any]]
    history: np.ndarray | None
    run: str = ""

    def __str__(self) -> str:
        return f"{self.cell} ({self.run})" if self.run else str(self.cell)

    @cached_property
    def score(self) -> np.ndarray:
        """Of each seed and row, `(S, n)`: 1 where the label is right; in regression minus the absolute error."""
        if self.rows.classify:
            return (self.label == self.rows.true).astype(np.float64)
        return -np.abs(self.label - self.rows.true)

    @cached_property
    def by_fold(self) -> np.ndarray:
        """Mean score of each fold of each seed, `(J,)`; of folds that all seeds share, the mean over the seeds.

        What is tested are differences between draws of the rows: repeats on the same draw are no more of them.
        """
        scores, folds = self.score, self.rows.fold
        if (folds == folds[0]).all():
            scores, folds = scores.mean(axis=0, keepdims=True), folds[:1]
        found = []
        for score, fold in zip(scores, folds, strict=True):
            found += [score[fold == number].mean() for number in np.unique(fold)]
        return np.array(found)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Metrics of all rows together, by seed."""
        return [self.rows.metrics(label) for label in self.label]

    def take(self, rows: Rows, places: np.ndarray, seeds: np.ndarray) -> Column:
        """The same on some of the rows, which are given, and under some of the seeds; each fold is judged anew."""
        chosen = np.ix_(seeds, places)
        hidden = {name: label[chosen] for name, label in self.hidden.items()}
        label, proba = self.label[chosen], self.proba[chosen]
        about = []
        for s, seed in enumerate(rows.seeds.tolist()):
            for number, one in enumerate(fit for fit in self.about if fit["seed"] == seed):
                judged = np.flatnonzero(rows.fold[s] == number)
                part = rows.take(judged, np.array([s]))
                about.append({**one, "metrics": _metrics(part, label[s, judged], proba[s, judged], one["metrics"])})
        return replace(self, rows=rows, label=label, proba=proba, hidden=hidden, about=about)


def _metrics(rows: Rows, label: np.ndarray, proba: np.ndarray, before: Mapping[str, Any]) -> dict[str, Any]:
    """Those of one fit on some of the rows that it judged; each is None where there are no such rows."""
    if not len(rows):
        return dict.fromkeys(before)
    found = rows.metrics(label)
    if rows.classify:
        found |= probability_metrics(rows.classes[rows.true], proba, rows.classes.tolist())
    return found


@dataclass(frozen=True)
class Results:
    """What several configurations predicted; `modalities` are all that there are."""

    rows: Rows
    columns: tuple[Column, ...]
    modalities: tuple[str, ...]


def rows_of(data: Data, plan: Plan) -> Rows:
    """The rows that the rounds of an ablation judge; the same ones for every seed."""
    seeds = list(dict.fromkeys(round_.seed for round_ in plan.rounds))
    rounds = {seed: [one for one in plan.rounds if one.seed == seed] for seed in seeds}
    judged = np.sort(np.concatenate([one.fold.test for one in rounds[seeds[0]]]))
    true = np.searchsorted(np.array(data.classes), data.y) if data.classes else data.y
    fold = np.empty((len(seeds), len(judged)), dtype=np.int64)
    majority = np.empty(fold.shape, dtype=true.dtype)
    for s, seed in enumerate(seeds):
        for number, round_ in enumerate(rounds[seed]):
            places = np.searchsorted(judged, round_.fold.test)
            fold[s, places], majority[s, places] = number, _usual(true[round_.fold.train])
    first = plan.rounds[0].fold
    return Rows(
        data.table.ids[judged],
        true[judged],
        data.table.groups[judged],
        fold,
        majority,
        np.array(seeds),
        np.array(data.classes),
        len(first.test) / (len(first.test) + len(first.train)),
    )


def _usual(train: np.ndarray) -> Any:
    """The most frequent class, or the mean."""
    return train.mean() if train.dtype.kind == "f" else np.bincount(train).argmax()


def write_rows(folder: Path, rows: Rows) -> None:
    """Keeps the rows beside the fits, so that a report needs nothing else."""
    with replacing(folder / ROWS_FILE) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **asdict(rows))


def read_rows(folder: Path) -> Rows:
    """The rows that `write_rows` kept.

    Raises:
        UsageError: there are none.
    """
    try:
        with np.load(folder / ROWS_FILE, allow_pickle=False) as file:
            found = {one.name: file[one.name] for one in fields(Rows)}
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{folder} holds no finished ablation ({error}); run ablate again with --out {folder}"
        ) from error
    return Rows(**{**found, "test_share": float(found["test_share"])})


def column(cell: Cell, fits: Sequence[Fit], rows: Rows, run: str = "") -> Column:
    """A configuration from its fits, one a fold of each seed, in that order."""
    places = [(s, rows.fold[s] == number) for s in range(len(rows.seeds)) for number in np.unique(rows.fold[s])]

    def together(name: str) -> np.ndarray:
        first = fits[0].arrays[name]
        out = np.empty((len(rows.seeds), len(rows), *first.shape[1:]), dtype=first.dtype)
        for (s, judged), fit in zip(places, fits, strict=True):
            out[s, judged] = fit.arrays[name]
        return out

    proba = together("proba") if rows.classify else np.empty((len(rows.seeds), len(rows), 0))
    hidden = {name.removeprefix("hidden "): together(name) for name in fits[0].arrays if name.startswith("hidden ")}
    about = [{**fit.about, "seed": int(rows.seeds[s])} for (s, _), fit in zip(places, fits, strict=True)]
    return Column(cell, rows, together("label"), proba, hidden, about, fits[0].arrays.get("history"), run)


def read_results(folder: Path, state: Mapping[str, Any], fits_folder: str, run: str = "") -> Results:
    """What a finished ablation left in its folder.

    Raises:
        UsageError: something of it is missing.
    """
    rows, fits = read_rows(folder), Fits(folder / fits_folder)
    columns = []
    for said in state["cells"]:
        cell = Cell(said["head"], tuple(said["modalities"]), said["control"], said["spoilt"])
        held = [fits.read(key) for key in said["keys"]]
        if None in held:
            raise UsageError(f"{folder} lacks fits of {cell}; run ablate again with --out {folder}")
        columns.append(column(cell, [fit for fit in held if fit is not None], rows, run))
    return Results(rows, tuple(columns), tuple(state["modalities"]))


def joined(parts: Sequence[Results]) -> Results:
    """Several ablations of the same rows, such as one an encoder, on the rows and seeds that all have.

    Raises:
        DataError: they share no rows or seeds, or differ in labels.
    """
    first = parts[0].rows
    ids, seeds = set(first.ids.tolist()), set(first.seeds.tolist())
    for part in parts[1:]:
        if part.rows.classes.tolist() != first.classes.tolist():
            raise DataError(
                f"the runs have other classes: {first.classes.tolist()} and {part.rows.classes.tolist()}; "
                "join ablations of the same data and task"
            )
        ids &= set(part.rows.ids.tolist())
        seeds &= set(part.rows.seeds.tolist())
    if not ids or not seeds:
        raise DataError(
            f"the runs have {len(ids)} judged rows and {len(seeds)} seeds in common; join runs that have some"
        )
    kept = np.array([one for one in first.ids.tolist() if one in ids])
    shown = np.array([one for one in first.seeds.tolist() if one in seeds])
    columns: list[Column] = []
    whole: Rows | None = None
    for part in parts:
        place = {one: number for number, one in enumerate(part.rows.ids.tolist())}
        places = np.array([place[one] for one in kept.tolist()])
        chosen = np.array([part.rows.seeds.tolist().index(one) for one in shown.tolist()])
        rows = part.rows.take(places, chosen)
        whole = rows if whole is None else whole
        if not np.array_equal(rows.true, whole.true):
            wrong = rows.ids[rows.true != whole.true]
            raise DataError(f"{len(wrong)} rows have another label in another run: {wrong[:20].tolist()}")
        # Fold by fold their rows may differ; what is compared are rows, in the groups of the first run.
        columns += [one.take(replace(rows, groups=whole.groups), places, chosen) for one in part.columns]
    modalities = tuple(dict.fromkeys(name for part in parts for name in part.modalities))
    return Results(columns[0].rows, tuple(columns), modalities)


def as_json(cells: Mapping[Cell, Sequence[str]]) -> list[dict[str, Any]]:
    """Cells and the keys of their fits, as `ablation.json` keeps them."""
    return [json.loads(json.dumps({**asdict(cell), "keys": list(keys)})) for cell, keys in cells.items()]
