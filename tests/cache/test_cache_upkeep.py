import dataclasses
import errno
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from cache import (
    EncoderStore,
    Failure,
    StoreDamaged,
    StoreError,
    collect,
    collected_lines,
    compact_store,
    compacted_lines,
    item_key,
    load,
    table_of,
    verify_store,
    write_batches,
    write_view,
)
from cache.upkeep import WRITING_SECONDS

CONTENTS = {"text": ["d", "a", None, "c", "a", "broken"], "image": ["y", None, "x", "z", "x", "y"]}


def items_of(encoder):
    return [row.tobytes() for segment in encoder.segments() for row in segment.items]


def keys(contents):
    return [item_key(content) for content in contents]


def age(path, seconds):
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


def reads_right(house, contents=None, name="posts"):
    contents = contents or CONTENTS
    table = load(house.store.root, name)
    np.testing.assert_array_equal(table, house.expected(contents))
    for found, content in zip(table.tokens("text"), contents["text"], strict=True):
        gone = content is None or content.startswith("broken")
        np.testing.assert_array_equal(found, house.tokens("" if gone else content))


@pytest.fixture
def filled(house):
    """Items a to e and u (in no view), x to z; each in a segment of a few."""
    for contents in (["e", "a"], ["b", "u"], ["c"], ["d", "a"]):
        house.add(contents, tokens=True)
    for contents in (["z", "x"], ["y"]):
        house.add(contents, "image")
    house.view(CONTENTS)
    house.view({"text": ["e", "d"]}, name="second")
    return house


def test_compacting_leaves_one_segment_in_the_order_of_the_data_sets(filled):
    result = compact_store(filled.store)
    assert items_of(filled.encoder("text")) == [*keys("dace"), *sorted(keys("bu"))]
    assert items_of(filled.encoder("image")) == keys("yxz")
    assert (result["segments_before"], result["segments"], result["damaged"]) == (6, 2, [])
    assert result["bytes"] == sum(encoder.size() for encoder in filled.store.encoders()) < result["bytes_before"]
    assert compacted_lines(result)[0].startswith("6 segments")
    reads_right(filled)
    reads_right(filled, {"text": ["e", "d"]}, "second")
    assert verify_store(filled.store).findings == []


def test_a_second_compaction_changes_no_file(filled, files_of):
    compact_store(filled.store)
    before = files_of(filled.store.root)
    result = compact_store(filled.store)
    assert files_of(filled.store.root) == before
    assert (result["bytes"], result["segments"]) == (result["bytes_before"], result["segments_before"])


def test_one_segment_in_another_order_is_laid_out_anew(house):
    house.add(["b", "a"], tokens=True)
    house.view({"text": ["a", "b"]})
    compact_store(house.store)
    assert items_of(house.encoder()) == keys("ab")
    table = load(house.store.root)
    assert np.shares_memory(table.to_numpy(), table.to_numpy())  # it is the file itself by now
    reads_right(house, {"text": ["a", "b"]})


def test_several_parts_hold_each_item_once_in_order(house, monkeypatch, files_of):
    contents = [f"t{number:02}" for number in range(40)]  # an item takes 12 + 24 bytes
    for part in np.array_split(np.random.default_rng(0).permutation(contents), 7):
        house.add([str(content) for content in part], tokens=True)
    house.view({"text": contents})
    for module in ("segment", "store"):
        monkeypatch.setattr(f"cache.{module}.PART_BYTES", 360)
    monkeypatch.setattr(EncoderStore.consolidate, "__defaults__", (90,))
    compact_store(house.store)
    assert [len(segment) for segment in house.encoder().segments()] == [10] * 4
    assert items_of(house.encoder()) == keys(contents)
    reads_right(house, {"text": contents})
    before = files_of(house.store.root)
    compact_store(house.store)
    assert files_of(house.store.root) == before


def test_a_damaged_segment_is_set_aside_and_reported(filled, flip):
    path = filled.encoder("image").segment_paths()[1]
    flip(path, filled.vector("image", "y").tobytes())
    result = compact_store(filled.store)
    assert result["damaged"] == [str(path.with_suffix(".damaged"))]
    assert result["damaged"][0] in compacted_lines(result)[0]
    assert items_of(filled.encoder("image")) == keys("xz")


