"""Cross-fitted data sets: the same rows once a fold, each time by encoders that were tuned without that fold.

`extract --finetuned` writes one view a fold. View k holds all rows by the encoders of fold k, and its split column
says `test` of the rows of fold k and `train` of all other labelled rows. So each view alone is an ordinary data set,
and a program that judges fold k on table k judges every row by encoders that never saw it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from cache.errors import StoreError, UsageError, listing
from cache.key import digest
from cache.names import families_in, fold_view_name
from cache.store import FeatureStore
from cache.table import FeatureTable, load, open_views
from cache.view import View

_AGAIN = "run extract --finetuned again to write all of its views"


@dataclass(frozen=True)
class CrossFitted:
    """K tables of the same `n` rows, one a fold; they differ in splits and in the vectors of tuned encoders.

    Attributes:
        name: of the data set; that of its table k is `NAME.fold<k>`.
        tables: in the order of the folds.
    """

    name: str
    tables: tuple[FeatureTable, ...]

    def __len__(self) -> int:
        return len(self.tables[0])

    def __getitem__(self, rows: np.ndarray | slice) -> CrossFitted:
        """Some of the rows of every table, by number or by a mask."""
        return replace(self, tables=tuple(table[rows] for table in self.tables))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities in the order of their columns."""
        return self.tables[0].modalities

    @property
    def labelled(self) -> np.ndarray:
        """`bool (n,)`: which rows have a label."""
        return self.tables[0].labelled

    @property
    def view(self) -> View:
        """The view of fold 0."""
        return self.tables[0].view

    @property
    def digest(self) -> str:
        """Digest of what all views say: ids, labels, splits, groups and content."""
        return digest(*(table.digest.encode() for table in self.tables))

    def select(self, modalities: Sequence[str]) -> CrossFitted:
        """The same rows with these modalities only; raises as `FeatureTable.select`."""
        return replace(self, tables=tuple(table.select(modalities) for table in self.tables))


DataSet: TypeAlias = FeatureTable | CrossFitted
"""What stage two works on."""


def tables_of(data: DataSet) -> tuple[FeatureTable, ...]:
    """The tables of a data set, one a fold where it is cross-fitted. What all share can be read from the first."""
    return data.tables if isinstance(data, CrossFitted) else (data,)


def load_data_set(
    store: str | Path = "features",
    name: str | None = None,
    modalities: Sequence[str] | None = None,
    check: bool = False,
) -> DataSet:
    """Opens a data set of the store, ordinary or cross-fitted; arguments and errors as `load` and `load_folds`."""
    opened = FeatureStore(store)
    name = opened.choose(name)
    if name in families_in(opened.names()):
        return load_folds(store, name, modalities, check)
    return load(store, name, modalities, check)


def load_folds(
    store: str | Path = "features",
    name: str | None = None,
    modalities: Sequence[str] | None = None,
    check: bool = False,
) -> CrossFitted:
    """Opens a cross-fitted data set of the store.

    Args:
        store, modalities, check: as of `load`.
        name: of the data set, without `.fold<k>`; may be left out when the store holds nothing else.

    Raises:
        UsageError: the data set is an ordinary one, or lacks one of the modalities.
        StoreError: its views do not belong together: a fold is gone, they hold other rows, or their splits are
            not those of K folds.
        CacheIncomplete: as `load`.
    """
    opened = FeatureStore(store)
    name = opened.choose(name)
    folds = families_in(opened.names()).get(name)
    if folds is None:
        raise UsageError(f"{name} is not a cross-fitted data set ({fold_view_name(name, 0)}, ...); open it by load")
    lost = [fold_view_name(name, fold) for fold in range(folds[-1]) if fold not in folds]
    if lost:
        raise StoreError(f"the cross-fitted data set {name} lacks {listing(lost)} in {opened.root}; {_AGAIN}")
    tables = open_views(opened, [fold_view_name(name, fold) for fold in folds], modalities, check)
    for table in tables[1:]:
        difference = _difference(tables[0].view, table.view)
        if difference:
            raise StoreError(f"{tables[0].name} and {table.name} differ in {difference}; {_AGAIN}")
    _check_splits(name, tables)
    return CrossFitted(name, tuple(tables))


def _difference(one: View, other: View) -> str:
    """In what two views differ that should hold the same rows; empty if in nothing."""
    if len(one) != len(other):
        return f"their rows, {len(one)} and {len(other)}"
    for what in ("ids", "labels", "groups"):
        rows = np.flatnonzero(one.columns[what] != other.columns[what])
        if len(rows):
            return f"the {what} of {len(rows)} rows: {listing(one.ids[rows].tolist())}"
    if list(one.blocks) != list(other.blocks):
        return f"their modalities, {listing(list(one.blocks))} and {listing(list(other.blocks))}"
    for name, block in one.blocks.items():
        twin = other.blocks[name]
        rows = np.flatnonzero((block.items != twin.items).any(axis=1))
        if len(rows):
            return f"the {name} content of {len(rows)} rows: {listing(one.ids[rows].tolist())}"
        if (block.output, block.dim) != (twin.output, twin.dim):
            return f"the {name} vectors, {block.output} of {block.dim} and {twin.output} of {twin.dim} columns"
    return ""


def _check_splits(name: str, tables: Sequence[FeatureTable]) -> None:
    """Refuses splits that are not those of folds: each labelled row is tested once and trains the other folds."""
    first, splits = tables[0], np.stack([table.split for table in tables])
    tested, trains = (splits == "test").sum(axis=0), (splits == "train").sum(axis=0)
    good = np.where(first.labelled, (tested == 1) & (trains == len(tables) - 1), (splits == "").all(axis=0))
    if not good.all():
        rows = np.flatnonzero(~good)
        found = [f"{first.ids[row]} ({', '.join(part or 'none' for part in splits[:, row].tolist())})" for row in rows]
        raise StoreError(
            f"{len(rows)} rows of the cross-fitted data set {name} have other splits than folds give: "
            f"{listing(found, 5)}; expected of a labelled row test in one view and train in the others, of another "
            f"none; a view may be gone, or of another fine-tuning: {_AGAIN}"
        )
    idle = [table.name for table, own in zip(tables, splits, strict=True) if not (own == "test").any()]
    if idle:
        raise StoreError(f"{listing(idle)} of the cross-fitted data set {name} have no test rows; {_AGAIN}")
