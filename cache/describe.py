"""What a store holds, as numbers for people and programs."""

from __future__ import annotations

from typing import Any

import numpy as np

from cache.errors import CacheIncomplete
from cache.store import EncoderStore, FeatureStore
from cache.view import read_view


def describe_store(store: FeatureStore) -> dict[str, Any]:
    """Data sets (`name`, `rows`, `labelled`, `modalities`) and encoders (`key`, `rows`, `bytes`, ...).

    Raises:
        CacheIncomplete: there is no such folder.
        StoreDamaged: a file of the store is not what was written.
    """
    if not store.root.is_dir():
        raise CacheIncomplete(f"there is no store at {store.root}; run extract first or give another --store")
    return {
        "store": str(store.root),
        "data_sets": [_data_set(store, name) for name in store.names()],
        "encoders": [_encoder(encoder) for encoder in store.encoders()],
    }


def _data_set(store: FeatureStore, name: str) -> dict[str, Any]:
    view = read_view(store, name)
    return {
        "name": name,
        "rows": len(view.ids),
        "labelled": int(np.count_nonzero(view.labels != "")),
        "modalities": list(view.blocks),
        "encoders": {modality: block.encoder for modality, block in view.blocks.items()},
    }


def _encoder(encoder: EncoderStore) -> dict[str, Any]:
    key = encoder.key()
    return {
        "key": encoder.digest,
        "modality": key.modality,
        "name": key.name,
        "rows": len(encoder.items()),
        "bytes": encoder.size(),
        "failures": len(encoder.failures()),
    }
