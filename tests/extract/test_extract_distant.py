"""Data sets at an address: the rows of the same folder on a disk, each file fetched once, nothing lost in silence."""

import os
import pickle
import shutil
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from cache import DataError, PipelineError, StoreError, UsageError, load, read_view, verify_store
from cache.remote import Found, RemotePath
from cache.store import FeatureStore
from extract import Settings, default_name, originals, read_manifest
from extract.contents import read_contents
from extract.datasets import fetched, read_again
from extract.datasets.distant import Copied, Distant
from extract.datasets.shards import Shard, shards_of
from extract.engines import Local
from extract.keyed import Wanted, key_shard
from extract.manifest import Sample
from extract.sharded import extract_shards
from tests.buckets import Bucket
from tests.conftest import Result
from tests.extract.test_extract_shards import COLUMNS, write_parquet
from tests.extract.test_extract_webdataset import contents
from tests.extract.test_extract_webdataset import write as write_tar

Far = Callable[..., str]


@pytest.fixture(autouse=True)
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where local copies lie."""
    monkeypatch.setenv("ENCODE_ONCE_CACHE", str(tmp_path / "copies"))
    return tmp_path / "copies" / "data"


@pytest.fixture
def far(tmp_path: Path) -> Far:
    """`far(folder)`: what lies in a folder, in fsspec's memory."""

    def put(folder: Path, name: str = "posts") -> str:
        address = f"memory://{tmp_path.name}/{name}"
        for file in sorted(folder.iterdir()):
            fsspec.filesystem("memory").pipe_file(f"{address}/{file.name}", file.read_bytes())
        return address

    return put


def folder_of(tmp_path: Path, kind: str) -> Path:
    """Two files of a training set and one of a test set, without ids, which are then made of names."""
    folder = tmp_path / "input" / "posts"
    folder.mkdir(parents=True)
    if kind == "tars":
        for name, keys in {"train-0": "ab", "train-1": "c", "test-0": "de"}.items():
            members = {f"{key}.{end}": f"{end} of {key}" for key in keys for end in ("txt", "jpg", "cls")}
            write_tar(folder / f"{name}.tar", members | {f"{keys[0]}.odd": ""})
    else:
        write_parquet(folder / "train-00000-of-00002.parquet", 0, 11, 4, ids=False)
        write_parquet(folder / "train-00001-of-00002.parquet", 11, 7, 3, ids=False)
        write_parquet(folder / "test.parquet", 18, 2, 2, ids=False)
    (folder / "README.md").write_text("about it", encoding="utf-8")
    return folder


def options_of(kind: str) -> dict[str, Any]:
    return {} if kind == "tars" else {"columns": COLUMNS}


def samples_of(shards: list[Shard]) -> list[Sample]:
    return [sample for shard in pickle.loads(pickle.dumps(shards)) for sample in shard.read().samples]  # noqa: S301


def told(samples: list[Sample]) -> list[Sample]:
    """With what is in the files in the place of where they lie."""

    def content(part: Any) -> Any:
        return part if isinstance(part, str) else (part.name, part.read())

    return [replace(one, inputs={name: content(part) for name, part in one.inputs.items()}) for one in samples]


def copied(copies: Path) -> list[str]:
    return sorted(file.name for file in copies.glob("*/*") if not file.name.startswith("."))


@pytest.mark.parametrize("kind", ["tars", "tables"])
@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_shards_are_those_of_the_same_folder_on_a_disk(tmp_path: Path, far: Far, copies: Path, kind: str, rows: int):
    folder = folder_of(tmp_path, kind)
    here, there = (shards_of(data, rows, **options_of(kind)) for data in (folder, far(folder) + "/"))
    assert not copies.exists()  # the names and the ends of Parquet files are enough
    assert told(samples_of(there)) == told(samples_of(here))
    assert [one.read().notes for one in there] == [one.read().notes for one in here]
    assert {str(one.read().path) for one in there} == {far(folder)}
    assert copied(copies) == sorted(file.name for file in folder.iterdir() if file.suffix != ".md")


