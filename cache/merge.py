"""Takes over what another store holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cache.batches import plan_paths, read_batches, write_batches
from cache.block import placed
from cache.errors import CacheIncomplete, UsageError, listing
from cache.key import unpack_items
from cache.progress import Progress, silent
from cache.segment import check_segment, copy_items, read_segment
from cache.store import EncoderStore, FeatureStore
from cache.view import View, check_view, read_part, write_part, write_view


def merge_stores(store: FeatureStore, other: FeatureStore, progress: Progress = silent) -> dict[str, Any]:
    """Copies vectors, failures, plans and data sets that `store` lacks from `other`, which stays as it is.

    Every byte of `other` is checked. After a kill the same call goes on.

    Returns:
        `items` and `bytes` that were copied, and `data_sets`, the names of those that are new.

    Raises:
        CacheIncomplete: `other` is no store, or vectors of its data sets are missing.
        StoreDamaged: a file of `other` is not what was written.
        UsageError: both are one store, or hold different data sets under one name; nothing is copied.
    """
    if not other.root.is_dir() or not (other.names() or other.encoders()):
        raise CacheIncomplete(f"there is no store at {other.root}; give the folder that extract calls --store")
    if store.root.resolve() == other.root.resolve():
        raise UsageError(f"{other.root} is this very store")
    views = _new_views(store, other)
    result: dict[str, Any] = {"items": 0, "bytes": 0, "data_sets": [view.name for view in views]}
    encoders = other.encoders()
    for number, theirs in enumerate(encoders, 1):
        ours = store.encoder(theirs.digest)
        ours.create(theirs.key())
        before = ours.size()
        result["items"] += _copy(ours, theirs)
        result["bytes"] += ours.size() - before
        progress("merge", number, len(encoders))
    for view in views:
        _write(store, other, view)
    return result


def _write(store: FeatureStore, other: FeatureStore, view: View) -> None:
    """The data set as it is there, in parts where it is in parts: runs know it by its digest."""
    blocks = {name: placed(store.encoder(block.encoder), block)[0] for name, block in view.blocks.items()}
    if not view.parts:
        write_view(store, View(view.name, view.columns, blocks, view.source))
        return
    parts, start = [], 0
    for number, part in enumerate(view.parts):
        rows, own = slice(start, start + part.rows), read_part(other, view.name, part)
        arrays = {name: {key: values[rows] for key, values in one.arrays.items()} for name, one in blocks.items()}
        held = {name: replace(block, arrays=arrays[name]) for name, block in own.blocks.items()}
        parts.append(write_part(store, number, replace(own, blocks=held)))
        start = rows.stop
    write_view(store, View(view.name, {}, blocks, view.source, tuple(parts)))


def _new_views(store: FeatureStore, other: FeatureStore) -> list[View]:
    names = store.names()
    new, conflicts = [], []
    for name in other.names():
        view = check_view(other, name)
        if name not in names:
            new.append(view)
        elif not _equal(check_view(store, name), view):
            conflicts.append(name)
    if conflicts:
        raise UsageError(
            f"{store.root} and {other.root} hold different data sets of the same name: {listing(conflicts)}. Extract "
            "one of them under another --name, or remove its .view.h5; its vectors stay"
        )
    return new


def _equal(one: View, two: View) -> bool:
    encoders = [{name: block.encoder for name, block in view.blocks.items()} for view in (one, two)]
    same = one.digest == two.digest or replace(one, parts=()).digest == replace(two, parts=()).digest
    return same and encoders[0] == encoders[1]


def _copy(ours: EncoderStore, theirs: EncoderStore) -> int:
    held = ours.items()
    copied = 0
    for path in theirs.segment_paths():
        try:
            check_segment(path)
            segment = read_segment(path)
            lacking = [item for item in unpack_items(segment.items) if item not in held]
            if lacking:
                copy_items(segment, ours.folder, lacking)
        except FileNotFoundError:  # merged meanwhile; what is there now is looked at instead
            return copied + _copy(ours, theirs)
        held.update(lacking)
        copied += len(lacking)
    for path in plan_paths(theirs.folder):
        write_batches(ours.folder, read_batches(path))
    # Those without an item are of the latest run on one machine only.
    nameless = [failure for failure in ours.failures() if failure.item is None]
    broken = [one for one in theirs.failures() if one.item is not None and bytes.fromhex(one.item) not in held]
    ours.record_failures([*broken, *nameless], resolved=held)
    return copied
