"""WebDataset: tars are read where they lie, and what is wrong with them is said."""

import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import DataError, UsageError
from extract import Settings, extract, originals, read_manifest
from extract.datasets import webdataset
from extract.manifest import Manifest, Piece


def write(path: Path, members: dict[str, bytes | str] | list[tuple[str, bytes | str]], **options: Any) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, content in dict(members).items() if isinstance(members, dict) else members:
            raw = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return path


def contents(manifest: Manifest) -> dict[str, dict[str, Any]]:
    return {
        one.id: {name: part.read() if isinstance(part, Piece) else part for name, part in one.inputs.items()}
        for one in manifest.samples
    }


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_one_key_are_one_sample(tmp_path: Path, kind: int):
    far = "a/" + "long/" * 60 + "é"
    members: dict[str, bytes | str] = {
        "cat/1.jpg": b"one",
        "cat/1.txt": " a cat ",
        "cat/1.cls": "3\n",
        "dog/2.PNG": b"two",
        "dog/2.json": json.dumps(
            {"label": "dog", "split": "test", "user": "ann", "caption": "from json", "path": "x.jpg"}
        ),
        "cat/3.txt": "alone",
    }
    if kind != tarfile.USTAR_FORMAT:
        members |= {f"{far}.webp": b"far"}
    write(tmp_path / "shard.tar", members, format=kind)
    manifest = read_manifest(tmp_path / "shard.tar")
    assert manifest.layout == "webdataset"
    found = {one.id: (one.label, one.split, one.group, one.where) for one in manifest.samples}
    assert found["cat/1"] == ("3", "", "", "cat/1")
    assert found["dog/2"] == ("dog", "test", "ann", "dog/2")
    held = contents(manifest)
    assert held["cat/1"] == {"text": "a cat", "image": b"one"}
    assert held["dog/2"] == {"image": b"two"}  # a txt is the text where there are some
    assert held["cat/3"] == {"text": "alone"}
    assert list(held)[3:] == ([] if kind == tarfile.USTAR_FORMAT else [far])
    again = read_manifest(tmp_path / "shard.tar", columns=manifest.notes["columns"])
    assert again.samples == manifest.samples
    piece = manifest.samples[0].inputs["image"]
    assert piece.name == "shard.tar/cat/1.jpg"
    assert pickle.loads(pickle.dumps(piece)) == piece  # noqa: S301 - as worker processes get them


def test_keys_of_json_are_columns(tmp_path: Path):
    rows = [{"uid": f"u{n}", "mood": "ab"[n], "title": "t", "body": "b", "price": n} for n in range(2)]
    write(
        tmp_path / "a.tar",
        [(f"{n}.{kind}", one) for n in range(2) for kind, one in (("jpg", b"x"), ("json", json.dumps(rows[n])))],
    )
    columns = {"label": "mood", "text": "title+body", "tabular": "price+mood"}
    first, second = read_manifest(tmp_path, columns=columns).samples
    assert [(one.id, one.label, one.inputs["text"]) for one in (first, second)] == [
        ("u0", "a", "t\nb"),
        ("u1", "b", "t\nb"),
    ]
    assert json.loads(str(second.inputs["tabular"])) == {"price": "1", "mood": "b"}
    with pytest.raises(DataError, match="has no column 'colour' for label"):
        read_manifest(tmp_path, columns={"label": "colour"})


def test_several_pictures_sounds_and_arrays_go_by_their_names(tmp_path: Path):
    file = io.BytesIO()
    np.save(file, np.ones((2, 3)))
    members = {"1.left.jpg": b"l", "1.right.png": b"r", "1.face.npy": file.getvalue(), "1.npy": file.getvalue()}
    members |= {"1.wav": b"RIFF", "1.2.txt": "second", "1.text.npy": file.getvalue()}
    manifest = read_manifest(write(tmp_path / "a.tar", members))
    (sample,) = manifest.samples
    assert sorted(sample.inputs) == ["array", "array_text", "audio", "face", "image_left", "image_right", "text_2"]
    assert sample.inputs["image_right"].read() == b"r"
    assert sample.inputs["audio"].name == "a.tar/1.wav"


def test_shards_are_read_in_order_and_named_after_splits_are_these(tmp_path: Path):
    for name in ("train-001", "test-000", "train-000"):
        write(tmp_path / f"{name}.tar", {"0.jpg": name, **({"0.txt": "words"} if name == "test-000" else {})})
    found = [(one.id, one.split, one.where) for one in read_manifest(tmp_path).samples]
    assert found == [(f"{n}/0", n[:-4], f"{n}.tar {n}/0") for n in ("test-000", "train-000", "train-001")]
    write(tmp_path / "more.tar", {"0.jpg": b"x"})
    manifest = read_manifest(tmp_path)
    assert {one.split for one in manifest.samples} == {""}
    assert read_manifest(tmp_path, columns=manifest.notes["columns"]).samples == manifest.samples


