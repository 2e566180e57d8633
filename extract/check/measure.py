"""Every content of a modality once, decoded as an extraction would, and what was seen."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from cache import Progress
from extract.arrays import read_array
from extract.check.near import picture_hash
from extract.decode import FORMATS, DecodeError, decoding
from extract.manifest import Aligned, Content, read_content
from extract.sound import is_clip, read_clip, seconds_of

PICTURE = np.dtype(
    [
        ("width", "u4"),
        ("height", "u4"),
        ("bytes", "u8"),
        ("format", "U8"),
        ("mode", "U8"),
        ("rotated", "?"),
        ("animated", "?"),
        ("one_colour", "?"),
        ("hash", "u1", (16,)),
        ("small", "u1", (256,)),
    ]
)
"""What is kept of a picture; width and height are those of the upright one."""
OTHER = np.dtype([("rows", "u8"), ("width", "u8"), ("seconds", "f8"), ("bytes", "u8")])
"""What is kept of an array (rows and columns) and of an audio file (seconds)."""
ONE_COLOUR = 8
"""A picture is of one colour where no channel spans more of its 256 levels: JPEG makes some of one."""
AT_ONCE = 512
RATE, MOST_SECONDS = 16_000, 30
"""At which audio files are decoded, and how much of each."""
_ORIENTATION = 0x0112


def measure_all(
    places: Mapping[bytes, Content],
    measure: Callable[[Any], tuple[Any, ...]],
    dtype: np.dtype,
    progress: Progress,
    what: str,
) -> tuple[dict[bytes, int], np.ndarray, dict[bytes, str]]:
    """Reads and decodes contents in threads, one a core; no more than those lie in memory.

    Args:
        places: by item key, the content or where it lies.
        measure: takes what was read of a content; raises DecodeError for one that is broken.
        dtype: of what it gives.
        progress: told of each few hundred.
        what: that is being done, for the progress.

    Returns:
        By item key the row of each that is whole, the rows, and by item key what is wrong with the others.
    """
    rows: dict[bytes, int] = {}
    broken: dict[bytes, str] = {}
    kept = [np.zeros(0, dtype=dtype)]

    def one(place: Content) -> tuple[Any, ...] | str:
        try:
            return measure(read_content(place))
        except DecodeError as error:
            return str(error)
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"

    waiting = iter(places.items())
    with ThreadPoolExecutor(_cores()) as pool:
        while chunk := list(islice(waiting, AT_ONCE)):
            found = list(pool.map(one, [place for _, place in chunk]))
            for (item, _), facts in zip(chunk, found, strict=True):
                if isinstance(facts, str):
                    broken[item] = facts
                else:
                    rows[item] = len(rows)
            kept.append(np.array([facts for facts in found if not isinstance(facts, str)], dtype=dtype))
            progress(what, len(rows) + len(broken), len(places))
    return rows, np.concatenate(kept), broken


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def picture_facts(raw: Any) -> tuple[Any, ...]:
    """A row of `PICTURE`. Raises DecodeError."""
    with decoding(raw) as upright:
        blank = all(high - low <= ONE_COLOUR for low, high in _extremes(upright))
        seen = (blank, *picture_hash(upright))
        size = upright.size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as for decoding itself
        with Image.open(io.BytesIO(raw), formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            about = (image.format or "", image.mode)
            rotated = image.getexif().get(_ORIENTATION, 1) not in (0, 1)
            animated = _is_animated(image)
    return (*size, len(raw), *about, rotated, animated, *seen)


def _is_animated(image: Image.Image) -> bool:
    """Whether a second frame follows; one that is broken is no frame, and nothing is ever made of it."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # on broken files Pillow raises almost anything
        return False


def _extremes(picture: Image.Image) -> Iterator[tuple[int, int]]:
    for channel in picture.getextrema():
        low, high = channel  # type: ignore[misc]  # of an RGB picture, a pair a channel
        yield int(low), int(high)


def array_facts(raw: Any) -> tuple[Any, ...]:
    """A row of `OTHER` for an array. Raises DecodeError."""
    content: Any = raw.array if isinstance(raw, Aligned) else raw
    array = np.atleast_2d(read_array(content))
    if isinstance(raw, Aligned) and len(array) != len(raw.words):
        raise DecodeError(f"it has {len(array)} rows for {len(raw.words)} words; each word needs one")
    return (*array.shape, 0.0, len(content))


def clip_facts(raw: Any) -> tuple[Any, ...]:
    """A row of `OTHER` for an audio file. Raises DecodeError."""
    read_clip(raw, RATE, MOST_SECONDS)
    return 0, 0, seconds_of(raw), len(raw)


def facts_of(place: Content) -> Callable[[Any], tuple[Any, ...]]:
    """How a content that is no text and no picture is measured."""
    return clip_facts if is_clip(place) else array_facts


def spread(values: np.ndarray) -> dict[str, float] | None:
    """Least, median, 95 % and largest of `n` numbers, and their mean; None where there is none."""
    if not len(values):
        return None
    least, middle, high, most = np.percentile(values, [0, 50, 95, 100]).tolist()
    shown = {"min": least, "median": middle, "p95": high, "max": most, "mean": float(np.mean(values))}
    return {name: round(value, 2) for name, value in shown.items()}
