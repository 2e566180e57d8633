"""Stores that lie elsewhere: in a bucket of a real (local) S3-compatible server, or in fsspec's memory."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem

from cache import (
    CacheIncomplete,
    FeatureStore,
    PipelineError,
    StoreDamaged,
    StoreError,
    UsageError,
    collect,
    compact_store,
    describe_store,
    item_key,
    load,
    merge_stores,
    place,
    remove,
    standing_batches,
    status_of,
    verify_store,
    write_batches,
)
from cache.copies import KEPT_SECONDS, cache_folder, copy_of, mark
from cache.files import write_json, write_sealed
from cache.remote import RemotePath
from tests.conftest import ROOT

POSTS = {"text": list("abcdef"), "image": ["x", "y", "z", None, "x", "broken1"]}


def fill(house):
    house.add(list("abc"), tokens=True)
    house.add(list("fed"), tokens=True)
    house.add(["x", "y", "z"], "image")
    house.view(POSTS)
    return house


class Disk(LocalFileSystem):
    """A file system with real folders, as sftp has them."""

    protocol = ("disk",)

    @classmethod
    def _strip_protocol(cls, path):
        return LocalFileSystem._strip_protocol(str(path).replace("disk://", "file://"))


@pytest.fixture(params=["s3", "memory", "disk"])
def far(request, bucket, house_at, tmp_path):
    """A store elsewhere, filled."""
    fsspec.register_implementation("disk", Disk, clobber=True)
    names = {"s3": f"{bucket.url}/some/prefix", "memory": f"memory://{tmp_path.name}", "disk": f"disk://{tmp_path}/far"}
    return fill(house_at(names[request.param]))


@pytest.fixture
def in_bucket(bucket, house_at):
    return fill(house_at(f"{bucket.url}/store"))


def everywhere(table):
    return table.to_numpy(), table.tokens("text").values


# ----- what a store does


def test_a_store_elsewhere_gives_what_was_put_there(far, house):
    table = load(str(far.store.root), check=True)
    np.testing.assert_array_equal(table.to_numpy(), house.expected(POSTS))
    np.testing.assert_array_equal(table.tokens("text").values, np.concatenate([house.tokens(one) for one in "abcdef"]))
    assert table.masks["image"].tolist() == [True, True, True, False, True, False]
    assert all(isinstance(path, RemotePath) for path in table.files)


def test_it_holds_the_bytes_that_a_folder_holds(in_bucket, bucket, house):
    fill(house)
    local = sorted(path.stat().st_size for path in house.store.root.rglob("*") if path.is_file())
    assert sorted(len(bucket.get(key)) for key in bucket.names()) == local
    assert {Path(key).suffix for key in bucket.names()} == {".json", ".h5"}  # and nothing temporary


def test_it_is_listed_verified_compacted_and_swept(far):
    before = everywhere(load(str(far.store.root)))
    assert {one["rows"] for one in describe_store(far.store)["encoders"]} == {3, 6}
    assert status_of(far.store)["data_sets"][0]["modalities"]["text"]["done"] == 1.0
    found = verify_store(far.store)
    assert (found.findings, found.files) == ([], 6)  # three segments, one view, failures of two encoders
    assert compact_store(far.store)["segments"] == 2
    for one, other in zip(everywhere(load(str(far.store.root))), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert collect(far.store)["files"] == []
    remove(far.encoder("text").folder)  # it is not empty
    assert len(far.encoder("text").items()) == 6
    remove(far.store.view_path("posts"))
    swept = collect(far.store)
    assert len(swept["files"]) == 4  # two segments, two keys
    assert far.store.encoders() == []
    with pytest.raises(CacheIncomplete, match=r"no store at|holds none"):
        load(str(far.store.root))


@pytest.mark.slow
def test_vectors_go_there_and_back_bit_for_bit(house, house_at, bucket, tmp_path):
    fill(house)
    there, back = FeatureStore(f"{bucket.url}/there"), FeatureStore(tmp_path / "back")
    assert merge_stores(there, house.store)["items"] == 9
    assert merge_stores(there, house.store)["items"] == 0
    assert merge_stores(back, there)["data_sets"] == ["posts"]
    for root in (there.root, back.root):
        for one, other in zip(everywhere(load(root)), everywhere(load(house.store.root)), strict=True):
            assert one.tobytes() == other.tobytes()
    with pytest.raises(UsageError, match="this very store"):
        merge_stores(there, FeatureStore(f"s3a://{bucket.name}/there/"))


def test_failures_and_plans_are_kept_there(far):
    from cache import Failure

    encoder = far.encoder("image")
    encoder.record_failures([Failure("s5", "no picture", item_key("broken1").hex(), "pillow")])
    assert [one.reason for one in FeatureStore(str(far.store.root)).encoder(encoder.digest).failures()] == [
        "no picture"
    ]
    batch = [item_key("new1"), item_key("new2")]
    assert write_batches(encoder.folder, [batch])
    assert not write_batches(encoder.folder, [batch])
    assert standing_batches(encoder.folder, batch) == [batch]
    encoder.record_failures([], resolved=[item_key("broken1")])
    assert encoder.failures() == []
    assert not encoder.failures_path.exists()


# ----- damage


def test_a_flipped_byte_is_found_there_though_the_local_copy_is_good(in_bucket, bucket):
    good = load(str(in_bucket.store.root), check=True).to_numpy()
    key = bucket.segments()[0]
    bucket.flip(key)
    (found,) = verify_store(in_bucket.store).findings
    assert str(found[0]) == f"{bucket.url}/{key}"
    assert "checksum does not fit" in found[1]
    np.testing.assert_array_equal(load(str(in_bucket.store.root), check=True).to_numpy(), good)  # what is used is good


def test_damage_stops_a_reader_and_is_set_aside_from_there(in_bucket, bucket):
    key = bucket.segments()[0]
    bucket.flip(key)
    with pytest.raises(StoreDamaged, match=r"checksum does not fit.*run extract again") as told:
        load(str(in_bucket.store.root))
    assert f"{bucket.url}/{key}" in str(told.value)
    encoder = in_bucket.store.encoder(key.split("/")[-2])
    before = len(encoder.items())
    assert [path.suffix for path in encoder.set_aside_damaged(set())] == [".damaged"]
    assert len(encoder.items()) < before
    assert bucket.key(".damaged") == key.removesuffix(".h5") + ".damaged"
    assert encoder.set_aside_damaged() == []
    assert list(cache_folder().glob("*.damaged")) == []


@pytest.mark.parametrize("what", ["cut", "empty", "header", "items", "foreign"])
def test_what_a_header_shows_is_found_without_reading_the_rest(in_bucket, bucket, what):
    key = bucket.segments()[0]
    raw = bucket.get(key)
    items = raw.rfind(item_key(next(one for one in "abcdefxyz" if item_key(one) in raw)))
    flipped = bytearray(raw)
    flipped[items if what == "items" else 100] ^= 1
    bucket.put(key, {"cut": raw[:-1], "empty": b"", "foreign": b"x" * 5000}.get(what, bytes(flipped)))
    encoder = in_bucket.store.encoder(key.split("/")[-2])
    with pytest.raises(StoreDamaged, match="damaged"):
        encoder.contents()
    assert len(encoder.set_aside_damaged(set())) == 1


def test_a_damaged_view_and_a_damaged_key_are_named(in_bucket, bucket):
    bucket.flip(bucket.key(".view.h5"), 5000)
    key = next(one for one in bucket.names() if one.endswith("key.json"))
    bucket.put(key, bucket.get(key)[:-20])
    problems = {str(path) for path, _ in verify_store(in_bucket.store).findings}
    assert {f"{bucket.url}/{bucket.key('.view.h5')}", f"{bucket.url}/{key}"} <= problems


@pytest.mark.slow
def test_a_damaged_local_copy_is_removed_and_fetched_again(in_bucket, bucket):
    good = load(str(in_bucket.store.root), check=True).to_numpy()
    names = {path.name: path for path in cache_folder().glob("*.h5")}
    for path in names.values():
        raw = bytearray(path.read_bytes())
        raw[-9] ^= 1
        path.write_bytes(raw)
    for _ in range(3):  # two encoders, three segments: one is named at a time
        with pytest.raises(StoreDamaged, match=r"local copy .* run the same command again"):
            load(str(in_bucket.store.root), check=True)
    np.testing.assert_array_equal(load(str(in_bucket.store.root), check=True).to_numpy(), good)
    assert {path.name for path in cache_folder().glob("*.h5")} == set(names)
    assert verify_store(in_bucket.store).findings == []


# ----- requests


def test_planning_reads_headers_and_item_keys_and_no_vectors(in_bucket, bucket):
    encoder = in_bucket.encoder("text")
    with bucket.asked() as requests:
        segments, items = encoder.contents()
        encoder.set_aside_damaged(set())
    assert len(items) == 6
    gets = [one for one in requests if one.kind == "GET" and one.key.endswith(".h5")]
    assert all(one.range for one in gets)
    assert sum(one.sent for one in gets) == 2 * len(segments) * (4096 + 3 * 16)
    assert {one.kind for one in requests if one not in gets} == {"LIST", "GET"}  # of failures, of which there are none
    assert not cache_folder().exists()


def test_a_second_reader_fetches_no_file_again(in_bucket, bucket, monkeypatch):
    with bucket.asked() as first:
        before = everywhere(load(str(in_bucket.store.root), check=True))
    monkeypatch.setattr("cache.copies._known", {})  # as in another process
    with bucket.asked() as second:
        again = everywhere(load(str(in_bucket.store.root), check=True))
    for one, other in zip(before, again, strict=True):
        np.testing.assert_array_equal(one, other)
    whole = [one for one in first if one.kind == "GET" and not one.range]
    assert len(whole) == 4  # three segments and the view
    assert [one for one in second if one.kind == "GET" and not one.range] == []
    assert max(one.sent for one in second) <= 4096
    for requests, a_segment in ((first, 4), (second, 3)):
        segments = [one for one in requests if one.key in bucket.segments()]
        assert (len(segments), len(requests) - len(segments) <= 8) == (3 * a_segment, True)


def test_an_open_table_outlives_its_files(in_bucket, bucket, house):
    table = load(str(in_bucket.store.root))
    for key in bucket.segments():
        bucket.delete(key)
    np.testing.assert_array_equal(table.to_numpy(), house.expected(POSTS))
    copy = pickle.loads(pickle.dumps(table))  # noqa: S301  # our own
    np.testing.assert_array_equal(copy.to_numpy(), house.expected(POSTS))


def test_a_changed_view_is_seen_at_once(in_bucket, house):
    assert len(load(str(in_bucket.store.root))) == 6
    in_bucket.view({"text": list("abc")})
    assert len(load(str(in_bucket.store.root))) == 3
    in_bucket.add(["g"])
    assert len(in_bucket.encoder("text").items()) == 7


def test_copies_that_were_not_used_for_long_are_removed_and_nothing_else(in_bucket):
    folder = cache_folder()
    folder.mkdir()
    old, foreign, young = folder / f"{'a' * 32}.h5", folder / "mine.h5", folder / f"{'b' * 32}.h5"
    for file in (old, foreign, young):
        file.write_bytes(b"")
    for file in (old, foreign):
        os.utime(file, (0, time.time() - KEPT_SECONDS - 60))
    load(str(in_bucket.store.root))
    assert [file.exists() for file in (old, foreign, young)] == [False, True, True]


def test_copies_that_cannot_be_kept_are_an_error_that_names_the_folder(in_bucket, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("ENCODE_ONCE_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match=r"/file.* cannot .*ENCODE_ONCE_CACHE"):
        load(str(in_bucket.store.root))
    monkeypatch.delenv("ENCODE_ONCE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    load(str(in_bucket.store.root))
    assert list((tmp_path / "caches" / "encode-once").glob("*.h5"))


def test_a_file_that_is_replaced_while_it_is_fetched_is_asked_for_again(in_bucket, bucket):
    path = in_bucket.store.view_path("posts")
    raw, size = path.read_at(0, 4096)
    in_bucket.view({"text": list("abc")})
    assert copy_of(path, raw, size, 0) is None
    assert list(cache_folder().iterdir()) == []


@pytest.mark.parametrize("when", ["before it is fetched", "once it is there"])
def test_a_view_is_not_gone_because_its_local_copy_is(in_bucket, monkeypatch, when):
    whole = RemotePath.download
    spoilt = []

    def spoil(path, target):
        if when == "once it is there" or spoilt:
            whole(path, target)
        if not spoilt:
            spoilt.append(path)
            if when == "before it is fetched":
                shutil.rmtree(target.parent)
                whole(path, target)

    replaced = os.replace

    def replace_and_remove(source, target):
        replaced(source, target)
        if when == "once it is there" and len(spoilt) == 1:
            spoilt.append(target)
            shutil.rmtree(Path(target).parent)

    monkeypatch.setattr(RemotePath, "download", spoil)
    monkeypatch.setattr("cache.copies.os.replace", replace_and_remove)
    assert collect(in_bucket.store)["items"] == 0
    assert spoilt
    assert len(load(str(in_bucket.store.root))) == 6


# ----- addresses


def test_names_are_folders_and_addresses_are_not():
    assert place("features") == Path("features")
    assert place(Path("a/b")) == Path("a/b")
    assert place("file:///a/b") == Path("/a/b")
    far = place("s3://bucket/a//b/")
    assert (str(far / "c.d"), (far / "c.d").name, (far / "c.d").suffix) == ("s3://bucket/a//b/c.d", "c.d", ".d")
    assert str((far / "c.view.h5").with_name("e")) == "s3://bucket/a//b/e"
    assert str((far / "c.h5").with_suffix(".damaged")) == "s3://bucket/a//b/c.damaged"
    assert (far / "c").parent == far
    assert place(far) is far
    assert pickle.loads(pickle.dumps(FeatureStore(far))).root == far  # noqa: S301  # our own
    with pytest.raises(TypeError):
        os.fspath(far)  # what takes it for a file of this machine fails aloud


@pytest.mark.parametrize("name", ["s3://", "s3:///", "://x", "a b://c", "simplecache::s3://bucket/x"])
def test_what_is_no_address_is_refused(name):
    with pytest.raises(UsageError, match="is no address"):
        place(name)


def test_an_address_that_pathlib_has_squeezed_is_refused():
    with pytest.raises(UsageError, match="give it as text"):
        FeatureStore(Path("s3://bucket/x"))


def test_a_password_is_refused_and_not_repeated():
    with pytest.raises(UsageError, match="holds a password") as told:
        place("sftp://me:hunter2@host/store")
    assert "hunter2" not in str(told.value)


def test_a_store_is_cheap_to_name():
    code = "import sys; from cache import FeatureStore; FeatureStore('s3://a/b').encoder('0' * 32).failures_path; "
    code += "print(*sorted({'fsspec', 's3fs', 'botocore'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ----- what goes wrong


def test_a_bucket_that_is_not_there_is_an_error_and_is_not_made(house_at, bucket):
    with pytest.raises(CacheIncomplete, match="s3://nowhere-at-all/x"):
        load("s3://nowhere-at-all/x")
    with pytest.raises(StoreError, match="cannot be written: there is no such bucket"):
        house_at("s3://nowhere-at-all/x").add(["a"])
    assert "nowhere-at-all" not in [one["Name"] for one in bucket.client.list_buckets()["Buckets"]]


def test_missing_packages_and_unknown_file_systems_are_named(monkeypatch):
    with pytest.raises(UsageError, match="no kind of file system"):
        load("nothing-like-it://a/b")
    monkeypatch.setitem(sys.modules, "ossfs", None)
    with pytest.raises(UsageError, match=r"pip install -r requirements-s3.txt"):
        load("oss://bucket/x")


class ReadOnly(BaseHTTPRequestHandler):
    """A web server that serves nothing and takes nothing."""

    def do_GET(self):
        self.send_error(404)

    do_HEAD = do_GET  # noqa: N815  # as http.server calls it

    def log_message(self, *args):
        pass


def test_a_web_server_is_refused_at_the_first_write(house_at):
    with ThreadingHTTPServer(("127.0.0.1", 0), ReadOnly) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(StoreError, match=r"key.json cannot be written: .*501"):
            house_at(f"http://127.0.0.1:{server.server_port}/store").add(["a"])
        server.shutdown()


@pytest.mark.parametrize("error", [PermissionError("Access Denied"), RuntimeError(), OSError(5, "Forbidden")])
def test_whatever_a_file_system_raises_becomes_one_error_with_a_way_out(in_bucket, monkeypatch, error):
    class Refusing:
        async_impl = False

        def __getattr__(self, _name):
            def refuse(*_args, **_options):
                raise error

            return refuse

        def invalidate_cache(self):
            pass

    monkeypatch.setattr("cache.remote._system", lambda *_: Refusing())
    root = str(in_bucket.store.root)
    encoder = in_bucket.store.encoder("0" * 32)
    for work in (
        lambda: load(root),
        lambda: describe_store(FeatureStore(root)),
        lambda: verify_store(FeatureStore(root)),
        lambda: encoder.failures(),
        lambda: encoder.key(),
        lambda: in_bucket.encoder("text"),
        lambda: remove(encoder.failures_path),
        lambda: write_json(encoder.failures_path, {}),
        lambda: place(root).resolve(),
    ):
        with pytest.raises(PipelineError, match=r"cannot be .*check the address, the credentials") as told:
            work()
        assert not isinstance(told.value, StoreDamaged)
        assert str(told.value).count("cannot be") == 1


def test_a_server_without_exclusive_creation_lets_the_last_one_win(bucket, monkeypatch):
    import s3fs

    whole = s3fs.S3FileSystem.pipe_file

    def without(self, path, value, mode="overwrite"):
        if mode == "create":
            raise OSError(38, "A header you provided implies functionality that is not implemented")
        return whole(self, path, value)

    monkeypatch.setattr(s3fs.S3FileSystem, "pipe_file", without)
    path = place(f"{bucket.url}/one")
    path.write(b"1", first=True)
    with pytest.raises(FileExistsError):
        path.write(b"2", first=True)
    assert bucket.get("one") == b"1"


# ----- several at once


@pytest.mark.slow
def test_a_forked_process_asks_for_itself(in_bucket, house):
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    load(str(in_bucket.store.root))
    code = "import os, sys; from cache import load; load(sys.argv[1]); child = os.fork(); "
    code += "print(load(sys.argv[1]).to_numpy().tobytes().hex(), flush=True); child and os.waitpid(child, 0)"
    command = [sys.executable, "-c", code, str(in_bucket.store.root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == [house.expected(POSTS).tobytes().hex()] * 2


def test_of_several_that_write_one_plan_one_is_first(in_bucket, bucket):
    folder = in_bucket.encoder("text").folder
    batches = [[item_key(f"new{number}")] for number in range(3)]
    with ThreadPoolExecutor(8) as pool:
        first = list(pool.map(lambda _: write_batches(folder, batches), range(8)))
    assert sum(first) == 1
    assert standing_batches(folder, [item for batch in batches for item in batch]) == batches


@pytest.mark.slow
def test_several_readers_fetch_into_one_folder(in_bucket, house):
    code = "import sys; from cache import load; print(load(sys.argv[1], check=True).to_numpy().tobytes().hex())"
    command = [sys.executable, "-c", code, str(in_bucket.store.root)]
    readers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {reader.communicate()[0].strip() for reader in readers}
    assert found == {house.expected(POSTS).tobytes().hex()}
    assert {path.suffix for path in cache_folder().iterdir()} == {".h5"}


WRITER = """
import itertools, sys
sys.path.insert(0, "tests/cache")
from conftest import House
house = House(sys.argv[1])
for number in itertools.count():
    house.add([f"{sys.argv[2]}-{number}-{one}" for one in range(200)])
    print(number, flush=True)
