"""The features of a data set as sklearn takes them: a lazy 2-D table with named column blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cache.block import Block
from cache.errors import CacheIncomplete, DataError, UsageError, listing
from cache.ragged import Ragged, offsets_of
from cache.reader import BlockReader
from cache.schema import TOKENS
from cache.segment import check_segment
from cache.store import FeatureStore
from cache.view import View, read_view


class FeatureTable:
    """Cached features of `n` samples, shape `(n, D)`, with what belongs to them.

    It is read lazily: indexing, `len` and pickling touch no vectors, so that workers of
    `joblib` and folds of `cross_val_score` share one mapped file. Where sklearn wants a plain
    array it gets `to_numpy()`.

    Attributes:
        blocks: columns of each modality, such as `{"text": slice(0, 768), ...}`.
    """

    def __init__(
        self, view: View, readers: Mapping[str, BlockReader], rows: np.ndarray, modalities: Sequence[str]
    ) -> None:
        self._view = view
        self._readers = readers
        self._rows = rows
        self._modalities = tuple(modalities)
        self.blocks: dict[str, slice] = {}
        start = 0
        for modality in self._modalities:
            stop = start + view.blocks[modality].dim
            self.blocks[modality] = slice(start, stop)
            start = stop
        self.shape = (len(rows), start)
        self.ndim = 2

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        blocks = ", ".join(f"{name}: {part.stop - part.start}" for name, part in self.blocks.items())
        return f"FeatureTable({self.name!r}, {len(self)} rows, {blocks})"

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.to_numpy())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.to_numpy()
        if copy is False and (not isinstance(array, np.memmap) or dtype not in (None, array.dtype)):
            raise ValueError("this table cannot become an array without a copy; see FeatureTable.to_numpy")
        array = array if dtype is None else array.astype(dtype, copy=False)
        return array.copy() if copy else array

    def __getitem__(self, index: Any) -> Any:
        """Rows by slice, integers or booleans give a table; columns or one row give an array."""
        if isinstance(index, tuple) and len(index) == 2 and index[1] is Ellipsis:
            index = index[0]
        if isinstance(index, tuple) or (np.ndim(index) == 0 and not isinstance(index, slice)):
            return self.to_numpy()[index]
        return FeatureTable(self._view, self._readers, self._rows[index], self._modalities)

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self._view.name

    @property
    def view(self) -> View:
        """The whole data set's view: provenance, encoder keys, digest."""
        return self._view

    @property
    def digest(self) -> str:
        """Digest of what the whole data set says: ids, labels, splits, groups and content."""
        return self._view.digest

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the vectors."""
        return tuple(path for modality in self._modalities for path in self._readers[modality].paths)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities in the order of their columns."""
        return self._modalities

    @property
    def dtype(self) -> np.dtype:
        """Type of `to_numpy()`."""
        return np.result_type(*(self._readers[modality].dtype for modality in self._modalities))

    @property
    def ids(self) -> np.ndarray:
        """Sample ids, strings of shape `(n,)`."""
        return self._texts(self._view.ids)

    @property
    def split(self) -> np.ndarray:
        """Split of each sample as the data gives it, strings of shape `(n,)`; empty where none."""
        return self._texts(self._view.split)

    @property
    def groups(self) -> np.ndarray:
        """`int64 (n,)`: rows of equal content or of one group of the data share a number."""
        return self._view.groups[self._rows]

    @property
    def labelled(self) -> np.ndarray:
        """`bool (n,)`: which rows have a label."""
        return self._texts(self._view.labels) != ""

    @property
    def y(self) -> np.ndarray:
        """Labels, strings of shape `(n,)`.

        Raises:
            DataError: a row has no label; `table[table.labelled]` leaves such rows out.
        """
        lost = self.ids[~self.labelled]
        if len(lost):
            raise DataError(
                f"{len(lost)} of {len(self)} rows have no label ({listing(lost, 5)}); "
                "take the labelled ones by table[table.labelled]"
            )
        return self._texts(self._view.labels)

    @property
    def labels(self) -> np.ndarray:
        """Labels as `y`, but empty where a row has none."""
        return self._texts(self._view.labels)

    @property
    def classes(self) -> tuple[str, ...]:
        """All labels of these rows, sorted."""
        return tuple(sorted(set(self._view.labels[self._rows]) - {""}))

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """For each modality `bool (n,)`: which rows have it."""
        return {name: self._block(name).present[self._rows] for name in self._modalities}

    def _texts(self, values: np.ndarray) -> np.ndarray:
        return values[self._rows].astype(str)

    def _block(self, modality: str) -> Block:
        return self._view.blocks[modality]

    def select(self, modalities: Sequence[str]) -> FeatureTable:
        """The same rows with these modalities only, in this order.

        Raises:
            UsageError: the data set has no such modality.
        """
        unknown = [name for name in modalities if name not in self._view.blocks]
        if unknown or not modalities or len(set(modalities)) < len(modalities):
            raise UsageError(
                f"{self.name} has the modalities {listing(list(self._view.blocks))}, each to be asked for once; "
                f"asked for {listing(modalities) or 'none'}"
            )
        return FeatureTable(self._view, self._readers, self._rows, modalities)

    def block(self, modality: str, missing: float = 0.0) -> np.ndarray:
        """Vectors of one modality, shape `(n, D)`; rows without it are filled with `missing`."""
        reader = self._readers[modality]
        mapped = reader.consecutive(self._rows)
        if mapped is not None:
            return mapped
        out = np.empty((len(self), reader.block.dim), dtype=reader.dtype)
        reader.fill(self._rows, out, slice(0, reader.block.dim), missing)
        return out

    def has_tokens(self, modality: str) -> bool:
        """Whether `tokens` can give something."""
        return TOKENS in self._readers[modality].outputs

    def tokens(self, modality: str) -> Ragged:
        """Token vectors of one modality: of a text its tokens, of a picture its grid, row by row.

        Rows without the modality have no vectors. `values` has shape `(sum_T, D)`.

        Raises:
            CacheIncomplete: the data set was extracted without them.
        """
        reader = self._readers[modality]
        if not self.has_tokens(modality):
            raise CacheIncomplete(f"{self.name} has no {modality} tokens; run extract again with --tokens")
        present = reader.block.row[self._rows] >= 0
        taken = reader.take(self._rows[present], TOKENS)
        lengths = np.zeros(len(self), dtype=np.int64)
        if not isinstance(taken, Ragged):  # no row has the modality
            return Ragged(taken, offsets_of(lengths))
        lengths[present] = taken.lengths
        return Ragged(taken.values, offsets_of(lengths))

    def to_numpy(self, missing: float = 0.0) -> np.ndarray:
        """All columns as one array of shape `(n, D)`.

        The array is the mapped file itself, read-only and without a copy, where the table has
        one modality whose rows follow each other in one segment; else it is a new array.

        Args:
            missing: what a modality's columns hold in rows that lack it. `masks` tells which.
        """
        if len(self._modalities) == 1:
            return self.block(self._modalities[0], missing)
        out = np.empty(self.shape, dtype=self.dtype)
        for modality, columns in self.blocks.items():
            self._readers[modality].fill(self._rows, out, columns, missing)
        return out


