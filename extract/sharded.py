"""Stage one on a data set in shards: of all rows at once only keys are in memory; docs/scale.md says how many bytes."""

from __future__ import annotations

import contextlib
import functools
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cache import (
    FAILED,
    MISSING,
    PRESENT,
    DataError,
    Failure,
    FeatureStore,
    KeyIndex,
    Part,
    Progress,
    StoreDamaged,
    StoreError,
    View,
    action_for,
    listing,
    pack_items,
    read_part,
    read_view,
    remove,
    silent,
    write_part,
    write_view,
)
from extract.clock import Clock
from extract.datasets.shards import Shard
from extract.encoders.spec import TABULAR, EncoderSpec
from extract.engine import Outcome
from extract.engines import Asking, Choice, Engine, Found, Local, Look
from extract.found import settled_columns
from extract.keyed import Wanted, key_shard, survey_shard
from extract.manifest import Manifest, absolute
from extract.rows import Demand, Rows
from extract.stage import Extraction, Settings, check_failures, decoder_name, known_bad, warn_of_mixing
from extract.wanted import renamed

SHOWN = 20


@dataclass
class Sharded:
    """An extraction in shards, and what the data was.

    Attributes:
        done: as of a data set that is extracted as a whole.
        manifest: how the data was read, without its rows.
        labels: how many rows have each label, most frequent first.
    """

    done: Extraction
    manifest: Manifest
    labels: dict[str, int] = field(default_factory=dict)


def extract_shards(
    shards: Sequence[Shard],
    settings: Settings,
    engine: Engine | None = None,
    progress: Progress = silent,
    judged: frozenset[str] | None = None,
    named: bool = True,
) -> Sharded:
    """As `extract`, of a data set that need not fit into memory.

    Every shard is read twice: once to key what it holds, so that equal content is encoded once wherever it stands,
    and once to encode what the store lacks. The view is written in parts.

    Args:
        shards: the data set, in order; see `extract.datasets.shards`.
        settings: as for `extract`. A spec of columns of tables that does not say which there are is settled by a look
            at all shards, which is one reading more.
        engine: who does the work; this process by default.
        progress: told of what is done.
        judged: of encoders that were tuned, the ids of the rows that judged them. Where the data gives no splits and
            holds all of them, they become `test` and the other labelled rows `train`.
        named: whether somebody chose the modalities. If not, rows that have others are an error: as a whole, the data
            would be encoded with them.

    Raises:
        DataError, ModelError, DeviceError, StoreError: as `extract`.
    """
    engine = engine or Local(settings.device, settings.compile)
    return _Stage(shards, settings, engine, progress, judged, named).run()


