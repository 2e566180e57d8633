"""Texts and pictures of a few samples, shown again as they were encoded."""

import csv
import io
import json
import shutil
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache import MISSING, NO_ITEM, PRESENT, Block, DataError, UsageError, View, item_key, pack_items
from extract import manifest, read_manifest
from extract.manifest import Manifest
from extract.originals import Original, originals


def view_of(manifest: Manifest, modalities: Sequence[str] = ("text", "image")) -> View:
    """What `extract` would write of a data set, without any vector."""
    blocks = {}
    for modality in modalities:
        keys = []
        for sample in manifest.samples:
            content = sample.inputs.get(modality)
            if isinstance(content, Path):
                content = content.read_bytes() if content.is_file() else None
            keys.append(NO_ITEM if content is None else item_key(content))
        state = np.array([MISSING if key == NO_ITEM else PRESENT for key in keys], dtype=np.uint8)
        arrays = {"items": pack_items(keys), "state": state, "row": np.full(len(keys), -1)}
        blocks[modality] = Block(modality, "0" * 32, "mean", 2, arrays)
    ids = np.array([sample.id for sample in manifest.samples], dtype=object)
    columns = {"ids": ids, "labels": ids, "split": ids, "groups": np.arange(len(ids))}
    source = {"data": str(manifest.path.absolute()), "layout": manifest.layout, **manifest.notes}
    return View("posts", columns, blocks, source)


def shown(raw: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(raw))
    assert (picture.format, picture.mode) == ("JPEG", "RGB")
    assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert not dict(picture.getexif())
    return np.asarray(picture)


@pytest.fixture
def picture_of(tmp_path: Path) -> Callable[[bytes], bytes]:
    """The thumbnail of one picture's file."""
    folder = tmp_path / "one"
    folder.mkdir()

    def show(raw: bytes, **options: int) -> bytes:
        (folder / "picture").write_bytes(raw)
        (folder / "posts.csv").write_text("id,image\na,picture\n")
        found = originals(view_of(read_manifest(folder), ["image"]), ["a"], **options)
        assert found.left_out == (not found.found)
        return found.found["a"].pictures["image"] if found.found else b""

    return show


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_an_extracted_data_set_is_shown_as_it_was_encoded(posts, bench):
    (posts.folder / "3.png").unlink()
    (posts.folder / "5.png").write_bytes(b"<html></html>")
    done = bench.extract(posts.read())
    found = originals(done.view, ["p7", "p3", "p0", "p5", "p7"])
    assert list(found.found) == ["p7", "p3", "p0", "p5"]
    assert found.left_out == 1  # the broken picture; p3 never had one
    for name, one in found.found.items():
        assert one.texts == {"text": posts.rows[int(name[1])]["text"]}
        assert list(one.pictures) == (["image"] if name in ("p0", "p7") else [])
    expected = np.asarray(Image.open(posts.folder / "7.png")).astype(int)
    pixels = shown(found.found["p7"].pictures["image"])
    assert pixels.shape == (60, 50, 3)  # not enlarged
    assert np.abs(pixels - expected).mean() < 12


def test_changed_and_vanished_contents_are_left_out(posts):
    view = view_of(posts.read())
    posts.rows[1]["text"] = "another text"
    Image.new("RGB", (9, 9)).save(posts.folder / "2.png")
    (posts.folder / "6.png").unlink()
    del posts.rows[8]
    posts.read()
    found = originals(view, [f"p{number}" for number in range(10)])
    assert found.left_out == 5
    lost = {"text": {1, 8}, "image": {2, 6, 8}}
    for number in range(10):
        one = found.found.get(f"p{number}", Original({}, {}))
        assert ("text" in one.texts) == (number not in lost["text"])
        assert ("image" in one.pictures) == (number not in lost["image"])
    assert "p8" not in found.found


def test_what_was_not_encoded_is_not_shown(posts):
    view = view_of(posts.read(), ["text"])
    found = originals(view, ["p1"])
    assert (found.left_out, found.found["p1"].pictures) == (0, {})
    posts.rows[2]["image"] = ""
    view = view_of(posts.read())
    posts.rows[2]["image"] = "2.png"  # only since
    posts.read()
    found = originals(view, ["p2"])
    assert (found.left_out, found.found["p2"].pictures) == (1, {})


def test_unknown_ids_and_no_ids(posts):
    view = view_of(posts.read())
    found = originals(view, ["p1", "nobody", np.str_("p2")])
    assert (list(found.found), found.left_out) == (["p1", "p2"], 1)
    shutil.rmtree(posts.folder)
    assert originals(view, []) == originals(view, np.array([], dtype=str).tolist())
    assert originals(view, []).left_out == 0