@pytest.mark.parametrize("kind", ["tars", "tables"])
def test_one_file_is_a_data_set(tmp_path: Path, far: Far, kind: str):
    folder = folder_of(tmp_path, kind)
    address = far(folder)
    for file in folder.iterdir():
        if file.suffix != ".md":
            there = shards_of(f"{address}/{file.name}", 4, **options_of(kind))
            assert told(samples_of(there)) == told(samples_of(shards_of(file, 4, **options_of(kind))))
            assert default_name(f"{address}/{file.name}") == default_name(file)
    assert default_name(f"{address}/") == default_name(folder) == "posts"


def test_an_address_of_this_machine_is_its_path(tmp_path: Path):
    folder = folder_of(tmp_path, "tars")
    assert samples_of(shards_of(f"file://{folder}", 9)) == samples_of(shards_of(folder, 9))
    assert read_manifest(f"file://{folder}") == read_manifest(folder)


def real_posts(folder: Path, posts: Any, kind: str) -> Path:
    """The posts of the fixture, of which one has a broken picture and one lacks it."""
    folder.mkdir(parents=True)
    (posts.folder / "4.png").write_bytes(b"<html>no picture</html>")
    rows = [{**row, "image": (posts.folder / row["image"]).read_bytes()} for row in posts.rows]
    rows[2]["image"] = None
    halves = {"train": rows[: len(rows) // 2], "test": rows[len(rows) // 2 :]}
    for name, half in halves.items():
        if kind == "tables":
            columns = {key: [row[key] for row in half] for key in half[0]}
            parquet.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=3)
        else:
            ends = {"png": "image", "txt": "text", "cls": "label"}
            members = {
                f"{row['id']}.{end}": row[key] for row in half for end, key in ends.items() if row[key] is not None
            }
            write_tar(folder / f"{name}.tar", members)
    return folder


def table_of(store: object) -> dict[str, np.ndarray]:
    table = load(str(store), "posts", check=True)
    found = {name: np.array(table.block(name, missing=np.nan)) for name in table.modalities}
    states = {f"{name} state": block.state for name, block in table.view.blocks.items()}
    items = {f"{name} items": block.items for name, block in table.view.blocks.items()}
    return {
        **found, **states, **items,
        "ids": table.ids, "labels": table.labels, "split": table.split, "groups": table.groups,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["tars", "tables"])
def test_a_bucket_gives_the_bits_of_the_folder_and_each_file_is_fetched_once(
    tmp_path: Path, posts, bench, bucket: Bucket, kind: str
):
    folder = real_posts(tmp_path / "input" / "posts", posts, kind)
    for file in folder.iterdir():
        bucket.put(f"data/posts/{file.name}", file.read_bytes())
    address = f"{bucket.url}/data/posts"

    def extract(data: object, store: object):
        settings = Settings(store, "posts", (bench.text, bench.image), device="cpu")
        return extract_shards(shards_of(data, 4), settings)

    here = extract(folder, tmp_path / "here")
    with bucket.asked() as asked:
        there = extract(address, tmp_path / "there")
    whole = Counter(one.key for one in asked if one.kind == "GET" and not one.range)
    assert whole == {f"data/posts/{file.name}": 1 for file in folder.iterdir()}
    # One listing; of each Parquet file the end; with each file whether it is still the one that was listed.
    assert Counter(one.kind for one in asked) == {"HEAD": 3, "LIST": 2, "GET": 2 if kind == "tars" else 4}
    one, other = table_of(tmp_path / "here"), table_of(tmp_path / "there")
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(other[name], values, err_msg=name)
    assert there.done.failures == here.done.failures
    assert there.done.missing == here.done.missing == {"text": 0, "image": 1}
    assert there.done.view.source == {**here.done.view.source, "data": address}
    assert verify_store(FeatureStore(tmp_path / "there")).findings == []
    with bucket.asked() as asked:
        assert extract(address, tmp_path / "there").done.encoded == 0
    assert Counter(one.kind for one in asked) == {"HEAD": 1, "LIST": 2, **({"GET": 2} if kind == "tables" else {})}
    again = extract(folder, tmp_path / "there").done
    assert (again.encoded, again.reused) == (0, here.done.encoded)
    assert any("was s3://" in line and str(folder) in line for line in again.warnings)


def test_who_wants_a_file_at_the_same_time_fetches_it_once(tmp_path: Path, bucket: Bucket):
    folder = tmp_path / "posts"
    folder.mkdir()
    write_parquet(folder / "posts.parquet", 0, 24, 2)
    bucket.put("posts.parquet", (folder / "posts.parquet").read_bytes())
    shards = shards_of(f"{bucket.url}/posts.parquet", 2, columns=COLUMNS)
    with bucket.asked() as asked, ThreadPoolExecutor(len(shards)) as pool:
        found = list(pool.map(lambda shard: len(shard.read().samples), shards))
    assert found == [2] * 12
    assert [one.kind for one in asked] == ["GET", "HEAD"]


def test_a_file_that_was_replaced_is_another_copy(tmp_path: Path, far: Far, copies: Path):
    folder = folder_of(tmp_path, "tars")
    before = shards_of(far(folder), 1)
    first = before[0].read()
    write_tar(folder / "test-0.tar", {f"{key}.txt": f"another {key}" for key in "xy"})
    address = far(folder)
    now = shards_of(address, 1)
    assert [one.id for one in now[0].read().samples] == ["test-0/x", "test-0/y"]
    assert before[0].read() == first  # while its copy is there, as it was listed
    assert copied(copies) == ["test-0.tar", "test-0.tar"]
    shutil.rmtree(copies)
    with pytest.raises(DataError, match=rf"{address}/test-0.tar was replaced or removed since"):
        before[0].read()
    fsspec.filesystem("memory").rm_file(f"{address}/train-0.tar")
    with pytest.raises(DataError, match=rf"{address}/train-0.tar was replaced or removed since"):
        now[1].read()
    assert copied(copies) == []


@pytest.mark.parametrize("kind", ["tars", "tables"])
def test_a_copy_that_goes_while_it_is_used_is_fetched_again(tmp_path: Path, far: Far, copies: Path, kind: str):
    folder = folder_of(tmp_path, kind)
    address = far(folder)
    (shard, *_), (here, *_) = (shards_of(data, 100, **options_of(kind)) for data in (address, folder))
    manifest, expected = shard.read(), here.read()
    shutil.rmtree(copies)
    found, known = (read_contents(one.samples, ["text", "image"])["image"] for one in (manifest, expected))
    assert found.items == known.items
    np.testing.assert_array_equal(found.state, known.state)
    shutil.rmtree(copies)
    assert contents(manifest) == contents(expected)
    for copy in copies.glob("*/[!.]*"):
        copy.write_bytes(copy.read_bytes()[:600])  # not by us
    assert contents(manifest) == contents(expected)
    shutil.rmtree(copies)
    copies.mkdir()
    fsspec.filesystem("memory").rm(address, recursive=True)
    with pytest.raises(DataError, match="was replaced or removed since"):  # and not a row without a picture
        read_contents(manifest.samples, ["image"])


def test_a_copy_that_goes_while_its_rows_are_read_is_fetched_again(tmp_path: Path, far: Far, copies: Path):
    folder = folder_of(tmp_path, "tars")
    (shard, *_), (here, *_) = (shards_of(data, 100) for data in (far(folder), folder))
    assert isinstance(shard, Distant)
    calls = []

    def how(copy: Path, inner=shard.how):
        calls.append(copy)
        if len(calls) < 3:
            shutil.rmtree(copies)
        return inner(copy)

    assert told(list(replace(shard, how=how).read().samples)) == told(list(here.read().samples))
    assert len(calls) == 3

    def never(copy: Path):
        shutil.rmtree(copies)
        raise FileNotFoundError(copy)

    with pytest.raises(StoreError, match="fetched again and again"):
        replace(shard, how=never).read()


def test_a_server_that_fails_breaks_no_sample(tmp_path: Path, far: Far, copies: Path, monkeypatch):
    (shard, *_) = shards_of(far(folder_of(tmp_path, "tars")), 100)
    manifest = shard.read()
    shutil.rmtree(copies)

    def fails(path: RemotePath, target: Path) -> None:
        target.write_bytes(b"half")
        raise StoreError(f"{path} cannot be read: the network is gone")

    monkeypatch.setattr(RemotePath, "download", fails)
    with pytest.raises(PipelineError, match="the network is gone"):
        shard.read()
    with pytest.raises(DataError, match="the network is gone"):  # no OSError, which would count as a failed sample
        read_contents(manifest.samples, ["image"])
    assert copied(copies) == []
    monkeypatch.setattr(RemotePath, "download", lambda _path, target: target.write_bytes(b"half"))
    with pytest.raises(StoreError, match="did not come as a whole"):
        shard.read()
    assert copied(copies) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path, far: Far, copies: Path):
    (shard, *_) = shards_of(far(folder_of(tmp_path, "tars")), 100)
    shard.read()
    (copy,) = copies.glob("*/*.tar")
    copy.write_bytes(b"cut")
    (copy.parent / ".tmp-left").write_bytes(b"left")
    shard.read()
    assert sorted(file.name for file in copies.glob("*/.tmp*")) == []
    assert copy.stat().st_size > 3


