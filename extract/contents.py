"""What a data set holds of one modality: the item key of each sample, and where each item is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache import FAILED, MISSING, NO_ITEM, PRESENT, Failure, Progress, item_key
from extract.manifest import Content, Sample

TOLD_EVERY = 512


@dataclass
class Contents:
    """One modality of `n` samples.

    Attributes:
        items: item key of each sample; NO_ITEM where it is missing or cannot be read.
        state: `uint8 (n,)`, PRESENT, MISSING or FAILED.
        places: by item key, the text itself or the path of the file.
        unreadable: samples of which not even the bytes could be read.
    """

    items: list[bytes]
    state: np.ndarray
    places: dict[bytes, Content]
    unreadable: list[Failure]


def read_contents(samples: Sequence[Sample], modality: str, progress: Progress) -> Contents:
    """Reads one modality of all samples once and keys it by content."""
    found = Contents([], np.full(len(samples), MISSING, dtype=np.uint8), {}, [])
    for number, sample in enumerate(samples):
        item = NO_ITEM
        content = sample.inputs.get(modality)
        if content is not None:
            try:
                item = item_key(content.read_bytes() if isinstance(content, Path) else content)
                found.places.setdefault(item, content)
                found.state[number] = PRESENT
            except (FileNotFoundError, NotADirectoryError):
                item = NO_ITEM  # missing
            except OSError as error:
                found.unreadable.append(Failure(sample.id, f"cannot be read: {error.strerror}", None))
                found.state[number] = FAILED
        found.items.append(item)
        if number % TOLD_EVERY == TOLD_EVERY - 1 or number == len(samples) - 1:
            progress(f"read {modality}", number + 1, len(samples))
    return found
