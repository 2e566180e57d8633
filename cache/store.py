"""A folder of features: one folder an encoder, one view a data set."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache import copies
from cache.batches import plan_paths, read_batches
from cache.errors import CacheIncomplete, StoreDamaged, StoreError, UsageError
from cache.files import check_seal, make_folder, remove, replacing, with_seal, write_json
from cache.key import EncoderKey, from_json, pack_items, unpack_items
from cache.names import choose_name, families_in, fold_view_name
from cache.remote import afresh, each, elsewhere, place
from cache.schema import (
    DAMAGED_SUFFIX,
    FAILURES_FILE,
    KEY_DIGEST,
    KEY_FILE,
    KEY_SCHEMA,
    PARTS_SUFFIX,
    PENDING_SUFFIX,
    VIEW_SUFFIX,
)
from cache.segment import PART_BYTES, Segment, check_segment, is_segment, merge_segments, read_segment

SMALL_BYTES = 128 * 2**20
"""Segments below this are merged at the end of a run; one that comes out of a merge is mostly larger."""

MERGE_AT_ONCE = 4096
"""Segments mapped at once by a merge; Linux allows a process some 65 000 maps."""


@dataclass(frozen=True)
class Failure:
    """A sample whose content an encoder's decoder refused.

    `item` is the hex item key, or None where not even the bytes could be read: then trying again
    may help. `decoder` names what refused it; another version is asked again.
    """

    id: str
    reason: str
    item: str | None
    decoder: str = ""

    def as_json(self) -> dict[str, Any]:
        """What `failures.jsonl` says of it."""
        return {"id": self.id, "reason": self.reason, "digest": self.item, "decoder": self.decoder}


class EncoderStore:
    """Everything that one encoder has computed: `key.json`, segments, failures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def digest(self) -> str:
        """The encoder key's digest, which names the folder."""
        return self.folder.name

    def key(self) -> EncoderKey:
        """The full key that the folder was made for.

        Raises:
            StoreDamaged: `key.json` is missing, unreadable, or not the key that names the folder.
            StoreError: a newer version made the folder.
        """
        path = self.folder / KEY_FILE
        try:
            content = from_json(path.read_text(encoding="utf-8"))
            check_seal(content, {"fields", "name"})
            key = EncoderKey(content["fields"], content["name"])
        except StoreError:  # that says nothing about what it holds
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreDamaged(f"{path} cannot be read ({error}); run extract again to write it") from error
        if key.digest != self.digest:
            raise StoreDamaged(f"{path} holds the key {key.digest}, its folder is named {self.digest}; move it away")
        if key.schema > KEY_SCHEMA:
            raise StoreError(
                f"{self.folder} was made by a newer version: its key has schema {key.schema}, this version knows "
                f"{KEY_SCHEMA}; use the version that made it, or a newer one"
            )
        return key

    def create(self, key: EncoderKey) -> None:
        """Makes the folder and writes `key.json`; harmless when both are there."""
        if key.digest != self.digest:
            raise StoreError(f"{self.folder} is no place for the encoder key {key.digest}")
        make_folder(self.folder, "--store")
        try:
            self.key()
        except StoreDamaged:
            write_json(self.folder / KEY_FILE, with_seal({"fields": dict(key.fields), "name": key.name}))

    def segment_paths(self) -> list[Path]:
        """Paths of the finished segments, oldest first."""
        found, before = self._listed(), None
        while found != before:  # while files come and go, a listing may miss an old one and its successor alike
            found, before = self._listed(), found
        return found

    def _listed(self) -> list[Path]:
        try:
            return sorted(path for path in self.folder.iterdir() if is_segment(path) and path.is_file())
        except FileNotFoundError:
            return []

    def segments(self) -> list[Segment]:
        """All finished segments, oldest first. One that a merge removes meanwhile is left out.

        Raises:
            StoreDamaged: one of them is not what was written.
        """
        return self.contents()[0]

    def contents(self) -> tuple[list[Segment], np.ndarray]:
        """All finished segments, oldest first, and their item keys end to end, `uint8 (n, 16)`.

        Raises:
            StoreDamaged: one of them is not what was written.
        """
        while True:
            try:
                segments = each(read_segment, self.segment_paths(), self.folder)
                items = each(lambda segment: segment.items, segments, self.folder)
                return segments, np.concatenate([pack_items([]), *items])
            except FileNotFoundError:  # merged by another process; its rows are in a newer segment
                continue

    def items(self) -> set[bytes]:
        """Keys of all items that are stored."""
        return set(unpack_items(self.contents()[1]))

    def set_aside_damaged(self, wanted: AbstractSet[bytes] | None = None) -> list[Path]:
        """Renames damaged files to `*.damaged`, so that their items count as missing again.

        Args:
            wanted: every byte is read of segments that hold one of these items, of plans and of
                failures; of other segments header, length and item keys. None reads all of all, but
                of a store that lies elsewhere. What was found damaged from here is always read as a whole.
        """
        moved = []
        for path in self.segment_paths():
            try:
                items = read_segment(path).items
                if _is_to_be_read(path, items, wanted):
                    check_segment(afresh(path))
            except FileNotFoundError:
                continue  # merged by another process
            except StoreDamaged:
                moved.append(_set_aside(path))
        for path in plan_paths(self.folder):
            try:
                read_batches(path)
            except FileNotFoundError:
                continue  # collected by another process
            except StoreDamaged:
                moved.append(_set_aside(path))
        try:
            self.failures()
        except StoreDamaged:
            moved.append(_set_aside(self.failures_path))
        return moved

    def consolidate(self, order: Sequence[bytes], small: int = SMALL_BYTES) -> list[Path]:
        """Merges segments of fewer than `small` bytes, in the order of a data set.

        A run writes one segment a batch, so that a kill loses one batch; readers want few.
        Rows in a data set's own order let `FeatureTable.to_numpy` return the map itself.

        Returns:
            Damaged files that were found and set aside, for a merge reads every byte.
        """
        places = {item: place for place, item in enumerate(dict.fromkeys(order))}
        moved: list[Path] = []
        while len(segments := self._smaller(small)) > 1:
            try:
                merge_segments(segments[:MERGE_AT_ONCE], places)
            except FileNotFoundError:  # another process merges the same segments; it will finish
                return moved
            except StoreDamaged:
                moved += self.set_aside_damaged()
        return moved

    def _smaller(self, size: int) -> list[Segment]:
        return [segment for segment in self.segments() if segment.nbytes < size]

    def compact(self, order: Sequence[bytes]) -> list[Path]:
        """Lays all items out anew, each once, in as few segments as fit: first those of `order`, then the rest.

        Returns:
            Damaged files that were found and set aside.
        """
        moved = self.consolidate(order)
        places = {item: place for place, item in enumerate(dict.fromkeys(order))}
        while True:
            segments, stored = self.contents()
            items = unpack_items(stored)
            in_order = items == sorted(set(items), key=lambda item: (places.get(item, len(places)), item))
            fewest = -(-sum(segment.nbytes for segment in segments) // PART_BYTES)
            if in_order and len(segments) <= fewest:
                return moved
            try:
                merge_segments(segments, places)
            except FileNotFoundError:  # another process merges them
                return moved
            except StoreDamaged:
                moved += self.set_aside_damaged()

    @property
    def failures_path(self) -> Path:
        """Where failures are recorded."""
        return self.folder / FAILURES_FILE

    def failures(self) -> list[Failure]:
        """Recorded failures, one an item."""
        path = self.failures_path
        try:
            return _read_failures(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except StoreError:
            raise
        except OSError as error:  # that says nothing about what it holds
            raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise StoreDamaged(f"{path} is damaged ({error!r}); run extract again, failures are found anew") from error

    def record_failures(self, failures: Iterable[Failure], resolved: Iterable[bytes] = ()) -> None:
        """Adds failures to `failures.jsonl` and drops those of items that are encoded by now.

        Failures without an item key are those of the latest run only: the next one tries again.
        """
        known = self.failures()
        kept = {failure.item: failure for failure in known if failure.item is not None}
        for item in resolved:
            kept.pop(item.hex(), None)
        nameless = []
        for failure in failures:
            if failure.item is None:
                nameless.append(failure)
            elif failure.item not in kept or kept[failure.item].decoder != failure.decoder:
                kept[failure.item] = failure
        entries = [*kept.values(), *nameless]
        if entries == known:
            return
        if not entries:
            remove(self.failures_path)
            return
        with replacing(self.failures_path) as temporary:
            temporary.write_text(_failure_lines(entries), encoding="utf-8")

    def size(self) -> int:
        """Bytes of all segments."""
        sizes = 0
        for path in self.segment_paths():
            with contextlib.suppress(FileNotFoundError):  # merged by another process
                sizes += path.stat().st_size
        return sizes


def _failure_lines(entries: Sequence[Failure]) -> str:
    """One line an entry. Each says how many there are and has a checksum, so that a cut is seen."""
    lines = []
    for entry in entries:
        lines.append(json.dumps(with_seal({**entry.as_json(), "lines": len(entries)})) + "\n")
    return "".join(lines)


def _read_failures(text: str) -> list[Failure]:
    """The inverse of `_failure_lines`; raises ValueError, KeyError or TypeError for anything else."""
    # Not splitlines: it also parts at line separators that JSON leaves in strings.
    contents = [from_json(line) for line in text.split("\n") if line.strip()]
    names = {"id", "reason", "digest", "decoder"}
    for content in contents:
        sealed = "crc32" in content or "lines" in content  # a line of the first version has neither
        check_seal(content, names | {"lines"} if sealed else names)
    if any(content.get("lines", len(contents)) != len(contents) for content in contents) or not contents:
        raise ValueError("lines are missing")
    return [Failure(one["id"], one["reason"], one["digest"], one["decoder"]) for one in contents]


def _is_to_be_read(path: Path, items: np.ndarray, wanted: AbstractSet[bytes] | None) -> bool:
    if copies.is_marked(path):
        return True
    if elsewhere(path) is not None:
        return False
    return wanted is None or not wanted.isdisjoint(unpack_items(items))


def _set_aside(path: Path) -> Path:
    aside = path.with_suffix(DAMAGED_SUFFIX)
    copies.unmark(path)
    try:
        return path.rename(aside)
    except FileNotFoundError:  # another process has set it aside in this moment
        return aside
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{path} is damaged and cannot be set aside: {error.strerror}; remove it by hand") from error


class FeatureStore:
    """The store folder, `features/` by default; or a place elsewhere, by an address such as `s3://bucket/prefix`."""

    def __init__(self, root: str | Path) -> None:
        self.root = place(root)

    def check(self) -> None:
        """Raises CacheIncomplete if there is no such folder."""
        if not self.root.is_dir():
            raise CacheIncomplete(f"there is no store at {self.root}; run extract first or give another --store")

    def create(self) -> None:
        """Makes the folder; harmless when it is there."""
        make_folder(self.root, "--store")

    def encoder(self, digest: str) -> EncoderStore:
        """The part of one encoder, whether it exists yet or not."""
        return EncoderStore(self.root / digest)

    def encoders(self) -> list[EncoderStore]:
        """All encoders that have a folder here."""
        if not self.root.is_dir():
            return []
        folders = sorted(path for path in self.root.iterdir() if KEY_DIGEST.fullmatch(path.name) and path.is_dir())
        return [EncoderStore(path) for path in folders]

    def view_path(self, name: str) -> Path:
        """Where the view of the data set `name` lies.

        Raises:
            StoreError: the name cannot be a file's name.
        """
        # Half a surrogate pair is Python's way to hold bytes that are no UTF-8, which no text in a file can be.
        strange = any(sign in '/\\:*?"<>|\0\n' or "\ud800" <= sign <= "\udfff" for sign in name)
        if not name or strange or name.startswith("."):
            raise StoreError(f"{name!r} cannot name a data set; give a plain name by --name")
        return self.root / f"{name}{VIEW_SUFFIX}"

    def pending_path(self, name: str) -> Path:
        """Where an extraction that has not ended yet says what it wants."""
        return self.view_path(name).with_name(f"{name}{PENDING_SUFFIX}")

    def parts_path(self, name: str) -> Path:
        """The folder of files with the rows of a data set that has too many for one."""
        return self.view_path(name).with_name(f"{name}{PARTS_SUFFIX}")

    def names(self) -> list[str]:
        """Names of the data sets that have a view here."""
        return self._named(VIEW_SUFFIX)

    def pending(self) -> list[str]:
        """Names of the data sets of which an extraction is running or was stopped."""
        return self._named(PENDING_SUFFIX)

    def _named(self, suffix: str) -> list[str]:
        if not self.root.is_dir():
            return []
        paths = sorted(self.root.glob(f"*{suffix}"))
        return [path.name.removesuffix(suffix) for path in paths if not path.name.startswith(".")]

    def choose(self, name: str | None) -> str:
        """The data set `name`, or the only one there is; errors as `choose_name`."""
        return choose_name(name, self.names(), self.root)

    def choose_view(self, name: str | None) -> str:
        """As `choose`, where one view is needed: of a cross-fitted data set it must be told which.

        Raises:
            UsageError: the data set is a cross-fitted one.
        """
        name = self.choose(name)
        folds = families_in(self.names()).get(name)
        if folds:
            raise UsageError(
                f"{name} is a cross-fitted data set of {len(folds)} views, and here one table is needed: give one of "
                f"them by name, such as {fold_view_name(name, folds[0])}; cache.load_folds opens all"
            )
        return name
