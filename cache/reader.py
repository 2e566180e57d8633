"""Reads the vectors of one modality of a data set from the segments in which they lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from cache.block import Block, placed, refresh
from cache.errors import StoreDamaged
from cache.extent import Extent
from cache.files import readable
from cache.ragged import Values, take_rows
from cache.remote import each
from cache.segment import Segment
from cache.store import FeatureStore

SPARSE = 8
"""Where fewer than one row in so many is asked for, rows are read one by one instead of through a map:
a map costs a page fault for every few rows, and resident memory for their neighbours. Once more were
asked for, the map is quicker."""

ROWS_AT_ONCE = 256


class BlockReader:
    """Vectors of one modality over several segments, mapped and not copied, never pickled.

    They are mapped when the table is opened, so that a merge by another process cannot take the
    files away. A copy in a worker process maps them on first use, and finds its rows anew by
    item key if the segments were merged meanwhile.
    """

    def __init__(self, store: FeatureStore, block: Block) -> None:
        self._encoder = store.encoder(block.encoder)
        self._maps: dict[str, list[Values]] = {}
        self._asked = 0
        while True:
            self.block, self._segments = refresh(store, block)
            try:
                each(readable, self.paths, self._encoder.folder)
                self._maps = {name: [segment.map(name) for segment in self._segments] for name in self.outputs}
                return
            except FileNotFoundError:  # merged by another process in this very moment
                continue

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the encoder gave for each item."""
        return tuple(self._segments[0].outputs) if self._segments else ()

    @property
    def dtype(self) -> np.dtype:
        """The type in which vectors are stored; float32 where there are none."""
        return self._segments[0].dtype(self.block.output) if self._segments else np.dtype(np.float32)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files in which the vectors lie."""
        return tuple(segment.path for segment in self._segments)

    def consecutive(self, samples: np.ndarray) -> np.ndarray | None:
        """The map itself, `(len(samples), D)`, where all rows follow each other in one segment, else None."""
        if not len(samples):
            return None
        maps = self._mapped(self.block.output)  # first, for it may find the rows anew
        rows = self.block.row[samples]
        if rows[0] < 0 or np.any(np.diff(rows) != 1):
            return None
        source, within = self._places(samples)
        one = maps[source[0]]
        return one[within[0] : within[-1] + 1] if isinstance(one, np.ndarray) and source[0] == source[-1] else None

    def fill(self, samples: np.ndarray, out: np.ndarray, columns: slice, missing: float) -> None:
        """Writes vectors of samples into `columns` of `out`, a C-contiguous matrix of `len(samples)` rows."""
        present = np.flatnonzero(self.block.row[samples] >= 0)
        if len(present) < len(samples):
            out[:, columns] = missing
            samples = samples[present]
        if not len(samples):
            return
        self._asked += len(samples)
        sparse = self._asked * SPARSE <= sum(map(len, self._segments)) and out.dtype == self.dtype
        if sparse and hasattr(os, "preadv") and self._read(samples, out, present, columns):
            return
        for start in range(0, len(samples), ROWS_AT_ONCE):  # what is gathered stays in the processor's cache
            part = slice(start, start + ROWS_AT_ONCE)
            out[part if len(samples) == len(out) else present[part], columns] = self.take(samples[part])

    def take(self, samples: np.ndarray, output: str | None = None) -> Values:
        """One output of samples that have some, as a new matrix or as ragged items."""
        output = output or self.block.output
        if not self._segments:
            return np.empty((0, self.block.dim), dtype=self.dtype)
        maps = self._mapped(output)
        return take_rows(maps, *self._places(samples))

    def _places(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each sample the number of its segment, and the row in it."""
        rows = self.block.row[samples]
        starts = np.cumsum([0, *(len(segment) for segment in self._segments)])
        source = np.searchsorted(starts, rows, side="right") - 1
        return source, rows - starts[source]

    def _mapped(self, output: str) -> list[Values]:
        if output not in self._maps:
            try:
                self._maps[output] = [segment.map(output) for segment in self._segments]
            except FileNotFoundError:  # a copy in another process, opened before a merge and mapped after it
                self._maps = {}
                self.block, self._segments = placed(self._encoder, self.block)
                return self._mapped(output)
        return self._maps[output]

    def _read(self, samples: np.ndarray, out: np.ndarray, targets: np.ndarray, columns: slice) -> bool:
        """Reads rows straight into `out[targets, columns]`; False if a segment is gone by now."""
        raw = out.data.cast("B")
        source, within = self._places(samples)
        for number in np.unique(source):
            chosen = source == number
            starts = targets[chosen] * out.strides[0] + columns.start * out.itemsize
            try:
                _read_rows(self._segments[number], self.block.output, within[chosen], raw, starts)
            except FileNotFoundError:  # merged meanwhile; the map still holds it
                return False
        return True


def _read_rows(segment: Segment, output: str, rows: np.ndarray, raw: memoryview, starts: np.ndarray) -> None:
    """Reads row `rows[i]` of a segment into `raw` from byte `starts[i]` on."""
    extent = segment.outputs[output]
    if not isinstance(extent, Extent):
        raise TypeError(f"{output} is ragged")
    width = extent.shape[1] * np.dtype(extent.dtype).itemsize
    descriptor = os.open(readable(segment.path), os.O_RDONLY)
    try:
        for start, offset in zip(starts.tolist(), (extent.offset + rows * width).tolist(), strict=True):
            if os.preadv(descriptor, [raw[start : start + width]], offset) != width:
                raise StoreDamaged(f"{segment.path} ends before its last row; run extract again to replace it")
    finally:
        os.close(descriptor)