def test_only_the_pictures_asked_for_are_read(posts, monkeypatch: pytest.MonkeyPatch):
    view, inner, read = view_of(posts.read()), manifest.bytes_of, []
    monkeypatch.setattr(
        sys.modules["extract.originals"], "bytes_of", lambda path: read.append(path.name) or inner(path)
    )
    originals(view, ["p4", "p1"])
    assert read == ["4.png", "1.png"]


def test_data_that_is_gone_names_the_folder_and_the_way_out(posts, tmp_path: Path):
    view = view_of(posts.read())
    moved = shutil.move(posts.folder, tmp_path / "moved")
    with pytest.raises(DataError, match=rf"{posts.folder} cannot be read: nothing is there\n.*give --data"):
        originals(view, ["p1"])
    assert len(originals(view, ["p1", "p2"], data=str(moved)).found) == 2
    posts.folder.mkdir()
    with pytest.raises(DataError, match=rf"{posts.folder} cannot be read: .* no table(.|\n)*give --data"):
        originals(view, ["p1"])
    view.source.clear()
    with pytest.raises(DataError, match="give --data"):
        originals(view, ["p1"])
    assert len(originals(view, ["p1", "p2"], data=str(moved)).found) == 2


def test_other_data_under_the_same_ids_is_not_shown(posts, tmp_path: Path):
    view = view_of(posts.read())
    other = Path(shutil.copytree(posts.folder, tmp_path / "other"))
    table = (other / "posts.csv").read_text(encoding="utf-8").splitlines()
    cells = [line.split(",") for line in table[1:]]
    turned = [",".join([one[0], *two[1:]]) for one, two in zip(cells, cells[1:] + cells[:1], strict=True)]
    (other / "posts.csv").write_text("\n".join([table[0], *turned]), encoding="utf-8")
    found = originals(view, ["p1", "p2"], data=str(other))
    assert (found.found, found.left_out) == ({}, 4)


def test_ids_and_texts_in_any_script(tmp_path: Path):
    texts = {"日本-🙂": "今天 🙂", 'ü,"quoted"': "naïve\nsecond line", "e\u0301": "decomposed", "\u00e9": "composed"}
    with (tmp_path / "posts.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "text"), *texts.items()])
    found = originals(view_of(read_manifest(tmp_path), ["text"]), list(texts))
    assert {name: one.texts["text"] for name, one in found.found.items()} == texts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x" * 600, "x" * 600),
        ("x" * 601, "x" * 599 + "…"),
        ("🙂" * 700, "🙂" * 599 + "…"),
        ("x" * 590 + " " * 50 + "y", "x" * 590 + "…"),
        ("half \ud83d pair", "half ? pair"),
    ],
)
def test_long_texts_are_cut(tmp_path: Path, text: str, expected: str):
    (tmp_path / "posts.jsonl").write_text(json.dumps({"id": "a", "text": text}))
    view = view_of(read_manifest(tmp_path), ["text"])
    assert originals(view, ["a"]).found["a"].texts == {"text": expected}


def test_named_columns_and_the_layout_are_those_of_the_extraction(tmp_path: Path):
    (tmp_path / "posts.csv").write_text("id,text,headline\na,not this,but this\n")
    view = view_of(read_manifest(tmp_path, columns={"text": "headline"}), ["text"])
    assert originals(view, ["a"]).found["a"].texts == {"text": "but this"}


def test_tables_of_which_one_lacks_a_column_are_read_again(tmp_path: Path):
    (tmp_path / "train.csv").write_text("id,text,label\n1,one,x\n")
    (tmp_path / "test.csv").write_text("id,text,label,user\n2,two,y,ann\n")
    manifest = read_manifest(tmp_path)
    assert [sample.group for sample in manifest.samples] == ["", "ann"]
    found = originals(view_of(manifest, ["text"]), ["1", "2"]).found
    assert {name: one.texts["text"] for name, one in found.items()} == {"1": "one", "2": "two"}


def test_a_column_that_was_left_out_is_left_out_again(tmp_path: Path):
    (tmp_path / "posts.csv").write_text("id,text,label\nsame,one,x\nsame,two,y\n")
    found = originals(view_of(read_manifest(tmp_path, columns={"id": ""}), ["text"]), ["1", "2"]).found
    assert {name: one.texts["text"] for name, one in found.items()} == {"1": "one", "2": "two"}