def test_copies_are_bounded_but_for_those_that_may_be_in_use(tmp_path: Path, far: Far, copies: Path, monkeypatch):
    one, two, three = shards_of(far(folder_of(tmp_path, "tars")), 100)
    one.read()
    (size,) = [file.stat().st_size for file in copies.glob("*/*.tar")]
    (copies / "mine").mkdir()
    (copies / "mine" / "x").write_bytes(bytes(3 * size))
    monkeypatch.setattr(fetched, "MOST_BYTES", int(1.5 * size))
    two.read()
    assert copied(copies) == ["test-0.tar", "train-0.tar", "x"]  # both were used just now
    forgotten(copies, 2 * fetched.BUSY_SECONDS)
    two.read()  # which is used now
    three.read()
    assert copied(copies) == ["train-0.tar", "train-1.tar", "x"]
    monkeypatch.setattr(fetched, "MOST_BYTES", 100 * size)
    forgotten(copies, 2 * fetched.BUSY_SECONDS)
    one.read()
    assert copied(copies) == ["test-0.tar", "train-0.tar", "train-1.tar", "x"]
    forgotten(copies, 2 * fetched.KEPT_SECONDS)
    shutil.rmtree(next(file.parent for file in copies.glob("*/train-1.tar")))
    three.read()
    assert copied(copies) == ["train-1.tar", "x"]


