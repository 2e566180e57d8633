"""Stage one: a data set and a choice of encoders become a view of the store."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cache import (
    FAILED,
    MISSING,
    NO_ITEM,
    TOKENS,
    Block,
    CacheIncomplete,
    DataError,
    EncoderKey,
    EncoderStore,
    Failure,
    FeatureStore,
    FeatureWriter,
    ModelError,
    Plan,
    Progress,
    StoreError,
    UsageError,
    View,
    listing,
    pack_items,
    placed,
    plan_extraction,
    silent,
)
from extract.contents import Contents, read_contents
from extract.encoders import build_encoder
from extract.encoders.memo import recall, remember
from extract.encoders.spec import OUTPUTS, Encoder, EncoderSpec, outputs_of, without_tokens
from extract.engine import Broken, Work, encode_items
from extract.manifest import Manifest
from extract.wanted import announce, publish, wanted_view

if TYPE_CHECKING:
    from extract.runtime import Runtime


@dataclass(frozen=True)
class Settings:
    """How to extract.

    Attributes:
        store: folder of the feature store.
        name: of the data set in the store.
        specs: one encoder a modality, in the order of the columns.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
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
    expected: Mapping[str, str] = field(default_factory=dict)
    keep: bool = True
    fail_fast: bool = False
    max_failures: int | None = None
    retry_failed: bool = False


