"""Where arrays and texts lie in a file of the store: within it. What a file says is checked before it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.errors import StoreDamaged
from cache.files import read_at, readable

if TYPE_CHECKING:
    import h5py

MOST_AXES = 2


@dataclass(frozen=True)
class Extent:
    """Where one array lies in a segment's file."""

    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def map(self, path: Path) -> np.ndarray:
        """The array, mapped read-only and not yet read."""
        if not self.nbytes:
            return np.empty(self.shape, dtype=self.dtype)
        return np.memmap(readable(path), dtype=self.dtype, mode="r", offset=self.offset, shape=self.shape)

    def read(self, path: Path) -> np.ndarray:
        """The array, read; nothing else of the file is."""
        raw, _ = read_at(path, self.offset, self.nbytes)
        return np.frombuffer(raw, dtype=self.dtype).reshape(self.shape)


def read_extent(path: Path, content: Any, size: int) -> Extent:
    """An extent as a header of a file of `size` bytes says it.

    A checksum proves that a header is as written, not that its writer was honest: an array of Python objects mapped
    from a file would be pointers that someone else chose.

    Raises:
        StoreDamaged: it is no array of plain numbers within the file.
    """
    try:
        offset, shape, dtype = content["offset"], tuple(content["shape"]), np.dtype(content["dtype"])
        whole = all(type(number) is int and number >= 0 for number in (offset, *shape))
        plain = isinstance(content["dtype"], str) and dtype.kind in "fiu" and dtype.subdtype is None
        if whole and plain and 1 <= len(shape) <= MOST_AXES and offset + math.prod(shape) * dtype.itemsize <= size:
            return Extent(offset, shape, content["dtype"])
    except (KeyError, TypeError, ValueError):
        pass
    told = dict(content) if isinstance(content, Mapping) else content
    raise StoreDamaged(f"{path} says that an array lies at {told}, which cannot be; move the file out of the store")


def own_texts(path: Path, file: h5py.File, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Texts by name, which must lie in this very file: HDF5 knows links to other files, and data that is kept in them.

    Raises:
        StoreDamaged: one of them is not there, or lies elsewhere.
    """
    import h5py

    for name in names:
        own = name in file and isinstance(file.get(name, getlink=True), h5py.HardLink)
        if not own or not isinstance(file[name], h5py.Dataset) or file[name].external or file[name].is_virtual:
            raise StoreDamaged(f"{path} does not hold its {name} itself; move it out of the store")
    return {name: file[name].asstr()[...] for name in names}
