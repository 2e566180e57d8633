"""What a data set holds of one modality: the item key of each sample, and where each item is read."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cache import FAILED, MISSING, NO_ITEM, PRESENT, Failure, Progress, silent
from extract.manifest import Content, Sample, content_key, on_disk

AT_ONCE = 512
"""Samples that are being read at the same time, at most."""
READERS = 8
"""Threads that read: a disk is faster when it is asked for several files."""


@dataclass
class Contents:
    """One modality of `n` samples.

    Attributes:
        items: item key of each sample; NO_ITEM where it is missing or cannot be read.
        state: `uint8 (n,)`, PRESENT, MISSING or FAILED.
        places: by item key, the content or where it lies.
        unreadable: samples of which not even the bytes could be read.
    """

    items: list[bytes]
    state: np.ndarray
    places: dict[bytes, Content]
    unreadable: list[Failure]


def read_contents(
    samples: Sequence[Sample], modalities: Sequence[str], progress: Progress = silent, threads: int = READERS
) -> dict[str, Contents]:
    """Reads all samples once and keys each modality's part by content."""
    found = {name: Contents([], np.full(len(samples), MISSING, dtype=np.uint8), {}, []) for name in modalities}
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(samples), AT_ONCE):
            chunk = samples[start : start + AT_ONCE]
            # Texts are in memory; a thread costs more than their digest.
            futures = [
                {
                    name: pool.submit(_key, sample.inputs[name])
                    for name in modalities
                    if on_disk(sample.inputs.get(name))
                }
                for sample in chunk
            ]
            for number, (sample, reading) in enumerate(zip(chunk, futures, strict=True), start):
                for name in modalities:
                    read = reading[name].result() if name in reading else _key(sample.inputs.get(name))
                    _note(found[name], number, sample, name, read)
            progress("read", min(start + AT_ONCE, len(samples)), len(samples))
    return found


def _key(content: Content | None) -> bytes | OSError:
    """The content's item key; NO_ITEM where it is missing; what was raised where it cannot be read."""
    if content is None:
        return NO_ITEM
    try:
        return content_key(content)
    except (FileNotFoundError, NotADirectoryError):
        return NO_ITEM
    except OSError as error:
        return error


def _note(contents: Contents, number: int, sample: Sample, modality: str, read: bytes | OSError) -> None:
    item = NO_ITEM
    if isinstance(read, OSError):
        contents.unreadable.append(Failure(sample.id, f"cannot be read: {read.strerror}", None))
        contents.state[number] = FAILED
    elif read != NO_ITEM:
        item = read
        contents.places.setdefault(item, sample.inputs[modality])
        contents.state[number] = PRESENT
    contents.items.append(item)
