"""Stage one: a data set and a choice of encoders become a view of the store."""

from __future__ import annotations

import contextlib
import importlib.metadata
import time
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cache import (
    FAILED,
    MISSING,
    NO_ITEM,
    Block,
    CacheIncomplete,
    DataError,
    EncoderStore,
    Failure,
    FeatureStore,
    FeatureWriter,
    Plan,
    Progress,
    StoreError,
    View,
    listing,
    pack_items,
    placed,
    plan_extraction,
    silent,
)
from extract.chosen import Chooser, Chosen, require_key
from extract.clock import Clock
from extract.contents import Contents, read_contents
from extract.encoders.spec import OUTPUTS, EncoderSpec, outputs_of
from extract.engine import Broken, Outcome
from extract.manifest import Manifest
from extract.planner import Lane, Work
from extract.wanted import announce, publish, wanted_view
from extract.workers import Order, encode_all, encode_all_in_processes

if TYPE_CHECKING:
    from extract.runtime import Runtime


@dataclass(frozen=True)
class Settings:
    """How to extract.

    Attributes:
        store: folder of the feature store.
        name: of the data set in the store.
        specs: one encoder a modality, in the order of the columns.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, or several GPUs as `cuda:0,cuda:1`.
        compile: run the encoders through `torch.compile`; for GPUs.
        expected: encoder key digests that the encoders must have; for features that a trained
            head is to read.
        keep: whether the view is written to the store.
        fail_fast: raise at the first sample that fails, instead of recording it.
        max_failures: raise when more samples of a modality than this fail.
        retry_failed: try items again that failed before.
    """

    store: Path
    name: str
    specs: tuple[EncoderSpec, ...]
    device: str = "auto"
    compile: bool = False
    expected: Mapping[str, str] = field(default_factory=dict)
    keep: bool = True
    fail_fast: bool = False
    max_failures: int | None = None
    retry_failed: bool = False


@dataclass
class Extraction:
    """What was done.

    `encoded` and `reused` count unique items over all modalities, `failed` and `missing`
    samples by modality; `precision` holds by modality what was computed in, and why.
    `encode_seconds` runs from the first sample read to the last segment durable, without the time
    in which models were loaded; `stage_seconds` tells what each stage took, summed over its threads.
    """

    view: View
    samples: int
    encoded: int = 0
    reused: int = 0
    truncated: int = 0
    failures: dict[str, list[Failure]] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    precision: dict[str, tuple[str, str]] = field(default_factory=dict)
    device: str = ""
    encode_seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def failed_ids(self) -> list[str]:
        """Samples of which at least one modality failed."""
        return sorted({failure.id for failures in self.failures.values() for failure in failures})


@dataclass
class _Part:
    """One modality of an extraction. `failed` is added to while it is encoded."""

    chosen: Chosen
    contents: Contents
    store: EncoderStore
    plan: Plan
    failed: dict[bytes, Broken]


def extract(manifest: Manifest, settings: Settings, progress: Progress = silent) -> Extraction:
    """Encodes what the store lacks of a data set, and writes the data set's view.

    What was encoded before an error or a kill stays; the same call goes on from there.

    Raises:
        DataError: no sample has any of the modalities, or too many samples failed.
        ModelError: an encoder cannot be loaded, or is not the expected one.
        DeviceError: the device cannot be used.
        StoreError: the store cannot be written, or was written by a newer version.
    """
    return _Stage(manifest, settings, progress).run()


