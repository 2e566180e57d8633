"""An ablation in numbers: `summary.json`, from which the report is made."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fuse.ablation.results import Column, Results, Rows
from fuse.calibration import Reliability, expected_calibration_error, reliability, tempered
from fuse.compare import (
    Bootstrap,
    corrected_resampled_t,
    detectable_by_folds,
    detectable_difference,
    detectable_mean,
    holm,
    interval,
    paired_p,
)
from fuse.registry import HEADS

BASELINES = ("logreg", "ridge")
"""Heads that others are compared with, the first that is there; else the first of all."""
POOLED = ("accuracy", "macro_f1", "balanced_accuracy", "weighted_f1")
POOLED_NUMBERS = (
    "mae",
    "rmse",
    "r2",
    "corr",
    "acc7",
    "acc2_has0",
    "acc2_non0",
    "acc2_gt0",
    "f1_has0",
    "f1_non0",
    "f1_gt0",
)
BY_FOLD = ("auroc", "nll", "brier")


class Comparison:
    """All configurations of an ablation, or of several on the same rows, with shared resamples of the rows."""

    def __init__(self, results: Results) -> None:
        columns = results.columns
        self.rows: Rows = results.rows
        self.table = [one for one in columns if not one.cell.control]
        self.controls = [one for one in columns if one.cell.control]
        self._columns = [*self.table, *self.controls]
        self._place = {id(one): number for number, one in enumerate(self._columns)}
        self.modalities = results.modalities
        self.sign = 1.0 if self.rows.classify else -1.0
        """Of differences in the primary metric: accuracy, or the mean absolute error."""
        bootstrap = Bootstrap(self.rows.groups)
        scores = np.concatenate([one.score.T for one in self._columns], axis=1)
        self._means = self.sign * bootstrap.means(scores).reshape(bootstrap.times, len(columns), -1)
        self._f1 = np.empty((0, len(columns), 0))
        if self.rows.classify:
            labels = np.stack([one.label for one in self._columns])
            self._f1 = bootstrap.macro_f1(self.rows.true, labels, len(self.rows.classes))

    @property
    def primary(self) -> str:
        """The metric that decides: `accuracy`, or `mae`."""
        return "accuracy" if self.rows.classify else "mae"

    def draws(self, column: Column) -> np.ndarray:
        """The primary metric on each resample, by seed, `(times, S)`."""
        return self._means[:, self._place[id(column)]]

    def f1_draws(self, column: Column) -> np.ndarray:
        """Macro-F1 on each resample, by seed, `(times, S)`; of classes only."""
        return self._f1[:, self._place[id(column)]]

    def value(self, column: Column) -> float:
        """The primary metric."""
        return self.sign * float(column.score.mean())

    def best(self, columns: Sequence[Column]) -> Column:
        """The one with the best primary metric."""
        return max(columns, key=lambda one: float(one.score.mean()))

    @property
    def baseline(self) -> Column:
        """The linear head on all modalities that others are compared with."""
        whole = [one for one in self.table if one.cell.modalities == self.modalities] or self.table
        named = [one for name in BASELINES for one in whole if one.cell.head == name]
        return (named or whole)[0]

    @property
    def unimodal(self) -> Column | None:
        """The baseline's head on the best single modality."""
        single = [one for one in self.table if len(one.cell.modalities) == 1 and one.run == self.baseline.run]
        named = [one for one in single if one.cell.head == self.baseline.cell.head] or single
        return self.best(named) if named and len(self.modalities) > 1 else None

    def versus(self, column: Column, other: Column) -> dict[str, Any]:
        """How a configuration differs from another, on the same rows.

        `p` is that of the corrected resampled t-test over folds, which alone keeps its promise where
        training sets overlap (`benchmarks/coverage.py`); where the data has one split, or folds differ,
        that of the rows. `p_rows` is always that of the rows, of one seed McNemar's.
        """
        score = column.score - other.score
        low, high = interval(self.draws(column) - self.draws(other))
        p_rows = paired_p(score, self.rows.groups)
        same = np.array_equal(column.rows.fold, other.rows.fold)  # of joined runs, folds may differ
        folds = len(np.unique(column.rows.fold)) > 1 and same
        by_fold = column.by_fold - other.by_fold if folds else np.empty(0)
        t = corrected_resampled_t(by_fold, self.rows.test_share)
        found: dict[str, Any] = {
            "difference": self.sign * float(score.mean()),
            "low": low,
            "high": high,
            "p": p_rows if t is None else t.p,
            "test": "rows" if t is None else "folds",
            "p_rows": p_rows,
            "detectable": self._detectable(score) if t is None else detectable_by_folds(by_fold, self.rows.test_share),
        }
        if self.rows.classify:
            found["discordant"] = float((score != 0).mean())
            found |= self._f1_versus(column, other)
        return found

    def _detectable(self, score: np.ndarray) -> float | None:
        """The least difference that the test of the rows finds in four of five cases."""
        groups = len(np.unique(self.rows.groups))
        if self.rows.classify:
            discordant = float((score != 0).mean())
            return detectable_difference(groups, discordant) if discordant else None
        spread = float(np.std(score.mean(axis=0), ddof=1)) if len(self.rows) > 1 else 0.0
        return detectable_mean(groups, spread) if spread > 0 else None

    def _f1_versus(self, column: Column, other: Column) -> dict[str, Any]:
        mean = np.mean([a["macro_f1"] - b["macro_f1"] for a, b in zip(column.metrics, other.metrics, strict=True)])
        low, high = interval(self.f1_draws(column) - self.f1_draws(other))
        return {"f1_difference": float(mean), "f1_low": low, "f1_high": high}


