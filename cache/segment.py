"""One immutable file of feature vectors: some items, and every output of one encoder for each.

Datasets are contiguous and little-endian, so that a reader maps them into memory and touches
only the rows it asks for.
"""

from __future__ import annotations

import itertools
import secrets
import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.errors import StoreDamaged, StoreError
from cache.extent import Extent, read_extent
from cache.files import TEMPORARY_PREFIX, check_file, read_at, read_header, readable, remove, write_sealed
from cache.key import ITEM_BYTES, pack_items, unpack_items
from cache.ragged import Ragged, Values, take_rows
from cache.remote import each, sized
from cache.schema import SEGMENT_SUFFIX

if TYPE_CHECKING:
    import h5py

PART_BYTES = 512 * 2**20
"""A merge writes segments of about this size, each built in memory."""

MAKERS = 8
"""A merged segment names at most so many devices and versions, for a header has its limit."""


@dataclass(frozen=True)
class Segment:
    """A finished segment of `len(segment)` items.

    Each output is a matrix `(n, D)`, of which the extent is known, or ragged: then there is one
    extent for `values` and one for `offsets`. `items_crc32` is the checksum of the item keys.
    """

    path: Path
    where: Extent
    items_crc32: int
    outputs: Mapping[str, Extent | tuple[Extent, Extent]]
    written_by: Mapping[str, Any]

    def __len__(self) -> int:
        return self.where.shape[0]

    @cached_property
    def items(self) -> np.ndarray:
        """Item keys, `uint8 (n, 16)`; read when first asked for.

        Raises:
            FileNotFoundError: the segment was merged into another one meanwhile.
            StoreDamaged: they are not what was written.
        """
        raw, _ = read_at(self.path, self.where.offset, self.where.nbytes)
        if zlib.crc32(raw) != self.items_crc32:
            raise StoreDamaged(
                f"{self.path} is damaged (its item keys are not what was written); run extract again to replace it"
            )
        return np.frombuffer(raw, dtype=np.uint8).reshape(self.where.shape)

    def map(self, output: str) -> Values:
        """One output of all items, mapped read-only and not yet read.

        Raises:
            FileNotFoundError: the segment was merged into another one meanwhile.
        """
        extent = self.outputs[output]
        if isinstance(extent, Extent):
            return extent.map(self.path)
        values, offsets = extent
        return Ragged(values.map(self.path), offsets.map(self.path))

    @property
    def nbytes(self) -> int:
        """Bytes of all outputs."""
        parts = (one if isinstance(one, tuple) else (one,) for one in self.outputs.values())
        return sum(extent.nbytes for part in parts for extent in part)

    @property
    def makers(self) -> list[dict[str, Any]]:
        """On what device and by what versions the vectors were made; several after a merge."""
        return list(self.written_by.get("several", [dict(self.written_by)]))

    def dtype(self, output: str) -> np.dtype:
        """The type in which an output is stored."""
        extent = self.outputs[output]
        return np.dtype((extent if isinstance(extent, Extent) else extent[0]).dtype)


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
    folder: Path,
    items: Sequence[bytes],
    outputs: Mapping[str, Values],
    written_by: Mapping[str, Any],
    name: str | None = None,
) -> Path:
    """Writes one segment durably and returns its path.

    Args:
        folder: the encoder's folder in the store.
        items: `n` item keys.
        outputs: by name, matrices of shape `(n, D)` or `n` ragged items.
        written_by: versions and device, recorded beside the vectors but no part of any key.
        name: of the file, without its suffix; one that no other writer picks by default.

    Raises:
        StoreError: the folder cannot be written.
    """

    def fill(file: h5py.File) -> dict[str, Any]:
        """Puts items and outputs into an open file."""
        packed = pack_items(items)
        extents: dict[str, Any] = {"items": _put(file, "items", packed)}
        for name, values in outputs.items():
            if isinstance(values, Ragged):
                parts = {"values": values.values, "offsets": values.offsets}
                extents[name] = {part: _put(file, f"outputs/{name}/{part}", array) for part, array in parts.items()}
            else:
                extents[name] = _put(file, f"outputs/{name}", values)
        # The folder is the encoder: a segment that is moved to another one holds none of its vectors.
        about = {"encoder": folder.name, "written_by": dict(written_by)}
        return {"extents": extents, "items_crc32": zlib.crc32(packed.tobytes()), **about}

    target = folder / (new_name() if name is None else f"{name}{SEGMENT_SUFFIX}")
    write_sealed(target, "segment", fill)
    return target


def _put(file: h5py.File, name: str, values: np.ndarray) -> dict[str, Any]:
    dataset = file.create_dataset(name, data=values.astype(little_endian(values.dtype), copy=False))
    # An array without elements has no place in the file.
    offset = dataset.id.get_offset() if values.size else 0
    return {"offset": offset, "shape": list(values.shape), "dtype": dataset.dtype.str}