class _Stage:
    """One extraction; holds what its steps share."""

    def __init__(self, manifest: Manifest, settings: Settings, progress: Progress) -> None:
        self._manifest = manifest
        self._settings = settings
        self._progress = progress
        self._store = FeatureStore(settings.store)
        self._runtimes: list[Runtime] = []
        self._clock = Clock()
        self._chooser = Chooser(self._store, settings.name, settings.expected, manifest.samples, self._device, progress)
        self._done = Extraction(View(settings.name, {}, {}), samples=len(manifest.samples))

    def run(self) -> Extraction:
        """Loads or recalls the encoders, encodes all modalities side by side, writes the view."""
        specs = self._settings.specs
        lacking = [spec.modality for spec in specs if spec.modality not in self._manifest.modalities]
        if lacking:
            raise DataError(
                f"{self._manifest.path} has no {listing(lacking)}; it has {listing(self._manifest.modalities)}: "
                "see --modalities and --columns"
            )
        if self._settings.device not in ("auto", "cpu") or self._settings.compile:
            self._device()  # a GPU that is asked for must be there, whether or not anything is to encode
        # All keys first: a wrong model name must not come to light after hours of the other modality.
        chosen = {spec.modality: self._chooser.choose(spec) for spec in specs}
        started = time.perf_counter()
        contents = self._read(list(chosen))
        wanted = [_wanted(chosen[name], contents[name]) for name in chosen]
        view = wanted_view(self._settings.name, self._manifest, wanted)
        if self._settings.keep:
            self._done.warnings += announce(self._store, view)
        parts = {name: self._part(one, contents[name]) for name, one in chosen.items()}
        self._encode([part for part in parts.values() if part.plan.missing])
        loading = self._clock.seconds().get("load models", 0.0)
        self._done.encode_seconds = time.perf_counter() - started - loading
        for alike in _by_store(parts.values()):
            self._note_failures(alike)  # the view shares the states that it sets
        self._done.view = replace(view, blocks={name: self._block(one, view) for name, one in parts.items()})
        if self._settings.keep:
            publish(self._store, self._done.view)
        self._done.stage_seconds = self._clock.seconds()
        return self._done

    def _device(self) -> Runtime:
        if not self._runtimes:
            from extract.runtime import choose_runtimes

            self._runtimes = choose_runtimes(self._settings.device, self._settings.compile)
            self._done.device = ", ".join(runtime.name for runtime in self._runtimes)
        return self._runtimes[0]

    def _read(self, modalities: Sequence[str]) -> dict[str, Contents]:
        with self._clock.measure("read and hash"):
            contents = read_contents(self._manifest.samples, modalities, self._progress)
        for name, one in contents.items():
            self._done.missing[name] = int((one.state == MISSING).sum())
        return contents

    def _part(self, chosen: Chosen, contents: Contents) -> _Part:
        """What the store has of one modality, and what it lacks."""
        store = self._store.encoder(chosen.key.digest)
        store.create(chosen.key)
        for path in store.set_aside_damaged(contents.places.keys()):
            self._done.warnings.append(f"{path} was damaged and set aside; its items are encoded again")
        known = {} if self._settings.retry_failed else known_bad(store)
        plan = plan_extraction(contents.places, store.items(), known)
        modality = chosen.spec.modality
        self._done.reasons[modality] = plan.reason
        self._done.precision[modality] = (chosen.spec.precision, chosen.why)
        self._done.reused += plan.reused
        return _Part(chosen, contents, store, plan, {item: known[item] for item in plan.refused})

    def _block(self, part: _Part, view: View) -> Block:
        """The rows of one modality's samples."""
        modality = part.chosen.spec.modality
        try:
            return placed(part.store, view.blocks[modality])[0]
        except CacheIncomplete as error:
            raise StoreError(
                f"{error}: another process removed them while they were in use, such as `cache gc`"
            ) from error

    def _note_failures(self, parts: Sequence[_Part]) -> None:
        """Of parts in one store at once, for a file of failures holds those of the latest run."""
        everything: list[Failure] = []
        resolved: list[bytes] = []
        for part in parts:
            failures = [*part.contents.unreadable]
            for number, (sample, item) in enumerate(zip(self._manifest.samples, part.contents.items, strict=True)):
                if item in part.failed:
                    part.contents.state[number] = FAILED
                    digest = item.hex() if part.failed[item].final else None
                    failures.append(Failure(sample.id, part.failed[item].reason, digest, decoder_name()))
            self._done.failures[part.chosen.spec.modality] = failures
            check_failures(failures, self._settings)
            everything += failures
            resolved += [item for item in part.contents.places if item not in part.failed]
        parts[0].store.record_failures(everything, resolved)

    def _encode(self, parts: Sequence[_Part]) -> None:
        """Encodes what the parts lack, and notes what is wrong with items that failed."""
        if not parts:
            return
        alike = {one[0].chosen.spec.modality: one for one in _by_store(parts)}
        lanes = [self._lane(name, one) for name, one in alike.items()]
        with contextlib.closing(self._outcomes(alike, lanes)) as outcomes:
            for outcome in outcomes:
                self._done.encoded += len(outcome.encoded)
                self._done.reused += outcome.elsewhere
                for part in alike[outcome.modality] if outcome.failed else ():
                    part.failed.update(
                        {item: one for item, one in outcome.failed.items() if item in part.contents.places}
                    )
                    names = self._names(part.contents, part.failed)
                    failed = [Failure(names[item], one.reason, None) for item, one in part.failed.items()]
                    check_failures(failed, self._settings)
        with self._clock.measure("merge segments"):
            for one in alike.values():
                self._consolidate(one)
        self._done.truncated += sum(lane.encoder.truncated for lane in lanes)

    def _outcomes(self, alike: Mapping[str, Sequence[_Part]], lanes: Sequence[Lane]) -> Generator[Outcome, None, None]:
        if len(self._runtimes) == 1:
            return encode_all(lanes, self._runtimes[0], self._clock, self._progress)
        encoders = {name: (parts[0].chosen.spec, parts[0].chosen.key.digest) for name, parts in alike.items()}
        devices = [name.strip() for name in self._settings.device.split(",")]
        orders = [Order(self._settings.store, encoders, name, self._settings.compile, len(devices)) for name in devices]
        return encode_all_in_processes(lanes, orders, self._clock, self._progress)

    def _lane(self, name: str, parts: Sequence[_Part]) -> Lane:
        """The way of what parts in one store lack, each item once."""
        part = parts[0]
        spec, key = part.chosen.spec, part.chosen.key
        with self._clock.measure("load models"):
            loaded = next((one.chosen.encoder for one in parts if one.chosen.encoder is not None), None)
            encoder = loaded or self._chooser.load(spec)
        require_key(spec, encoder, key)
        runtime = self._device()
        if spec.precision == "bf16" and not runtime.has_bf16:
            self._done.warnings.append(f"{runtime.name} has no bf16 of its own: fp32 would be faster")
        self._done.warnings += warn_of_mixing(part.store, runtime.record())
        writer = FeatureWriter(part.store, list(outputs_of(key.fields)), runtime.record())
        contents = {item: place for one in parts for item, place in one.contents.places.items()}
        missing = sorted({item for one in parts for item in one.plan.missing})
        refused = sorted({item for one in parts for item in one.plan.refused})
        work = Work(contents, missing, refused)
        return Lane(encoder, work, part.store, writer, runtime.budget(spec.kind), name)

    def _consolidate(self, parts: Sequence[_Part]) -> None:
        items = [item for part in parts for item in part.contents.items if item != NO_ITEM]
        for path in parts[0].store.consolidate(items):
            self._done.warnings.append(f"{path} was damaged and set aside; other data sets may need extract again")

    def _names(self, hashed: Contents, items: Collection[bytes]) -> dict[bytes, str]:
        pairs = zip(hashed.items, self._manifest.samples, strict=True)
        return {item: sample.id for item, sample in pairs if item in items}