class _Stage:
    """One extraction; holds what its steps share."""

    def __init__(
        self,
        shards: Sequence[Shard],
        settings: Settings,
        engine: Engine,
        progress: Progress,
        judged: frozenset[str] | None,
        named: bool,
    ) -> None:
        self._shards = shards
        self._settings = settings
        self._engine = engine
        self._progress = progress
        self._judged = judged
        self._named_by_user = named
        self._store = FeatureStore(settings.store)
        self._clock = Clock()
        self._done = Extraction(View(settings.name, {}, {}), samples=0)

    def run(self) -> Sharded:
        """Keys all shards, encodes what the store lacks, writes the view."""
        name = self._settings.name
        self._store.create()
        if name not in self._store.pending():  # while one is pending, `cache gc` touches no part
            write_view(self._store, _without_rows(name), pending=True)
        asking = Asking(_everywhere(self._settings.store), name, self._settings.expected, self._shards[0])
        choice = self._engine.choose(self._specs(), asking, self._progress)
        self._done.precision = {one: (chosen.spec.precision, chosen.why) for one, chosen in choice.chosen.items()}
        encoders = {one: (chosen.spec, chosen.key) for one, chosen in choice.chosen.items()}
        wanted = Wanted(_everywhere(self._settings.store), name, encoders, self._judged, secrets.token_hex(8))
        started = time.perf_counter()
        try:
            rows = self._key(wanted)
            manifest = rows.manifest()
            self._warn(rows, manifest, wanted)
            write_view(self._store, _view(wanted, manifest, tuple(one.part for one in rows.keyed)), pending=True)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to show
                for file in self._files():
                    if wanted.run in file:
                        remove(self._store.parts_path(name) / file)
            raise
        self._encode([self._demand(lane, wanted, rows, choice) for lane in _lanes(wanted)], wanted, rows)
        loading = self._clock.seconds().get("load models", 0.0)
        self._done.encode_seconds = time.perf_counter() - started - loading
        with self._clock.measure("write the view"):
            self._publish(wanted, rows, manifest)
        self._done.stage_seconds = self._clock.seconds()
        return Sharded(self._done, manifest, dict(rows.labels.most_common()))

    def _specs(self) -> list[EncoderSpec]:
        """The encoders; of columns of tables, all rows are looked at before the first is encoded."""
        names = [spec.modality for spec in self._settings.specs if spec.kind == TABULAR and not spec.columns]
        if not names:
            return list(self._settings.specs)
        with self._clock.measure("look at columns"):
            found = self._each(functools.partial(survey_shard, modalities=names), "columns")
        found.sort(key=lambda one: one.number)
        columns = {name: settled_columns(one.columns[name] for one in found) for name in names}
        if empty := [name for name in names if not columns[name]]:
            raise DataError(f"no row has anything in {listing(empty)}; see --columns and --modalities")
        return [replace(spec, columns=columns.get(spec.modality, spec.columns)) for spec in self._settings.specs]

    def _each(self, look: Look[Found | DataError], what: str) -> list[Found]:
        """What is found in all shards; all that is wrong with any of them is told at once."""
        found, problems = [], []
        with contextlib.closing(self._engine.each(list(enumerate(self._shards)), look)) as told:
            for count, one in enumerate(told, 1):
                self._progress(what, count, len(self._shards))
                if isinstance(one, DataError):
                    problems.append(str(one))
                else:
                    found.append(one)
        if problems:
            more = f"\nand {len(problems) - SHOWN} more files" if len(problems) > SHOWN else ""
            raise DataError("\n".join(sorted(problems)[:SHOWN]) + more)
        return found

    def _key(self, wanted: Wanted) -> Rows:
        """What all shards hold."""
        with self._clock.measure("read and hash"):
            read = self._each(functools.partial(key_shard, wanted=wanted), "read")
        found = [one for one in read if len(one)]
        if not found:
            raise DataError("the data set holds no rows")
        rows = Rows(self._store, wanted.name, sorted(found, key=lambda one: one.number))
        self._done.samples = len(rows)
        return rows

    def _warn(self, rows: Rows, manifest: Manifest, wanted: Wanted) -> None:
        """Of what may surprise. Raises DataError for what cannot be."""
        lacking = [name for name in wanted.encoders if name not in rows.modalities]
        if lacking:
            raise DataError(
                f"{manifest.path} has no {listing(lacking)}; it has {listing(rows.modalities)}: "
                "see --modalities and --columns"
            )
        other = [name for name in rows.modalities if name not in wanted.encoders]
        if other and not self._named_by_user:
            raise DataError(
                f"{manifest.path} also has {listing(other)}, and its first rows, by which encoders were chosen, have "
                f"none: name what is to be encoded, as in --modalities {','.join(manifest.modalities)}"
            )
        if other:
            self._done.warnings.append(f"the data also has {listing(other)}, which is left out: see --modalities")
        try:
            before, now = absolute(read_view(self._store, wanted.name).source["data"]), absolute(manifest.path)
            if before != now:
                self._done.warnings.append(renamed(wanted.name, before, now))
        except FileNotFoundError:
            pass  # a new data set
        except StoreDamaged as error:
            self._done.warnings.append(str(error).replace("run extract again to replace it", "it is written anew"))

    def _demand(self, lane: Sequence[str], wanted: Wanted, rows: Rows, choice: Choice) -> Demand:
        """What the store has of some modalities that one encoder makes, and what it lacks."""
        key = wanted.encoders[lane[0]][1]
        store = self._store.encoder(key.digest)
        store.create(key)
        # Not every byte of every segment, as of small data: that may be more than is left to encode.
        for path in store.set_aside_damaged(frozenset()):
            self._done.warnings.append(f"{path} was damaged and set aside; its items are encoded again")
        known = {} if self._settings.retry_failed else known_bad(store)
        found = Demand(rows, lane, store.contents()[1], known, self._shards)
        _, reason = action_for(found.missing, found.reused, found.items)
        self._done.reasons.update(dict.fromkeys(lane, reason))
        self._done.reused += found.reused
        self._done.missing.update({name: int((rows.state[name] == MISSING).sum()) for name in lane})
        if found.missing:
            self._done.device, made_by = choice.device()
            self._done.warnings += warn_of_mixing(store, made_by)
        return found

    def _encode(self, demands: Sequence[Demand], wanted: Wanted, rows: Rows) -> None:
        """Encodes what is missing, and notes what is wrong with items that failed."""
        by_name = {one.name: one for one in demands}
        jobs = [job for one in demands for job in one.jobs]
        limited = self._settings.fail_fast or self._settings.max_failures is not None
        if jobs:
            with contextlib.closing(self._engine.encode(jobs, wanted, self._clock, self._progress)) as outcomes:
                for outcome in outcomes:
                    self._count(outcome)
                    by_name[outcome.modality].failed.update(outcome.failed)
                    if outcome.failed and limited:
                        self._failures(by_name[outcome.modality], rows)
        for one in demands:
            everything = self._failures(one, rows)
            store = self._store.encoder(wanted.encoders[one.name][1].digest)
            before = [bytes.fromhex(failure.item) for failure in store.failures() if failure.item is not None]
            store.record_failures(everything, one.mended(before))

    def _count(self, outcome: Outcome) -> None:
        self._done.encoded += len(outcome.encoded)
        self._done.reused += outcome.elsewhere
        self._done.truncated += outcome.truncated

    def _failures(self, demand: Demand, rows: Rows) -> list[Failure]:
        """The samples whose items failed, whose state is set. Raises DataError where they are too many."""
        broken, index = list(demand.failed.items()), KeyIndex(pack_items(demand.failed))
        for name in demand.modalities:
            which = index.find(rows.items[name])
            failing = np.flatnonzero(which >= 0)
            rows.state[name][failing] = FAILED
            failures = [failure for one in rows.keyed for failure in one.unreadable.get(name, ())]
            for id_, (item, why) in zip(rows.ids(failing), (broken[one] for one in which[failing]), strict=True):
                failures.append(Failure(id_, why.reason, item.hex() if why.final else None, decoder_name()))
            check_failures(failures, self._settings)
            self._done.failures[name] = failures
        return [failure for name in demand.modalities for failure in self._done.failures[name]]

    def _publish(self, wanted: Wanted, rows: Rows, manifest: Manifest) -> None:
        """Writes the rows' files with all that is known by now, and at last the view that names them."""
        # Rows of a table with the same numbers are not the same thing twice.
        groups = rows.groups([lane for lane in _lanes(wanted) if wanted.encoders[lane[0]][0].kind != TABULAR])
        segments: dict[str, tuple[tuple[str, int], ...]] = {}
        arrays: dict[str, dict[str, np.ndarray]] = {}
        for lane in _lanes(wanted):
            held, stored = self._store.encoder(wanted.encoders[lane[0]][1].digest).contents()
            index = KeyIndex(stored)
            for name in lane:
                segments[name] = tuple((segment.path.name, segment.items_crc32) for segment in held)
                arrays[name] = {"items": rows.items[name], "state": rows.state[name], "row": _places(index, rows, name)}
        former, folder = self._named(), self._store.parts_path(wanted.name)
        while True:
            parts = self._write_parts(wanted, rows, groups, arrays)
            write_view(self._store, _view(wanted, manifest, parts, segments))
            # Another extraction may have taken them for those of a view that it replaced.
            if all((folder / name).is_file() for name in {part.file for part in parts} - self._files()):
                break
        with contextlib.suppress(FileNotFoundError, StoreDamaged):  # another extraction has one of its own, or ended
            if any(wanted.run in part.file for part in read_view(self._store, wanted.name, pending=True).parts):
                remove(self._store.pending_path(wanted.name))
        # Other files may be those of another extraction that is running; what a killed one left, `cache gc` removes.
        own = {name for name in self._files() if wanted.run in name}
        for name in (own | former) - self._named():
            remove(folder / name)
        self._done.view = read_view(self._store, wanted.name)

    def _write_parts(
        self, wanted: Wanted, rows: Rows, groups: np.ndarray, arrays: Mapping[str, Mapping[str, np.ndarray]]
    ) -> tuple[Part, ...]:
        """The rows' files as a view names them."""
        parts, by_tuning = [], rows.split_by_tuning(wanted.judged)
        for one, chosen in zip(rows.keyed, rows.slices(), strict=True):
            view = read_part(self._store, wanted.name, one.part)
            split = _split(view, wanted.judged or frozenset()) if by_tuning else view.split
            columns = {"ids": view.ids, "labels": view.labels, "split": split, "groups": groups[chosen]}
            own = {name: {key: values[chosen] for key, values in found.items()} for name, found in arrays.items()}
            blocks = {name: wanted.block(name, found) for name, found in own.items()}
            parts.append(write_part(self._store, one.number, View(wanted.name, columns, blocks)))
        return tuple(parts)

    def _files(self) -> set[str]:
        """The files of rows that there are, whoever wrote them."""
        try:
            return {path.name for path in self._store.parts_path(self._settings.name).iterdir()}
        except FileNotFoundError:  # the folder goes with the last of them
            return set()

    def _named(self) -> set[str]:
        """The files of rows that the present view names."""
        try:
            return {part.file for part in read_view(self._store, self._settings.name).parts}
        except (FileNotFoundError, StoreDamaged):  # a new data set; or it is not known what the old one named
            return set()


