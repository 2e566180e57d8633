"""Bytes to text and bytes to pictures. What cannot be decoded is refused, never repaired by guess."""

from __future__ import annotations

import codecs
import io
import warnings

from charset_normalizer import from_bytes
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 178_956_970
"""Pictures with more pixels are refused as bombs; Pillow's own limit for an error."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ORIENTATION = 0x0112
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I")


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
    """The picture as 8-bit RGB, upright.

    EXIF rotation is applied, 16-bit grey is scaled to 8 bits, transparency is laid over white,
    of an animation the first frame is taken.

    Args:
        raw: the file's bytes.
        draft: JPEGs may be decoded at a half, a quarter or an eighth of their size, as long as
            the shorter side keeps so many pixels.

    Raises:
        DecodeError: empty, truncated, too large, or no picture at all.
    """
    if not raw:
        raise DecodeError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large or odd files; what fails is raised
            with Image.open(io.BytesIO(raw)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DecodeError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS} are refused")
                if draft is not None:
                    image.draft(None, (draft, draft))
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)
    except UnidentifiedImageError as error:
        raise DecodeError("no picture that Pillow knows") from error
    except Image.DecompressionBombError as error:
        raise DecodeError(f"more than {MAX_PIXELS} pixels are refused") from error
    except DecodeError:
        raise
    except Exception as error:  # on broken files Pillow's decoders raise almost anything
        raise DecodeError(f"broken picture: {error}") from error


def is_plain_jpeg(raw: bytes) -> bool:
    """Whether nvJPEG may decode it as `decode_image` would: a whole JPEG, grey or in colour, upright, no bomb."""
    if not raw.startswith(b"\xff\xd8\xff") or not raw.rstrip(b"\x00").endswith(b"\xff\xd9"):
        return False
    try:
        with Image.open(io.BytesIO(raw)) as image:
            upright = image.getexif().get(_ORIENTATION, 1) == 1
            return upright and image.mode in ("L", "RGB") and image.width * image.height <= MAX_PIXELS
    except Exception:  # what is wrong with it, decode_image says
        return False


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise DecodeError("the pixels are floating-point numbers without a known range; save it with 8 bits")
    if image.mode in _SIXTEEN_BIT:
        # Pillow's own conversion clips to 255; 65535 is white in 16 bits.
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
