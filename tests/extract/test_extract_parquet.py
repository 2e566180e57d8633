"""Parquet: values, pictures in cells, splits in parts, and broken files."""

import contextlib
import datetime
import decimal
import io
import json
import pickle
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from cache import DataError, UsageError
from extract import read_manifest
from extract.datasets import parquet as module
from extract.manifest import Manifest, Piece

FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def cell(seed: int, path: str | None = "x.png") -> dict[str, Any]:
    return {"bytes": picture(seed), "path": path}


def write(path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None, rows: int = 3) -> Path:
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path, row_group_size=rows)
    return path


def contents(manifest: Manifest) -> list[dict[str, Any]]:
    """What each row has, read."""
    return [
        {name: one.read() if isinstance(one, Piece) else one for name, one in sample.inputs.items()}
        for sample in manifest.samples
    ]


def test_values_are_read_as_a_csv_would_have_them(tmp_path: Path):
    day = datetime.date(2026, 3, 1)
    columns = {
        "id": pa.array([1, 2], pa.int16()),
        "text": pa.array(["a", None]).dictionary_encode(),
        "label": pa.array([1.8, -0.6], pa.float32()),
        "price": pa.array([decimal.Decimal("9.50"), None]),
        "day": pa.array([day, None]),
        "new": pa.array([True, False]),
        "face": pa.array([[[1.0, 2.0]], [[3.0, 4.0]]], pa.list_(pa.list_(pa.float32()))),
    }
    path = write(tmp_path / "posts.parquet", columns)
    manifest = read_manifest(path, columns={"tabular": "price+day+new", "face": "face"})
    assert [(one.id, one.label) for one in manifest.samples] == [("1", "1.8"), ("2", "-0.6")]
    first, second = (one.inputs for one in manifest.samples)
    assert first["text"] == "a"
    assert "text" not in second
    assert json.loads(str(first["tabular"])) == {"price": "9.50", "day": "2026-03-01", "new": "True"}
    assert np.load(io.BytesIO(second["face"])).tolist() == [[3.0, 4.0]]
    assert [one.where for one in manifest.samples] == ["row 1", "row 2"]


@pytest.mark.parametrize("with_gaps", [False, True])
@pytest.mark.parametrize("kind", ["struct", "no path", "binary", "large binary", "list", "list of binary"])
def test_pictures_in_cells_are_read_when_they_are_wanted(tmp_path: Path, kind: str, with_gaps: bool):
    gaps = {2, 5} if with_gaps else set()
    made: list[Any] = [None if n in gaps else cell(n, f"{n}.png") for n in range(8)]
    types = {"struct": FILE, "no path": pa.struct([("bytes", pa.binary())]), "binary": pa.binary()}
    types |= {"large binary": pa.large_binary(), "list": pa.list_(FILE), "list of binary": pa.list_(pa.binary())}
    if kind == "no path":
        made = [one and {"bytes": one["bytes"]} for one in made]
    elif "binary" in kind:
        made = [one and one["bytes"] for one in made]
    if "list" in kind:
        more = cell(50) if kind == "list" else picture(50)
        made = [None if n in gaps else [one] * (n != 4) + [more] * (n == 6) for n, one in enumerate(made)]
    write(tmp_path / "posts.parquet", {"id": list("abcdefgh"), "image": pa.array(made, types[kind])})
    manifest = read_manifest(tmp_path)
    expected: list[dict[str, bytes]] = [{} if n in gaps else {"image": picture(n)} for n in range(8)]
    if "list" in kind:
        expected[4] = {}
        expected[6]["image_2"] = picture(50)
    assert contents(manifest) == expected
    pieces = [one for sample in manifest.samples for one in sample.inputs.values()]
    assert pickle.loads(pickle.dumps(pieces)) == pieces  # noqa: S301 - as worker processes get them
    assert len(set(pieces)) == len(pieces)
    named = {one.name for one in pieces}
    assert "posts.parquet/image/7.png" in named if kind in ("struct", "list") else named == {"posts.parquet/image"}


