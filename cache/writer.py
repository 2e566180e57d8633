"""Writes an encoder's vectors, one durable segment a batch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cache.errors import StoreDamaged, StoreError
from cache.key import unpack_items
from cache.ragged import Ragged, Values
from cache.segment import read_segment, write_segment
from cache.store import EncoderStore

LOOKING_SHARE = 0.02
"""At most this share of the time is spent on looking for what other processes have stored."""


class SegmentWriter:
    """Writes segments to one encoder's store without a look at what is there; what `write` returned from is safe."""

    def __init__(self, store: EncoderStore, outputs: Sequence[str], written_by: Mapping[str, Any]) -> None:
        self._store = store
        self._outputs = tuple(outputs)
        self._written_by = dict(written_by)

    def lacking(self, items: Sequence[bytes]) -> list[bytes]:
        """All of the items."""
        return list(items)

    def write(self, items: Sequence[bytes], outputs: Mapping[str, Values], name: str | None = None) -> str:
        """Stores one batch durably.

        Args:
            items: `n` item keys.
            outputs: for each output of the encoder a finite matrix of shape `(n, D)`, or `n` ragged items.
            name: of the segment, without its suffix: one of the same name is replaced as a whole. None finds a new one.

        Returns:
            The name of the segment's file; empty where there are no items.

        Raises:
            StoreError: outputs are missing, of the wrong shape or not finite, or the disk refuses.
        """
        if not items:
            return ""
        if set(outputs) != set(self._outputs):
            raise StoreError(f"expected the outputs {self._outputs}, got {tuple(outputs)}")
        for output, values in outputs.items():
            if len(values.shape) != 2 or len(values) != len(items):
                raise StoreError(f"{output}: expected a matrix of {len(items)} rows, got shape {values.shape}")
            if not np.isfinite(values.values if isinstance(values, Ragged) else values).all():
                raise StoreError(f"{output}: NaN or infinite values are never stored")
        return write_segment(self._store.folder, items, outputs, self._written_by, name).name


class FeatureWriter(SegmentWriter):
    """As `SegmentWriter`, and leaves out what other processes have stored since it was made."""

    def __init__(self, store: EncoderStore, outputs: Sequence[str], written_by: Mapping[str, Any]) -> None:
        super().__init__(store, outputs, written_by)
        self._known = {path.name for path in store.segment_paths()}
        self._elsewhere: set[bytes] = set()
        self._look_again = 0.0

    def lacking(self, items: Sequence[bytes]) -> list[bytes]:
        """Those of the items that no other process has stored since this writer was made."""
        if time.monotonic() >= self._look_again:
            started = time.monotonic()
            self._look()
            now = time.monotonic()
            self._look_again = now + (now - started) / LOOKING_SHARE
        return [item for item in items if item not in self._elsewhere]

    def _look(self) -> None:
        for path in self._store.segment_paths():
            if path.name not in self._known:
                self._known.add(path.name)
                try:
                    self._elsewhere.update(unpack_items(read_segment(path).items))
                except (FileNotFoundError, StoreDamaged):  # merged already, or not to be relied on
                    continue

    def write(self, items: Sequence[bytes], outputs: Mapping[str, Values], name: str | None = None) -> str:
        """As of every writer; what it wrote itself it does not look at."""
        written = super().write(items, outputs, name)
        self._known.add(written)
        return written
