import dataclasses
import json
import shutil

import numpy as np
import pytest

from cache import (
    CacheIncomplete,
    EncoderKey,
    Failure,
    FeatureStore,
    Ragged,
    StoreDamaged,
    StoreError,
    finding_lines,
    item_key,
    load,
    verify_store,
    write_batches,
    write_json,
    write_view,
)
from cache.schema import SCHEMA
from cache.segment import write_segment
from cache.view import read_view

CONTENTS = {"text": ["a", "bcd", None, "c", "broken"], "image": ["x", None, "y", "y", "x"]}
A, B = item_key("a"), item_key("b")


def fill(house):
    """Every kind of file: keys, segments with and without tokens, plan, failures, view, pending view."""
    house.add(["c", "", "a"], tokens=True)
    house.add(["bcd", "é"], tokens=True)
    house.add(["x", "y"], "image")
    write_batches(house.encoder().folder, [[A, item_key("c")], [item_key("bcd")]])
    house.encoder().record_failures([Failure("s4", "truncated: naïve ½", item_key("broken").hex(), "pillow 1")])
    view = house.view(CONTENTS, labels=["é", "", "b", "a", "é"])
    write_view(house.store, dataclasses.replace(view, name="next"), pending=True)
    return house


@pytest.fixture(scope="module")
def template(house_at, tmp_path_factory):
    return fill(house_at(tmp_path_factory.mktemp("template") / "features")).store.root


@pytest.fixture
def copied(template, tmp_path):
    return FeatureStore(shutil.copytree(template, tmp_path / "features"))


@pytest.fixture
def filled(house):
    return fill(house)


def findings_of(store):
    return dict(verify_store(store).findings)


def test_a_good_store_has_no_findings_and_all_of_it_was_read(copied):
    found = verify_store(copied)
    assert found.findings == []
    assert found.bytes == sum(path.stat().st_size for path in copied.root.rglob("*.h5"))
    assert finding_lines(found.as_json())[0].startswith("all is as it was written")


def test_verifying_changes_nothing(copied, files_of):
    path = copied.view_path("posts")
    path.write_bytes(path.read_bytes()[:-1])
    before = files_of(copied.root)
    verify_store(copied)
    assert files_of(copied.root) == before


@pytest.mark.parametrize("seed", range(50))
def test_damage_at_a_random_place_is_found_and_named(copied, seed):
    files = sorted(path for path in copied.root.rglob("*") if path.is_file())
    assert {path.suffix for path in files} == {".h5", ".json", ".jsonl", ".plan"}
    random = np.random.default_rng(seed)
    path = files[seed % len(files)]
    raw = bytearray(path.read_bytes())
    place = int(random.integers(len(raw) - 1))
    if random.random() < 0.25:
        path.write_bytes(raw[: place + 1 if path.suffix.startswith(".json") else place])
    else:
        raw[place] ^= int(random.integers(1, 256))
        path.write_bytes(raw)
    found = verify_store(copied)
    assert [named for named, _ in found.findings] == [path]
    assert str(path) in finding_lines(found.as_json())[0]


def flip_last(path):
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def test_what_was_found_damaged_is_read_as_a_whole_until_it_is_good_again(copied):
    encoder = copied.encoders()[0]
    path = encoder.segment_paths()[0]
    flip_last(path)
    assert encoder.set_aside_damaged(frozenset()) == []  # no vector is read
    assert list(findings_of(copied)) == [path]
    flip_last(path)
    assert encoder.set_aside_damaged(frozenset()) == []
    flip_last(path)
    assert encoder.set_aside_damaged(frozenset()) == []  # the note is gone
    assert list(findings_of(copied)) == [path]
    assert encoder.set_aside_damaged(frozenset()) == [path.with_suffix(".damaged")]


