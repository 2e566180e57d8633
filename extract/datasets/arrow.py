"""Arrow's columns as rows: of the files in which Hugging Face `datasets` keeps its tables, and for `parquet.py`.

Cells that hold files (bytes, structs of `bytes` and `path` as Hugging Face writes pictures and sound, lists of either)
are left where they lie: the row gets a `Piece`, here a stretch of bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache import DataError, UsageError, listing
from extract.datasets.pieces import Slice
from extract.datasets.rows import Rows
from extract.manifest import Piece

OLDEST = 15
"""Of pyarrow; before 14.0.1 it unpickled what a file told it to."""
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


Cells = list[Any]
Batch = Mapping[str, Cells]


class ArrowRows(Rows):
    """Rows of columns, of which only those are read that are wanted.

    Args:
        path: for messages.
        schema: of Arrow.
        batches: gives the cells of the named columns, some rows after others.
        problems: what is wrong with a row is added to them.
        first: how many rows of the file come before these.
    """

    def __init__(
        self,
        path: Path,
        schema: Any,
        batches: Callable[[Sequence[str]], Iterable[Batch]],
        problems: list[str],
        first: int = 0,
    ) -> None:
        super().__init__(columns=list(schema.names))
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if repeated:
            raise DataError(f"{path} names a column twice: {listing(repeated)}")
        self._path = path
        self._batches = batches
        self._problems = problems
        self._first = first
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
        number = self._first
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


def holds_files(pa: Any, kind: Any) -> bool:
    """Whether cells of an Arrow type are files or lists of files."""
    if _is_list(pa, kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        places = [place for place in range(kind.num_fields) if kind.field(place).name == "bytes"]
        kind = kind.field(places[0]).type if places else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_list(pa: Any, kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def plain_cells(pa: Any, array: Any) -> Cells:
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


def flat_files(pa: Any, array: Any) -> Any:
    """The bytes of all files in a column, one after another."""
    if _is_list(pa, array.type):
        array = array.flatten()
    return _children(array)["bytes"] if pa.types.is_struct(array.type) else array


def file_cells(pa: Any, array: Any, piece: Callable[[int, str], Piece]) -> Cells:
    """The cells of a column of files: pieces by their place in `_flat`; or a path where there are no bytes; or None."""
    if _is_list(pa, array.type):
        inner = iter(file_cells(pa, array.flatten(), piece))
        lengths = pa.compute.list_value_length(array).to_pylist()
        return [None if length is None else [next(inner) for _ in range(length)] for length in lengths]
    paths: Cells = [None] * len(array)
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


def _arrow_batches(pa: Any, paths: Sequence[Path], wanted: Sequence[str]) -> Iterator[Batch]:
    for path in paths:
        with reading(path), pa.memory_map(str(path)) as file:
            whole = file.read_buffer()
            for batch in pa.ipc.open_stream(pa.BufferReader(whole)):
                batch.validate(full=True)  # offsets above all: Arrow follows them wherever they lead
                columns = {name: batch.column(name) for name in wanted}
                yield {name: _arrow_cells(pa, path, whole, name, array) for name, array in columns.items()}


def _arrow_cells(pa: Any, path: Path, whole: Any, column: str, array: Any) -> Cells:
    if not holds_files(pa, array.type):
        return plain_cells(pa, array)
    flat = flat_files(pa, array)
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

    return file_cells(pa, array, piece)