def test_compaction_stops_at_a_damaged_view(filled, files_of):
    path = filled.store.view_path("second")
    path.write_bytes(path.read_bytes()[:-1])
    before = files_of(filled.store.root)
    with pytest.raises(StoreDamaged, match=path.name):
        compact_store(filled.store)
    assert files_of(filled.store.root) == before


def test_what_no_view_reaches_is_collected(filled):
    before = {encoder.digest: encoder.size() for encoder in filled.store.encoders()}
    whole = filled.encoder().segment_paths()[1]  # b and u
    result = collect(filled.store)
    assert (result["items"], result["files"], result["young"]) == (2, [str(whole)], 0)
    assert sorted(set(items_of(filled.encoder()))) == sorted(keys("acde"))
    assert filled.encoder("image").size() == before[filled.encoder("image").digest]
    assert collected_lines(result) == [f"removed {whole}", f"removed 2 vectors and 1 files, {result['bytes']} bytes"]
    reads_right(filled)
    assert verify_store(filled.store).findings == []


def test_a_partly_reachable_segment_is_written_anew_and_reads_the_same(filled):
    filled.store.view_path("second").unlink()  # e stands with a in one segment
    opened = load(filled.store.root)
    result = collect(filled.store)
    assert result["items"] == 3
    assert sorted(set(items_of(filled.encoder()))) == sorted(keys("acd"))
    reads_right(filled)
    np.testing.assert_array_equal(opened, filled.expected(CONTENTS))
    assert verify_store(filled.store).findings == []


def test_a_second_collection_finds_nothing(filled, files_of):
    collect(filled.store)
    before = files_of(filled.store.root)
    assert collect(filled.store) == {"dry_run": False, "items": 0, "bytes": 0, "files": [], "young": 0}
    assert files_of(filled.store.root) == before


def test_items_of_a_pending_view_are_kept(filled):
    view = filled.view({"text": ["b", "u"]}, name="third")
    filled.store.view_path("third").unlink()
    write_view(filled.store, view, pending=True)
    assert collect(filled.store)["items"] == 0
    assert filled.encoder().items() == set(keys("abcdeu"))


def test_a_dry_run_changes_nothing_and_says_what_the_real_run_does(filled, files_of):
    filled.store.view_path("second").unlink()
    folder = filled.encoder().folder
    (folder / "0.damaged").write_bytes(b"damaged")
    (folder / ".tmp-1.h5").write_bytes(b"half")
    age(folder / ".tmp-1.h5", WRITING_SECONDS + 60)
    write_batches(folder, [keys("bu")])
    filled.add(["gone"], "audio")
    filled.encoder("audio").record_failures([Failure("s1", "truncated", item_key("g").hex())])
    before = files_of(filled.store.root)
    planned = collect(filled.store, dry_run=True)
    assert files_of(filled.store.root) == before
    assert planned["dry_run"]
    assert planned["items"] == 4
    assert collected_lines(planned)[0].startswith("would remove")
    done = collect(filled.store)
    assert {**planned, "dry_run": False} == done
    assert not any(Path(path).exists() for path in done["files"])
    reads_right(filled)


def test_what_is_young_is_kept(filled, files_of):
    before = files_of(filled.store.root)
    result = collect(filled.store, older_than=60)
    assert (result["items"], result["files"], result["young"]) == (0, [], 2)
    assert "kept 2 vectors" in collected_lines(result)[0]
    assert files_of(filled.store.root) == before
    for path in filled.encoder().segment_paths():
        age(path, 61)
    assert collect(filled.store, older_than=60)["items"] == 2


def test_temporary_files_go_after_ten_minutes(filled):
    places = [filled.store.root, filled.encoder().folder]
    young, old = ([folder / f".tmp-{name}.h5" for folder in places] for name in ("young", "old"))
    for path in (*young, *old):
        path.write_bytes(b"half")
    for path, seconds in zip((*young, *old), (570, 0, 630, 9999), strict=True):
        age(path, seconds)
    files = collect(filled.store)["files"]
    assert all(str(path) in files and not path.exists() for path in old)
    assert all(path.exists() for path in young)


