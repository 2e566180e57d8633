"""`schema-1` was written by the first version; what it holds stays good."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache import Failure, StoreDamaged, compact_store, export_table, item_key, load, merge_stores, verify_store
from cache.files import read_header
from cache.schema import SCHEMA
from cache.upkeep import collect

CONTENTS = {"text": ["a", "b", None, "c", "broken"], "image": ["x", None, "y", "y", "x"]}
LABELS = ["é", "", "b", "a", "é"]


@pytest.fixture
def old(house_at, tmp_path):
    root = tmp_path / "features"
    shutil.copytree(Path(__file__).parent / "schema-1", root)
    return house_at(root)


def reads_right(house, contents=None, labels=LABELS):
    contents = contents or CONTENTS
    table = load(house.store.root, "posts")
    np.testing.assert_array_equal(table.to_numpy(np.nan), house.expected(contents, np.nan))
    assert table.labels.tolist() == labels
    return table


def by_modality(house):
    return {encoder.key().modality: encoder for encoder in house.store.encoders()}


def schemas(house):
    return {read_header(path, "segment")["schema"] for e in house.store.encoders() for path in e.segment_paths()}


def test_an_old_store_reads_right(old, files_of):
    before = files_of(old.store.root)
    table = reads_right(old)
    assert table.ids.tolist() == ["s0", "s1", "s2", "s3", "s4"]
    assert table[table.labelled].y.tolist() == ["é", "b", "a", "é"]
    assert {name: mask.tolist() for name, mask in table.masks.items()} == {
        name: [c not in (None, "broken") for c in column] for name, column in CONTENTS.items()
    }
    assert not table.has_tokens("text")
    assert files_of(old.store.root) == before


def test_an_old_store_was_written_by_the_first_version(old):
    assert schemas(old) == {1}
    assert read_header(old.store.view_path("posts"), "view")["schema"] == 1 < SCHEMA


def test_an_old_store_is_found_good(old):
    found = verify_store(old.store)
    assert found.findings == []
    assert found.files >= 4
    assert load(old.store.root, check=True).shape == (5, 5)
    assert all(encoder.set_aside_damaged() == [] for encoder in old.store.encoders())


def test_its_failures_are_read_and_kept(old):
    encoder = by_modality(old)["text"]
    (failure,) = encoder.failures()
    assert (failure.item, bool(failure.reason)) == (item_key("broken").hex(), True)
    new = Failure("s9", "truncated", item_key("new").hex(), "pillow 1")
    encoder.record_failures([new])
    assert encoder.failures() == [failure, new]
    encoder.record_failures([], resolved=[item_key("broken")])
    assert encoder.failures() == [new]


def test_a_damaged_old_view_and_segment_are_found(old, flip):
    view = old.store.view_path("posts")
    with h5py.File(view, "r+") as file:
        file["labels"][0] = "b"
    segment = by_modality(old)["image"].segment_paths()[0]
    flip(segment, old.vector("image", "x").tobytes())
    with pytest.raises(StoreDamaged, match=view.name):
        load(old.store.root)
    assert {path for path, _ in verify_store(old.store).findings} == {view, segment}


def test_an_old_store_is_appended_to(old):
    encoder = by_modality(old)["text"]
    assert old.encoder("text").digest == encoder.digest
    old.add(["d", "e"])
    reads_right(old)
    assert schemas(old) == {1, SCHEMA}
    contents = {"text": ["e", *CONTENTS["text"]], "image": [None, *CONTENTS["image"]]}
    old.view(contents, labels=["new", *LABELS])
    reads_right(old, contents, ["new", *LABELS])
    assert verify_store(old.store).findings == []


def test_an_old_store_is_compacted(old):
    earlier = load(old.store.root)
    assert compact_store(old.store)["damaged"] == []
    assert all(len(encoder.segment_paths()) == 1 for encoder in old.store.encoders())
    reads_right(old)
    np.testing.assert_array_equal(earlier, old.expected(CONTENTS))
    assert verify_store(old.store).findings == []


def test_old_and_new_segments_are_compacted_together(old):
    old.add(["d", "a"])
    compact_store(old.store)
    (segment,) = by_modality(old)["text"].segments()
    assert sorted(row.tobytes() for row in segment.items) == sorted(item_key(text) for text in "abcd")
    assert read_header(segment.path, "segment")["schema"] == SCHEMA
    reads_right(old)


def test_nothing_that_an_old_view_reaches_is_collected(old, files_of):
    before = files_of(old.store.root)
    assert collect(old.store)["items"] == 0
    assert files_of(old.store.root) == before


def test_an_old_store_is_merged_into_a_new_one(old, house_at, tmp_path):
    new = house_at(tmp_path / "new")
    new.add(["b", "z"])
    new.view({"text": ["z"]}, name="more")
    assert merge_stores(new.store, old.store)["data_sets"] == ["posts"]
    reads_right(new)
    assert read_header(new.store.view_path("posts"), "view")["schema"] == SCHEMA
    assert verify_store(new.store).findings == []
    assert [e.failures() for e in new.store.encoders()] == [e.failures() for e in old.store.encoders()]
    assert merge_stores(new.store, old.store)["items"] == 0


def test_an_old_store_is_exported(old, tmp_path):
    export_table(load(old.store.root), tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_array_equal(found["text"], old.expected({"text": CONTENTS["text"]}))
