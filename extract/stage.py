"""Stage one: a data set and a choice of encoders become a view of the store."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache import (
    FAILED,
    MISSING,
    NO_ITEM,
    PRESENT,
    Block,
    DataError,
    EncoderKey,
    EncoderStore,
    Failure,
    FeatureStore,
    FeatureWriter,
    ModelError,
    Plan,
    Progress,
    UsageError,
    View,
    item_key,
    joined_groups,
    listing,
    locate,
    pack_items,
    plan_extraction,
    silent,
    write_view,
)
from extract.encoders import build_encoder
from extract.encoders.memo import recall, remember
from extract.encoders.spec import OUTPUTS, Encoder, EncoderSpec, outputs_of
from extract.engine import Broken, encode_items
from extract.manifest import Manifest, Sample

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


@dataclass
class _Hashed:
    """Item keys of one modality of all samples, and where the content of each item lies."""

    items: list[bytes]
    state: np.ndarray
    contents: dict[bytes, str | Path]
    unreadable: list[Failure]


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
        empty = np.empty(0, dtype=np.int64)
        self._view = View(settings.name, empty, empty, empty, empty, {})
        self._done = Extraction(self._view, samples=len(manifest.samples))

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
        encoders = [(spec, *self._key(spec)) for spec in self._settings.specs]
        blocks: dict[str, Block] = {}
        columns: list[list[bytes | None]] = []
        for spec, key, encoder in encoders:
            hashed = self._hash(spec.modality)
            blocks[spec.modality] = self._block(spec, key, encoder, hashed)
            columns.append([item if item != NO_ITEM else None for item in hashed.items])
        self._done.view = self._make_view(blocks, columns)
        if self._settings.keep:
            write_view(self._store, self._done.view)
        return self._done

    def _device(self) -> Runtime:
        if self._runtime is None:
            from extract.runtime import choose_runtime

            self._runtime = choose_runtime(self._settings.device)
            self._done.device = self._runtime.name
        return self._runtime

    def _hash(self, modality: str) -> _Hashed:
        started = time.perf_counter()
        samples = self._manifest.samples
        hashed = _Hashed([], np.zeros(len(samples), dtype=np.uint8), {}, [])
        for number, sample in enumerate(samples):
            item = _item_of(sample, modality, hashed)
            hashed.items.append(item)
            if item != NO_ITEM:
                hashed.state[number] = PRESENT
            elif hashed.unreadable and hashed.unreadable[-1].id == sample.id:
                hashed.state[number] = FAILED
            if number % 512 == 511 or number == len(samples) - 1:
                self._progress(f"read {modality}", number + 1, len(samples))
        self._done.encode_seconds += time.perf_counter() - started
        self._done.missing[modality] = int((hashed.state == MISSING).sum())
        return hashed

    def _block(self, spec: EncoderSpec, key: EncoderKey, encoder: Encoder | None, hashed: _Hashed) -> Block:
        """Makes sure that every item of one modality is stored, as far as it can be encoded."""
        store = self._store.encoder(key.digest)
        store.create(key)
        for path in store.set_aside_damaged():
            self._done.warnings.append(f"{path} was damaged and set aside; its items are encoded again")
        known = self._known_bad(store)
        plan = plan_extraction(hashed.contents, store.items(), known)
        self._done.reasons[spec.modality] = plan.reason
        self._done.reused += plan.reused
        failed = {item: known[item] for item in plan.refused}
        if plan.missing:
            failed.update(self._encode(spec, encoder, store, plan, hashed))
        self._note_failures(spec.modality, store, hashed, failed)
        items = pack_items(hashed.items)
        rows, segments = locate(store, items, hashed.state, spec.modality)
        output = spec.output or OUTPUTS[spec.modality][0]
        return Block(
            modality=spec.modality,
            encoder=key.digest,
            output=output,
            dim=outputs_of(key.fields)[output],
            items=items,
            state=hashed.state,
            row=rows,
            segments=tuple(segment.path.name for segment in segments),
            spec=spec.as_json(),
        )

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
        self, modality: str, store: EncoderStore, hashed: _Hashed, failed: Mapping[bytes, Broken]
    ) -> None:
        failures = [*hashed.unreadable]
        for sample, item, number in zip(self._manifest.samples, hashed.items, range(len(hashed.items)), strict=True):
            if item in failed:
                hashed.state[number] = FAILED
                digest = item.hex() if failed[item].final else None
                failures.append(Failure(sample.id, failed[item].reason, digest, _decoder()))
        self._done.failures[modality] = failures
        self._check_failures(failures)
        store.record_failures(failures, resolved=[item for item in hashed.contents if item not in failed])

    def _key(self, spec: EncoderSpec) -> tuple[EncoderKey, Encoder | None]:
        """The encoder's key; the encoder itself only if it had to be loaded to know the key."""
        encoder = None
        key = recall(self._settings.store, spec)
        if key is None:
            encoder = self._load(spec)
            key = encoder.key
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
        if encoder is not None:
            self._store.encoder(key.digest).create(key)
            remember(self._settings.store, spec, encoder)
        return key, encoder

    def _load(self, spec: EncoderSpec) -> Encoder:
        self._progress(f"load {spec.modality} model {spec.model}", 0, 1)
        encoder = build_encoder(spec, self._device())
        self._progress(f"load {spec.modality} model {spec.model}", 1, 1)
        return encoder

    def _encode(
        self, spec: EncoderSpec, encoder: Encoder | None, store: EncoderStore, plan: Plan, hashed: _Hashed
    ) -> dict[bytes, Broken]:
        """Encodes the plan's items and returns what is wrong with those that failed."""
        encoder = encoder or self._load(spec)
        runtime = self._device()
        self._warn_of_mixing(store, runtime)
        started = time.perf_counter()
        writer = FeatureWriter(store, list(outputs_of(encoder.key.fields)), runtime.record())
        contents = {item: hashed.contents[item] for item in plan.missing}
        failed: dict[bytes, Broken] = {}
        for outcome in encode_items(encoder, contents, writer, runtime.budget(spec.modality), self._progress):
            self._done.encoded += len(outcome.encoded)
            failed.update(outcome.failed)
            if outcome.failed:
                names = self._names(hashed, failed)
                self._check_failures([Failure(names[item], one.reason, None) for item, one in failed.items()])
        store.consolidate([item for item in hashed.items if item != NO_ITEM])
        self._done.truncated += encoder.truncated
        self._done.encode_seconds += time.perf_counter() - started
        return failed

    def _names(self, hashed: _Hashed, items: Collection[bytes]) -> dict[bytes, str]:
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
        made = {tuple(sorted(segment.written_by.items())) for segment in store.segments()}
        now = tuple(sorted(runtime.record().items()))
        if made - {now}:
            self._done.warnings.append(
                f"{store.folder} holds vectors that were made on another device or by other versions "
                f"({listing([dict(one) for one in made - {now}], 1)}); they may differ in the last digits"
            )

    def _make_view(self, blocks: dict[str, Block], columns: list[list[bytes | None]]) -> View:
        samples = self._manifest.samples
        source: dict[str, Any] = {
            "data": str(self._manifest.path),
            "layout": self._manifest.layout,
            **self._manifest.notes,
        }
        return View(
            name=self._settings.name,
            ids=np.array([sample.id for sample in samples], dtype=object),
            labels=np.array([sample.label for sample in samples], dtype=object),
            split=np.array([sample.split for sample in samples], dtype=object),
            groups=joined_groups(len(samples), [[sample.group or None for sample in samples], *columns]),
            blocks=blocks,
            source=source,
        )


def _decoder() -> str:
    return f"pillow {importlib.metadata.version('pillow')}"


def _item_of(sample: Sample, modality: str, hashed: _Hashed) -> bytes:
    """The item key of one modality of a sample; NO_ITEM where it is missing or cannot be read."""
    content = sample.inputs.get(modality)
    if content is None:
        return NO_ITEM
    try:
        item = item_key(content.read_bytes() if isinstance(content, Path) else content)
    except (FileNotFoundError, NotADirectoryError):
        return NO_ITEM
    except OSError as error:
        hashed.unreadable.append(Failure(sample.id, f"cannot be read: {error.strerror}", None))
        return NO_ITEM
    hashed.contents.setdefault(item, content)
    return item
