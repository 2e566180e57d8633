"""Arrow's columns as rows: of Parquet, and of the files in which Hugging Face `datasets` keeps its tables.

Cells that hold files (bytes, structs of `bytes` and `path` as Hugging Face writes pictures and sound, lists of either)
are left where they lie: the row gets a `Piece`. In an Arrow file it is a stretch of bytes; Parquet is packed by groups
of rows, so there a group is unpacked for each, and the latest stay in memory.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache import DataError, UsageError, listing
from extract.datasets.pieces import Slice
from extract.datasets.rows import Rows
from extract.manifest import Piece

OLDEST = 15
"""Of pyarrow; before 14.0.1 it unpickled what a file told it to."""
MOST_ROWS = 100_000_000
MOST_UNPACKED = 4 * 2**30
"""Bytes of a group of rows in Parquet, unpacked."""
KEPT = 512 * 2**20
"""Bytes of unpacked pictures that are kept."""
NO_CLASS = -1
"""What Hugging Face writes for rows whose label is not told."""


def require_pyarrow(what: str) -> Any:
    """The library. Raises UsageError where it is not installed or too old."""
    try:
        import pyarrow
        import pyarrow.compute  # or there is no pyarrow.compute
    except ImportError as error:
        raise UsageError(f"{what} needs pyarrow: pip install pyarrow") from error
    if int(pyarrow.__version__.partition(".")[0]) < OLDEST:
        raise UsageError(
            f'{what} needs pyarrow {OLDEST} or newer, found {pyarrow.__version__}: pip install "pyarrow>={OLDEST}"'
        )
    return pyarrow


_Cells = list[Any]
_Batch = Mapping[str, _Cells]


class ArrowRows(Rows):
    """Rows of columns, of which only those are read that are wanted.

    Args:
        path: for messages.
        schema: of Arrow.
        batches: gives the cells of the named columns, some rows after others.
        problems: what is wrong with a row is added to them.
    """

    def __init__(
        self, path: Path, schema: Any, batches: Callable[[Sequence[str]], Iterable[_Batch]], problems: list[str]
    ) -> None:
        super().__init__(columns=list(schema.names))
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if repeated:
            raise DataError(f"{path} names a column twice: {listing(repeated)}")
        self._path = path
        self._batches = batches
        self._problems = problems
        self._classes = _classes(path, schema)

    @property
    def numbered(self) -> bool:
        """There are no lines."""
        return False

    def where(self, number: int) -> str:
        """The number of the row, from 1."""
        return f"row {number}"

    def of(self, columns: Collection[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """The rows, with these columns. Raises DataError where the file is broken."""
        wanted = [name for name in self.columns if name in columns]
        number = 0
        with reading(self._path):
            for batch in self._batches(wanted):
                for cells in zip(*(batch[name] for name in wanted), strict=True):
                    number += 1
                    row = dict(zip(wanted, cells, strict=True))
                    try:
                        for column in self._classes.keys() & row.keys():
                            row[column] = class_name(column, self._classes[column], row[column])
                    except ValueError as error:
                        self._problems.append(f"{self.where(number)}: {error}")
                        continue
                    yield number, row


def class_name(column: str, names: Sequence[str], value: Any) -> str | None:
    """The name of a class by its number. Raises ValueError."""
    if value is None or value == NO_CLASS:
        return None
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise ValueError(f"{column} is {value}, and there are {len(names)} classes")
    return names[value]


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """What is raised on broken files becomes a DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # Arrow's own errors are of many kinds; a text that is no UTF-8 raises Python's
        if not (isinstance(error, OSError | ValueError) or type(error).__module__.startswith("pyarrow")):
            raise
        raise DataError(f"{path} cannot be read: {str(error).strip()[:300]}; fetch or write it again") from error


def _classes(path: Path, schema: Any) -> dict[str, Sequence[str]]:
    """Names of the classes of columns, where Hugging Face has written them down."""
    written = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(written)["info"]["features"] if written else {}
        found = {name: one["names"] for name, one in features.items() if _kind(one) == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} describes its columns in a way that cannot be read: {error!r}") from error
    return {name: [str(one) for one in names] for name, names in found.items()}


def _kind(feature: Any) -> str:
    return feature.get("_type", "") if isinstance(feature, dict) else ""


