"""One immutable file of feature vectors: some items, and every output of one encoder for each.

Datasets are contiguous and little-endian, so that a reader maps them into memory and touches
only the rows it asks for.
"""

from __future__ import annotations

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
from cache.files import TEMPORARY_PREFIX, check_body, read_at, read_header, write_sealed
from cache.key import ITEM_BYTES, pack_items, unpack_items
from cache.schema import SEGMENT_SUFFIX

PART_BYTES = 512 * 2**20
"""A merge writes segments of about this size, each built in memory."""


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

    def fill(file: h5py.File) -> dict[str, Any]:
        packed = pack_items(items)
        extents = {"items": _put(file, "items", packed)}
        for name, values in outputs.items():
            extents[name] = _put(file, f"outputs/{name}", values.astype(little_endian(values.dtype), copy=False))
        return {"extents": extents, "items_crc32": zlib.crc32(packed.tobytes()), "written_by": dict(written_by)}

    target = folder / new_name()
    write_sealed(target, "segment", fill)
    return target


def _put(file: h5py.File, name: str, values: np.ndarray) -> dict[str, Any]:
    dataset = file.create_dataset(name, data=values)
    return {"offset": dataset.id.get_offset(), "shape": list(values.shape), "dtype": dataset.dtype.str}


def read_segment(path: Path) -> Segment:
    """Reads a segment's items and where its matrices lie; the matrices stay on disk.

    Raises:
        FileNotFoundError: there is no such file.
        StoreDamaged: header, length or items are not what was written.
        StoreError: it cannot be read at this moment, or was written under another schema.
    """
    header = read_header(path, "segment")
    extents = {
        name: Extent(one["offset"], (one["shape"][0], one["shape"][1]), one["dtype"])
        for name, one in header["extents"].items()
    }
    where = extents.pop("items")
    raw, _ = read_at(path, where.offset, where.shape[0] * ITEM_BYTES)
    if zlib.crc32(raw) != header["items_crc32"]:
        raise StoreDamaged(
            f"{path} is damaged (its item keys are not what was written); run extract again to replace it"
        )
    items = np.frombuffer(raw, dtype=np.uint8).reshape(where.shape)
    return Segment(path, items, extents, header["written_by"])


def check_segment(path: Path) -> None:
    """Reads every byte of a segment; raises as `read_segment` unless all are as written."""
    check_body(path, read_header(path, "segment"))


def merge_segments(segments: Sequence[Segment], order: Mapping[bytes, int]) -> list[Path]:
    """Writes segments that hold every item of `segments` once, then removes the old ones.

    Args:
        segments: at least one, all of one encoder.
        order: place of an item in the new segments; items without one follow at the end.

    A kill between the two steps leaves items twice, which readers do not mind, never none.

    Raises:
        FileNotFoundError: another process merged one of them meanwhile.
        StoreDamaged: one of them is damaged; nothing is removed.
    """
    sources = {name: [segment.map(name) for segment in segments] for name in segments[0].outputs}
    for segment in segments:
        check_segment(segment.path)  # or a damaged vector would get a new checksum
    places: dict[bytes, tuple[int, int]] = {}
    for number, segment in enumerate(segments):
        for row, item in enumerate(unpack_items(segment.items)):
            places.setdefault(item, (number, row))
    items = sorted(places, key=lambda item: (order.get(item, len(order)), item))
    where = np.array([places[item] for item in items], dtype=np.int64)
    width = sum(extent.shape[1] * np.dtype(extent.dtype).itemsize for extent in segments[0].outputs.values())
    rows = max(1, PART_BYTES // max(1, width))
    made = []
    for start in range(0, len(items), rows):
        part = where[start : start + rows]
        outputs = {name: take_rows(maps, part[:, 0], part[:, 1]) for name, maps in sources.items()}
        made.append(
            write_segment(segments[0].path.parent, items[start : start + rows], outputs, segments[-1].written_by)
        )
    for segment in segments:
        segment.path.unlink(missing_ok=True)
    return made


def take_rows(sources: Sequence[np.ndarray], source: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Rows `row[i]` of `sources[source[i]]` as one matrix of shape `(len(row), D)`."""
    out = np.empty((len(row), sources[0].shape[1]), dtype=sources[0].dtype)
    for number in np.unique(source):
        chosen = source == number
        out[chosen] = sources[number][row[chosen]]
    return out