def read_segment(path: Path) -> Segment:
    """Reads a segment's header: where its items and outputs lie. These stay on disk.

    Raises:
        FileNotFoundError: there is no such file.
        StoreDamaged: header or length are not what was written.
        StoreError: it cannot be read at this moment, or was written by a newer version.
    """
    path = sized(path)
    header = read_header(path, "segment")
    encoder = path.parent.name
    if header.get("encoder", encoder) != encoder:  # older segments do not say
        raise StoreDamaged(f"{path} is of the encoder {header['encoder']}, not of {encoder}; move it to its folder")
    try:
        extents = {name: _extents(path, one, header["size"]) for name, one in header["extents"].items()}
        where = extents.pop("items")
        written_by = dict(header["written_by"])
        if not isinstance(where, Extent) or where.shape[1:] != (ITEM_BYTES,) or where.dtype not in ("|u1", "uint8"):
            raise ValueError("its items are no keys")
        return Segment(path, where, header["items_crc32"], extents, written_by)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreDamaged(
            f"{path} has a header that is none of a segment ({error!r}); move it out of the store"
        ) from error


def _extents(path: Path, content: Mapping[str, Any], size: int) -> Extent | tuple[Extent, Extent]:
    if "values" in content:
        return read_extent(path, content["values"], size), read_extent(path, content["offsets"], size)
    return read_extent(path, content, size)


def check_items(path: Path) -> Segment:
    """Reads a segment's header and item keys; raises as `read_segment` unless they are as written."""
    segment = read_segment(path)
    len(segment.items)
    return segment


def check_segment(path: Path) -> None:
    """Reads every byte of a segment, see `check_file`; raises as `read_segment` unless all are as written."""
    check_file(path, "segment")


def merge_segments(
    segments: Sequence[Segment], order: Mapping[bytes, int], keep: Collection[bytes] | None = None
) -> list[Path]:
    """Writes segments that hold the items of `segments` once, then removes the old ones.

    Args:
        segments: at least one, all of one encoder.
        order: place of an item in the new segments; items without one follow at the end.
        keep: items that are taken over, all by default.

    A kill between the two steps leaves items twice, which readers do not mind, never none.

    Raises:
        FileNotFoundError: another process merged one of them meanwhile.
        StoreDamaged: one of them is damaged; nothing is removed.
    """
    places: dict[bytes, tuple[int, int]] = {}
    for number, segment in enumerate(segments):
        for row, item in enumerate(unpack_items(segment.items)):
            if keep is None or item in keep:
                places.setdefault(item, (number, row))
    items = sorted(places, key=lambda item: (order.get(item, len(order)), item))
    made = _write_parts(segments, items, [places[item] for item in items], segments[0].path.parent)
    each(remove, [segment.path for segment in segments], segments[0].path.parent)
    return made


def copy_items(segment: Segment, folder: Path, items: Sequence[bytes]) -> list[Path]:
    """Writes some items of a segment to another folder; the segment stays.

    Raises:
        StoreDamaged: it is damaged; nothing is written.
    """
    rows = {item: row for row, item in enumerate(unpack_items(segment.items))}
    return _write_parts([segment], items, [(0, rows[item]) for item in items], folder)


def _write_parts(
    segments: Sequence[Segment], items: Sequence[bytes], places: Sequence[tuple[int, int]], folder: Path
) -> list[Path]:
    """Writes items, each from row `places[i][1]` of segment `places[i][0]`, as segments of a fitting size."""
    each(readable, [segment.path for segment in segments], segments[0].path.parent)
    sources = {name: [segment.map(name) for segment in segments] for name in segments[0].outputs}
    for segment in segments:
        check_segment(segment.path)  # or a damaged vector would get a new checksum
    where = np.array(places, dtype=np.int64).reshape(-1, 2)
    made: list[Path] = []
    try:
        for part in _parts(_bytes_of(sources, where)):
            outputs = {name: take_rows(maps, where[part, 0], where[part, 1]) for name, maps in sources.items()}
            made.append(write_segment(folder, items[part], outputs, _written_by(segments)))
    except StoreError:
        for path in made:  # on a full disk half a copy would only be in the way
            path.unlink(missing_ok=True)
        raise
    return made


def _written_by(segments: Sequence[Segment]) -> Mapping[str, Any]:
    distinct: list[dict[str, Any]] = []
    for maker in (maker for segment in segments for maker in segment.makers):
        if maker not in distinct:
            distinct.append(maker)
    return distinct[0] if len(distinct) == 1 else {"several": distinct[-MAKERS:]}


def _bytes_of(sources: Mapping[str, Sequence[Values]], where: np.ndarray) -> np.ndarray:
    """Size of each item over all outputs."""
    sizes = np.zeros(len(where), dtype=np.int64)
    for maps in sources.values():
        for number, values in enumerate(maps):
            chosen = where[:, 0] == number
            lengths = values.lengths[where[chosen, 1]] if isinstance(values, Ragged) else 1
            sizes[chosen] += lengths * values.shape[1] * values.dtype.itemsize
    return sizes


def _parts(sizes: np.ndarray) -> list[slice]:
    """Cuts a row of items into parts of about `PART_BYTES` each."""
    number = (np.cumsum(sizes) - 1) // PART_BYTES
    starts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(sizes)]
    return [slice(start, stop) for start, stop in itertools.pairwise(starts) if stop > start]