@dataclass
class Extraction:
    """What was done.

    `encoded` and `reused` count unique items over all modalities, `failed` and `missing`
    samples by modality. `encode_seconds` runs from the first sample read to the last segment
    durable, without the time in which models were loaded.
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
    device: str = ""
    encode_seconds: float = 0.0

    @property
    def failed_ids(self) -> list[str]:
        """Samples of which at least one modality failed."""
        return sorted({failure.id for failures in self.failures.values() for failure in failures})


_Chosen = tuple[EncoderSpec, EncoderKey, Encoder | None]


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
        self._runtime: Runtime | None = None
        self._done = Extraction(View(settings.name, {}, {}), samples=len(manifest.samples))

    def run(self) -> Extraction:
        """Loads or recalls the encoders, encodes one modality after the other, writes the view."""
        lacking = [spec.modality for spec in self._settings.specs if spec.modality not in self._manifest.modalities]
        if lacking:
            raise DataError(
                f"{self._manifest.path} has no {listing(lacking)}; it has {listing(self._manifest.modalities)}: "
                "see --modalities and --columns"
            )
        if self._settings.device not in ("auto", "cpu"):
            self._device()  # a GPU that is asked for must be there, whether or not anything is to encode
        # All keys first: a wrong model name must not come to light after hours of the other modality.
        encoders = [self._key(spec) for spec in self._settings.specs]
        hashed = [self._hash(spec.modality) for spec, _, _ in encoders]
        wanted = [_wanted(spec, key, one) for (spec, key, _), one in zip(encoders, hashed, strict=True)]
        view = wanted_view(self._settings.name, self._manifest, wanted)
        if self._settings.keep:
            self._done.warnings += announce(self._store, view)
        blocks = {
            spec.modality: self._block(spec, key, encoder, one, view.blocks[spec.modality])
            for (spec, key, encoder), one in zip(encoders, hashed, strict=True)
        }
        self._done.view = replace(view, blocks=blocks)
        if self._settings.keep:
            publish(self._store, self._done.view)
        return self._done

    def _device(self) -> Runtime:
        if self._runtime is None:
            from extract.runtime import choose_runtime

            self._runtime = choose_runtime(self._settings.device)
            self._done.device = self._runtime.name
        return self._runtime

    def _hash(self, modality: str) -> Contents:
        started = time.perf_counter()
        contents = read_contents(self._manifest.samples, modality, self._progress)
        self._done.encode_seconds += time.perf_counter() - started
        self._done.missing[modality] = int((contents.state == MISSING).sum())
        return contents

    def _block(
        self, spec: EncoderSpec, key: EncoderKey, encoder: Encoder | None, hashed: Contents, wanted: Block
    ) -> Block:
        """Makes sure that every item of one modality is stored, as far as it can be encoded."""
        store = self._store.encoder(key.digest)
        store.create(key)
        for path in store.set_aside_damaged(hashed.places.keys()):
            self._done.warnings.append(f"{path} was damaged and set aside; its items are encoded again")
        known = self._known_bad(store)
        plan = plan_extraction(hashed.places, store.items(), known)
        self._done.reasons[spec.modality] = plan.reason
        self._done.reused += plan.reused
        failed = {item: known[item] for item in plan.refused}
        if plan.missing:
            failed.update(self._encode(spec, encoder, store, plan, hashed))
        self._note_failures(spec.modality, store, hashed, failed)  # `wanted` shares the states that it sets
        try:
            return placed(store, wanted)[0]
        except CacheIncomplete as error:
            raise StoreError(
                f"{error}: another process removed them while they were in use, such as `cache gc`"
            ) from error

    def _known_bad(self, store: EncoderStore) -> dict[bytes, Broken]:
        """Items that this very decoder has refused before: equal bytes would fail again."""
        if self._settings.retry_failed:
            return {}
        return {
            bytes.fromhex(failure.item): Broken(failure.reason)
            for failure in store.failures()
            if failure.item is not None and failure.decoder == _decoder()
        }

    def _note_failures(
        self, modality: str, store: EncoderStore, hashed: Contents, failed: Mapping[bytes, Broken]
    ) -> None:
        failures = [*hashed.unreadable]
        for sample, item, number in zip(self._manifest.samples, hashed.items, range(len(hashed.items)), strict=True):
            if item in failed:
                hashed.state[number] = FAILED
                digest = item.hex() if failed[item].final else None
                failures.append(Failure(sample.id, failed[item].reason, digest, _decoder()))
        self._done.failures[modality] = failures
        self._check_failures(failures)
        store.record_failures(failures, resolved=[item for item in hashed.places if item not in failed])

    def _key(self, spec: EncoderSpec) -> _Chosen:
        """The encoder's key; the encoder itself only if it had to be loaded to know the key."""
        encoder = None
        key = recall(self._settings.store, spec)
        if key is None:
            encoder = self._load(spec)
            key = encoder.key
        asked, loaded = spec, encoder
        if not spec.tokens and (larger := self._with_tokens(key)):
            spec, key, encoder = replace(spec, tokens=True), larger, None
        widths = outputs_of(key.fields)
        if spec.output is not None and spec.output not in widths:
            raise UsageError(
                f"the {spec.modality} encoder has no output {spec.output!r}; it has {listing(list(widths))}"
            )
        expected = self._settings.expected.get(spec.modality, key.digest)
        if key.digest != expected:
            raise ModelError(
                f"the run was trained on {spec.modality} features of the encoder {expected}, but {spec.model} is now "
                f"{key.digest}: other weights, tokenizer or preprocessing. Give the model of the run by "
                f"--{spec.modality}-model, or train a new run on features of this one"
            )
        if loaded is not None:
            self._store.encoder(key.digest).create(key)
            remember(self._settings.store, asked, loaded)
        return spec, key, encoder

    def _with_tokens(self, key: EncoderKey) -> EncoderKey | None:
        """The same encoder with tokens kept, if the store has it and not the plain one: it serves as well."""
        if self._store.encoder(key.digest).folder.exists() or self._settings.expected:
            return None
        for store in self._store.encoders():
            try:
                found = store.key()
            except StoreError:  # damaged, or of a newer version: not to be used here, and named by `cache verify`
                continue
            if TOKENS in found.fields and without_tokens(found.fields) == key.fields:
                return found
        return None

    def _load(self, spec: EncoderSpec) -> Encoder:
        self._progress(f"load {spec.modality} model {spec.model}", 0, 1)
        encoder = build_encoder(spec, self._device())
        self._progress(f"load {spec.modality} model {spec.model}", 1, 1)
        return encoder

    def _encode(
        self, spec: EncoderSpec, encoder: Encoder | None, store: EncoderStore, plan: Plan, hashed: Contents
    ) -> dict[bytes, Broken]:
        """Encodes the plan's items and returns what is wrong with those that failed."""
        encoder = encoder or self._load(spec)
        if encoder.key.digest != store.digest:
            raise ModelError(
                f"{spec.model} changed while it was in use: its key was {store.digest} and is {encoder.key.digest} "
                "now; run the same command again"
            )
        runtime = self._device()
        self._warn_of_mixing(store, runtime)
        started = time.perf_counter()
        writer = FeatureWriter(store, list(outputs_of(encoder.key.fields)), runtime.record())
        work = Work(hashed.places, plan.missing, plan.refused)
        failed: dict[bytes, Broken] = {}
        for outcome in encode_items(encoder, work, store, writer, runtime.budget(spec.modality), self._progress):
            self._done.encoded += len(outcome.encoded)
            self._done.reused += outcome.elsewhere
            failed.update(outcome.failed)
            if outcome.failed:
                names = self._names(hashed, failed)
                self._check_failures([Failure(names[item], one.reason, None) for item, one in failed.items()])
        for path in store.consolidate([item for item in hashed.items if item != NO_ITEM]):
            self._done.warnings.append(f"{path} was damaged and set aside; other data sets may need extract again")
        self._done.truncated += encoder.truncated
        self._done.encode_seconds += time.perf_counter() - started
        return failed

    def _names(self, hashed: Contents, items: Collection[bytes]) -> dict[bytes, str]:
        pairs = zip(hashed.items, self._manifest.samples, strict=True)
        return {item: sample.id for item, sample in pairs if item in items}

    def _check_failures(self, failures: Sequence[Failure]) -> None:
        limit = 0 if self._settings.fail_fast else self._settings.max_failures
        if limit is None or len(failures) <= limit:
            return
        shown = [f"{failure.id}: {failure.reason}" for failure in failures]
        raise DataError(
            f"{len(failures)} samples failed, {limit} are allowed ({listing(shown)}); what was encoded is kept. "
            "Correct them, or let them be recorded by --on-error record and a higher --max-failures"
        )

    def _warn_of_mixing(self, store: EncoderStore, runtime: Runtime) -> None:
        makers = (maker for segment in store.segments() for maker in segment.makers)
        made = {tuple(sorted(maker.items())) for maker in makers}
        now = tuple(sorted(runtime.record().items()))
        if made - {now}:
            self._done.warnings.append(
                f"{store.folder} holds vectors that were made on another device or by other versions "
                f"({listing([dict(one) for one in made - {now}], 1)}); they may differ in the last digits"
            )


def _wanted(spec: EncoderSpec, key: EncoderKey, contents: Contents) -> Block:
    """The block as it will be, but for the rows."""
    output = spec.output or OUTPUTS[spec.modality][0]
    row = np.full(len(contents.items), -1, dtype=np.int64)
    arrays = {"items": pack_items(contents.items), "state": contents.state, "row": row}
    width = outputs_of(key.fields)[output]
    return Block(spec.modality, key.digest, output, width, arrays, spec=spec.as_json())


def _decoder() -> str:
    return f"pillow {importlib.metadata.version('pillow')}"
