"""Hugging Face `datasets`: saved folders, names on the hub by the library's cache, streams, and what is refused."""

import io
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from cache import DataError, UsageError
from extract import default_name, originals, read_manifest
from extract.datasets.pieces import Slice
from extract.manifest import Piece, absolute, is_remote

ROOT = Path(__file__).parents[2]
FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {"label": {"_type": "ClassLabel", "names": ["bad", "good"]}, "image": {"_type": "Image"}}


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def columns(first: int, count: int) -> dict[str, Any]:
    made = range(first, first + count)
    cells = [None if n % 5 == 3 else {"bytes": picture(n), "path": f"{n}.png" if n % 2 else None} for n in made]
    return {
        "id": [f"p{n}" for n in made],
        "text": [f"text {n}" for n in made],
        "image": pa.array(cells, FILE),
        "label": [n % 2 for n in made],
    }


def save(
    folder: Path, table: dict[str, Any], names: tuple[str, ...] = ("data-00000-of-00001.arrow",), **state: Any
) -> Path:
    """What `save_to_disk` writes of one split, its rows dealt out to the files, in batches of 3."""
    folder.mkdir(parents=True)
    whole = pa.table(table).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})
    each = -(-len(whole) // len(names))
    for number, name in enumerate(names):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, whole.schema) as writer:
            writer.write_table(whole.slice(number * each, each), max_chunksize=3)
    content = {"_data_files": [{"filename": name} for name in names], **state}
    (folder / "state.json").write_text(json.dumps(content))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def contents(data: Path) -> list[tuple[str, str, str, dict[str, Any]]]:
    """What each row is and has, read."""
    found = []
    for one in read_manifest(data).samples:
        held = {name: part.read() if isinstance(part, Piece) else part for name, part in one.inputs.items()}
        found.append((one.id, one.label, one.split, held))
    return found


def expected(first: int, count: int, split: str = "") -> list[tuple[str, str, str, dict[str, Any]]]:
    return [
        (f"p{n}", ["bad", "good"][n % 2], split, {"text": f"text {n}"} | ({"image": picture(n)} if n % 5 != 3 else {}))
        for n in range(first, first + count)
    ]


def test_a_saved_split_in_several_files(tmp_path: Path):
    folder = save(tmp_path / "saved", columns(0, 11), ("data-00000-of-00002.arrow", "data-00001-of-00002.arrow"))
    assert contents(folder) == expected(0, 11)
    manifest = read_manifest(folder)
    assert (manifest.layout, manifest.samples[10].where) == ("hub", "row 11")
    kept = {type(one.inputs["image"]) for one in manifest.samples if "image" in one.inputs}
    assert kept == {Slice}
    assert manifest.samples[7].inputs["image"].name == "data-00001-of-00002.arrow/image/7.png"


def test_saved_splits_are_splits(tmp_path: Path):
    save(tmp_path / "saved" / "train", columns(0, 4))
    save(tmp_path / "saved" / "test", columns(4, 3))
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert contents(tmp_path / "saved") == [*expected(0, 4, "train"), *expected(4, 3, "test")]
    assert read_manifest(tmp_path / "saved").samples[4].where == "test row 1"


def test_what_the_library_saves_is_read(tmp_path: Path):
    script = """
        import sys
        from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
        from tests.extract.test_extract_saved import picture
        label = ClassLabel(names=["bad", "good"])
        features = Features(id=Value("string"), text=Value("string"), image=Image(), label=label)
        def rows(first, count):
            made = range(first, first + count)
            image = [None if n % 5 == 3 else {"bytes": picture(n), "path": None} for n in made]
            ids, texts = [f"p{n}" for n in made], [f"text {n}" for n in made]
            return dict(id=ids, text=texts, image=image, label=[n % 2 for n in made])
        both = DatasetDict({s: Dataset.from_dict(rows(*r), features) for s, r in (("train", (0, 8)), ("test", (8, 3)))})
        both["train"] = both["train"].select([7, 6, 5, 4, 3, 2, 1, 0])  # an order that is not that of the table
        both.save_to_disk(sys.argv[1], num_shards={"train": 2, "test": 1})
    """
    in_process(script, tmp_path, tmp_path / "saved")
    assert contents(tmp_path / "saved") == [*reversed(expected(0, 8, "train")), *expected(8, 3, "test")]


def in_process(script: str, tmp_path: Path, *args: object) -> str:
    """What a script prints, in a process whose caches are in `tmp_path`: the library reads where they are only once."""
    caches = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **caches}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow  # the library is slow to import
