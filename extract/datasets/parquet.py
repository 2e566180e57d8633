"""Parquet as rows. It is packed by groups of rows, of which one is unpacked for each file in it that is read."""

from __future__ import annotations

import errno
import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache import DataError, RemotePath, elsewhere
from extract.datasets.arrow import (
    ArrowRows,
    Batch,
    Cells,
    file_cells,
    flat_files,
    holds_files,
    plain_cells,
    reading,
    require_pyarrow,
)
from extract.manifest import Piece

MOST_ROWS = 100_000_000
MOST_UNPACKED = 4 * 2**30
"""Bytes of a group of rows in Parquet, unpacked."""
FOOTER = 2**16
"""Bytes of the end of a file that lies elsewhere which are asked for first."""
KEPT = 512 * 2**20
"""Bytes of unpacked pictures that are kept."""


def parquet_rows(path: Path, problems: list[str], groups: range | None = None, first: int = 0) -> ArrowRows:
    """The rows of a Parquet file.

    Args:
        path: of the file.
        problems: what is wrong with a row is added to them.
        groups: which groups of rows; all by default.
        first: how many rows come before them.

    Raises:
        DataError: it cannot be read.
        UsageError: pyarrow is not installed.
    """
    pa = require_pyarrow("Parquet")
    from pyarrow import parquet

    with reading(path):
        metadata = _metadata_of(path, path)
        schema = parquet.read_schema(path)
        chosen = range(metadata.num_row_groups) if groups is None else groups
        batches = functools.partial(_parquet_batches, pa, path, metadata, schema, chosen)
        return ArrowRows(path, schema, batches, problems, first)


def parquet_groups(path: Path) -> list[int]:
    """How many rows each group of a Parquet file has. Raises as `parquet_rows`.

    Of one that lies elsewhere only the end is read: DataError where it is gone, StoreError where it cannot be asked.
    """
    pa = require_pyarrow("Parquet")
    far = elsewhere(path)
    source = path if far is None else pa.BufferReader(_footer(far))
    with reading(path):
        metadata = _metadata_of(path, source)
        return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


def _footer(path: RemotePath) -> bytes:
    """The end of a file that lies elsewhere, which says where everything is: Arrow asks for no other place."""
    try:
        size = path.stat().st_size
        end = path.read_bytes(max(0, size - FOOTER), size)
        length = int.from_bytes(end[-8:-4], "little") + 8
        return path.read_bytes(size - length, size) if len(end) < length <= size else end
    except FileNotFoundError as error:
        raise DataError(f"{path} was removed while the data set was looked at; run the same command again") from error


def _metadata_of(path: Path, source: Any) -> Any:
    from pyarrow import parquet

    metadata = parquet.read_metadata(source)
    if metadata.num_rows > MOST_ROWS:
        raise DataError(f"{path} says that it holds {metadata.num_rows} rows; up to {MOST_ROWS} are read")
    return metadata


def _parquet_batches(
    pa: Any, path: Path, metadata: Any, schema: Any, groups: range, wanted: Sequence[str]
) -> Iterator[Batch]:
    from pyarrow import parquet

    # What is known of single columns is not asked for: on a flipped byte there, Arrow ends the process.
    files = [name for name in wanted if holds_files(pa, schema.field(name).type)]
    light = [name for name in wanted if name not in files]
    with parquet.ParquetFile(path, metadata=metadata) as file:
        for group in groups:
            size = metadata.row_group(group).total_byte_size
            if size > MOST_UNPACKED:
                raise DataError(
                    f"{path} has a group of rows of {size} bytes; up to {MOST_UNPACKED} are read at once: write "
                    "it with smaller groups (row_group_size)"
                )
            table = file.read_row_group(group, columns=light)
            cells = {name: [one for part in table[name].chunks for one in plain_cells(pa, part)] for name in light}
            for name in files:
                cells[name] = _parquet_cells(pa, file, _Group(str(path), name, group))
            yield cells


def _parquet_cells(pa: Any, file: Any, place: _Group) -> Cells:
    """Which cells hold something, by looking at all of a group at once; it is let go again."""
    named = f"{Path(place.path).name}/{place.column}"
    cells: Cells = []
    first = 0
    for chunk in file.read_row_group(place.group, columns=[place.column])[place.column].chunks:

        def piece(number: int, name: str, first: int = first) -> Piece:
            return GroupCell(place, first + number, f"{named}/{os.path.basename(name)}" if name else named)

        cells += file_cells(pa, chunk, piece)
        first += len(flat_files(pa, chunk))
    return cells


@dataclass(frozen=True, slots=True)
class _Group:
    """A column within a group of rows of a Parquet file."""

    path: str
    column: str
    group: int


@dataclass(frozen=True, slots=True)
class GroupCell(Piece):
    """A file in a cell of Parquet, by its number in a group of rows."""

    place: _Group
    number: int
    called: str

    @property
    def name(self) -> str:
        """The name of the table, the column, and its own name if it has one."""
        return self.called

    def read(self) -> bytes:
        """Its bytes. Raises OSError."""
        values = _UNPACKED.get(self.place)
        if self.number >= len(values) or not values[self.number].is_valid:
            raise OSError(errno.EIO, f"{self.place.path} is not what it was", self.place.path)
        return bytes(values[self.number].as_py())


class _Unpacked:
    """The latest groups of rows, of which each is unpacked by one thread while others that want it wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[Any, Future[Any]] = OrderedDict()

    def get(self, place: _Group) -> Any:
        """The files of a group. Raises OSError."""
        status = os.stat(place.path)
        key = (place, status.st_mtime_ns, status.st_size)
        with self._lock:
            mine = key not in self._held
            future = self._held.setdefault(key, Future())
            self._held.move_to_end(key)
        if mine:
            try:
                future.set_result(_unpack(place, status.st_mtime_ns, status.st_size))
            except BaseException as error:
                future.set_exception(error)
                with self._lock:
                    self._held.pop(key, None)
            else:
                self._forget()
        return future.result()

    def _forget(self) -> None:
        with self._lock:
            done = [(key, one.result().nbytes) for key, one in self._held.items() if one.done() and not one.exception()]
            size = sum(bytes_ for _, bytes_ in done)
            for key, bytes_ in done[:-1]:  # the oldest first
                if size <= KEPT:
                    break
                size -= bytes_
                del self._held[key]


_UNPACKED = _Unpacked()


@functools.lru_cache(maxsize=16)
def _metadata(path: str, changed: int, size: int) -> Any:
    from pyarrow import parquet

    return parquet.read_metadata(path)


def _unpack(place: _Group, changed: int, size: int) -> Any:
    pa = require_pyarrow("Parquet")
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(place.path, metadata=_metadata(place.path, changed, size)) as file:
            column = file.read_row_group(place.group, columns=[place.column])[place.column]
        return pa.chunked_array([flat_files(pa, chunk) for chunk in column.chunks])
    except pa.lib.ArrowException as error:
        raise OSError(errno.EIO, str(error)[:300], place.path) from error