def _wanted(chosen: Chosen, contents: Contents) -> Block:
    """The block as it will be, but for the rows."""
    spec, key = chosen.spec, chosen.key
    output = spec.output or OUTPUTS[spec.kind][0]
    row = np.full(len(contents.items), -1, dtype=np.int64)
    arrays = {"items": pack_items(contents.items), "state": contents.state, "row": row}
    width = outputs_of(key.fields)[output]
    return Block(spec.modality, key.digest, output, width, arrays, spec=spec.as_json())


def _by_store(parts: Iterable[_Part]) -> list[list[_Part]]:
    """Parts that one encoder makes, such as of `image` and `image_2`: what they share is encoded once."""
    found: dict[str, list[_Part]] = {}
    for part in parts:
        found.setdefault(part.chosen.key.digest, []).append(part)
    return [*found.values()]


def known_bad(store: EncoderStore) -> dict[bytes, Broken]:
    """Items that this very decoder has refused before: equal bytes would fail again."""
    return {
        bytes.fromhex(failure.item): Broken(failure.reason)
        for failure in store.failures()
        if failure.item is not None and failure.decoder == decoder_name()
    }


def check_failures(failures: Sequence[Failure], settings: Settings) -> None:
    """Raises DataError where there are more than the settings allow."""
    limit = 0 if settings.fail_fast else settings.max_failures
    if limit is None or len(failures) <= limit:
        return
    shown = [f"{failure.id}: {failure.reason}" for failure in failures]
    raise DataError(
        f"{len(failures)} samples failed, {limit} are allowed ({listing(shown)}); what was encoded is kept. "
        "Correct them, or let them be recorded by --on-error record and a higher --max-failures"
    )


def warn_of_mixing(store: EncoderStore, now: Mapping[str, str]) -> list[str]:
    """A warning where a store holds vectors that were made otherwise than those that are made now."""
    makers = (maker for segment in store.segments() for maker in segment.makers)
    others = {tuple(sorted(maker.items())) for maker in makers} - {tuple(sorted(now.items()))}
    if not others:
        return []
    return [
        f"{store.folder} holds vectors that were made on another device or by other versions "
        f"({listing([dict(one) for one in others], 1)}); they may differ in the last digits"
    ]


def decoder_name() -> str:
    """What refused a content, as failures name it."""
    return f"pillow {importlib.metadata.version('pillow')}"