def test_damaged_files_that_were_set_aside_are_removed(filled):
    path = filled.encoder().folder / "0.damaged"
    path.write_bytes(b"damaged")
    assert str(path) not in collect(filled.store, older_than=60)["files"]
    age(path, 61)
    assert str(path) in collect(filled.store, older_than=60)["files"]
    assert not path.exists()


def test_the_folder_of_an_encoder_that_no_view_names_is_removed(filled):
    filled.add(["gone"], "audio")
    encoder = filled.encoder("audio")
    write_batches(encoder.folder, [keys(["gone"])])
    encoder.record_failures([Failure("s1", "truncated", item_key("g").hex())])
    files = {str(path): path.stat().st_size for path in encoder.folder.iterdir()}
    assert collect(filled.store, older_than=60)["young"] == 3
    assert files == {str(path): path.stat().st_size for path in encoder.folder.iterdir()}
    result = collect(filled.store)
    assert files.keys() <= set(result["files"])
    assert result["bytes"] >= sum(files.values())
    assert not encoder.folder.exists()
    assert len(filled.store.encoders()) == 2


def test_all_folders_that_no_view_names_are_removed(house):
    for modality in ("text", "image", "audio"):
        house.add(["gone"], modality)
    assert len(collect(house.store, dry_run=True)["files"]) == 6
    assert len(collect(house.store)["files"]) == 6
    assert house.store.encoders() == []


def test_a_folder_with_a_strange_file_stays(filled):
    filled.add(["gone"], "audio")
    note = filled.encoder("audio").folder / "README"
    note.write_text("mine")
    collect(filled.store)
    assert note.read_text() == "mine"
    assert filled.encoder("audio").key().modality == "audio"


def test_an_encoder_whose_samples_all_failed_keeps_its_failures(filled):
    filled.view({"audio": ["broken", None]}, name="third")
    filled.encoder("audio").record_failures([Failure("s0", "truncated", item_key("broken").hex())])
    collect(filled.store)
    assert len(filled.encoder("audio").failures()) == 1


def test_plans_go_when_no_view_names_their_items(filled):
    folder = filled.encoder().folder
    write_batches(folder, [keys("bu")])
    (gone,) = folder.glob("*.plan")
    write_batches(folder, [keys("bu"), keys("e")])
    collect(filled.store, older_than=60)
    assert gone.exists()
    assert str(gone) in collect(filled.store)["files"]
    assert len(list(folder.glob("*.plan"))) == 1


@pytest.mark.parametrize("pending", [False, True])
def test_a_damaged_view_makes_a_collection_refuse_and_remove_nothing(filled, files_of, pending):
    view = dataclasses.replace(load(filled.store.root, "second").view, name="bad")
    write_view(filled.store, view, pending)
    path = filled.store.pending_path("bad") if pending else filled.store.view_path("bad")
    path.write_bytes(path.read_bytes()[:-1])
    before = files_of(filled.store.root)
    for dry_run in (True, False):
        with pytest.raises(StoreDamaged, match=path.name):
            collect(filled.store, dry_run=dry_run)
    assert files_of(filled.store.root) == before


def test_a_table_opened_before_reads_right_after_everything(filled):
    opened, untouched = (load(filled.store.root, "posts") for _ in range(2))
    np.testing.assert_array_equal(opened, filled.expected(CONTENTS))
    filled.store.view_path("second").unlink()
    collect(filled.store)
    compact_store(filled.store)
    for table in (opened, untouched, table_of(filled.store, untouched.view)):
        np.testing.assert_array_equal(table, filled.expected(CONTENTS))
        assert table.ids.tolist() == [f"s{number}" for number in range(6)]


def test_results_are_json(filled):
    results = [collect(filled.store), compact_store(filled.store)]
    assert json.loads(json.dumps(results)) == results


def test_what_cannot_be_removed_is_named(house, monkeypatch):
    house.add(["a"])
    (path,) = house.encoder().segment_paths()

    def refuse(self, missing_ok=False):
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StoreError, match=rf"cannot remove {path}: Read-only file system"):
        collect(house.store)