@pytest.mark.parametrize(
    ("one", "two", "said"),
    [
        ({"1.txt": "a day"}, {"1.json": '{"caption": "so sad"}'}, "text is the column text in some files and caption"),
        ({"1.json": '{"title": "a day"}'}, {"1.json": '{"title": "a", "text": "b"}'}, "text is the column title in"),
        ({"1.txt": "a", "1.json": '{"class": "x"}'}, {"1.txt": "b", "1.cls": "y"}, "label is the column class in"),
    ],
)
def test_no_tar_loses_what_the_others_call_otherwise(
    tmp_path: Path, one: dict[str, str], two: dict[str, str], said: str
):
    write(tmp_path / "a.tar", one)
    write(tmp_path / "b.tar", two)
    with pytest.raises(DataError, match=said):
        read_manifest(tmp_path)


def odd_members(tar: tarfile.TarFile) -> None:
    for number, kind in enumerate(
        (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    ):
        info = tarfile.TarInfo(f"odd{number}.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    for name in ("noname", ".hidden", "deep/.hidden.jpg", "1.pkl", "1.a-b.jpg", "../../2.jpg"):
        info = tarfile.TarInfo(name)
        info.size = 3
        tar.addfile(info, io.BytesIO(b"odd"))


def test_links_devices_and_unknown_suffixes_are_left_out_and_counted(tmp_path: Path, run_lines):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        odd_members(tar)
    before = sorted(tmp_path.rglob("*"))
    manifest = read_manifest(tmp_path)
    assert contents(manifest) == {"1": {}, "../../2": {"image": b"odd"}}  # a name, and nothing is unpacked to it
    assert sorted(tmp_path.rglob("*")) == before
    expected = {"links": 2, "devices and the like": 2, "members without a key or a suffix": 3}
    assert manifest.notes["left_out"] == expected | {"members .pkl": 1, "members .a-b.jpg": 1}
    assert (
        "left out: 2 links, 2 devices and the like, 3 members without a key or a suffix, 1 members .pkl"
        in run_lines(manifest)
    )


@pytest.fixture
def run_lines(bench) -> Callable[[Manifest], str]:
    """What `extract` says of a data set."""
    from extract import extraction_lines

    return lambda manifest: "\n".join(
        extraction_lines(manifest, bench.extract(manifest, bench.image), bench.store, 0.1)
    )


def test_bad_members_are_reported_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(webdataset, "MOST_BYTES", 1000)
    monkeypatch.setattr(webdataset, "MOST_TEXT", 100)
    members: list[tuple[str, bytes | str]] = [
        ("1.jpg", b"x"), ("1.jpg", b"y"), ("2.jpg", b"x"), ("2.png", b"x"), ("3.json", "{broken"), ("4.json", "[1]"),
        ("5.jpg", bytes(1001)), ("6.txt", "x" * 101), ("7.json", '{"label": [1]}'), ("7.jpg", b"x"),
        ("8.json", "[" * 9),
    ]  # fmt: skip
    write(tmp_path / "train.tar", members)
    (tmp_path / "test.tar").write_bytes(b"<html>" * 500)
    with pytest.raises(DataError) as caught:
        read_manifest(tmp_path)
    for part in (
        "has 9 bad rows",
        "train.tar 1 has two members .jpg",
        "train.tar 2: two members are its image",
        "train.tar 3: its json cannot be read",
        "train.tar 4: its json must be an object, found list",
        "train.tar 5.jpg has 1001 bytes; up to 1000 are taken",
        "train.tar 6: train.tar/6.txt is a text of 101 bytes",
        "train.tar train/7: label must be text or a number, found list",
        "test.tar after its beginning: the tar cannot be read on",
    ):
        assert part in str(caught.value), part


TAR = {f"{n}.txt": f"text {n} " * 60 for n in range(20)}


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda raw: raw[:5000], "after 4.txt: the tar cannot be read on .4.txt is cut off"),
        (lambda raw: raw[: 512 * 6], "ends at byte 3072 without its end mark: it was cut off"),
        (lambda raw: raw[: 512 * 6 + 100], "ends at byte 3072 without its end mark: it was cut off"),
        (lambda raw: raw[:3072] + b"x" * 512 + raw[3584:], "a broken header at byte 3072; what follows cannot be read"),
        (lambda raw: raw + raw, "more behind the tar's end mark"),
        (lambda raw: b"", "after its beginning: the tar cannot be read on"),
    ],
)
def test_nothing_is_lost_in_silence_behind_a_broken_place(
    tmp_path: Path, damage: Callable[[bytes], bytes], problem: str
):
    path = write(tmp_path / "a.tar", TAR)
    assert len(read_manifest(path).samples) == 20
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=problem):
        read_manifest(path)