def test_a_struct_without_bytes_is_a_path(tmp_path: Path):
    made = [cell(1), {"bytes": None, "path": "there.png"}, {"bytes": None, "path": None}, None]
    write(tmp_path / "posts.parquet", {"image": pa.array(made, FILE)})
    first, *rest = read_manifest(tmp_path).samples
    assert first.inputs["image"].read() == picture(1)
    assert [one.inputs for one in rest] == [{"image": tmp_path / "there.png"}, {}, {}]
    write(tmp_path / "posts.parquet", {"image": pa.array([{"bytes": None, "path": "../x.png"}], FILE)})
    with pytest.raises(DataError, match=r"row 1: the image '../x.png' lies outside"):
        read_manifest(tmp_path)


def test_sound_and_arrays_in_cells_are_known_by_their_names(tmp_path: Path):
    clips = [{"bytes": b"RIFF", "path": "a.wav"}, {"bytes": b"RIFF", "path": None}]
    path = write(tmp_path / "posts.parquet", {"text": ["a"], "clip": pa.array(clips[:1], FILE)})
    (sample,) = read_manifest(path, columns={"audio": "clip"}).samples
    assert sample.inputs["audio"].name == "posts.parquet/clip/a.wav"
    write(path, {"text": ["a", "b"], "clip": pa.array(clips, FILE)})
    with pytest.raises(DataError, match="row 2: clip is taken for the modality 'audio'"):
        read_manifest(path, columns={"audio": "clip"})


def test_classes_get_their_names(tmp_path: Path):
    features = {"mood": {"_type": "ClassLabel", "names": ["bad", "good"]}, "text": {"_type": "Value"}}
    path = write(tmp_path / "a.parquet", {"text": list("abc"), "mood": [1, 0, -1]}, features)
    samples = read_manifest(path, columns={"label": "mood"}).samples
    assert [one.label for one in samples] == ["good", "bad", ""]
    write(path, {"text": list("abc"), "mood": [1, 2, -2]}, features)
    with pytest.raises(DataError, match=r"has 2 bad rows(.|\n)*row 2: mood is 2, and there are 2 classes\n  row 3"):
        read_manifest(path, columns={"label": "mood"})
    write(path, {"text": ["a"]}, {"mood": {"_type": "ClassLabel"}})
    with pytest.raises(DataError, match="describes its columns in a way that cannot be read"):
        read_manifest(path)


def test_splits_in_parts_are_one_data_set_and_a_missing_part_is_seen(tmp_path: Path):
    for name in ("test-00000-of-00001", "train-00001-of-00002", "train-00000-of-00002"):
        write(tmp_path / f"{name}.parquet", {"text": [f"of {name}"]})
    found = [(one.id, one.split, one.inputs["text"], one.where) for one in read_manifest(tmp_path).samples]
    first = "train-00000-of-00002"
    assert found[0] == (f"{first}-1", "train", f"of {first}", f"{first}.parquet row 1")
    assert [one[1] for one in found] == ["train", "train", "test"]
    (tmp_path / f"{first}.parquet").unlink()
    with pytest.raises(DataError, match=r"holds 1 of the 2 tables train-\.\.\.; fetch the others too"):
        read_manifest(tmp_path)


def test_only_columns_that_are_wanted_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(
        tmp_path / "posts.parquet",
        {"other": list("abcd"), "text": list("abcd"), "image": pa.array([cell(n) for n in range(4)], FILE)},
    )
    asked: list[Sequence[str]] = []
    inner = parquet.ParquetFile.read_row_group
    monkeypatch.setattr(
        parquet.ParquetFile,
        "read_row_group",
        lambda self, group, columns: asked.append(tuple(columns)) or inner(self, group, columns=columns),
    )
    manifest = read_manifest(tmp_path)
    assert set(asked) == {("text",), ("image",)}
    asked.clear()
    assert [one["image"] for one in contents(manifest)] == [picture(n) for n in range(4)]
    assert asked == [("image",), ("image",)]  # each group once


