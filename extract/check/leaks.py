"""Leakage candidates: single facts about a row that give its label away on rows that were held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from cache import REGRESSION, label_numbers

WARNING, NOTE = 0.5, 0.2
"""Scores from which a column is called a candidate, and from which it is worth a look."""
ERRORS = 3.0
"""Standard errors by which a score must lie above that of a guess."""
FOLDS, LEAVES, LEAST = 5, 16, 5
FEWEST = 50
"""Labelled rows; of fewer nothing is said."""
MOST_ROWS = 20_000
"""Rows that are looked at; of more so many random ones."""
RULE = (
    "On four fifths of the rows a small rule is learnt from the one column (a tree of 16 leaves for numbers, the most "
    "likely class or the mean for each category, all classes counting the same), and judged on the fifth held out; "
    "equal contents and groups stay on one side. The score is 0 for a guess and 1 for always right: recall averaged "
    "over the classes, scaled so that chance is 0; of numbers, R squared. A column is a candidate from 0.5 and worth a "
    "look from 0.2, if that is three standard errors above a guess."
)


@dataclass(frozen=True)
class Column:
    """One fact about each row.

    Attributes:
        name: as the report has it.
        values: numbers, `float64 (n,)` with NaN where there is none, or `n` texts.
        is_input: whether encoders see it, so that heads can use it.
        is_group: whether it is what folds keep together.
    """

    name: str
    values: np.ndarray | Sequence[str]
    is_input: bool = False
    is_group: bool = False


def candidates(
    columns: Sequence[Column], labels: Sequence[str], together: np.ndarray, equal: np.ndarray, task: str
) -> dict[str, Any]:
    """Scores every column by itself.

    Args:
        columns: of the `n` rows that have a label.
        labels: of these rows.
        together: `int64 (n,)`, rows that folds keep together: equal contents and groups.
        equal: the same by equal contents alone, by which a column that is the group itself is judged.
        task: regression takes labels as numbers.

    Returns:
        `rows` looked at, `columns` with the score of each, best first, and `why` there are none.
    """
    y, why = _target(labels, equal, task)
    if why:
        return {"rows": 0, "columns": [], "why": why, "rule": RULE}
    kept = np.flatnonzero(~np.isnan(y)) if task == REGRESSION else np.flatnonzero(y >= 0)
    y = y[kept]
    scores: list[dict[str, Any]] = []
    sides = {False: _Sides(y, together[kept], task)}
    if any(column.is_group for column in columns):
        sides[True] = _Sides(y, equal[kept], task)
    for column in columns:
        score = _score(_taken(column.values, kept), y, sides[column.is_group].folds, task)
        if score is not None:
            floor = sides[column.is_group].floor
            level = "none" if score < max(NOTE, floor) else "warning" if score >= WARNING else "note"
            about = {"name": column.name, "is_input": column.is_input, "is_group": column.is_group}
            scores.append({**about, "score": round(score, 3), "level": level})
    scores.sort(key=lambda one: one["score"], reverse=True)
    return {"rows": len(kept), "columns": scores, "why": "", "rule": RULE}


class _Sides:
    """Folds of `n` rows that keep groups whole, and the score that is three standard errors above a guess."""

    def __init__(self, y: np.ndarray, groups: np.ndarray, task: str) -> None:
        self.folds: list[tuple[np.ndarray, np.ndarray]] = []
        self.floor = ERRORS * _error(y, groups, task)
        if len(np.unique(groups)) < 2 * FOLDS:
            return
        if task == REGRESSION:
            self.folds = list(GroupKFold(FOLDS, shuffle=True, random_state=0).split(y, groups=groups))
        else:
            whole = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
            self.folds = list(whole.split(y, y.astype(np.int64), groups))


def _target(labels: Sequence[str], equal: np.ndarray, task: str) -> tuple[np.ndarray, str]:
    """Labels as numbers, those of classes from 0, -1 for classes with fewer independent rows than folds."""
    if len(labels) < FEWEST:
        return np.zeros(0), f"{len(labels)} rows have a label; of fewer than {FEWEST} nothing can be said"
    if task == REGRESSION:
        return label_numbers(labels), ""
    known = {label: number for number, label in enumerate(sorted(set(labels)))}
    y = np.array([known[label] for label in labels], dtype=np.int64)
    pairs = np.unique(np.stack([y, equal]), axis=1)[0]
    enough = np.bincount(pairs, minlength=len(known)) >= FOLDS
    if enough.sum() < 2:
        return np.zeros(0), f"fewer than two classes have {FOLDS} rows that differ"
    return np.where(enough[y], np.cumsum(enough)[y] - 1, -1), ""


def _taken(values: np.ndarray | Sequence[str], kept: np.ndarray) -> np.ndarray:
    return np.asarray(values if isinstance(values, np.ndarray) else np.array(values, dtype=object))[kept]


def _score(
    values: np.ndarray, y: np.ndarray, folds: Sequence[tuple[np.ndarray, np.ndarray]], task: str
) -> float | None:
    """How well the column gives the label; None for one of which nothing can be learnt."""
    numbers = label_numbers(values) if values.dtype == object else values
    there = np.isfinite(numbers)
    ranks = np.full(len(values), np.nan)  # float32, which trees go by, has no room for long numbers such as ids
    ranks[there] = np.unique(numbers[there], return_inverse=True)[1]
    known: dict[Any, int] = {}  # numpy would give every text the room of the longest
    codes = np.array([known.setdefault(value, len(known)) for value in values.tolist()], dtype=np.int64)
    ways: list[Callable[[np.ndarray, np.ndarray], np.ndarray]] = []
    if there.any():
        ways.append(lambda train, test: _by_tree(ranks, y, train, test, task))
    if len(known) < len(values):  # where no value comes twice nothing can be learnt of it
        ways.append(lambda train, test: _by_category(codes, y, train, test, task))
    if len(known) < 2 or not ways or not folds:
        return None
    scores = []
    for way in ways:
        found = np.zeros(len(y))
        for train, test in folds:
            found[test] = way(train, test)
        scores.append(_explained(y, found) if task == REGRESSION else _informed(y, found))
    return max(scores)


def _by_tree(numbers: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, task: str) -> np.ndarray:
    size = {"max_leaf_nodes": LEAVES, "min_samples_leaf": LEAST, "random_state": 0}
    weighed = DecisionTreeClassifier(class_weight="balanced", **size)
    tree = DecisionTreeRegressor(**size) if task == REGRESSION else weighed
    found: np.ndarray = tree.fit(numbers[train, None], y[train]).predict(numbers[test, None])
    return found


def _by_category(codes: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, task: str) -> np.ndarray:
    """The mean of the category, or the class that is most frequent in it against its share of all rows."""
    size = codes.max() + 1
    if task == REGRESSION:
        held = np.bincount(codes[train], minlength=size)
        means = np.bincount(codes[train], y[train], minlength=size) / np.maximum(held, 1)
        return np.where(held[codes[test]] > 0, means[codes[test]], y[train].mean())
    of, known = codes[train], y[train].astype(np.int64)
    classes = known.max() + 1
    pairs, counts = np.unique(of * classes + known, return_counts=True)
    weight = counts / np.bincount(known, minlength=classes)[pairs % classes]
    order = np.lexsort((weight, pairs // classes))
    best = np.full(size, -1, dtype=np.int64)
    best[pairs[order] // classes] = pairs[order] % classes  # the last of each category, which weighs most
    guess = int(np.bincount(known).argmax())
    return np.where(best[codes[test]] >= 0, best[codes[test]], guess)


def _informed(y: np.ndarray, found: np.ndarray) -> float:
    """Recall averaged over K classes, scaled so that a guess, 1 / K, is 0."""
    classes = np.unique(y)
    recall = np.mean([(found[y == one] == one).mean() for one in classes])
    return float((recall - 1 / len(classes)) / (1 - 1 / len(classes)))


def _explained(y: np.ndarray, found: np.ndarray) -> float:
    spread = ((y - y.mean()) ** 2).sum()
    return float(1 - ((y - found) ** 2).sum() / spread) if spread > 0 else 0.0


def _error(y: np.ndarray, groups: np.ndarray, task: str) -> float:
    """Standard error of a guess's score: each class counts as many rows as it has groups; at most 1/4 a row."""
    if task == REGRESSION:
        return float(1 / np.sqrt(len(np.unique(groups))))
    classes = np.unique(y)
    sizes = np.array([len(np.unique(groups[y == one])) for one in classes])
    return float(np.sqrt((0.25 / sizes).sum()) / len(classes) / (1 - 1 / len(classes)))


def sampled(rows: np.ndarray, most: int = MOST_ROWS) -> np.ndarray:
    """At most so many of the rows, drawn by a fixed seed, in order."""
    return rows if len(rows) <= most else np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


def columns_of(texts: Mapping[str, Sequence[str]], inputs: Sequence[str] = ()) -> list[Column]:
    """Columns of texts; those named in `inputs` are seen by encoders."""
    return [Column(name, cells, is_input=name in inputs) for name, cells in texts.items()]