def table_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One entry a configuration, the best first; p-values adjusted by Holm within each subset of the modalities."""
    found = {id(one): _row(comparison, one) for one in comparison.table}
    references = {"baseline": comparison.baseline, "unimodal": comparison.unimodal}
    families: dict[tuple[str, tuple[str, ...]], list[dict[str, Any]]] = defaultdict(list)
    for one in comparison.table:
        for name, other in references.items():
            versus = None
            fused = name == "baseline" or len(one.cell.modalities) > 1
            if other is not None and other is not one and fused:
                versus = comparison.versus(one, other)
                families[name, one.cell.modalities].append(versus)
            found[id(one)]["versus"][name] = versus
    for family in families.values():
        for kind in ("p", "p_rows"):
            for versus, adjusted in zip(family, holm([one[kind] for one in family]), strict=True):
                versus[f"{kind}_holm"] = float(adjusted)
    order = sorted(comparison.table, key=lambda one: -float(one.score.mean()))
    return [found[id(one)] for one in order]


def _row(comparison: Comparison, column: Column) -> dict[str, Any]:
    cell = column.cell
    params = Counter(json.dumps(one["params"], sort_keys=True) for one in column.about if one["params"])
    row = {
        "run": column.run,
        "head": cell.head,
        "modalities": list(cell.modalities),
        "formula": HEADS[cell.head].formula,
        "fits": len(column.about),
        "metrics": metrics_of(comparison, column),
        "cost": {name: float(np.mean([one[name] for one in column.about])) for name in COSTS},
        "params": {_readable(chosen): count for chosen, count in params.most_common()},
        "learning": None if column.history is None else [[a, b if np.isfinite(b) else None] for a, b in column.history],
        "knockout": {name: _means(column.rows, labels) for name, labels in column.hidden.items()},
        "versus": {},
    }
    if column.rows.classify:
        confusion = _confusion(column)
        row["confusion"] = confusion.tolist()
        row["recall"] = {
            str(name): float(line[number] / line.sum()) if line.sum() else None
            for number, (name, line) in enumerate(zip(column.rows.classes.tolist(), confusion, strict=True))
        }
        row["reliability"] = _reliability(column)
    return row


COSTS = ("fit_seconds", "search_seconds", "predict_seconds", "weights")


def _readable(chosen: str) -> str:
    return ", ".join(f"{name}={value}" for name, value in json.loads(chosen).items())


def metrics_of(comparison: Comparison, column: Column) -> dict[str, dict[str, Any]]:
    """Each metric: `mean` over seeds of all rows together, `sd` over folds; of the first two `low` and `high`.

    AUROC, NLL and Brier score are means over folds. Calibration errors are those of the first
    repeat, the only one whose temperatures were fitted.
    """
    names = POOLED if column.rows.classify else POOLED_NUMBERS
    folds = [one["metrics"] for one in column.about]
    found: dict[str, dict[str, Any]] = {}
    for name in (*names, *(BY_FOLD if column.rows.classify else ())):
        values = [one[name] for one in (folds if name in BY_FOLD else column.metrics) if one[name] is not None]
        spread = [one[name] for one in folds if one[name] is not None]
        found[name] = {
            "mean": float(np.mean(values)) if values else None,
            "sd": float(np.std(spread, ddof=1)) if len(spread) > 1 else None,
        }
    found[comparison.primary] |= _ends(comparison.draws(column))
    if column.rows.classify:
        found["macro_f1"] |= _ends(comparison.f1_draws(column))
        true, proba = column.rows.true, column.proba[0].astype(np.float64)
        found["ece"] = {"mean": expected_calibration_error(true, proba)}
        calibrated = _calibrated(column)
        found["ece_calibrated"] = {"mean": None if calibrated is None else expected_calibration_error(true, calibrated)}
    return found


def _ends(draws: np.ndarray) -> dict[str, float]:
    return dict(zip(("low", "high"), interval(draws), strict=True))


def _calibrated(column: Column) -> np.ndarray | None:
    """Probabilities of the first repeat `(n, K)`, each fold's with the temperature from its own training rows."""
    first = [one for one in column.about if one["seed"] == column.rows.seeds[0]]
    if any(one["temperature"] is None for one in first):
        return None
    out = np.empty(column.proba[0].shape)
    for number, one in enumerate(first):
        judged = column.rows.fold[0] == number
        out[judged] = tempered(column.proba[0][judged], one["temperature"])
    return out