def _holds_files(pa: Any, kind: Any) -> bool:
    if _is_list(pa, kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        places = [place for place in range(kind.num_fields) if kind.field(place).name == "bytes"]
        kind = kind.field(places[0]).type if places else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_list(pa: Any, kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _plain(pa: Any, array: Any) -> _Cells:
    """Values as Python has them; dates and the like as text."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_decimal(array.type) or pa.types.is_temporal(array.type):
        array = array.cast(pa.string())
    elif pa.types.is_float32(array.type):  # 1.8 is to be the text 1.8
        array = array.cast(pa.string()).cast(pa.float64())
    return list(array.to_pylist())


def _children(array: Any) -> dict[str, Any]:
    return dict(zip((one.name for one in array.type), array.flatten(), strict=True))


def _flat(pa: Any, array: Any) -> Any:
    """The bytes of all files in a column, one after another."""
    if _is_list(pa, array.type):
        array = array.flatten()
    return _children(array)["bytes"] if pa.types.is_struct(array.type) else array


def _files(pa: Any, array: Any, piece: Callable[[int, str], Piece]) -> _Cells:
    """The cells of a column of files: pieces by their place in `_flat`; or a path where there are no bytes; or None."""
    if _is_list(pa, array.type):
        inner = iter(_files(pa, array.flatten(), piece))
        lengths = pa.compute.list_value_length(array).to_pylist()
        return [None if length is None else [next(inner) for _ in range(length)] for length in lengths]
    paths: _Cells = [None] * len(array)
    if pa.types.is_struct(array.type):
        children = _children(array)
        array = children["bytes"]
        paths = children["path"].to_pylist() if "path" in children else paths
    present = array.is_valid().to_pylist()
    return [
        piece(place, path or "") if there else path
        for place, (there, path) in enumerate(zip(present, paths, strict=True))
    ]


def arrow_rows(paths: Sequence[Path], problems: list[str]) -> ArrowRows:
    """The rows of Arrow files in the format of streams, as Hugging Face `datasets` writes them, one after another.

    Raises:
        DataError: a file is no such thing, or its columns differ from those of the first.
        UsageError: pyarrow is not installed.
    """
    pa = require_pyarrow("Arrow")
    with reading(paths[0]):
        schemas = [pa.ipc.open_stream(pa.memory_map(str(path))).schema for path in paths]
        for path, schema in zip(paths, schemas, strict=True):
            if not schema.equals(schemas[0]):
                raise DataError(f"{path} has other columns than {paths[0].name}: {listing(schema.names)}")
        return ArrowRows(paths[0], schemas[0], lambda wanted: _arrow_batches(pa, paths, wanted), problems)


def _arrow_batches(pa: Any, paths: Sequence[Path], wanted: Sequence[str]) -> Iterator[_Batch]:
    for path in paths:
        with reading(path), pa.memory_map(str(path)) as file:
            whole = file.read_buffer()
            for batch in pa.ipc.open_stream(pa.BufferReader(whole)):
                batch.validate(full=True)  # offsets above all: Arrow follows them wherever they lead
                columns = {name: batch.column(name) for name in wanted}
                yield {name: _arrow_cells(pa, path, whole, name, array) for name, array in columns.items()}


def _arrow_cells(pa: Any, path: Path, whole: Any, column: str, array: Any) -> _Cells:
    if not _holds_files(pa, array.type):
        return _plain(pa, array)
    flat = _flat(pa, array)
    _, offsets, data = flat.buffers()
    width = np.dtype(np.int64 if pa.types.is_large_binary(flat.type) else np.int32)
    at = np.frombuffer(offsets, width)[flat.offset : flat.offset + len(flat) + 1] if len(flat) else np.zeros(1, width)
    start = data.address - whole.address if data is not None and at[-1] > at[0] else 0
    if not 0 <= start <= start + int(at[-1]) <= whole.size:
        raise DataError(f"{path} is compressed, so that no cell of it can be read by itself; save it as it is")
    places = (at.astype(np.int64) + start).tolist()
    named, text = f"{path.name}/{column}", str(path)

    def piece(number: int, name: str) -> Piece:
        begin = places[number]
        return Slice(text, begin, places[number + 1] - begin, f"{named}/{os.path.basename(name)}" if name else named)

    return _files(pa, array, piece)


def parquet_rows(path: Path, problems: list[str]) -> ArrowRows:
    """The rows of a Parquet file. Raises DataError; UsageError where pyarrow is not installed."""
    pa = require_pyarrow("Parquet")
    from pyarrow import parquet

    with reading(path):
        metadata = parquet.read_metadata(path)
        schema = parquet.read_schema(path)
        if metadata.num_rows > MOST_ROWS:
            raise DataError(f"{path} says that it holds {metadata.num_rows} rows; up to {MOST_ROWS} are read")
        return ArrowRows(path, schema, lambda wanted: _parquet_batches(pa, path, metadata, schema, wanted), problems)


def _parquet_batches(pa: Any, path: Path, metadata: Any, schema: Any, wanted: Sequence[str]) -> Iterator[_Batch]:
    from pyarrow import parquet

    # What is known of single columns is not asked for: on a flipped byte there, Arrow ends the process.
    files = [name for name in wanted if _holds_files(pa, schema.field(name).type)]
    light = [name for name in wanted if name not in files]
    with parquet.ParquetFile(path, metadata=metadata) as file:
        for group in range(metadata.num_row_groups):
            size = metadata.row_group(group).total_byte_size
            if size > MOST_UNPACKED:
                raise DataError(
                    f"{path} has a group of rows of {size} bytes; up to {MOST_UNPACKED} are read at once: write "
                    "it with smaller groups (row_group_size)"
                )
            table = file.read_row_group(group, columns=light)
            cells = {name: [one for part in table[name].chunks for one in _plain(pa, part)] for name in light}
            for name in files:
                cells[name] = _parquet_cells(pa, file, _Group(str(path), name, group))
            yield cells


def _parquet_cells(pa: Any, file: Any, place: _Group) -> _Cells:
    """Which cells hold something, by looking at all of a group at once; it is let go again."""
    named = f"{Path(place.path).name}/{place.column}"
    cells: _Cells = []
    first = 0
    for chunk in file.read_row_group(place.group, columns=[place.column])[place.column].chunks:

        def piece(number: int, name: str, first: int = first) -> Piece:
            return GroupCell(place, first + number, f"{named}/{os.path.basename(name)}" if name else named)

        cells += _files(pa, chunk, piece)
        first += len(_flat(pa, chunk))
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
        return pa.chunked_array([_flat(pa, chunk) for chunk in column.chunks])
    except pa.lib.ArrowException as error:
        raise OSError(errno.EIO, str(error)[:300], place.path) from error
