"""The only extraction loop: decode, encode and write, overlapped, one durable segment a batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cache import FeatureWriter, Progress, item_key
from extract.batching import Budget, plan_batches
from extract.decode import DecodeError, ReadError
from extract.encoders.spec import Encoder

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
    """What became of a batch: items encoded, and the reason for each that could not be."""

    encoded: list[bytes] = field(default_factory=list)
    failed: dict[bytes, Broken] = field(default_factory=dict)


def encode_items(
    encoder: Encoder, contents: Mapping[bytes, str | Path], writer: FeatureWriter, budget: Budget, progress: Progress
) -> Iterator[Outcome]:
    """Encodes items and stores their vectors; yields the outcome of each batch once it is durable.

    Args:
        encoder: on its device.
        contents: by item key, a text or the path of a file; taken in the order of the keys.
        writer: of this encoder's store.
        budget: limits of a batch.
        progress: told after each batch.

    A broken item keeps its place in the batch as a blank input whose output is dropped, so that
    the others get the very vectors that they get beside a sound one.
    """
    items = sorted(contents)
    lights, costs = encoder.prepare([contents[item] for item in items])
    batches = plan_batches(costs, budget)
    done = 0
    with ThreadPoolExecutor(DECODERS) as decoders, ThreadPoolExecutor(1) as disk:
        written: Future[Outcome] | None = None
        for batch, decoded in _decoded_ahead(encoder, items, lights, batches, decoders):
            vectors = encoder.encode([encoder.blank() if isinstance(one, Broken) else one for one in decoded])
            if written is not None:
                yield written.result()
            written = disk.submit(_store, writer, [items[number] for number in batch], decoded, vectors)
            done += len(batch)
            progress(encoder.key.modality, done, len(items))
        if written is not None:
            yield written.result()


def _decoded_ahead(
    encoder: Encoder,
    items: Sequence[bytes],
    lights: Sequence[Any],
    batches: Sequence[Sequence[int]],
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[Sequence[int], list[np.ndarray | Broken]]]:
    """Batches with their decoded inputs, or what is wrong with them."""
    waiting: deque[tuple[Sequence[int], list[Future[np.ndarray | Broken]]]] = deque()
    for batch in batches:
        waiting.append((batch, [pool.submit(_decode, encoder, items[n], lights[n]) for n in batch]))
        if len(waiting) > BATCHES_AHEAD:
            first, futures = waiting.popleft()
            yield first, [future.result() for future in futures]
    for first, futures in waiting:
        yield first, [future.result() for future in futures]


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
    writer: FeatureWriter,
    items: Sequence[bytes],
    decoded: Sequence[np.ndarray | Broken],
    vectors: Mapping[str, np.ndarray],
) -> Outcome:
    outcome = Outcome(failed={item: one for item, one in zip(items, decoded, strict=True) if isinstance(one, Broken)})
    finite = np.logical_and.reduce([np.isfinite(values).all(axis=1) for values in vectors.values()])
    for item in (item for item, fine in zip(items, finite, strict=True) if not fine and item not in outcome.failed):
        outcome.failed[item] = Broken("the encoder gave NaN or infinite values")
    kept = np.array([item not in outcome.failed for item in items])
    outcome.encoded = [item for item in items if item not in outcome.failed]
    writer.write(outcome.encoded, {name: values[kept] for name, values in vectors.items()})
    return outcome