def test_names_are_read_through_the_cache_and_streams_in_order(tmp_path: Path):
    script = """
        import io, os, pathlib
        from datasets import ClassLabel, Features, Image, Value, load_dataset
        from datasets.packaged_modules.generator.generator import Generator
        from cache import PipelineError
        from extract import read_manifest
        from extract.datasets import hub
        from tests.extract.test_extract_saved import picture

        label = ClassLabel(names=["bad", "good"])
        features = Features(id=Value("string"), text=Value("string"), image=Image(), label=label)
        def rows():
            for n in range(6):
                yield dict(id=f"p{n}", text=f"text {n}", image=picture(n) if n != 3 else None, label=n % 2 if n else -1)
        built = Generator(repo_id="owner/posts", dataset_name="posts", hash="h", generator=rows, features=features)
        built.download_and_prepare()
        kept = pathlib.Path(built.cache_dir).parents[1]
        kept.rename(kept.with_name("default"))  # as a data set of the hub lies there

        for data, count in (("hub:owner/posts", 6), ("hub:owner/posts:default", 6), ("hub-stream:owner/posts#4", 4)):
            samples = read_manifest(data).samples
            labels = ["", "good", "bad", "good", "bad", "good"]
            assert [(one.id, one.label) for one in samples] == [(f"p{n}", labels[n]) for n in range(count)]
            assert [one.inputs["text"] for one in samples] == [f"text {n}" for n in range(count)]
            assert [one.inputs["image"].read() if "image" in one.inputs else b"" for one in samples] == [
                picture(n) if n != 3 else b"" for n in range(count)
            ], data
        first = read_manifest("hub:owner/posts")
        again = read_manifest(str(first.path), first.layout, first.notes["columns"])  # as the report does
        assert again.samples == first.samples
        for data in ("hub:owner/none", "hub:owner/posts:other", "hub-stream:owner/none"):
            try:
                read_manifest(data)
            except PipelineError as error:
                print(str(error).replace(chr(10), " "))
        hub.MOST_HELD = 300
        try:
            read_manifest("hub-stream:owner/posts")
        except PipelineError as error:
            print(error)
        os.makedirs("owner/posts")
        try:
            read_manifest("hub:owner/posts")
        except PipelineError as error:
            print(error)
    """
    out = in_process(script, tmp_path).splitlines()
    assert len(out) == 5
    for line, name in zip(out[:3], ("none", "posts", "none"), strict=True):
        assert f"owner/{name} cannot be had from the hub: " in line
        assert "save it where there is a network by load_dataset(...).save_to_disk(FOLDER)" in line
    assert "Available configs in the cache: ['default']" in out[1]
    assert "held in memory, up to 300 bytes; take its first rows by #ROWS, or all by hub:" in out[3]
    assert out[4] == "there is a folder owner/posts here, which the library would take; give it as DATA, or rename it"


class ClassLabel:
    """What says that a column holds numbers of classes."""

    names = ("bad", "good")


