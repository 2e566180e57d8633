"""One immutable file of feature vectors: some items, and every output of one encoder for each.

Datasets are contiguous and little-endian, so that a reader maps them into memory and touches
only the rows it asks for.
"""

from __future__ import annotations

import json
import secrets
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache.errors import StoreDamaged
from cache.key import ITEM_BYTES, pack_items, unpack_items
from cache.schema import SCHEMA, SEGMENT_SUFFIX, TEMPORARY_PREFIX, open_h5, replacing

COPY_ROWS = 8192
"""Rows that a merge holds in memory at once."""


@dataclass(frozen=True)
class Extent:
    """Where one output's matrix lies in a segment's file."""

    offset: int
    shape: tuple[int, int]
    dtype: str


@dataclass(frozen=True)
class Segment:
    """A finished segment: `items` is `uint8` of shape `(n, 16)`, each output a matrix `(n, D)`."""

    path: Path
    items: np.ndarray
    outputs: Mapping[str, Extent]
    written_by: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.items)

    def map(self, output: str) -> np.ndarray:
        """The matrix of one output, shape `(n, D)`, mapped read-only and not yet read.

        Raises:
            FileNotFoundError: the segment was merged into another one meanwhile.
        """
        extent = self.outputs[output]
        return np.memmap(self.path, dtype=extent.dtype, mode="r", offset=extent.offset, shape=extent.shape)


def is_segment(path: Path) -> bool:
    """Whether the name is that of a finished segment."""
    return path.suffix == SEGMENT_SUFFIX and not path.name.startswith(TEMPORARY_PREFIX)


def new_name() -> str:
    """A name that no other writer picks; names sort by the time at which they were made."""
    return f"{time.time_ns():016x}-{secrets.token_hex(4)}{SEGMENT_SUFFIX}"


def little_endian(dtype: np.dtype) -> np.dtype:
    """The same type in the byte order of the files."""
    return np.dtype(dtype).newbyteorder("<")


def write_segment(
    folder: Path, items: Sequence[bytes], outputs: Mapping[str, np.ndarray], written_by: Mapping[str, Any]
) -> Path:
    """Writes one segment durably and returns its path.

    Args:
        folder: the encoder's folder in the store.
        items: `n` item keys.
        outputs: by name, matrices of shape `(n, D)`.
        written_by: versions and device, recorded beside the vectors but no part of any key.

    Raises:
        StoreError: the folder cannot be written.
    """
    target = folder / new_name()
    with replacing(target) as temporary, h5py.File(temporary, "w") as file:
        _write_header(file, pack_items(items), written_by)
        for name, values in outputs.items():
            values = np.ascontiguousarray(values, dtype=little_endian(values.dtype))
            dataset = file.create_dataset(f"outputs/{name}", data=values)
            dataset.attrs["crc32"] = _crc(values)
    return target


def _crc(values: np.ndarray, start: int = 0) -> int:
    return zlib.crc32(np.ascontiguousarray(values).data.cast("B"), start)


def _write_header(file: h5py.File, packed: np.ndarray, written_by: Mapping[str, Any]) -> None:
    file.attrs["schema"] = SCHEMA
    file.attrs["kind"] = "segment"
    file.attrs["written_by"] = json.dumps(dict(written_by), sort_keys=True)
    file.create_dataset("items", data=packed).attrs["crc32"] = _crc(packed)


def read_segment(path: Path) -> Segment:
    """Reads a segment's items and where its matrices lie; the matrices stay on disk.

    Raises:
        StoreDamaged: the file is truncated or its parts do not fit together.
        StoreError: it was written under another schema.
    """
    with open_h5(path, "segment") as file:
        try:
            items = file["items"][...]
            outputs = {name: _extent(file[f"outputs/{name}"]) for name in file["outputs"]}
            written_by = json.loads(file.attrs["written_by"])
            crc = int(file["items"].attrs["crc32"])
        except (KeyError, OSError, ValueError) as error:
            raise StoreDamaged(f"{path} is damaged ({error}); run extract again to replace it") from error
    size = path.stat().st_size
    ends = [extent.offset + _bytes_of(extent) for extent in outputs.values()]
    rows = {extent.shape[0] for extent in outputs.values()}
    if _crc(items) != crc or items.shape[1:] != (ITEM_BYTES,) or rows != {len(items)} or max(ends) > size:
        raise StoreDamaged(f"{path} is damaged (items, rows or length do not fit); run extract again to replace it")
    return Segment(path, items, outputs, written_by)


def _extent(dataset: h5py.Dataset) -> Extent:
    offset = dataset.id.get_offset()
    if offset is None or dataset.ndim != 2:
        raise ValueError(f"{dataset.name} is not a contiguous matrix")
    return Extent(int(offset), (int(dataset.shape[0]), int(dataset.shape[1])), dataset.dtype.str)


def _bytes_of(extent: Extent) -> int:
    return extent.shape[0] * extent.shape[1] * np.dtype(extent.dtype).itemsize


def merge_segments(segments: Sequence[Segment], order: Mapping[bytes, int]) -> Path:
    """Writes one segment that holds every item of `segments` once, then removes them.

    Args:
        segments: at least one, all of one encoder.
        order: place of an item in the new segment; items without one follow at the end.

    A kill between the two steps leaves items twice, which readers do not mind, never none.
    """
    places: dict[bytes, tuple[int, int]] = {}
    for number, segment in enumerate(segments):
        for row, item in enumerate(unpack_items(segment.items)):
            places.setdefault(item, (number, row))
    items = sorted(places, key=lambda item: (order.get(item, len(order)), item))
    where = np.array([places[item] for item in items], dtype=np.int64)
    first = segments[0]
    target = first.path.with_name(new_name())
    sources = {name: [segment.map(name) for segment in segments] for name in first.outputs}
    with replacing(target) as temporary, h5py.File(temporary, "w") as file:
        _write_header(file, pack_items(items), segments[-1].written_by)
        for name, extent in first.outputs.items():
            shape = (len(items), extent.shape[1])
            dataset = file.create_dataset(f"outputs/{name}", shape=shape, dtype=extent.dtype)
            dataset.attrs["crc32"] = _gather(sources[name], where, dataset)
    for segment in segments:
        segment.path.unlink(missing_ok=True)
    return target


def _gather(sources: Sequence[np.ndarray], where: np.ndarray, dataset: h5py.Dataset) -> int:
    """Copies rows to `dataset` a slice at a time and returns the CRC-32 of all of them."""
    crc = 0
    for start in range(0, len(where), COPY_ROWS):
        part = where[start : start + COPY_ROWS]
        rows = take_rows(sources, part[:, 0], part[:, 1])
        dataset[start : start + len(rows)] = rows
        crc = _crc(rows, crc)
    return crc


def take_rows(sources: Sequence[np.ndarray], source: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Rows `row[i]` of `sources[source[i]]` as one matrix of shape `(len(row), D)`."""
    out = np.empty((len(row), sources[0].shape[1]), dtype=sources[0].dtype)
    for number in np.unique(source):
        chosen = source == number
        out[chosen] = sources[number][row[chosen]]
    return out
