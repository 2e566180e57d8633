"""Bytes to text and bytes to pictures. What cannot be decoded is refused, never repaired by guess."""

from __future__ import annotations

import codecs
import contextlib
import functools
import io
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator

from charset_normalizer import CharsetMatch, from_bytes
from PIL import Image, ImageOps, UnidentifiedImageError

from extract.reading import now
from extract.room import Room

MAX_PIXELS = 178_956_970
"""Pictures with more pixels are refused as bombs; Pillow's own limit for an error. All pictures that are in memory
at the same time have no more either."""

MOST_SCANS = 500
"""Of a JPEG: encoders write a dozen, and each goes over all of its pixels, though it may be some bytes long. A megabyte
of them would be decoded for minutes."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
CLEARLY_WORSE = 0.08
"""Of charset-normalizer's `chaos`, the share of what looks wrong: what is so far off and no language is no rival."""
A_LANGUAGE = 0.1
"""Of its `coherence`, how far a text has the letters of a language; it gives 0 where it knows none."""
ENOUGH_SIGNS, SEEN_BYTES = 32, 2**20
"""Bytes beyond ASCII that a text must have for its encoding to be told, and where they are looked for."""
SEVERAL_SIGNS = 20
"""Bytes beyond ASCII in a line that are UTF-8 by no chance, in whatever encoding the rest is."""
SHOWN_CHOICES = 4
_ISO_2022 = re.compile(rb"\x1b\$(?:[@AB]|[()][A-D])")
"""Where a text in ISO-2022 goes over to the letters of Japanese, Korean or Chinese."""
_USUAL = ("cp1252", "gb18030", "cp1250", "cp1251", "shift_jis", "euc_kr", "big5")
_ORIENTATION = 0x0112
_MARK = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""In a scan of a JPEG all that is neither data nor a restart."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "HEIF", "BMP", "TIFF", "JPEG2000", "PPM")
"""Kinds of pictures that are read, as far as this Pillow has them. It knows some forty: among them PostScript, for
which it starts another program, and many that hardly anybody has looked at for years."""
_OTHERS = {
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<svg": "an SVG drawing; save it as PNG",
    b"<?xml": "XML, such as an SVG drawing; save it as PNG",
    b"%pdf": "a PDF; save its page as PNG",
    b"%!ps": "PostScript, which is a program; save it as PNG",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with git lfs pull",
}
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
    """Text of unknown encoding, as a whole in one of them.

    A byte order mark decides; then NULs, if they are those of UTF-16; then the marks of ISO-2022, which has to be
    named; then UTF-8, which other encodings hardly ever look like; then what the user names, or `legacy`, the encoding
    that a layout is known to use. Detection comes last, and only counts where it is sure: as a rule it is wrong for
    short texts (see `_detected`).

    Raises:
        DecodeError: no encoding fits, or several do.
    """
    text, encoding = _text_and_encoding(raw, now().encoding or legacy)
    now().encodings[encoding] += 1
    return text


def _text_and_encoding(raw: bytes, named: str | None) -> tuple[str, str]:
    for mark, encoding in _BOMS:
        if raw.startswith(mark):
            return _decoded(raw, encoding), encoding.removesuffix("-sig")
    utf16 = _unmarked_utf16(raw)
    if utf16 is not None:
        return utf16
    if _ISO_2022.search(raw) and raw.isascii():  # UTF-8 by its bytes alone
        return _iso_2022(raw, named)
    with contextlib.suppress(UnicodeDecodeError):
        return raw.decode("utf-8"), "utf-8"
    _refuse_mixed(raw, SEVERAL_SIGNS)
    text, encoding = "", named or ""
    try:
        text = raw.decode(encoding) if encoding else ""
    except UnicodeDecodeError as error:
        if now().encoding:
            raise DecodeError(f"neither UTF-8 nor {encoding}, which --encoding names") from error
    if not text:
        text, encoding = _detected(raw)
    if len(text) == len(raw):
        _refuse_mixed(raw, 2)
    return text, encoding


def _iso_2022(raw: bytes, named: str | None) -> tuple[str, str]:
    try:
        if named and codecs.lookup(named).name.startswith("iso2022"):
            return raw.decode(named), named
    except UnicodeDecodeError as error:
        raise DecodeError(f"not {named}, which --encoding names: {error.reason} at byte {error.start}") from error
    raise DecodeError("in ISO-2022, of which there are several; name it by --encoding, such as iso2022_jp")


