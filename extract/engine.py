"""The only extraction loop: decode, encode and write, overlapped, one durable segment a batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cache import (
    TOKENS,
    Batch,
    EncoderStore,
    FeatureWriter,
    Progress,
    Ragged,
    Values,
    item_key,
    standing_batches,
    take_items,
    write_batches,
)
from extract.batching import Budget, fits, plan_batches
from extract.decode import DecodeError, ReadError
from extract.encoders.spec import Encoder, stored_dtype

DECODERS = 2
BATCHES_AHEAD = 4
"""Batches that are decoded before the encoder asks for them; this bounds the memory."""


@dataclass(frozen=True)
class Broken:
    """Why an item could not be encoded; `final` unless trying again may help."""

    reason: str
    final: bool = True


@dataclass
class Outcome:
    """What became of a batch: items encoded, the reason for each that could not be, items stored by others."""

    encoded: list[bytes] = field(default_factory=list)
    failed: dict[bytes, Broken] = field(default_factory=dict)
    elsewhere: int = 0


@dataclass(frozen=True)
class Work:
    """What is to be encoded.

    Attributes:
        contents: by item key, a text or the path of a file.
        missing: keys of the items that are to be encoded.
        refused: keys of items that are known to be broken. They are only touched where they
            stand in a batch that was planned before it was known.
    """

    contents: Mapping[bytes, str | Path]
    missing: Sequence[bytes]
    refused: Sequence[bytes] = ()


def encode_items(
    encoder: Encoder, work: Work, store: EncoderStore, writer: FeatureWriter, budget: Budget, progress: Progress
) -> Iterator[Outcome]:
    """Encodes items and stores their vectors; yields the outcome of each batch once it is durable.

    Batches are written down before they are encoded, and a later run keeps to them: on the same
    machine it gets the same bits. A broken item keeps its place in the batch as a blank input
    whose output is dropped, so that the others get the very vectors that they get beside a
    sound one.

    Args:
        encoder: on its device.
        work: what is to be encoded.
        store: the encoder's part of the store, which keeps the plan.
        writer: of this store.
        budget: limits of a batch.
        progress: told after each batch.
    """
    lights, batches = _planned(encoder, work, store, budget)
    total = sum(map(len, batches))
    done = 0
    with ThreadPoolExecutor(DECODERS) as decoders, ThreadPoolExecutor(1) as disk:
        written: Future[Outcome] | None = None
        for planned, batch, decoded in _decoded_ahead(encoder, lights, batches, writer, decoders):
            done += planned
            if not batch:
                progress(encoder.key.modality, done, total)
                yield Outcome(elsewhere=planned)
                continue
            vectors = encoder.encode([encoder.blank() if isinstance(one, Broken) else one for one in decoded])
            if written is not None:
                yield written.result()
            written = disk.submit(_store, encoder, writer, batch, decoded, vectors, planned - len(batch))
            progress(encoder.key.modality, done, total)
        if written is not None:
            yield written.result()


def _planned(encoder: Encoder, work: Work, store: EncoderStore, budget: Budget) -> tuple[dict[bytes, Any], list[Batch]]:
    """Light forms of all items, and the batches in which they are encoded."""
    standing = standing_batches(store.folder, work.missing, work.refused)
    items = sorted({*work.missing, *(item for batch in standing for item in batch)})
    lights, costs = encoder.prepare([work.contents[item] for item in items])
    cost = dict(zip(items, costs, strict=True))
    standing = [batch for batch in standing if fits([cost[item] for item in batch], budget)]
    left = sorted(set(work.missing).difference(item for batch in standing for item in batch))
    fresh = [[left[number] for number in batch] for batch in plan_batches([cost[item] for item in left], budget)]
    if fresh and not write_batches(store.folder, fresh):
        standing, fresh = fresh, standing  # another process has planned the very same in this moment
    # Who planned a batch goes forward, who found it backward: two at work meet in the middle.
    return dict(zip(items, lights, strict=True)), [*reversed(standing), *fresh]


def _decoded_ahead(
    encoder: Encoder,
    lights: Mapping[bytes, Any],
    batches: Sequence[Batch],
    writer: FeatureWriter,
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[int, Batch, list[np.ndarray | Broken]]]:
    """Of each batch its planned size, the items that it still needs, and their inputs or what is wrong with them."""
    waiting: deque[tuple[int, Batch, list[Future[np.ndarray | Broken]]]] = deque()
    for batch in batches:
        lacking = writer.lacking(batch)
        waiting.append((len(batch), lacking, [pool.submit(_decode, encoder, item, lights[item]) for item in lacking]))
        if len(waiting) > BATCHES_AHEAD:
            planned, first, futures = waiting.popleft()
            yield planned, first, [future.result() for future in futures]
    for planned, first, futures in waiting:
        yield planned, first, [future.result() for future in futures]


def _decode(encoder: Encoder, item: bytes, light: Any) -> np.ndarray | Broken:
    try:
        return encoder.decode(_read(item, light) if isinstance(light, Path) else light)
    except DecodeError as error:
        return Broken(str(error), final=not isinstance(error, ReadError))


def _read(item: bytes, path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ReadError(f"cannot be read: {error.strerror}") from error
    if item_key(raw) != item:
        raise ReadError("the file changed while it was being encoded; run extract again")
    return raw


def _store(
    encoder: Encoder,
    writer: FeatureWriter,
    items: Batch,
    decoded: Sequence[np.ndarray | Broken],
    vectors: Mapping[str, Values],
    elsewhere: int,
) -> Outcome:
    outcome = Outcome(elsewhere=elsewhere)
    outcome.failed = {item: one for item, one in zip(items, decoded, strict=True) if isinstance(one, Broken)}
    outputs = {}
    for name, values in vectors.items():
        outputs[name], wrong = _cast(values, stored_dtype(encoder.key.fields, name), name)
        for number, broken in wrong.items():
            outcome.failed.setdefault(items[number], broken)
    outcome.encoded = [item for item in items if item not in outcome.failed]
    kept = np.array([number for number, item in enumerate(items) if item not in outcome.failed], dtype=np.int64)
    writer.write(outcome.encoded, {name: take_items(values, kept) for name, values in outputs.items()})
    return outcome


def _cast(values: Values, dtype: np.dtype, name: str) -> tuple[Values, dict[int, Broken]]:
    """The vectors in the type in which they are stored, and what is wrong with which of them."""
    flat = values.values if isinstance(values, Ragged) else values
    with np.errstate(over="ignore"):  # looked for below
        stored = flat.astype(dtype, copy=False)
    cast = Ragged(stored, values.offsets) if isinstance(values, Ragged) else stored
    if np.isfinite(stored).all():
        return cast, {}
    remedy = "leave out --tokens" if name == TOKENS else "extract with --dtype float32"
    wrong = {}
    for number in range(len(values)):
        if not np.isfinite(values[number]).all():
            wrong[number] = Broken("the encoder gave NaN or infinite values")
        elif not np.isfinite(cast[number]).all():
            largest = np.abs(values[number]).max()
            wrong[number] = Broken(f"its {name} vector has a value of {largest:.4g}, too large for {dtype}: {remedy}")
    return cast, wrong