def table_of(
    store: FeatureStore, view: View, modalities: Sequence[str] | None = None, check: bool = False
) -> FeatureTable:
    """The table of a view, whether it was written to the store or only made in memory; arguments as `load`."""
    readers = {modality: BlockReader(store, block) for modality, block in view.blocks.items()}
    current = replace(view, blocks={modality: reader.block for modality, reader in readers.items()})
    table = FeatureTable(current, readers, np.arange(len(view)), list(view.blocks))
    table = table if modalities is None else table.select(modalities)
    if check:
        check_tables([table])
    return table


def check_tables(tables: Sequence[FeatureTable]) -> None:
    """Reads every byte of the files that hold the tables' vectors; a file that several have in common once.

    Raises:
        StoreDamaged: a file is not what was written.
    """
    for path in dict.fromkeys(path for table in tables for path in table.files):
        check_segment(path)


def open_views(
    store: FeatureStore, names: Sequence[str], modalities: Sequence[str] | None = None, check: bool = False
) -> list[FeatureTable]:
    """The tables of some views by their names; arguments and errors as `load`."""
    try:
        tables = [table_of(store, read_view(store, name), modalities) for name in names]
        if check:
            check_tables(tables)
    except FileNotFoundError as error:
        if isinstance(error, CacheIncomplete):
            raise
        raise CacheIncomplete(f"{error.filename} vanished while it was read; run extract again") from error
    return tables


def load(
    store: str | Path = "features",
    name: str | None = None,
    modalities: Sequence[str] | None = None,
    check: bool = False,
) -> FeatureTable:
    """Opens a data set of the store.

    Args:
        store: the store's folder, or an address such as `s3://bucket/prefix`.
        name: the data set; may be left out when the store holds only one.
        modalities: which to take and in which order; all by default.
        check: read every byte of the vectors' files and compare checksums. Without it a file is
            opened by its header alone, and a flipped byte in a vector is found by `cache verify`.

    Raises:
        CacheIncomplete: no such data set, or vectors of it are gone from the store.
        StoreDamaged: a file of it is not what was written.
        UsageError: the data set lacks one of the modalities, or is a cross-fitted one (see `load_folds`).
    """
    opened = FeatureStore(store)
    return open_views(opened, [opened.choose_view(name)], modalities, check)[0]