"""


@pytest.mark.slow
def test_writers_that_are_killed_leave_whole_files_with_all_that_they_told(bucket, house_at):
    root = f"{bucket.url}/store"
    told = []
    for life in range(4):
        command = [sys.executable, "-c", WRITER, root, str(life)]
        pair = [
            subprocess.Popen([*command[:-1], f"{life}{one}"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
            for one in "ab"
        ]
        before, until = len(bucket.segments()), time.monotonic() + 120
        while len(bucket.segments()) < before + 6 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.013 * life)  # each time in another moment of a sending
        for one, writer in zip("ab", pair, strict=True):
            writer.send_signal(signal.SIGKILL)
            numbers = writer.communicate()[0].split()
            told += [f"{life}{one}-{number}-{row}" for number in numbers for row in range(200)]
    assert len(told) >= 4 * 4 * 200
    house = house_at(root)
    items = house.encoder("text").items()
    assert {item_key(one) for one in told} <= items
    assert verify_store(house.store).findings == []
    assert {Path(key).suffix for key in bucket.names()} == {".json", ".h5"}
    house.view({"text": told})
    compact_store(house.store)
    np.testing.assert_array_equal(load(root).to_numpy(), house.expected({"text": told}))


@pytest.mark.slow
def test_a_file_above_the_limit_of_one_request_comes_and_goes_whole(bucket):
    content = np.random.default_rng(0).integers(0, 256, size=120 * 2**20, dtype=np.uint8)
    path = place(f"{bucket.url}/store/large.h5")

    def put(file):
        file.create_dataset("values", data=content)
        return {}

    write_sealed(path, "segment", put)
    from cache.files import check_file
    from cache.remote import afresh

    check_file(afresh(path), "segment")
    check_file(path, "segment")
    raw = bytearray(bucket.get("store/large.h5"))
    assert len(raw) > len(content)
    raw[-1] ^= 1
    bucket.put("store/large.h5", bytes(raw))
    with pytest.raises(StoreDamaged, match="checksum"):
        check_file(afresh(path), "segment")


def test_a_mark_that_turns_out_wrong_is_taken_back(in_bucket, bucket):
    encoder = in_bucket.encoder("text")
    mark(encoder.segment_paths()[0])
    assert encoder.set_aside_damaged(set()) == []
    assert list(cache_folder().iterdir()) == []