@pytest.mark.parametrize("home", ["file", "file/within"])
def test_damage_that_cannot_be_noted_is_named_all_the_same(copied, monkeypatch, tmp_path, home):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("ENCODE_ONCE_CACHE", str(tmp_path / home))
    assert findings_of(copied) == {}
    path = copied.encoders()[0].segment_paths()[0]
    flip_last(path)
    [(named, problem)] = findings_of(copied).items()
    assert named == path
    assert "is damaged (its checksum does not fit)" in problem
    assert "could not be noted for an extraction in shards: no note of damage can be written" in problem


def test_several_damaged_files_are_all_named(copied):
    broken = [copied.view_path("posts"), *copied.root.rglob("*.plan"), *copied.root.rglob("key.json")]
    for path in broken:
        path.write_bytes(path.read_bytes()[:-3])
    assert set(findings_of(copied)) == set(broken)


def test_temporary_and_set_aside_files_are_no_findings(copied):
    folder = copied.encoders()[0].folder
    for path in (folder / ".tmp-1.h5", folder / "old.damaged", folder / ".tmp-2.plan", copied.root / ".tmp-3.view.h5"):
        path.write_bytes(b"half")
    assert findings_of(copied) == {}


def test_a_store_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CacheIncomplete, match=r"no store at .*gone"):
        verify_store(FeatureStore(tmp_path / "gone"))


def rewritten(store, **arrays):
    """Writes the view again, checksums and all, with other arrays of the image."""
    view = read_view(store, "posts")
    block = view.blocks["image"]
    blocks = {**view.blocks, "image": dataclasses.replace(block, arrays={**block.arrays, **arrays})}
    write_view(store, dataclasses.replace(view, blocks=blocks))
    return store.view_path("posts")


def test_wrong_rows_in_a_view_are_found(copied):
    path = rewritten(copied, row=np.array([0, -1, 1, 0, 1]))
    assert "2 rows of image are not those of its samples" in findings_of(copied)[path]


def test_wrong_items_in_a_view_are_found(copied):
    items = read_view(copied, "posts").blocks["image"].items.copy()
    items[[0, 2]] = items[[2, 0]]
    path = rewritten(copied, items=items)
    assert "2 rows of image" in findings_of(copied)[path]


def test_a_view_whose_vectors_are_gone_is_found(filled):
    shutil.rmtree(filled.encoder("image").folder)
    found = findings_of(filled.store)
    assert list(found) == [filled.store.view_path("posts")]
    assert "4 image vectors" in found[filled.store.view_path("posts")]


def test_a_view_is_right_after_its_segments_were_merged(filled):
    filled.encoder().consolidate([item_key("bcd"), item_key("a")])
    assert findings_of(filled.store) == {}


def test_an_item_held_twice_in_one_segment_is_found(house):
    path = write_segment(house.encoder().folder, [A, B, A], {"mean": np.zeros((3, 3), "<f4")}, {})
    assert "holds an item twice" in findings_of(house.store)[path]


def test_an_item_held_in_two_segments_is_harmless(house):
    house.add(["a", "b"])
    house.add(["b", "c"])
    assert findings_of(house.store) == {}


OFFSETS = [[0, 2, 4], [1, 2, 3], [0, 4, 3], [0, 2, 2], [0, -1, 3], [0, 3], [0, 1, 2, 3]]


@pytest.mark.parametrize("offsets", OFFSETS)
def test_ragged_offsets_that_do_not_fit_are_found(house, offsets):
    tokens = Ragged(np.ones((3, 4), dtype="<f2"), np.array(offsets, dtype=np.int64))
    path = write_segment(house.encoder().folder, [A, B], {"mean": np.ones((2, 3)), "tokens": tokens}, {})
    assert "tokens" in findings_of(house.store)[path]


def test_fewer_vectors_than_items_are_found(house):
    path = write_segment(house.encoder().folder, [A, B], {"mean": np.ones((1, 3))}, {})
    assert "mean has 1 rows for 2 items" in findings_of(house.store)[path]


def keyed(house, outputs):
    key = EncoderKey({"modality": "text", "outputs": outputs})
    encoder = house.store.encoder(key.digest)
    encoder.create(key)
    return encoder