def test_the_layout_of_mvsa(tmp_path: Path):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("1", "2"):
        (data / f"{name}.txt").write_bytes(f"今天 {name}".encode("gb18030"))
        Image.new("RGB", (40, 20), "red").save(data / f"{name}.jpg")
    (tmp_path / "train.txt").write_text("guid,tag\n1,positive\n2,negative\n")
    found = originals(view_of(read_manifest(tmp_path)), ["2"], side=10)
    assert found.found["2"].texts == {"text": "今天 2"}
    assert shown(found.found["2"].pictures["image"]).shape == (5, 10, 3)


@pytest.mark.parametrize(("size", "expected"), [((640, 480), (24, 32)), ((480, 640), (32, 24)), ((3000, 2), (1, 32))])
def test_the_longest_side_is_as_asked_for(picture_of, size: tuple[int, int], expected: tuple[int, int]):
    for kind in ("PNG", "JPEG"):
        assert shown(picture_of(saved(Image.new("RGB", size, "teal"), kind), side=32)).shape[:2] == expected
    assert max(shown(picture_of(saved(Image.new("RGB", size, "teal")))).shape) <= 320


def test_pictures_are_turned_upright_and_lose_their_metadata(picture_of):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x0132] = 6, "my home", "2020:01:01 00:00:00"
    stored = np.zeros((60, 100, 3), dtype=np.uint8)
    stored[:, :50] = (250, 20, 20)  # by orientation 6 the left side is the upper one
    raw = saved(Image.fromarray(stored), "JPEG", exif=exif, comment=b"a secret place", dpi=(72, 72), quality=95)
    assert b"secret" in raw
    assert b"my home" in raw
    found = picture_of(raw)
    pixels = shown(found).astype(int)
    assert pixels.shape == (100, 60, 3)
    assert np.abs(pixels[:45] - (250, 20, 20)).max() < 25
    assert np.abs(pixels[55:]).max() < 25
    for trace in (b"secret", b"my home", b"2020", b"Exif"):
        assert trace not in found
    assert b"secret" not in picture_of(saved(Image.new("RGB", (8, 8)), "GIF", comment=b"a secret place"))


@pytest.mark.parametrize("mode", ["P", "CMYK", "RGBA", "LA", "L", "1", "I;16", "animation"])
def test_pictures_of_every_kind_become_rgb(picture_of, mode: str):
    red = Image.new("RGB", (30, 20), (254, 0, 0))
    if mode == "animation":
        raw, colour = saved(red, "GIF", save_all=True, append_images=[Image.new("RGB", (30, 20))]), (254, 0, 0)
    elif mode == "CMYK":
        raw, colour = saved(Image.new("CMYK", (30, 20), (0, 255, 255, 0)), "JPEG"), (254, 0, 0)
    elif mode == "RGBA":
        raw, colour = saved(Image.new("RGBA", (30, 20), (0, 0, 0, 0))), (255, 255, 255)
    elif mode == "LA":
        raw, colour = saved(Image.new("LA", (30, 20), (0, 0))), (255, 255, 255)
    elif mode == "I;16":
        raw, colour = saved(Image.fromarray(np.full((20, 30), 128 * 257, dtype=np.uint16))), (128, 128, 128)
    elif mode == "P":
        raw, colour = saved(red.convert("P", palette=Image.Palette.ADAPTIVE)), (254, 0, 0)
    else:
        raw, colour = saved(Image.new("L", (30, 20), 255).convert(mode)), (255, 255, 255)
    pixels = shown(picture_of(raw)).astype(int)
    assert pixels.shape == (20, 30, 3)
    assert np.abs(pixels - colour).max() <= 6


def test_pictures_that_cannot_be_decoded_are_left_out(picture_of):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 13_400, 13_400, 8, 2, 0, 0, 0))
    huge = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    whole = saved(Image.new("RGB", (400, 400), "teal"), "JPEG")
    assert picture_of(whole)
    for raw in (b"", b"<html></html>", huge, whole[: len(whole) // 2]):
        assert picture_of(raw) == b""


def test_a_large_photograph_is_unpacked_at_a_part_of_its_size(picture_of, monkeypatch: pytest.MonkeyPatch):
    sizes = []
    inner = Image.Image.thumbnail
    monkeypatch.setattr(Image.Image, "thumbnail", lambda self, *a: sizes.append(self.size) or inner(self, *a))
    assert max(shown(picture_of(saved(Image.new("RGB", (2400, 1600), "teal"), "JPEG"), side=100)).shape) == 100
    assert sizes == [(300, 200)]


def test_a_side_of_nothing_is_refused(posts):
    with pytest.raises(UsageError, match="1 pixel or more, got 0"):
        originals(view_of(posts.read()), ["p1"], side=0)


def test_what_is_found_cannot_be_reassigned(posts):
    (one,) = originals(view_of(posts.read()), ["p1"]).found.values()
    with pytest.raises(AttributeError):
        one.texts = {}