def forgotten(copies: Path, seconds: float) -> None:
    """All was last used so long ago."""
    for folder in copies.iterdir():
        for file in (*folder.iterdir(), folder):
            os.utime(file, (0, time.time() - seconds))


def test_a_copy_says_when_it_was_used_and_stays_the_file_that_it_is(tmp_path: Path, far: Far, copies: Path):
    (shard, *_) = shards_of(far(folder_of(tmp_path, "tables")), 100, columns=COLUMNS)
    sample = shard.read().samples[1]
    (copy,) = copies.glob("*/*.parquet")
    os.utime(copy.parent, (0, 0))
    before = copy.stat().st_mtime_ns
    picture = sample.inputs["image"]
    assert isinstance(picture, Copied)
    assert picture.read() == b"picture 1"
    assert copy.parent.stat().st_mtime > time.time() - 600
    assert copy.stat().st_mtime_ns == before  # or its groups of rows would be unpacked again


def test_where_no_version_is_told_nothing_is_kept(tmp_path: Path):
    path = RemotePath("memory://nowhere/a.tar", Found(False, 10, float("nan"), 0))
    with pytest.raises(DataError, match="neither a version nor a time is told"):
        fetched.fetched(path)


def test_a_folder_of_copies_that_cannot_be_written_is_said(tmp_path: Path, far: Far, copies: Path):
    (shard, *_) = shards_of(far(folder_of(tmp_path, "tars")), 100)
    copies.parent.write_text("a file", encoding="utf-8")
    with pytest.raises(StoreError, match=r"cannot keep a local copy of memory://.*ENCODE_ONCE_CACHE"):
        shard.read()


