"""Bytes to text and bytes to pictures. What cannot be decoded is refused, never repaired by guess."""

from __future__ import annotations

import codecs
import contextlib
import functools
import io
import warnings
from collections.abc import Iterator

from charset_normalizer import from_bytes
from PIL import Image, ImageOps, UnidentifiedImageError

from extract.room import Room

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "HEIF")
"""Kinds of pictures that are read, the last two where Pillow has what they need. It knows some forty: among them
PostScript, for which it starts another program, and many that hardly anybody has looked at for years."""
MAX_PIXELS = 178_956_970
"""Pictures with more pixels are refused as bombs; Pillow's own limit for an error. All pictures that are in memory
at the same time have no more either."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ORIENTATION = 0x0112
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I")
_BAND = 2**22
"""Pixels that are converted at a time: on the way to RGB there are up to five copies of them."""
_LONGEST_REASON = 200
_in_memory = Room(MAX_PIXELS)


class DecodeError(ValueError):
    """One sample's content cannot be decoded; the sample is recorded as failed."""


class ReadError(DecodeError):
    """One sample's file cannot be read at this moment; trying again may help."""


def decode_text(raw: bytes, legacy: str | None = None) -> str:
    """Text of unknown encoding.

    A byte order mark decides; then UTF-8, which other encodings hardly ever look like; then
    `legacy`, the encoding that a layout is known to use; then detection by charset-normalizer.

    Raises:
        DecodeError: no encoding fits.
    """
    for mark, encoding in _BOMS:
        if raw.startswith(mark):
            return _decoded(raw, encoding)
    for encoding in ("utf-8", *([legacy] if legacy else [])):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    best = from_bytes(raw).best()
    if best is None:
        raise DecodeError(f"{len(raw)} bytes in no encoding that is known; save the file as UTF-8")
    return str(best)


def _decoded(raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise DecodeError(f"starts as {encoding} but is not: {error.reason} at byte {error.start}") from error


def decode_image(raw: bytes, draft: int | None = None) -> Image.Image:
    """The picture as 8-bit RGB, upright; arguments and errors as `decoding`, which also bounds the memory of many."""
    with decoding(raw, draft) as image:
        return image


@contextlib.contextmanager
def decoding(raw: bytes, draft: int | None = None) -> Iterator[Image.Image]:
    """Yields the picture as 8-bit RGB, upright.

    EXIF rotation is applied, 16-bit grey is scaled to 8 bits, transparency is laid over white,
    of an animation the first frame is taken. While the block runs, the picture counts as in memory:
    with MAX_PIXELS there, other threads wait before they unpack theirs.

    Args:
        raw: the file's bytes.
        draft: JPEGs may be decoded at a half, a quarter or an eighth of their size, as long as
            the shorter side keeps so many pixels.

    Raises:
        DecodeError: empty, truncated, too large, or no picture at all.
        ReadError: there is no memory for it at this moment.
    """
    if not raw:
        raise DecodeError("the file is empty")
    with contextlib.ExitStack() as stack:
        try:
            image = _unpacked(raw, draft, stack)
        except UnidentifiedImageError as error:
            kinds = ", ".join(_formats())
            raise DecodeError(f"no picture that Pillow knows, of the kinds that are read here: {kinds}") from error
        except Image.DecompressionBombError as error:
            raise DecodeError(f"more than {MAX_PIXELS} pixels are refused") from error
        except DecodeError:
            raise
        except MemoryError as error:
            raise ReadError(f"there is no memory to unpack its {len(raw)} bytes at this moment") from error
        except Exception as error:  # on broken files Pillow's decoders raise almost anything
            reason = str(error)[:_LONGEST_REASON] or type(error).__name__
            raise DecodeError(f"broken picture: {reason}") from error
        yield image


def _unpacked(raw: bytes, draft: int | None, stack: contextlib.ExitStack) -> Image.Image:
    """The picture; on the stack the room that it takes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large or odd files; what fails is raised
        with Image.open(io.BytesIO(raw), formats=_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DecodeError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS} are refused")
            if draft is not None:
                image.draft(None, (draft, draft))
            stack.enter_context(_in_memory.taken(image.width * image.height))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
    return _to_rgb(image)


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()  # Pillow loads its plugins late, and refuses names that it does not know
    return tuple(name for name in FORMATS if name in Image.OPEN)


def is_plain_jpeg(raw: bytes) -> bool:
    """Whether nvJPEG may decode it as `decode_image` would: a whole JPEG, grey or in colour, upright, no bomb."""
    if not raw.startswith(b"\xff\xd8\xff") or not raw.rstrip(b"\x00").endswith(b"\xff\xd9"):
        return False
    try:
        with Image.open(io.BytesIO(raw), formats=("JPEG",)) as image:
            upright = image.getexif().get(_ORIENTATION, 1) == 1
            return upright and image.mode in ("L", "RGB") and image.width * image.height <= MAX_PIXELS
    except Exception:  # what is wrong with it, decode_image says
        return False


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise DecodeError("the pixels are floating-point numbers without a known range; save it with 8 bits")
    rows = max(1, _BAND // image.width)
    if rows >= image.height:
        return _band_to_rgb(image)
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        whole.paste(_band_to_rgb(image.crop(box)), box)
    return whole


def _band_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        # Pillow's own conversion clips to 255; 65535 is white in 16 bits.
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
