"""Texts and small pictures of a few samples as they were encoded, to be looked at."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cache import NO_ITEM, DataError, UsageError, View, item_key
from extract.datasets import read_again
from extract.decode import DecodeError, decode_image
from extract.encoders.spec import DEFAULT_MODELS, kind_of
from extract.manifest import Aligned, Content, Manifest, at_address, bytes_of, is_remote

LONGEST_TEXT = 600
QUALITY = 80


@dataclass(frozen=True)
class Original:
    """What was encoded of one sample.

    Attributes:
        texts: by modality, at most 600 characters, the last of them an ellipsis where more was cut.
        pictures: by modality, the file of a JPEG: RGB, upright, without any metadata.
    """

    texts: Mapping[str, str]
    pictures: Mapping[str, bytes]


@dataclass(frozen=True)
class Originals:
    """What could be shown of the samples that were asked for.

    Attributes:
        found: by id, in the order in which they were asked for; ids of which nothing can be shown are not there.
        left_out: how many texts and pictures cannot be shown, because they are gone, are others now, or cannot
            be decoded; an id that the view does not know counts as one.
    """

    found: Mapping[str, Original]
    left_out: int


def originals(view: View, ids: Sequence[str], data: str | None = None, side: int = 320) -> Originals:
    """Reads samples of a data set again, of the modalities that the view holds.

    Lists and tables are read as a whole, pictures only of the samples asked for.

    Args:
        view: the data set.
        ids: which samples; repeated ones count once.
        data: where the data lies now; where it was when it was extracted by default.
        side: the longest side of a picture, in pixels; smaller ones are not enlarged.

    Raises:
        DataError: the data is not there any more or cannot be read.
        UsageError: `side` is less than 1.
    """
    if side < 1:
        raise UsageError(f"the longest side of a picture must be 1 pixel or more, got {side}")
    wanted = dict.fromkeys(map(str, ids))
    if not wanted:
        return Originals({}, 0)
    rows = {str(name): row for row, name in enumerate(view.ids) if str(name) in wanted}
    samples = {sample.id: sample.inputs for sample in _read(view, data).samples if sample.id in rows}
    found, left_out = {}, len(wanted) - len(rows)
    for name in (name for name in wanted if name in rows):
        original, lost = _original(view, rows[name], samples.get(name, {}), side)
        left_out += lost
        if original.texts or original.pictures:
            found[name] = original
    return Originals(found, left_out)


def _read(view: View, data: str | None) -> Manifest:
    place = data or view.source.get("data")
    if place is None:
        raise DataError(f"the view of {view.name} does not say where its data lies; give --data")
    way_out = f"to see originals of {view.name}, give --data with the place where its data lies now"
    try:
        if not is_remote(place) and not at_address(place) and not Path(place).exists():
            raise DataError("nothing is there")
        return read_again(view.source, data)
    except (DataError, OSError) as error:
        raise DataError(f"the data at {place} cannot be read: {error}\n{way_out}") from error


def _original(view: View, row: int, inputs: Mapping[str, Content], side: int) -> tuple[Original, int]:
    """What can be shown of one sample, and how much of it cannot."""
    texts: dict[str, str] = {}
    pictures: dict[str, bytes] = {}
    lost = 0
    for modality, block in view.blocks.items():
        kind = kind_of(modality, block.spec.get("model", ""))
        if kind not in DEFAULT_MODELS:  # numbers are not to be looked at
            continue
        content = _content(inputs.get(modality))
        key = NO_ITEM if content is None else item_key(content)
        if key != block.items[row].tobytes():
            lost += 1
        elif isinstance(content, str):
            texts[modality] = _cut(content)
        elif content is not None:
            try:
                pictures[modality] = _thumbnail(content, side)
            except DecodeError:
                lost += 1
    return Original(texts, pictures), lost


def shown_of(inputs: Mapping[str, Content], side: int) -> Original:
    """What can be shown of a sample as it lies there now: what is gone or broken is left out.

    Args:
        inputs: of the sample.
        side: the longest side of a picture, in pixels.
    """
    texts: dict[str, str] = {}
    pictures: dict[str, bytes] = {}
    for modality, place in inputs.items():
        content = _content(place) if kind_of(modality, "") in DEFAULT_MODELS else None
        if isinstance(content, str):
            texts[modality] = _cut(content)
        elif content is not None:
            with contextlib.suppress(DecodeError):
                pictures[modality] = _thumbnail(content, side)
    return Original(texts, pictures)


def _content(content: Content | None) -> str | bytes | None:
    """The text, or the bytes of the file; None where there is none or it cannot be read."""
    if isinstance(content, Aligned):
        return None
    if content is None or isinstance(content, str):
        return content
    try:
        return bytes_of(content)
    except OSError:
        return None


def _cut(text: str) -> str:
    # Half a surrogate pair, which JSON may hold, could not be written to any file.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1].rstrip() + "…"


def _thumbnail(raw: bytes, side: int) -> bytes:
    """A JPEG whose longest side has at most `side` pixels. Raises DecodeError."""
    picture = decode_image(raw, draft=side)  # a large JPEG is unpacked at a part of its size
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    picture.info.clear()  # Pillow would hand a comment on
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
