"""Reads every byte of a store and says what is not as it was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cache.batches import plan_paths, read_batches
from cache.block import Block, refresh
from cache.errors import CacheIncomplete, StoreDamaged, StoreError
from cache.extent import Extent
from cache.progress import Progress, silent
from cache.remote import afresh
from cache.schema import KEY_FILE
from cache.segment import Segment, check_segment, read_segment
from cache.store import EncoderStore, FeatureStore
from cache.view import check_view, part_paths

_ANEW = "move it out of the store and run extract again"


@dataclass
class Verification:
    """What was read, and what is wrong: a pair of path and problem for each finding."""

    files: int = 0
    bytes: int = 0
    findings: list[tuple[Path, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        findings = [{"file": str(path), "problem": problem} for path, problem in self.findings]
        return {"files": self.files, "bytes": self.bytes, "findings": findings}


def verify_store(store: FeatureStore, progress: Progress = silent) -> Verification:
    """Checks keys, checksums of all files, offsets, and the rows of every view against the segments.

    Nothing in the store is changed; the next extraction from here sets aside what is damaged. Of a store that lies
    elsewhere every byte is read there, whatever local copies there are.

    Raises:
        CacheIncomplete: there is no such store.
    """
    store = FeatureStore(afresh(store.root))
    store.check()
    found = Verification()
    encoders = store.encoders()
    damaged = set()
    for encoder in encoders:
        before = len(found.findings)
        _check_encoder(encoder, found, progress)
        if len(found.findings) > before:
            damaged.add(encoder.digest)
    for pending, names in ((False, store.names()), (True, store.pending())):
        for name in names:
            _check_view(store, name, pending, damaged, found)
    return found


def _check_encoder(encoder: EncoderStore, found: Verification, progress: Progress) -> None:
    key_file = encoder.folder / KEY_FILE
    fields: Mapping[str, Any] = {}
    try:
        fields = encoder.key().fields
    except StoreError as error:
        found.findings.append((key_file, str(error)))
    try:
        found.files += 1
        encoder.failures()
    except StoreError as error:
        found.findings.append((encoder.failures_path, str(error)))
    for path in plan_paths(encoder.folder):
        try:
            found.files += 1
            read_batches(path)
        except FileNotFoundError:  # collected by another process meanwhile
            continue
        except StoreError as error:
            found.findings.append((path, str(error)))
    paths = encoder.segment_paths()
    for number, path in enumerate(paths, 1):
        try:
            size = path.stat().st_size
            check_segment(path)
            problem = _wrong_with(read_segment(path), fields)
        except FileNotFoundError:  # merged by another process meanwhile
            continue
        except StoreError as error:
            problem = str(error)
        found.files += 1
        found.bytes += size
        if problem:
            found.findings.append((path, problem))
        progress(f"verify {encoder.digest[:8]}", number, len(paths))


def _wrong_with(segment: Segment, fields: Mapping[str, Any]) -> str:
    """What a segment whose bytes are as written still may have wrong; empty if nothing."""
    if len(np.unique(segment.items, axis=0)) < len(segment):
        return f"{segment.path} holds an item twice; `cache compact` mends it"
    widths = {}
    for name, extent in segment.outputs.items():
        values, places = (extent, None) if isinstance(extent, Extent) else extent
        widths[name] = values.shape[1]
        rows = values.shape[0] if places is None else places.shape[0] - 1
        if rows != len(segment):
            return f"{segment.path}: {name} has {rows} rows for {len(segment)} items; {_ANEW}"
        if places is not None:
            offsets = places.read(segment.path)
            if offsets[0] != 0 or offsets[-1] != values.shape[0] or (np.diff(offsets) < 0).any():
                return f"{segment.path}: the offsets of {name} do not fit its {values.shape[0]} vectors; {_ANEW}"
    expected = fields.get("outputs")
    if expected is not None and widths != dict(expected):
        return f"{segment.path} has the outputs {widths}, its encoder gives {dict(expected)}; {_ANEW}"
    return ""


def _check_view(store: FeatureStore, name: str, pending: bool, damaged: set[str], found: Verification) -> None:
    path = store.pending_path(name) if pending else store.view_path(name)
    try:
        view = check_view(store, name, pending)
        files = [path, *part_paths(store, view)]
        found.files += len(files)
        found.bytes += sum(file.stat().st_size for file in files)
        if not pending:
            for block in view.blocks.values():
                if block.encoder not in damaged:
                    _check_rows(store, path, block)
    except CacheIncomplete as error:
        found.findings.append((path, str(error)))
    except FileNotFoundError:  # removed meanwhile
        return
    except StoreError as error:
        found.findings.append((path, str(error)))


def _check_rows(store: FeatureStore, path: Path, block: Block) -> None:
    block, segments = refresh(store, block)
    wanted = block.items[block.present]
    if not len(wanted):
        return
    held = np.concatenate([segment.items for segment in segments])
    wrong = int((held[block.row[block.present]] != wanted).any(axis=1).sum())
    if wrong:
        raise StoreDamaged(f"{path}: {wrong} rows of {block.modality} are not those of its samples; run extract again")


def finding_lines(result: Mapping[str, Any]) -> list[str]:
    """What a verification found, for people."""
    lines = [f"wrong: {one['problem']}" for one in result["findings"]]
    read = f"{result['files']} files, {result['bytes'] / 1e6:.1f} MB read"
    if deep := result.get("deep"):
        read += f"; {deep['rows']} rows encoded again, largest difference {deep['largest_difference']:.2g}"
    if not lines:
        return [f"all is as it was written: {read}"]
    return [*lines, f"{len(lines)} findings: {read}"]