def _everywhere(store: str | Path) -> str:
    """The store's name from any working folder."""
    return str(store) if "://" in str(store) else str(Path(store).absolute())


def _lanes(wanted: Wanted) -> list[tuple[str, ...]]:
    """Modalities that one encoder makes, together: what they share is encoded once."""
    found: dict[str, tuple[str, ...]] = {}
    for name, (_, key) in wanted.encoders.items():
        found[key.digest] = (*found.get(key.digest, ()), name)
    return [*found.values()]


def _without_rows(name: str) -> View:
    nothing = np.array([], dtype=object)
    columns = {"ids": nothing, "labels": nothing, "split": nothing, "groups": np.array([], dtype=np.int64)}
    return View(name, columns, {})


def _view(
    wanted: Wanted,
    manifest: Manifest,
    parts: tuple[Part, ...],
    segments: Mapping[str, tuple[tuple[str, int], ...]] | None = None,
) -> View:
    held = segments or {}
    blocks = {name: replace(wanted.block(name), segments=held.get(name, ())) for name in wanted.encoders}
    source = {"data": absolute(manifest.path), "layout": manifest.layout, **manifest.notes}
    return View(wanted.name, {}, blocks, source, parts)


def _split(view: View, judged: frozenset[str]) -> np.ndarray:
    """As the encoders were tuned and judged."""
    parts = ["test" if id_ in judged else "train" for id_ in view.ids]
    return np.where(view.labels != "", np.array(parts, dtype=object), "")


def _places(index: KeyIndex, rows: Rows, name: str) -> np.ndarray:
    present = rows.state[name] == PRESENT
    found = np.where(present, index.find(rows.items[name]), -1)
    if lost := int((present & (found < 0)).sum()):
        raise StoreError(
            f"{lost} {name} vectors of this data set are no more in the store: another process removed them while "
            "they were in use, such as `cache gc`; run extract again"
        )
    return found