def _decoded(raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise DecodeError(f"starts as {encoding} but is not: {error.reason} at byte {error.start}") from error


def _unmarked_utf16(raw: bytes) -> tuple[str, str] | None:
    """UTF-16 without its mark: NULs stand in one of the two places only, and in most of these unless it is no UTF-8."""
    if b"\0" not in raw or len(raw) % 2:
        return None
    nuls = [raw[place::2].count(0) for place in (0, 1)]
    if all(nuls) or (max(nuls) < max(4, len(raw) * 3 // 8) and _is_utf8(raw)):
        return None
    encoding = "utf-16-be" if nuls[0] else "utf-16-le"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        return None
    return (text, encoding) if all(sign in "\t\n\r" or unicodedata.category(sign)[0] != "C" for sign in text) else None


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _detected(raw: bytes) -> tuple[str, str]:
    """Text and encoding by charset-normalizer, where one reading alone makes sense.

    Its first choice is wrong for 42 % of 4356 pieces of text of 1 to 120 words in 30 languages, most of them short or
    English with a few accents. Under the conditions here it was never wrong on 7420, and has an answer for 16 %.
    """
    found = list(from_bytes(raw, enable_fallback=False))
    if not found:
        raise DecodeError(f"{len(raw)} bytes in no encoding that is known; save the file as UTF-8")
    least = min(match.chaos for match in found)
    readings: dict[str, list[CharsetMatch]] = {}
    for match in found:
        if match.coherence > 0 or match.chaos < least + CLEARLY_WORSE:
            readings.setdefault(str(match), []).append(match)
    text, matches = next(iter(readings.items()))
    enough = sum(byte > 127 for byte in raw[:SEEN_BYTES]) >= ENOUGH_SIGNS
    if len(readings) > 1 or not enough or max(match.coherence for match in matches) < A_LANGUAGE:
        raise DecodeError(f"not UTF-8, and {_choices(raw, found)}")
    return text, matches[0].encoding


def _choices(raw: bytes, matches: Iterable[CharsetMatch]) -> str:
    """How the first word beyond ASCII would read in some encodings."""
    names = list(dict.fromkeys([*_USUAL, *(match.encoding for match in matches)]))
    found = re.search(rb"[^\s,;\"]{0,12}[\x80-\xff][^\s,;\"]{0,12}", raw)
    words: dict[str, str] = {}
    for name in names:
        with contextlib.suppress(UnicodeDecodeError, LookupError):
            word = found[0].decode(name) if found else ""
            if word.isprintable() and len(words) < SHOWN_CHOICES:
                words.setdefault(word, name)
    shown = ", ".join(f"{word!r} in {name}" for word, name in words.items())
    return (
        f"what else it is cannot be told surely (it has {shown or 'bytes of no usual encoding'}); "
        "save it as UTF-8, or name its encoding by --encoding"
    )


def _refuse_mixed(raw: bytes, least: int) -> None:
    """Raises DecodeError where a line is UTF-8 and others are not: one of them would be garbled without a word.

    `least` is how many bytes beyond ASCII such a line must have: a short line of Chinese in GB18030 may pass for UTF-8,
    one in an encoding of a byte a letter does not.
    """
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.isascii() and sum(byte > 127 for byte in line) >= least and _is_utf8(line):
            raise DecodeError(f"in several encodings: line {number} is UTF-8, others are not; save all of it as UTF-8")


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
        DecodeError: empty, truncated, too large, or of no kind in FORMATS.
        ReadError: there is no memory for it at this moment.
    """
    if not raw:
        raise DecodeError("the file is empty")
    with contextlib.ExitStack() as stack:
        try:
            image = _unpacked(raw, draft, stack)
        except UnidentifiedImageError as error:
            kinds = ", ".join(_formats())
            raise DecodeError(f"no picture of a kind that is read here ({kinds}){_what_else(raw)}") from error
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
        with Image.open(io.BytesIO(_open_ended(raw)), formats=_formats()) as image:
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
    """Those of FORMATS that this Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _what_else(raw: bytes) -> str:
    """What people often have in the place of a picture."""
    start = raw[:64].lstrip().lower()
    if raw[4:8] == b"ftyp":
        return f": it is of the kind {raw[8:12].decode('latin-1').strip()!r}, such as HEIC; save it as JPEG"
    return next((f": it is {what}" for mark, what in _OTHERS.items() if start.startswith(mark)), "")


def _open_ended(raw: bytes) -> bytes:
    """A JPEG of one sequential scan without the mark at its end; any other file as it is.

    Where the data ends early, libjpeg fills the rest with grey up to that mark and counts a warning, which Pillow does
    not hand on. Without the mark it waits for more instead, and Pillow calls the file truncated. libjpeg reads up to 8
    bytes ahead: in their place stand ones, which are no code of any JPEG and so hardly make a block. What is lost may
    be those few bytes and not be seen. A progressive JPEG needs its mark.
    """
    if not raw.startswith(b"\xff\xd8\xff"):
        return raw
    at, parts = 2, 0
    while at + 4 < len(raw) and raw[at] == 0xFF:
        mark, length = raw[at + 1], int.from_bytes(raw[at + 2 : at + 4], "big")
        if mark == 0xFF:  # filling
            at += 1
            continue
        if mark in (0xC0, 0xC1) and at + 9 < len(raw):  # a frame of so many colours
            parts = raw[at + 9]
        elif 0xC2 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC):  # a frame of another kind
            return _with_few_scans(raw, at)
        elif mark == 0xDA:  # the scan
            end = _MARK.search(raw, at + 2 + length)
            whole = raw[at + 4] == parts and end is not None and raw[end.start() + 1] == 0xD9
            return raw[: end.start()] + b"\xff\x00" * 8 if whole and end is not None else _with_few_scans(raw, at)
        at += 2 + length
    return raw


def _with_few_scans(raw: bytes, at: int) -> bytes:
    """A JPEG as it is. Raises DecodeError where its picture has more than MOST_SCANS scans from `at` on."""
    scans = 0
    while (found := _MARK.search(raw, at)) is not None and raw[found.end() - 1] != 0xD9:
        scans += raw[found.end() - 1] == 0xDA
        if scans > MOST_SCANS:
            raise DecodeError(f"a JPEG of more than {MOST_SCANS} scans is refused")
        at = found.end() + int.from_bytes(raw[found.end() : found.end() + 2], "big")
    return raw


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
