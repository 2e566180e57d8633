"""What a store holds, as numbers for people and programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cache.block import Block
from cache.find import find_rows
from cache.key import pack_items
from cache.names import families_in, fold_view_name
from cache.schema import FAILED, MISSING
from cache.store import EncoderStore, FeatureStore
from cache.view import read_view


def describe_store(store: FeatureStore) -> dict[str, Any]:
    """Data sets (`name`, `rows`, `labelled`, `modalities`) and encoders (`key`, `rows`, `bytes`, ...).

    Raises:
        CacheIncomplete: there is no such folder.
        StoreDamaged: a file of the store is not what was written.
    """
    store.check()
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


def status_of(store: FeatureStore, name: str | None = None) -> dict[str, Any]:
    """How far each data set is: that of `name`, or all. Of a cross-fitted one, how far each of its views is.

    Returns:
        `data_sets`: of each `name`, `finished`, `rows`, `labelled`, and by modality `encoder`, `missing` (samples
        without content), `stored`, `failed`, `lacking` (to be encoded) and `done` (share of those with content
        that are stored or known to be broken).

    Raises:
        CacheIncomplete: no such store, or no such data set in it.
        StoreDamaged: a file is not what was written.
    """
    store.check()
    names = sorted({*store.names(), *store.pending()})
    wanted = names if name is None else [one for one in names if one == name]
    if not wanted:
        name = store.choose(name)  # explains what there is; what it lets pass is a cross-fitted data set
        wanted = [fold_view_name(name, fold) for fold in families_in(names)[name]]
    return {"store": str(store.root), "data_sets": [_status(store, one) for one in wanted]}


def _status(store: FeatureStore, name: str) -> dict[str, Any]:
    unfinished = name in store.pending()
    view = read_view(store, name, pending=unfinished)
    return {
        "name": name,
        "finished": not unfinished,
        "rows": len(view),
        "labelled": int(np.count_nonzero(view.labels != "")),
        "modalities": {modality: _progress_of(store, block) for modality, block in view.blocks.items()},
    }


def _progress_of(store: FeatureStore, block: Block) -> dict[str, Any]:
    encoder = store.encoder(block.encoder)
    refused = pack_items(bytes.fromhex(failure.item) for failure in encoder.failures() if failure.item is not None)
    content = block.state != MISSING
    stored = content & (find_rows(encoder.contents()[1], block.items) >= 0)
    broken = content & ~stored & ((block.state == FAILED) | (find_rows(refused, block.items) >= 0))
    counts = {"stored": stored, "failed": broken, "missing": ~content, "lacking": content & ~stored & ~broken}
    done = int((stored | broken).sum()) / max(1, int(content.sum()))
    return {
        "encoder": block.encoder,
        **{key: int(mask.sum()) for key, mask in counts.items()},
        "done": done if content.any() else 1.0,
    }


def status_lines(content: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    lines = []
    for one in content["data_sets"]:
        unfinished = "" if one["finished"] else "; its extraction is running or was stopped"
        lines.append(f"{one['name']}: {one['rows']} rows, {one['labelled']} labelled{unfinished}")
        for modality, found in one["modalities"].items():
            counts = ", ".join(f"{found[key]} {key}" for key in ("stored", "failed", "missing", "lacking"))
            lines.append(f"  {modality}: {math.floor(1000 * found['done']) / 10:g} % done; {counts}")
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