def put(tmp_path: Path, **files: bytes) -> str:
    address = f"memory://{tmp_path.name}/odd"
    for name, raw in files.items():
        fsspec.filesystem("memory").pipe_file(f"{address}/{name.replace('__', '/').replace('_', '.')}", raw)
    return address


@pytest.mark.parametrize(
    ("files", "layout", "error", "said"),
    [
        ({"posts_csv": b"id,text"}, None, DataError, r"holds posts\.csv, and of data at an address a folder of tars"),
        ({"posts_jsonl": b"", "a_tar": b""}, None, DataError, r"holds posts\.jsonl, and of data at an address"),
        ({"a_jpg": b"", "b_jpg": b""}, None, DataError, r"holds a\.jpg, b\.jpg, and of data at an address"),
        ({"cats__a_jpg": b""}, None, DataError, "holds cats, and of data at an address"),
        ({"a_tar_gz": b""}, None, DataError, "is packed as a whole"),
        ({"a_tar__part": b""}, None, DataError, r"holds a\.tar, and of data at an address"),
        ({"a_parquet": b"", "b_parquet": b""}, None, DataError, "holds several tables"),
        ({"train-00000-of-00002_parquet": b"PAR1"}, None, DataError, "holds 1 of the 2 tables|cannot be read"),
        ({"posts_parquet": b"PAR1 and no more"}, None, DataError, r"odd/posts\.parquet cannot be read"),
        ({"posts_parquet": b""}, None, DataError, r"odd/posts\.parquet cannot be read"),
        ({"a_tar": b""}, "folders", UsageError, "--layout folders: .* only table and webdataset are read"),
        ({"a_tar": b""}, "table", DataError, "holds no table"),
        ({"a_parquet": b""}, "webdataset", DataError, "is not laid out as webdataset"),
        ({}, None, DataError, "there is no data at memory://"),
    ],
)
def test_what_is_not_read_at_an_address_is_said(tmp_path: Path, files, layout, error, said: str):
    with pytest.raises(error, match=said):
        shards_of(put(tmp_path, **files), 5, layout)


def test_a_parquet_file_without_rows_and_a_long_footer(tmp_path: Path, far: Far):
    folder = tmp_path / "posts"
    folder.mkdir()
    names = pa.array([], pa.string())
    parquet.write_table(pa.table({"text": names}), folder / "posts.parquet")
    with pytest.raises(DataError, match="holds no rows"):
        shards_of(far(folder), 5)
    table = pa.table({"text": ["a", "b", "c"]}).replace_schema_metadata({"long": "x" * 300_000})
    parquet.write_table(table, folder / "posts.parquet", row_group_size=2)
    assert [len(shard.read().samples) for shard in shards_of(far(folder), 2)] == [2, 1]


