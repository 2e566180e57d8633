"""Broken pictures: each alone through the decoder, and in their hundreds through an extraction."""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

from benchmarks.fuzzing.mutate import mutated, with_right_checksums
from benchmarks.fuzzing.watch import Found
from extract.decode import MAX_PIXELS, DecodeError, decode_image

LONGEST_REASON = 400
CLOSE = 1e-3
"""How far a vector made in a batch may be from the one made alone, of the latter's length."""
_READY: list[Any] = []


def whole_pictures(folder: Path | None) -> list[bytes]:
    """Sound files of every kind, and foreign ones; with a folder also some of its pictures."""
    draw = np.random.default_rng(0)
    noise = Image.fromarray(draw.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    smooth = noise.resize((8, 6)).resize((160, 120), Image.Resampling.BICUBIC)
    made = [
        *_jpegs(smooth),
        *_pngs(noise, smooth),
        *_animations(noise, smooth),
        *_tiffs(noise, smooth),
        *_foreign(smooth),
    ]
    if folder is not None:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".gif"))
        made += [path.read_bytes() for path in files[:: max(1, len(files) // 200)] if path.stat().st_size < 300_000]
    return made


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _jpegs(smooth: Image.Image) -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description " * 40
    return [
        _saved(smooth, "JPEG"),
        _saved(smooth, "JPEG", progressive=True, quality=95, subsampling=0),
        _saved(smooth, "JPEG", exif=exif, comment=b"a comment"),
        _saved(smooth, "JPEG", icc_profile=bytes(range(256)) * 30),
        _saved(smooth.convert("L"), "JPEG"),
        _saved(smooth.convert("CMYK"), "JPEG"),
        _saved(smooth, "JPEG", optimize=True, restart_marker_blocks=4),
        _saved(smooth.resize((900, 700)), "JPEG"),
    ]


def _pngs(noise: Image.Image, smooth: Image.Image) -> list[bytes]:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("a", "b" * 3000, zip=True)
    text.add_itxt("c", "ü" * 300)
    grey = np.random.default_rng(1).integers(0, 2**16, (50, 40), dtype=np.uint16)
    palette = smooth.quantize(17)
    return [
        _saved(noise, "PNG"),
        _saved(smooth, "PNG", pnginfo=text, dpi=(72, 72)),
        _saved(smooth.convert("RGBA"), "PNG"),
        _saved(smooth.convert("LA"), "PNG"),
        _saved(smooth.convert("1"), "PNG"),
        _saved(Image.fromarray(grey), "PNG"),
        _saved(palette, "PNG", transparency=3),
        _saved(palette, "PNG", transparency=bytes(range(17))),
        _saved(smooth, "PNG", transparency=(1, 2, 3), icc_profile=bytes(4000)),
    ]


def _animations(noise: Image.Image, smooth: Image.Image) -> list[bytes]:
    frames = [smooth.rotate(90 * number) for number in range(4)]
    more: dict[str, Any] = {"save_all": True, "append_images": frames}
    made = [
        _saved(noise, "GIF"),
        _saved(smooth, "GIF", **more),
        _saved(smooth.quantize(8), "GIF", transparency=2, comment=b"c" * 300),
        _saved(smooth, "PNG", **more),
        _saved(smooth, "WEBP"),
        _saved(noise, "WEBP", lossless=True),
        _saved(smooth.convert("RGBA"), "WEBP", exif=b"Exif\0\0II*\0"),
        _saved(smooth, "WEBP", **more),
    ]
    if features.check("avif"):
        made += [_saved(smooth, "AVIF"), _saved(smooth.convert("RGBA"), "AVIF"), _saved(smooth, "AVIF", **more)]
    return made


def _tiffs(noise: Image.Image, smooth: Image.Image) -> list[bytes]:
    grey = np.random.default_rng(2).integers(0, 2**16, (50, 40), dtype=np.uint16)
    more: dict[str, Any] = {"save_all": True, "append_images": [noise] * 3}
    packed = [_saved(smooth, "TIFF", compression=f"tiff_{one}") for one in ("lzw", "adobe_deflate", "jpeg")]
    packed += [_saved(smooth.convert("1"), "TIFF", compression=one) for one in ("group4", "packbits")]
    plain = [_saved(noise, "TIFF"), _saved(noise, "TIFF", **more), _saved(Image.fromarray(grey), "TIFF")]
    plain += [_saved(smooth.convert("CMYK"), "TIFF"), _saved(smooth.convert("F"), "TIFF")]
    bitmaps = [_saved(one, "BMP") for one in (noise, smooth.convert("L"), smooth.convert("1"), smooth.quantize(9))]
    return [*packed, *plain, *bitmaps, _saved(noise, "PPM"), _saved(noise.convert("L"), "PPM")]


def _foreign(smooth: Image.Image) -> list[bytes]:
    """Kinds that are not read, and files that are no pictures."""
    made = [_saved(smooth.convert("RGB"), kind) for kind in ("EPS", "PCX", "TGA", "DDS", "ICO", "SGI")]
    return [
        *made,
        b"<!DOCTYPE html><html><body>404</body></html>",
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b"%PDF-1.4",
    ]


def picture(number: int, whole: Sequence[bytes]) -> bytes:
    """The bytes of a case: one in fifty as they were."""
    chance = random.Random(number)  # noqa: S311
    raw = chance.choice(whole)
    if number % 50 == 0:
        return raw
    raw = mutated(raw, chance, most=chance.choice((1, 1, 1, 2, 4)))
    return with_right_checksums(raw) if raw.startswith(b"\x89PNG") and chance.random() < 0.7 else raw


def decode_one(number: int, whole: Sequence[bytes]) -> Found:
    """A picture is 8-bit RGB, or refused with a reason that can be read."""
    raw = picture(number, whole)
    try:
        image = decode_image(raw, draft=256 if number % 5 == 0 else None)
    except DecodeError as error:
        reason = str(error)
        odd = not reason.strip() or len(reason) > LONGEST_REASON
        return {"outcome": "refused", "finding": f"its reason is {reason[:1000]!r}"} if odd else {"outcome": "refused"}
    if image.mode != "RGB" or not 0 < image.width * image.height <= MAX_PIXELS:
        return {"finding": f"decoded as {image.mode} of {image.size}"}
    return {"outcome": "decoded"}


def extract_many(number: int, size: int, whole: Sequence[bytes]) -> Found:
    """Extracts pictures `number * size` and on; every row is failed, or has the vector that its picture has alone."""
    import torch

    from cache import FeatureStore, table_of
    from extract import EncoderSpec, Settings, extract, read_manifest
    from extract.encoders import build_encoder
    from extract.runtime import choose_runtime

    torch.set_num_threads(1)
    spec = EncoderSpec("image", "squeezenet1_1", random_init=0)
    if not _READY:
        _READY.append(build_encoder(spec, choose_runtime("cpu")))
    files = [picture(case, whole) for case in range(number * size, (number + 1) * size)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for row, raw in enumerate(files):
            (root / f"{row}.jpg").write_bytes(raw)
        lines = ["id,image,label", *(f"row {row},{row}.jpg,{'ab'[row % 2]}" for row in range(size))]
        (root / "table.csv").write_text("\n".join(lines) + "\n")
        done = extract(read_manifest(root / "table.csv"), Settings(root / "store", "fuzz", (spec,), device="cpu"))
        table = table_of(FeatureStore(root / "store"), done.view, check=True)
        vectors, ids = np.array(table.block("image", missing=np.nan)), table.ids.tolist()
    problems = _misaligned(vectors, ids, set(done.failed_ids), files)
    return {"outcome": "extracted", "rows": size, "failed": len(done.failed_ids)} | (
        {"finding": "; ".join(problems[:5])} if problems else {}
    )


def _misaligned(vectors: np.ndarray, ids: Sequence[str], failed: set[str], files: Sequence[bytes]) -> list[str]:
    """What is wrong with which rows, by the encoder on each file alone."""
    if list(ids) != [f"row {row}" for row in range(len(files))]:
        return ["the ids are not those of the table"]
    encoder, problems = _READY[0], []
    for row, raw in enumerate(files):
        try:
            alone = encoder.encode([encoder.decode(raw)])["pool"][0]
        except DecodeError:
            if ids[row] not in failed or not np.isnan(vectors[row]).all():
                problems.append(f"{ids[row]} cannot be decoded, and is not recorded as failed")
            continue
        if ids[row] in failed:
            problems.append(f"{ids[row]} failed, and can be decoded")
        elif not np.linalg.norm(vectors[row] - alone) <= CLOSE * np.linalg.norm(alone):
            problems.append(f"{ids[row]} has another vector than its picture")
    return problems