def test_groups_of_rows_are_unpacked_once_by_many_threads_and_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path / "posts.parquet", {"image": pa.array([cell(n) for n in range(12)], FILE)})
    pieces = [one.inputs["image"] for one in read_manifest(tmp_path).samples]
    unpacked: list[int] = []
    inner = module._unpack
    monkeypatch.setattr(module, "_unpack", lambda place, *more: unpacked.append(place.group) or inner(place, *more))
    held = module._Unpacked()
    monkeypatch.setattr(module, "_UNPACKED", held)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(pieces[1].read())) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [picture(1)] * 12
    assert unpacked == [0]
    monkeypatch.setattr(module, "KEPT", len(picture(0)) * 7)  # two groups
    for place in (0, 3, 6, 9, 0):
        assert pieces[place].read() == picture(place)
    assert unpacked == [0, 1, 2, 3, 0]
    assert len(held._held) == 2


def test_a_table_that_changed_or_went_is_a_failure_of_the_sample(tmp_path: Path, bench):
    path = write(tmp_path / "posts.parquet", {"image": pa.array([cell(n) for n in range(5)], FILE)})
    manifest = read_manifest(path)
    write(path, {"image": pa.array([cell(7)], FILE)})
    with pytest.raises(OSError, match="is not what it was"):
        manifest.samples[1].inputs["image"].read()
    done = bench.extract(manifest, bench.image)
    reasons = {one.id: one.reason for one in done.failures["image"]}
    assert list(reasons) == list("2345")  # the first is another picture
    assert reasons["2"] == f"cannot be read: {path} is not what it was"
    assert reasons["4"].startswith("cannot be read: Some index in row_group_indices")
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(OSError, match=r"Parquet|magic"):
        manifest.samples[0].inputs["image"].read()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        manifest.samples[0].inputs["image"].read()


def test_broken_files_are_one_message(tmp_path: Path):
    path = write(tmp_path / "posts.parquet", {"id": list("abcdef"), "text": [f"text {n}" * 30 for n in range(6)]})
    whole = path.read_bytes()
    seen = 0
    for seed in range(150):
        draw = np.random.default_rng(seed)
        raw = bytearray(whole)
        if seed < 20:
            raw = raw[: int(draw.integers(0, len(raw)))]
        else:
            raw[int(draw.integers(0, len(raw)))] ^= 1 << int(draw.integers(0, 8))
        path.write_bytes(raw)
        with contextlib.suppress(DataError):
            assert len(read_manifest(path).samples) <= 6
            seen -= 1
        seen += 1
    assert seen > 30


def test_sizes_that_are_absurd_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "posts.parquet", {"text": ["word " * 50] * 900}, rows=900)
    monkeypatch.setattr(module, "MOST_UNPACKED", 100)
    with pytest.raises(DataError, match=r"has a group of rows of .* write it with smaller groups"):
        read_manifest(path)
    monkeypatch.setattr(module, "MOST_ROWS", 899)
    with pytest.raises(DataError, match="says that it holds 900 rows; up to 899 are read"):
        read_manifest(path)


def test_without_pyarrow_or_with_an_old_one_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path / "posts.parquet", {"text": ["a"]})
    with monkeypatch.context() as patched:
        patched.setattr(pa, "__version__", "14.0.0")
        with pytest.raises(
            UsageError, match=r'Parquet needs pyarrow 15 or newer, found 14.0.0: pip install "pyarrow>=15"'
        ):
            read_manifest(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="Parquet needs pyarrow: pip install pyarrow"):
        read_manifest(tmp_path)


def test_extraction_from_cells_is_that_from_files(tmp_path: Path, posts, bench):
    raw = [(posts.folder / row["image"]).read_bytes() for row in posts.rows]
    of_files = bench.extract(posts.read(), bench.image)
    columns = {name: [row[name] for row in posts.rows] for name in ("id", "text", "label")}
    folder = tmp_path / "cells"
    folder.mkdir()
    write(
        folder / "a.parquet",
        {**columns, "image": pa.array([{"bytes": one, "path": None} for one in raw], FILE)},
        rows=4,
    )
    of_cells = bench.extract(read_manifest(folder), bench.image)
    assert (of_files.encoded, of_cells.encoded, of_cells.reused) == (10, 0, 10)
    assert np.array_equal(of_cells.view.blocks["image"].items, of_files.view.blocks["image"].items)