def test_broken_files_are_named_by_their_address(tmp_path: Path, far: Far):
    folder = folder_of(tmp_path, "tars")
    raw = (folder / "train-0.tar").read_bytes()
    (folder / "train-0.tar").write_bytes(raw[:1300])
    address = far(folder)
    with pytest.raises(
        DataError, match=rf"^{address} has 1 bad rows.*\n  train-0.tar the tar ends at byte 1024"
    ) as caught:
        shards_of(address, 5)[1].read()
    assert "copies" not in str(caught.value)
    tables = tmp_path / "tables"
    tables.mkdir()
    write_parquet(tables / "train.parquet", 0, 40, 4)
    raw = (tables / "train.parquet").read_bytes()
    (tables / "train.parquet").write_bytes(raw[:4] + bytes(len(raw) // 3) + raw[4 + len(raw) // 3 :])
    address = far(tables, "tables")
    with pytest.raises(DataError, match=rf"^{address}/train.parquet cannot be read") as caught:
        shards_of(address, 5, columns=COLUMNS)[0].read()
    assert "copies" not in str(caught.value)


def naming(tmp_path: Path, far: Far, names: list[Any]) -> str:
    folder = tmp_path / "naming"
    folder.mkdir()
    columns = {"text": [f"text {number}" for number in range(len(names))], "image": names}
    parquet.write_table(pa.table(columns), folder / "posts.parquet")
    return far(folder, "naming")


@pytest.mark.parametrize("name", ["pictures/1.jpg", "/etc/hostname", "../1.jpg", "https://example.org/1.jpg"])
def test_pictures_that_are_named_are_never_taken_for_missing(tmp_path: Path, far: Far, bench, name: str):
    address = naming(tmp_path, far, [None, name])
    said = rf"^{address}/posts.parquet names the image '{name}', .*--columns image= or --modalities"
    for outside in (False, True):
        (shard,) = shards_of(address, 5, allow_outside=outside)
        manifest = shard.read()
        with pytest.raises(DataError, match=said):
            read_contents(manifest.samples, manifest.modalities)
        assert read_contents(manifest.samples, ["text"])["text"].state.tolist() == [1, 1]
    (plain,) = shards_of(address, 5, columns={"image": ""})
    assert plain.read().modalities == ("text",)
    keyed = key_shard(0, shard, Wanted(bench.store, "posts", {"image": (bench.image, None)}))  # type: ignore[dict-item]
    assert isinstance(keyed, DataError)  # told together with what is wrong with others


def test_members_of_tars_that_name_files_are_refused(tmp_path: Path, far: Far):
    folder = tmp_path / "posts"
    folder.mkdir()
    write_tar(folder / "a.tar", {"1.json": '{"text": "a", "photo": "1.jpg", "clip": "1.wav"}'})
    (shard,) = shards_of(far(folder), 5, columns={"image": "photo", "audio": "clip"})
    for modality in ("image", "audio"):
        with pytest.raises(DataError, match=f"a.tar names the {modality} '1"):
            read_contents(shard.read().samples, [modality])


def test_data_at_an_address_is_read_in_shards_only(tmp_path: Path, far: Far, bench):
    address = far(folder_of(tmp_path, "tars"))
    said = f"{address} is an address, and data at an address is read in shards, by `extract` with --shard-rows 50000 or"
    with pytest.raises(DataError, match=said):
        read_manifest(address)
    done = extract_shards(shards_of(address, 5), Settings(bench.store, "posts", (bench.text,), device="cpu")).done
    view = read_view(FeatureStore(bench.store), "posts")
    assert (done.encoded, view.source["data"]) == (5, address)
    with pytest.raises(DataError, match=said):
        read_again(view.source)
    with pytest.raises(DataError, match=f"(?s){said}.*give --data with the place"):
        originals(view, ["train-0/a"])
    shown = originals(view, ["train-0/a"], str(tmp_path / "input" / "posts"))
    assert shown.found["train-0/a"].texts == {"text": "txt of a"}


@pytest.mark.parametrize("gone", [False, True])
def test_what_goes_between_keying_and_encoding_is_fetched_again_or_stops_all(
    tmp_path: Path, posts, bench, far: Far, copies: Path, gone: bool, monkeypatch: pytest.MonkeyPatch
):
    folder = real_posts(tmp_path / "input" / "posts", posts, "tars")
    address = far(folder)
    inner = Local.encode

    def encode(self, *args):
        shutil.rmtree(copies)
        if gone:
            fsspec.filesystem("memory").rm_file(f"{address}/train.tar")
        return inner(self, *args)

    def extract(data: object, store: Path) -> None:
        extract_shards(shards_of(data, 4), Settings(store, "posts", (bench.text, bench.image), device="cpu"))

    extract(folder, tmp_path / "here")
    monkeypatch.setattr(Local, "encode", encode)
    if gone:
        with pytest.raises(DataError, match=rf"{address}/train\.tar was replaced or removed since"):
            extract(address, tmp_path / "there")
        assert FeatureStore(tmp_path / "there").names() == []
        return
    extract(address, tmp_path / "there")
    one, other = table_of(tmp_path / "here"), table_of(tmp_path / "there")
    for name, values in one.items():
        np.testing.assert_array_equal(other[name], values, err_msg=name)


Run = Callable[..., Result]


@pytest.mark.parametrize("command", [["extract"], ["check"], ["bench"], ["finetune"], ["predict", "--run", "run"]])
def test_other_commands_say_what_to_do(run: Run, bucket: Bucket, command: list[str], monkeypatch, tmp_path: Path):
    monkeypatch.setattr("fuse.load_run", lambda _: SimpleNamespace(settings={}))
    done = run(*command, f"{bucket.url}/posts")
    assert done.code == 1
    assert f"{bucket.url}/posts is an address, and data at an address is read in shards" in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not list(tmp_path.glob("s3:*"))


def test_the_command_line_reads_and_writes_a_bucket(run: Run, bucket: Bucket, bert: Path, tmp_path: Path):
    for file in folder_of(tmp_path, "tars").iterdir():
        bucket.put(f"data/{file.name}", file.read_bytes())
    data, store = f"{bucket.url}/data/", f"{bucket.url}/features"
    command = ["extract", data, "--store", store, "--shard-rows", 2, "--text-model", bert, "--modalities", "text"]
    done = run(*command, "--json")
    assert done.code == 0, done.err
    assert (done.json["name"], done.json["encoded"], done.json["shards"], done.json["store"]) == ("data", 5, 3, store)
    assert f"{bucket.url}/data: 5 samples, layout webdataset" in done.err
    assert run(*command, "--json").json["encoded"] == 0
    assert run("extract", tmp_path / "input" / "posts", *command[2:], "--name", "data", "--json").json["encoded"] == 0
    download = run(*command, "--download")
    assert (download.code, "--download keeps what it fetches beside the data" in download.err) == (2, True)
    nothing = run("extract", f"{bucket.url}-not/data", *command[2:])
    assert (nothing.code, f"there is no data at {bucket.url}-not/data" in nothing.err) == (1, True)
    password = run("extract", "sftp://me:hunter2@host/x", *command[2:])
    assert (password.code, "hunter2" in password.err) == (1, False)


def test_a_bucket_that_cannot_be_asked_is_said(run: Run, bucket: Bucket, bert: Path, monkeypatch: pytest.MonkeyPatch):
    class Refusing:
        def invalidate_cache(self) -> None:
            pass

        def info(self, _address: str) -> None:
            raise PermissionError("Access Denied")

    monkeypatch.setattr("cache.remote._system", lambda *_: Refusing())
    done = run("extract", f"{bucket.url}/posts", "--shard-rows", 5, "--text-model", bert)
    assert done.code == 1
    assert f"{bucket.url}/posts cannot be read: it is not allowed (Access Denied)" in done.err
