"""Which rows train a head and which test it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from cache import SPLITS, CrossFitted, DataError, DataSet, FeatureTable, UsageError, listing
from fuse.task import CLASSIFICATION

OF_FOLD_0 = "of fold 0 of a cross-fitted data set, with the encoders of fold 0, fitted to its training rows"
"""In words, the model that is kept where no encoders have seen all rows."""


@dataclass(frozen=True)
class Fold:
    """Row numbers of one round: fitted on `train`, judged on `test`.

    `table` is the number of the table that both are done on; only a cross-fitted data set has more than one.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    table: int = 0


@dataclass(frozen=True)
class Protocol:
    """How a head is judged.

    `judged` holds the folds whose rows the metrics are of; `also` further rows that are reported
    beside them, such as the validation split.
    """

    name: str
    description: str
    judged: tuple[Fold, ...]
    also: tuple[Fold, ...] = ()

    @property
    def cross_fitted(self) -> bool:
        """Whether each fold has a table of its own."""
        return any(fold.table for fold in self.judged)

    @property
    def refitted(self) -> bool:
        """Whether the model that is kept is one more, fitted to all rows; else it is that of the first fold."""
        return len(self.judged) > 1 and not self.cross_fitted

    @property
    def model(self) -> str:
        """In words, what the model that is kept was fitted to."""
        if self.cross_fitted:
            return OF_FOLD_0
        return "fitted to all labelled rows" if self.refitted else "fitted to the training rows"


def protocol_for(table: DataSet, folds: int = 5, seed: int = 0, task: str = CLASSIFICATION) -> Protocol:
    """The splits of the data where it gives a labelled test or validation part; else K folds.

    A cross-fitted data set brings its own folds.

    Args:
        table: labelled rows only.
        folds: K of the folds, stratified by class; groups (equal image, equal text, group column) stay whole.
        seed: shuffles the folds.
        task: classification or regression.

    Raises:
        DataError: rows without a split or of an unknown one, labels that training lacks, a class
            with fewer groups than folds, or a single class.
    """
    if isinstance(table, CrossFitted):
        return _cross_fit(table, task)
    if not len(table):
        raise DataError(f"{table.name} has no labelled rows: see --columns label=...")
    if task == CLASSIFICATION and len(table.classes) < 2:
        raise DataError(
            f"{table.name} has {len(table)} labelled rows of one class ({listing(table.classes)}); "
            "a classifier needs at least two classes: see --columns label=..."
        )
    if folds < 2:
        raise UsageError(f"--folds must be 2 or more, got {folds}")
    splits = _splits(table)
    judged = "test" if "test" in splits else "valid"
    if "train" not in splits or judged not in splits:
        return _kfold(table, folds, seed) if task == CLASSIFICATION else _group_kfold(table, folds, seed)
    train = np.flatnonzero(splits == "train")
    also = [Fold("valid", train, np.flatnonzero(splits == "valid"))] if judged == "test" and "valid" in splits else []
    rounds = [Fold(judged, train, np.flatnonzero(splits == judged)), *also]
    if task == CLASSIFICATION:
        _refuse_unknown_labels(table, rounds)
    parts = [f"{int((splits == part).sum())} {part}" for part in ("train", "valid", "test") if part in splits]
    description = f"the data's own splits: {', '.join(parts)} rows; judged on {judged}"
    return Protocol(f"train-{judged}", description, (rounds[0],), tuple(also))


def _cross_fit(data: CrossFitted, task: str) -> Protocol:
    """Each fold is judged on the table whose encoders never saw it."""
    rounds = []
    for number, table in enumerate(data.tables):
        if set(table.split) != {"train", "test"}:
            raise DataError(
                f"{table.name} has the splits {listing(sorted(set(table.split))) or 'none'} on these rows; a fold of "
                f"the cross-fitted data set {data.name} needs rows of train and of test: take all labelled rows"
            )
        rounds.append(replace(protocol_for(table, task=task).judged[0], name=str(number), table=number))
    description = (
        f"cross-fitted {len(rounds)}-fold over {len(data)} rows: encoders and heads saw no row that they judge"
    )
    return Protocol(
        f"cross-fit-{len(rounds)}-fold", f"{description}; the model that is kept is {OF_FOLD_0}", tuple(rounds)
    )


