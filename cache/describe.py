"""What a store holds, as numbers for people and programs."""

from __future__ import annotations

from collections.abc import Mapping
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


def store_lines(content: Mapping[str, Any]) -> list[str]:
    """The same for people, one line a data set and one an encoder."""
    lines = [f"store {content['store']}: data sets {len(content['data_sets'])}, encoders {len(content['encoders'])}"]
    for one in content["data_sets"]:
        lines.append(f"  {one['name']}: {one['rows']} rows, {one['labelled']} labelled, {', '.join(one['modalities'])}")
    for one in content["encoders"]:
        size = f"{one['rows']} rows, {one['bytes'] / 1e6:.1f} MB, {one['failures']} failures"
        lines.append(f"  {one['key']}: {one['modality']} {one['name']}, {size}")
    return lines


def _data_set(store: FeatureStore, name: str) -> dict[str, Any]:
    view = read_view(store, name)
    return {
        "name": name,
        "rows": len(view),
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