def test_flipped_bytes_never_shift_a_row(tmp_path: Path):
    path = write(tmp_path / "a.tar", {f"{n}.{kind}": f"{n}" for n in range(6) for kind in ("txt", "cls")})
    whole = path.read_bytes()
    refused = 0
    for seed in range(300):
        draw = np.random.default_rng(seed)
        raw = bytearray(whole)
        raw[int(draw.integers(0, 512 * 24))] ^= 1 << int(draw.integers(0, 8))
        path.write_bytes(raw)
        try:
            samples = read_manifest(path).samples
        except DataError:
            refused += 1
            continue
        shifted = [one for one in samples if one.label and one.inputs["text"] != one.label]
        assert len(shifted) <= 1  # the flipped one itself
    assert 100 < refused < 300


def test_a_header_that_promises_too_much_is_not_believed(tmp_path: Path):
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 2**40
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    os.truncate(path, 2**41)  # a hole: there would be as many bytes as it says
    with pytest.raises(DataError, match=f"a header says that {2**40} bytes belong to it"):
        read_manifest(path)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.xz"])
def test_packed_tars_are_refused_with_the_way_out(tmp_path: Path, name: str):
    with tarfile.open(tmp_path / name, "w:xz" if name.endswith("xz") else "w:gz"):
        pass
    for data in (tmp_path, tmp_path / name):
        with pytest.raises(DataError, match=f"{name} is packed as a whole.*unpack it to a plain tar first, such as by"):
            read_manifest(data)
    write(tmp_path / "b.tar", {"1.jpg": b"x"})
    with pytest.raises(DataError, match="is packed as a whole"):
        read_manifest(tmp_path)


def test_what_holds_no_tar(tmp_path: Path):
    with pytest.raises(DataError, match="is not laid out as webdataset; expected a tar of members"):
        read_manifest(tmp_path, layout="webdataset")
    path = write(tmp_path / "a.tar", {"1.jpg": b"x"})
    with pytest.raises(UsageError, match="Colour can be no role"):
        read_manifest(path, columns={"Colour": "x"})
    with pytest.raises(DataError, match="was read as webdataset and holds no rows"):
        read_manifest(write(path, {}))


def test_vectors_keys_and_pictures_are_those_of_the_files(tmp_path: Path, posts, bench):
    (posts.folder / "4.png").write_bytes(b"<html>no picture</html>")
    rows = [(row["id"], (posts.folder / row["image"]).read_bytes(), row["text"]) for row in posts.rows]
    of_files = bench.extract(posts.read())
    expected = {name: bench.vectors(of_files, name) for name in ("text", "image")}
    folder = tmp_path / "shards"
    folder.mkdir()
    write(
        folder / "a.tar",
        {f"{id_}.{kind}": one for id_, raw, text in rows for kind, one in (("png", raw), ("txt", text))},
    )
    bench.store = tmp_path / "another"
    of_tar = bench.extract(read_manifest(folder))
    assert (of_tar.encoded, of_tar.failed_ids) == (of_files.encoded, of_files.failed_ids) == (19, ["p4"])
    for name, block in of_files.view.blocks.items():
        assert np.array_equal(of_tar.view.blocks[name].items, block.items)
        assert np.array_equal(bench.vectors(of_tar, name), expected[name], equal_nan=True)
    shown = originals(of_tar.view, ["p3", "p4"])
    assert shown.found["p3"] == originals(of_files.view, ["p3"]).found["p3"]
    assert shown.left_out == 1
    (folder / "a.tar").unlink()
    with pytest.raises(DataError, match="give --data"):
        originals(of_tar.view, ["p3"])


@pytest.mark.slow
def test_worker_processes_read_members_for_themselves(tmp_path: Path, posts, bench):
    raw = {f"{row['id']}.png": (posts.folder / row["image"]).read_bytes() for row in posts.rows}
    manifest = read_manifest(write(tmp_path / "a.tar", raw))
    alone = bench.vectors(bench.extract(manifest, bench.image), "image")
    bench.store = tmp_path / "another"
    done = extract(manifest, Settings(bench.store, "posts", (bench.image,), device="cpu,cpu"))
    assert done.encoded == 10
    np.testing.assert_allclose(bench.vectors(done, "image"), alone, atol=1e-5)