class Decoded:
    """What `datasets` gives for streams, as far as it is used."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows, self.features, self.closed = rows, {**dict.fromkeys(rows[0]), "label": ClassLabel()}, False

    def decode(self, enable: bool) -> "Decoded":
        assert enable is False
        return self

    def __iter__(self):
        try:
            yield from self.rows
        finally:
            self.closed = True


def test_a_stream_ends_in_order_and_pictures_that_are_elsewhere_are_bad_rows():
    from extract.datasets.hub import _Held, _StreamRows

    rows = Decoded([{"text": "a", "image": {"bytes": b"x", "path": None}}, {"text": "b", "image": None}] * 3)
    problems: list[str] = []
    found = list(_StreamRows("o/n", rows, 3, _Held("o/n"), problems).of({"text"}))
    assert [row["text"] for _, row in found] == ["a", "b", "a"]
    assert rows.closed
    rows = Decoded([{"image": {"bytes": None, "path": "hf://x/y.png"}}, {"image": {"bytes": None, "path": None}}])
    stream = _StreamRows("o/n", rows, 0, _Held("o/n"), problems)
    assert list(stream.of({"image"})) == [(2, {"image": None})]
    assert problems == ["row 1: image names the file 'y.png' without its bytes; give hub: instead of hub-stream:"]

    rows = Decoded([{"label": 5}, {"label": 1}, {"label": -1}, {"label": None}])
    assert [row["label"] for _, row in _StreamRows("o/n", rows, 0, _Held("o/n"), problems).of({"label"})] == [
        "good", None, None
    ]  # fmt: skip
    assert problems[1:] == ["row 1: label is 5, and there are 2 classes"]

    def failing():
        yield {"text": "a"}
        raise ConnectionError("reset by peer")

    rows = Decoded([{"text": "a"}])
    rows.rows = failing()
    with pytest.raises(DataError, match="o/n cannot be had from the hub: ConnectionError: reset by peer"):
        list(_StreamRows("o/n", rows, 0, _Held("o/n"), []).of({"text"}))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("hub:posts", "cannot be the name of a data set on the hub; give hub:OWNER/NAME, "),
        ("hub:a/b/c", "cannot be the name"),
        ("hub:../secret", "cannot be the name"),
        ("hub:a/b#5", "only a stream is cut; give hub-stream:a/b#5"),
        ("hub-stream:a/b#0", "cannot be the name"),
    ],
)
def test_names_that_cannot_be(data: str, message: str):
    with pytest.raises(UsageError, match=message):
        read_manifest(data)


def test_names_need_their_own_layout_and_library(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match="hub:a/b is a data set of the hub, which the layout table cannot read"):
        read_manifest("hub:a/b", layout="table")
    import datasets

    with monkeypatch.context() as patched:
        patched.setattr(datasets, "__version__", "3.6.0")
        with pytest.raises(UsageError, match=r'need datasets 4 or newer.*found 3.6.0: pip install "datasets>=4"'):
            read_manifest("hub:a/b")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match="need Hugging Face datasets: pip install datasets"):
        read_manifest("hub-stream:a/b")


def test_what_names_are_called():
    assert [default_name(one) for one in ("hub:o/n", "hub:o/n:c", "hub-stream:o/n:c#5", "hub-stream:o/n#5")] == [
        "n", "n-c", "n-c", "n"
    ]  # fmt: skip
    assert is_remote("hub:o/n")
    assert [absolute(one) for one in ("hub:o/n", "/a")] == ["hub:o/n", "/a"]
    assert not is_remote("hubs/n")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "state.json").write_text("{"), r"state.json cannot be read"),
        (lambda folder: (folder / "state.json").write_text("[]"), r"state.json holds no JSON object"),
        (lambda folder: (folder / "state.json").write_text("{}"), "does not say which files hold the rows"),
        (lambda folder: (folder / "state.json").write_text('{"_data_files": []}'), "holds no rows"),
        (
            lambda folder: (folder / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}'),
            r"names '../x.arrow', which lies outside of it",
        ),
        (lambda folder: (folder / "data-00000-of-00001.arrow").unlink(), "cannot be read: .*No such file"),
        (lambda folder: cut(folder / "data-00000-of-00001.arrow"), "cannot be read: "),
        (
            lambda folder: (folder / "dataset_dict.json").write_text('{"splits": ["../.."]}'),
            r"names '../..', which lies outside",
        ),
        (lambda folder: (folder / "dataset_dict.json").write_text('{"splits": 5}'), "names no splits"),
    ],
)
def test_broken_folders_are_one_message(tmp_path: Path, break_it: Callable[[Path], object], message: str):
    folder = save(tmp_path / "saved", columns(0, 9))
    break_it(folder)
    with pytest.raises(DataError, match=message):
        read_manifest(folder)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def test_rows_in_another_order_and_packed_files_are_refused(tmp_path: Path):
    old = save(tmp_path / "old", columns(0, 3), _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(DataError, match="saved by an old version, with its rows in another order"):
        read_manifest(old)
    folder = save(tmp_path / "saved", columns(0, 3))
    table = pa.table(columns(0, 3))
    packed = pa.ipc.IpcWriteOptions(compression="zstd")
    path = folder / "data-00000-of-00001.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema, options=packed) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="is compressed, so that no cell of it can be read by itself"):
        read_manifest(folder)


def test_offsets_that_lead_elsewhere_are_seen(tmp_path: Path):
    folder = save(tmp_path / "saved", {"image": pa.array([b"first", b"second"], pa.binary())})
    path = folder / "data-00000-of-00001.arrow"
    raw = path.read_bytes()
    offsets = np.array([0, 5, 11], np.int32).tobytes()
    assert raw.count(offsets) == 1
    for wrong in ([0, 5, 1 << 30], [0, 50, 11], [-9, 5, 11]):
        path.write_bytes(raw.replace(offsets, np.array(wrong, np.int32).tobytes()))
        with pytest.raises(DataError, match="cannot be read: "):
            read_manifest(folder)


def test_a_file_that_went_or_was_cut_is_a_failure_of_the_sample(tmp_path: Path):
    folder = save(tmp_path / "saved", columns(0, 3))
    piece = read_manifest(folder).samples[2].inputs["image"]
    path = folder / "data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(OSError, match="is shorter than it was"):
        piece.read()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        piece.read()


def test_saved_pictures_are_encoded_and_shown_as_files_are(tmp_path: Path, posts, bench):
    raw = [(posts.folder / row["image"]).read_bytes() for row in posts.rows]
    of_files = bench.extract(posts.read(), bench.image)
    cells = pa.array([{"bytes": one, "path": None} for one in raw], FILE)
    folder = save(tmp_path / "saved", {"id": [row["id"] for row in posts.rows], "image": cells})
    of_cells = bench.extract(read_manifest(folder), bench.image)
    assert (of_files.encoded, of_cells.encoded, of_cells.reused) == (10, 0, 10)
    assert np.array_equal(of_cells.view.blocks["image"].items, of_files.view.blocks["image"].items)
    shown = originals(of_cells.view, ["p4"])
    assert (shown.found, shown.left_out) == (originals(of_files.view, ["p4"]).found, 0)
    assert shown.found["p4"].pictures["image"].startswith(b"\xff\xd8")
