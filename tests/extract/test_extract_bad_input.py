"""Real bad files and texts through all of stage one: each is decoded right or recorded, and moves no other row."""

import io
import json
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from cache import DataError
from extract import read_manifest
from extract.decode import DecodeError, decode_image
from tests.extract.conftest import POSITIONS, Bench

BEGUN = (8, 8, 200)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plain(colour: tuple[int, int, int] = BEGUN) -> Image.Image:
    return Image.new("RGB", (40, 30), colour)


def bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(plain(), "PNG", exif=exif)


def with_palette() -> bytes:
    image = Image.new("P", (40, 30), 1)
    image.putpalette([255, 0, 0, *BEGUN])
    return saved(image, "PNG", transparency=0)


NOISE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
JPEG = saved(Image.fromarray(NOISE), "JPEG")
MORE = {"save_all": True, "append_images": [plain((250, 0, 0))], "lossless": True}
SOUND = {  # each is a plain picture of the colour BEGUN, written in some odd way
    "palette.png": with_palette(),
    "animated.gif": saved(plain(), "GIF", save_all=True, append_images=[plain((250, 0, 0))]),
    "animated.webp": saved(plain(), "WEBP", **MORE),
    "named.jpg": saved(plain(), "PNG"),
    "transparent.png": saved(plain().convert("RGBA"), "PNG"),
    "large.bmp": saved(plain(), "BMP"),
    "tiff.tif": saved(plain(), "TIFF"),
    **{f"turned{number}.png": turned(number) for number in (1, 2, 3, 4)},
}
BROKEN = {
    "zero.jpg": (b"", "the file is empty"),
    "page.jpg": (b"<!DOCTYPE html><title>404</title>", "a web page"),
    "cut.jpg": (JPEG[: len(JPEG) // 2], "truncated"),
    "closed.jpg": (JPEG[: len(JPEG) // 2] + b"\xff\xd9", "truncated"),
    "cut.png": (saved(Image.fromarray(NOISE), "PNG")[:900], "truncated"),
    "bomb.png": (bomb(), "178956970"),
    "float.tif": (saved(Image.fromarray(NOISE[..., 0].astype(np.float32)), "TIFF"), "floating-point numbers"),
    "photo.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "HEIC"),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "program.eps": (saved(plain(), "EPS"), "PostScript"),
    "random.jpg": (NOISE.tobytes(), "no picture"),
}


def test_bad_pictures_are_right_or_recorded_and_no_other_row_moves(tmp_path: Path, bench: Bench):
    (tmp_path / "posts").mkdir()
    rows = ["id,image,label"]
    names = [*SOUND, *BROKEN]
    for number, name in enumerate(names):
        (tmp_path / "posts" / name).write_bytes(SOUND.get(name) or BROKEN[name][0])
        plainly = f"sound{number}.png"
        Image.fromarray(np.roll(NOISE, number, axis=0)).save(tmp_path / "posts" / plainly)
        rows += [f"{name},{name},a", f"{plainly},{plainly},b"]
    (tmp_path / "posts" / "posts.csv").write_text("\n".join([*rows, "gone,gone.png,a", "none,,a"]) + "\n")
    manifest = read_manifest(tmp_path / "posts")
    done = bench.extract(manifest, bench.image)
    found = dict(zip([one.id for one in manifest.samples], bench.vectors(done, "image"), strict=True))
    reasons = {one["id"]: one["reason"] for one in bench.failures(done, "image")}
    assert set(reasons) == set(BROKEN)
    for name, (_, reason) in BROKEN.items():
        assert reason in reasons[name], name
        assert np.isnan(found[name]).all()
    assert np.isnan(found["gone"]).all()
    assert done.missing["image"] == 2
    (tmp_path / "clean").mkdir()
    plain().save(tmp_path / "clean" / "begun.png")
    rows = ["id,image"]
    for number in range(len(names)):
        Image.fromarray(np.roll(NOISE, number, axis=0)).save(tmp_path / "clean" / f"sound{number}.png")
        rows.append(f"sound{number}.png,sound{number}.png")
    (tmp_path / "clean" / "posts.csv").write_text("\n".join([*rows, "begun,begun.png"]) + "\n")
    other = Bench(tmp_path / "other", bench.bert, bench.shufflenet)
    clean = read_manifest(tmp_path / "clean")
    expected = dict(
        zip([s.id for s in clean.samples], other.vectors(other.extract(clean, bench.image), "image"), strict=True)
    )
    for name, vector in found.items():
        if name.startswith("sound"):
            np.testing.assert_allclose(vector, expected[name], atol=1e-5, err_msg=name)
        elif name in SOUND:
            np.testing.assert_allclose(vector, expected["begun"], atol=1e-4, err_msg=name)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_an_avif_has_its_pixels():
    from extract.decode import decode_image

    found = np.asarray(decode_image(saved(plain(), "AVIF", quality=100)))
    assert np.abs(found.astype(int) - BEGUN).max() < 8


ODD_TEXTS = {
    "nul": "great\0day",
    "surrogate": "love \ud800 home",
    "right to left": "great שלום עולם day",
    "arabic": "love مرحبا home",
    "emoji": "great 👩‍👩‍👧‍👦 day 🇩🇪",
    "controls": "love\x1b[2J \u202e home",
    "combining": "a" + "\u0301" * 300 + " day",
    "no spaces": "great" * 500,
    "only marks": "\u200b\u200b",
    "newlines": "love\r\n\r\nhome\u2028day",
}


def test_odd_texts_have_the_vectors_of_the_model_and_move_no_other_row(
    tmp_path: Path, bench: Bench, bert_alone: Callable[[str], tuple[np.ndarray, np.ndarray]]
):
    rows = []
    for number, (name, text) in enumerate(ODD_TEXTS.items()):
        rows += [{"id": name, "text": text}, {"id": f"plain{number}", "text": "great day " * (number + 1)}]
    (tmp_path / "posts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    manifest = read_manifest(tmp_path / "posts.jsonl")
    done = bench.extract(manifest, bench.text)
    found = dict(zip([one.id for one in manifest.samples], bench.vectors(done, "text"), strict=True))
    for row in rows:
        text = row["text"].strip().encode("utf-8", "replace").decode("utf-8")
        expected = bert_alone(text.replace("?", "\ufffd") if row["id"] == "surrogate" else text)[0]
        np.testing.assert_allclose(found[row["id"]], expected, atol=1e-5, err_msg=row["id"])
    assert done.failures["text"] == []


@pytest.mark.parametrize("kind", ["words", pytest.param("letters", marks=pytest.mark.slow)])
def test_a_text_of_10_mb_is_cut_and_counted_in_good_time(
    tmp_path: Path, bench: Bench, bert_alone: Callable[[str], tuple[np.ndarray, np.ndarray]], kind: str
):
    """A word without an end has to be read to its end: 4 s on an idle machine."""
    words = "love the great city " * (10 * 2**20 // 20)
    text = {"words": words, "letters": "x" * 10 * 2**20}[kind]
    (tmp_path / "posts.csv").write_text(f"id,text,label\n1,great day,a\n2,{text},b\n3,my home,a\n")
    manifest = read_manifest(tmp_path)
    started = time.perf_counter()
    done = bench.extract(manifest, bench.text)
    assert time.perf_counter() - started < {"words": 10, "letters": 40}[kind], "ten times what an idle machine takes"
    vectors = bench.vectors(done, "text")
    for row, other in ((0, "great day"), (2, "my home")):
        np.testing.assert_allclose(vectors[row], bert_alone(other)[0], atol=1e-5)
    if kind == "words":
        assert done.truncated == 1
        np.testing.assert_allclose(vectors[1], bert_alone(words[: POSITIONS * 40])[0], atol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no header that names columns"),
        (b"\n\n", "no header that names columns"),
        (b"id,text,label\n", "was read as table and holds no rows"),
        (b"id,text,label", "was read as table and holds no rows"),
        (b"id,text,label\n\n\n", "was read as table and holds no rows"),
        (b"\xef\xbb\xbfid,text\n", "was read as table and holds no rows"),
        (b"id,text\n1,a,b\n2\n", "has 2 bad rows"),
        (b"id,text,label\n1,a,\n", None),
    ],
)
def test_tables_without_rows_or_header_say_so(tmp_path: Path, content: bytes, message: str | None):
    (tmp_path / "posts.csv").write_bytes(content)
    if message is None:
        assert len(read_manifest(tmp_path).samples) == 1
        return
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path)


def test_labels_of_several_types_in_json_lines_are_their_texts(tmp_path: Path):
    rows = [{"text": "a", "label": label} for label in (1, "1", 2.5, True, None, "", "words")]
    (tmp_path / "posts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [one.label for one in read_manifest(tmp_path).samples] == ["1", "1", "2.5", "True", "", "", "words"]
    (tmp_path / "posts.jsonl").write_text('{"text": "a", "label": ["x"]}\n{"text": "a", "label": {"y": 1}}\n')
    with pytest.raises(DataError, match="line 1: label must be text or a number, found list"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"progressive": True, "exif": b"Exif\0\0" + b"\xff\xda" * 600}]
)
def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded(options: dict[str, Any]):
    raw = saved(Image.new("RGB", (64, 64), "red"), "JPEG", **options)
    first = raw.rindex(b"\xff\xc4")  # the last scan and its code, which may follow any number of times
    scan, start, end = raw[first:-2], raw[:first], raw[-2:]
    assert b"\xff\xda" in scan
    plain_pixels = np.asarray(decode_image(raw))
    for many in (start + scan * 400 + end, raw + b"\xff\xda" * 600):  # the latter as a film behind the picture
        np.testing.assert_array_equal(np.asarray(decode_image(many)), plain_pixels)
    with pytest.raises(DecodeError, match="more than 500 scans"):
        decode_image(start + scan * 600 + end)
