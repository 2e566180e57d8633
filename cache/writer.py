"""Writes an encoder's vectors, one durable segment a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cache.errors import StoreError
from cache.segment import write_segment
from cache.store import EncoderStore


class FeatureWriter:
    """Appends segments to one encoder's store; what `write` returned from is safe."""

    def __init__(self, store: EncoderStore, outputs: Sequence[str], written_by: Mapping[str, Any]) -> None:
        self._store = store
        self._outputs = tuple(outputs)
        self._written_by = dict(written_by)

    def write(self, items: Sequence[bytes], outputs: Mapping[str, np.ndarray]) -> None:
        """Stores one batch durably.

        Args:
            items: `n` item keys.
            outputs: for each output of the encoder a finite matrix of shape `(n, D)`.

        Raises:
            StoreError: outputs are missing, of the wrong shape or not finite, or the disk refuses.
        """
        if not items:
            return
        if set(outputs) != set(self._outputs):
            raise StoreError(f"expected the outputs {self._outputs}, got {tuple(outputs)}")
        for name, values in outputs.items():
            if values.ndim != 2 or len(values) != len(items):
                raise StoreError(f"{name}: expected a matrix of {len(items)} rows, got shape {values.shape}")
            if not np.isfinite(values).all():
                raise StoreError(f"{name}: NaN or infinite values are never stored")
        write_segment(self._store.folder, items, outputs, self._written_by)