VALUES = {"mean": np.ones((1, 3)), "cls": np.ones((1, 2))}


def test_the_outputs_of_the_key_are_no_finding(house):
    write_segment(keyed(house, {"mean": 3, "cls": 2}).folder, [A], VALUES, {})
    assert findings_of(house.store) == {}


@pytest.mark.parametrize("outputs", [{"mean": 3}, {"mean": 2, "cls": 2}, {"mean": 3, "cls": 2, "max": 1}])
def test_outputs_other_than_those_of_the_key_are_found(house, outputs):
    path = write_segment(keyed(house, outputs).folder, [A], VALUES, {})
    assert "its encoder gives" in findings_of(house.store)[path]


@pytest.mark.parametrize("kind", ["segment", "view", "plan"])
def test_a_file_of_a_newer_version_is_named_and_not_called_damaged(filled, monkeypatch, kind):
    folder = filled.encoder().folder
    with monkeypatch.context() as later:
        later.setattr("cache.files.SCHEMA", SCHEMA + 1)
        if kind == "segment":
            path = write_segment(folder, [B], {"mean": np.ones((1, 3))}, {})
        elif kind == "plan":
            assert write_batches(folder, [[B]])
            path = max(folder.glob("*.plan"), key=lambda path: path.stat().st_mtime_ns)
        else:
            path = rewritten(filled.store)
    assert "written by a newer version" in findings_of(filled.store)[path]
    if kind != "view":
        with pytest.raises(StoreError, match=f"{path.name} was written by a newer version") as caught:
            filled.encoder().set_aside_damaged()
        assert not isinstance(caught.value, StoreDamaged)
    assert path.exists()
    assert not list(filled.store.root.rglob("*.damaged"))


def test_the_folder_of_a_newer_version_is_named_and_stays_as_it_is(house):
    fields = {"modality": "text", "schema": 99}
    encoder = house.store.encoder(EncoderKey(fields).digest)
    encoder.folder.mkdir(parents=True)
    write_json(encoder.folder / "key.json", {"fields": fields, "name": ""})
    before = (encoder.folder / "key.json").read_text()
    assert "made by a newer version" in findings_of(house.store)[encoder.folder / "key.json"]
    with pytest.raises(StoreError, match="schema 99") as caught:
        encoder.create(EncoderKey(fields))
    assert not isinstance(caught.value, StoreDamaged)
    assert (encoder.folder / "key.json").read_text() == before == json.dumps(json.loads(before), indent=2) + "\n"


def exchange(one, other):
    raw = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(raw)


def test_segments_of_two_encoders_of_one_width_do_not_pass_for_each_other(house):
    contents = ["a", "b"]
    items = [item_key(content) for content in contents]
    house.add(contents)
    house.view({"text": contents})
    twin = house.encoder(version=2)
    other = write_segment(twin.folder, items, {"mean": np.zeros((2, 3), "<f4")}, {})
    [path] = house.encoder().segment_paths()
    exchange(path, other)
    with pytest.raises(StoreDamaged, match=f"{path.name} is of the encoder {twin.digest}, not of"):
        load(house.store.root, "posts")
    assert set(findings_of(house.store)) == {path, other}
    assert house.encoder().set_aside_damaged() == [path.with_suffix(".damaged")]


def test_views_do_not_pass_for_each_other_nor_an_announcement_for_a_view(filled):
    filled.view({"text": ["c", "é", "a"]}, name="reviews")
    one, two = filled.store.view_path("posts"), filled.store.view_path("reviews")
    exchange(one, two)
    assert set(findings_of(filled.store)) == {one, two}
    for name, other in (("posts", "reviews"), ("reviews", "posts")):
        with pytest.raises(StoreDamaged, match=f"{name}.view.h5 was written as {other}.view.h5, another data set"):
            load(filled.store.root, name)
    shutil.copy(filled.store.pending_path("next"), filled.store.view_path("next"))
    with pytest.raises(StoreDamaged, match=r"next\.view\.h5 was written as next\.pending\.h5"):
        load(filled.store.root, "next")