def _reliability(column: Column) -> dict[str, Any]:
    true, calibrated = column.rows.true, _calibrated(column)
    return {
        "before": _bins(reliability(true, column.proba[0])),
        "after": None if calibrated is None else _bins(reliability(true, calibrated)),
    }


def _bins(found: Reliability) -> list[dict[str, float]]:
    return [
        {"confidence": float(sure), "accuracy": float(right), "share": float(share)}
        for sure, right, share in zip(found.confidence, found.accuracy, found.share, strict=True)
    ]


def _confusion(column: Column) -> np.ndarray:
    """Counts `(K, K)`, rows true, columns predicted, mean over seeds."""
    count = len(column.rows.classes)
    pairs = column.rows.true * count + column.label
    return np.bincount(pairs.ravel(), minlength=count**2).reshape(count, count) / len(column.label)


def _means(rows: Rows, labels: np.ndarray) -> dict[str, float | None]:
    """Metrics of labels `(S, n)`, mean over seeds."""
    found = [rows.metrics(label) for label in labels]
    names = POOLED if rows.classify else POOLED_NUMBERS
    return {name: _mean([one[name] for one in found]) for name in names}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return float(np.mean(known)) if known else None


def majority_row(rows: Rows) -> dict[str, Any]:
    """What the most frequent training label gets, or the mean of the training labels."""
    usual = rows.majority[0]
    label = str(rows.classes[int(np.bincount(usual).argmax())]) if rows.classify else f"{float(usual.mean()):.4g}"
    return {"label": label, "metrics": _means(rows, rows.majority)}


SPOILT = {"shuffled": "shuffled", "noise": "replaced by noise"}


def control_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Controls beside what they control: `versus` is the head on the real modalities less the control."""
    found = []
    for one in comparison.controls:
        real = [
            other
            for other in comparison.table
            if (other.run, other.cell.head, other.cell.modalities) == (one.run, one.cell.head, one.cell.modalities)
        ]
        if real:
            found.append(
                {
                    "run": one.run,
                    "head": one.cell.head,
                    "modalities": list(one.cell.modalities),
                    "spoilt": one.cell.spoilt,
                    "control": f"{one.cell.spoilt} {SPOILT[one.cell.control]}",
                    "metrics": {name: value["mean"] for name, value in metrics_of(comparison, one).items()},
                    "versus": comparison.versus(real[0], one),
                }
            )
    return found


def named(column: Column | None) -> Mapping[str, Any] | None:
    """A configuration as the summary names it."""
    if column is None:
        return None
    return {"run": column.run, "head": column.cell.head, "modalities": list(column.cell.modalities)}
