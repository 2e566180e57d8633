"""Merges segments, and removes what no data set reaches.

Both write the new file before they remove the old one. A kill in between leaves items twice,
never none.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cache.batches import plan_paths, read_batches
from cache.files import TEMPORARY_PREFIX, remove
from cache.key import pack_items, unpack_items
from cache.progress import Progress, silent
from cache.schema import DAMAGED_SUFFIX, FAILURES_FILE, KEY_FILE, PARTS_SUFFIX, PENDING_SUFFIX, VIEW_SUFFIX
from cache.segment import check_items, merge_segments
from cache.store import EncoderStore, FeatureStore
from cache.view import part_paths, read_view, wanted_items

WRITING_SECONDS = 600.0
"""A temporary file that is younger may belong to a writer that is alive."""


def compact_store(store: FeatureStore, progress: Progress = silent) -> dict[str, Any]:
    """Merges the segments of every encoder into few, in the order of the data sets, each item once.

    Returns:
        `segments_before`, `bytes_before`, `segments`, `bytes`, and `damaged`: files that were set aside.

    Raises:
        CacheIncomplete: there is no such store.
        StoreDamaged: a view is not what was written.
        StoreError: the disk refuses; what was there is good.
    """
    store.check()
    encoders = store.encoders()
    found = {"segments_before": _count(encoders), "bytes_before": sum(encoder.size() for encoder in encoders)}
    wanted = wanted_items(store)
    damaged: list[Path] = []
    for number, encoder in enumerate(encoders, 1):
        damaged += encoder.compact(unpack_items(wanted.get(encoder.digest, pack_items([]))))
        progress("compact", number, len(encoders))
    found |= {"segments": _count(encoders), "bytes": sum(encoder.size() for encoder in encoders)}
    return {**found, "damaged": [str(path) for path in damaged]}


def compacted_lines(result: Mapping[str, Any]) -> list[str]:
    """What a compaction did, for people."""
    lines = [f"{path} was damaged and set aside; run extract again to encode its items" for path in result["damaged"]]
    before = f"{result['segments_before']} segments, {result['bytes_before'] / 1e6:.1f} MB"
    return [*lines, f"{before} -> {result['segments']} segments, {result['bytes'] / 1e6:.1f} MB"]


def _count(encoders: list[EncoderStore]) -> int:
    return sum(len(encoder.segment_paths()) for encoder in encoders)


@dataclass
class Collected:
    """What was, or would be, removed: vectors of items, whole files, bytes of both; and items kept for their age."""

    dry_run: bool
    items: int = 0
    bytes: int = 0
    files: list[str] = field(default_factory=list)
    young: int = 0


def collect(
    store: FeatureStore, older_than: float = 0.0, dry_run: bool = False, progress: Progress = silent
) -> dict[str, Any]:
    """Removes what no view and no pending view reaches.

    Args:
        store: the store.
        older_than: seconds; files that are younger are kept.
        dry_run: only say what would be removed.
        progress: told after each encoder.

    Returns:
        `items`, `bytes`, `files`, `young` and `dry_run`.

    Raises:
        CacheIncomplete: there is no such store.
        StoreDamaged: a view cannot be read, so that it is not known what it reaches; nothing more is removed.
    """
    store.check()
    return asdict(_Collection(store, older_than, dry_run).run(progress))


class _Collection:
    def __init__(self, store: FeatureStore, older_than: float, dry_run: bool) -> None:
        self._store = store
        self._older_than = older_than
        self._done = Collected(dry_run)
        self._marks: list[tuple[str, int, int]] | None = None
        self._wanted: dict[str, set[bytes]] = {}

    def run(self, progress: Progress) -> Collected:
        """Looks at every file of the store once."""
        encoders = self._store.encoders()
        self._look()  # a view that cannot be read must be met before anything is removed
        self._leftovers(self._store.root)
        self._parts()
        for number, encoder in enumerate(encoders, 1):
            for path in encoder.segment_paths():
                self._segment(encoder, path)
            with contextlib.suppress(FileNotFoundError):  # another process has removed the folder
                self._leftovers(encoder.folder)
                self._plans(encoder)
                self._folder(encoder)
            progress("gc", number, len(encoders))
        return self._done

    def _keep(self, encoder: EncoderStore) -> set[bytes]:
        """Items that views reach at this moment."""
        self._look()
        return self._wanted.get(encoder.digest, set())

    def _look(self) -> None:
        """Reads the views again if an extraction has begun or ended since the last look."""
        paths = [path for suffix in (VIEW_SUFFIX, PENDING_SUFFIX) for path in self._store.root.glob(f"*{suffix}")]
        marks = []
        for path in sorted(paths):
            with contextlib.suppress(FileNotFoundError):  # an extraction has ended in this moment
                found = path.stat()
                marks.append((path.name, found.st_ino, found.st_mtime_ns))
        if marks != self._marks:
            wanted = wanted_items(self._store)
            self._wanted = {digest: set(unpack_items(items)) for digest, items in wanted.items()}
            self._marks = marks

    def _old(self, path: Path, at_least: float = 0.0) -> bool:
        try:
            return time.time() - path.stat().st_mtime >= max(self._older_than, at_least)
        except FileNotFoundError:  # it got its name in this moment, or another process has removed it
            return False

    def _segment(self, encoder: EncoderStore, path: Path) -> None:
        try:
            segment = check_items(path)
            items = unpack_items(segment.items)
            keep = self._keep(encoder)
            dropped = sum(item not in keep for item in items)
            if not dropped:
                return
            if not self._old(path):
                self._done.young += dropped
                return
            size = path.stat().st_size
            self._done.items += dropped
            if dropped == len(items):
                self._remove(path)
                return
            self._done.bytes += size * dropped // len(items)
            if not self._done.dry_run:
                merge_segments([segment], {item: place for place, item in enumerate(items)}, keep)
        except FileNotFoundError:  # merged by another process meanwhile
            return

    def _parts(self) -> None:
        """Files of rows that no view names. While a data set is being extracted, its view does not name them yet."""
        for folder in sorted(self._store.root.glob(f"*{PARTS_SUFFIX}")):
            name = folder.name.removesuffix(PARTS_SUFFIX)
            if name in self._store.pending():
                continue
            named = set(part_paths(self._store, read_view(self._store, name))) if name in self._store.names() else set()
            self._leftovers(folder)
            for path in sorted(folder.glob(f"*{VIEW_SUFFIX}")):
                if path not in named and self._old(path):
                    self._remove(path)
            if not self._done.dry_run and not any(folder.iterdir()):
                remove(folder)

    def _leftovers(self, folder: Path) -> None:
        """What killed writers left, and damaged files that were set aside."""
        for path in sorted(folder.iterdir()):
            temporary = path.name.startswith(TEMPORARY_PREFIX) and self._old(path, WRITING_SECONDS)
            if temporary or (path.suffix == DAMAGED_SUFFIX and self._old(path)):
                self._remove(path)

    def _plans(self, encoder: EncoderStore) -> None:
        keep = self._keep(encoder)
        for path in plan_paths(encoder.folder):
            items = {item for batch in read_batches(path) for item in batch}
            if items.isdisjoint(keep) and self._old(path):
                self._remove(path)

    def _folder(self, encoder: EncoderStore) -> None:
        """The folder itself, once no view names its encoder and nothing of worth is in it."""
        if encoder.digest in self._wanted:
            return
        rest = {path.name for path in encoder.folder.iterdir() if str(path) not in self._done.files}
        known = [encoder.folder / name for name in (FAILURES_FILE, KEY_FILE) if name in rest]
        if rest <= {FAILURES_FILE, KEY_FILE} and all(self._old(path) for path in known):
            for path in known:
                self._remove(path)
            if not self._done.dry_run:
                remove(encoder.folder)

    def _remove(self, path: Path) -> None:
        try:
            self._done.bytes += path.stat().st_size
        except FileNotFoundError:  # another process has removed it
            return
        self._done.files.append(str(path))
        if not self._done.dry_run:
            remove(path)


def collected_lines(result: Mapping[str, Any]) -> list[str]:
    """What a collection removed, for people."""
    verb = "would remove" if result["dry_run"] else "removed"
    lines = [f"{verb} {path}" for path in result["files"]]
    if result["young"]:
        lines.append(f"kept {result['young']} vectors that no data set reaches, for they are younger than --older-than")
    return [*lines, f"{verb} {result['items']} vectors and {len(result['files'])} files, {result['bytes']} bytes"]