def _splits(table: FeatureTable) -> np.ndarray:
    raw = np.char.lower(np.char.strip(table.split))
    if not (raw != "").any():
        return raw
    lost = table.ids[raw == ""]
    if len(lost):
        raise DataError(
            f"{len(lost)} labelled rows of {table.name} have no split while others do: {listing(lost)}; "
            "fill the split column, or leave it out by --columns split="
        )
    unknown = np.array([name not in SPLITS for name in raw])
    if unknown.any():
        found = sorted(set(table.split[unknown]))
        raise DataError(
            f"{table.name} has the splits {listing(found)} ({int(unknown.sum())} rows); expected train, valid and test "
            f"({listing(list(SPLITS))}); rename them, or leave the column out by --columns split="
        )
    return np.array([SPLITS[name] for name in raw])


def _refuse_unknown_labels(table: FeatureTable, rounds: Sequence[Fold]) -> None:
    y, ids = table.y, table.ids
    known = set(y[rounds[0].train])
    for fold in rounds:
        lost = [row for row in fold.test if y[row] not in known]
        if lost:
            rows = [f"{ids[row]} ({y[row]})" for row in lost]
            raise DataError(
                f"{len(lost)} {fold.name} rows have a label that no training row has: {listing(rows)}; "
                "correct the labels or move such rows to train"
            )


def _kfold(table: FeatureTable, folds: int, seed: int) -> Protocol:
    y, groups = table.y, table.groups
    for label in table.classes:
        held = len(np.unique(groups[y == label]))
        if held < folds:
            lower = "lower --folds or " if held > 1 else ""
            raise DataError(
                f"the class {label!r} has {held} independent {'row' if held == 1 else 'rows'} "
                f"({listing(table.ids[y == label])}), fewer than {folds} folds; {lower}add rows of it (equal images or "
                "texts count once)"
            )
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    rounds = tuple(
        Fold(str(number), train, test)
        for number, (train, test) in enumerate(splitter.split(np.zeros(len(y)), y, groups))
    )
    _refuse_lost_classes(table, rounds)
    description = f"stratified {folds}-fold over {len(y)} rows; {_kept_together(groups)}"
    return Protocol(f"stratified-group-{folds}-fold", description, rounds)


def _kept_together(groups: np.ndarray) -> str:
    kept = len(groups) - len(np.unique(groups))
    if kept == 1:
        return "1 row kept with its duplicate or group"
    return f"{kept or 'no'} rows kept with a duplicate or group of theirs"


def _group_kfold(table: FeatureTable, folds: int, seed: int) -> Protocol:
    """Folds of numbers, which have no classes to stratify by."""
    groups = table.groups
    held = len(np.unique(groups))
    if held < folds:
        raise DataError(
            f"{table.name} has {held} independent labelled rows, {folds} folds need as many at least (equal "
            "images or texts, or rows of one group, count once); lower --folds or add rows"
        )
    splitter = GroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    rounds = tuple(
        Fold(str(number), train, test)
        for number, (train, test) in enumerate(splitter.split(np.zeros(len(groups)), groups=groups))
    )
    return Protocol(f"group-{folds}-fold", f"{folds}-fold over {len(groups)} rows; {_kept_together(groups)}", rounds)


def _refuse_lost_classes(table: FeatureTable, rounds: Sequence[Fold]) -> None:
    """Large groups can leave a fold's training part without a class even where counts suffice."""
    y = table.y
    for fold in rounds:
        lost = sorted(set(table.classes) - set(y[fold.train]))
        if lost:
            raise DataError(
                f"with groups kept whole, fold {fold.name} has no training row of {listing(lost)}; "
                "lower --folds, choose another --seed, or give splits in the data"
            )
