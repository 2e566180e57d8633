"""Views whose rows lie in several files: as one view, but for the files."""

import dataclasses
import itertools
import pickle

import numpy as np
import pytest

from cache import (
    CacheIncomplete,
    FeatureStore,
    StoreDamaged,
    UsageError,
    View,
    collect,
    describe_store,
    load,
    merge_stores,
    read_part,
    status_of,
    verify_store,
    write_part,
    write_view,
)
from cache.view import check_held, check_view, read_view

CONTENTS = {"text": ["a", "b", None, "a", "broken", "c", "c"], "image": ["x", None, "y", "z", "x", "x", None]}
CUTS = [0, 3, 4, 7]


def some(view, start, stop):
    """Rows of a view."""
    columns = {name: values[start:stop] for name, values in view.columns.items()}
    blocks = {
        name: dataclasses.replace(
            block, arrays={key: values[start:stop] for key, values in block.arrays.items()}, segments=()
        )
        for name, block in view.blocks.items()
    }
    return View(view.name, columns, blocks, view.source)


@pytest.fixture
def whole(house):
    house.add(["b", "a", "c"])
    for content in "xyz":
        house.add([content], "image")
    return house.view(CONTENTS, name="whole", groups=[0, 1, 1, 0, 2, 3, 3])


@pytest.fixture
def parted(house, whole):
    return write_in_parts(house.store, dataclasses.replace(whole, name="parted"))


def write_in_parts(store, view, pending=False):
    pairs = itertools.pairwise(CUTS)
    parts = [write_part(store, number, some(view, *pair)) for number, pair in enumerate(pairs)]
    joined = View(view.name, {}, view.blocks, view.source, tuple(parts))
    write_view(store, joined, pending)
    return joined


def test_a_view_in_parts_gives_what_the_whole_one_gives(house, whole, parted):
    found = read_view(house.store, "parted")
    assert len(found) == len(whole) == 7
    for name in ("ids", "labels", "split", "groups"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    for name, block in whole.blocks.items():
        assert found.blocks[name].segments == block.segments
        for key, values in block.arrays.items():
            np.testing.assert_array_equal(found.blocks[name].arrays[key], values)
            assert found.blocks[name].arrays[key].dtype == values.dtype
    expected = house.expected({"text": [None if c == "broken" else c for c in CONTENTS["text"]]})
    np.testing.assert_array_equal(load(house.store.root, "parted", ["text"]).to_numpy(), expected)
    np.testing.assert_array_equal(load(house.store.root, "parted"), load(house.store.root, "whole"))


def test_rows_are_found_anew_after_a_merge(house, whole, parted):
    before = load(house.store.root, "parted").to_numpy()
    house.add(["d"])
    for encoder in house.store.encoders():
        encoder.compact([])
    np.testing.assert_array_equal(load(house.store.root, "parted").to_numpy(), before)
    assert verify_store(house.store).findings == []


def test_the_digest_tells_data_apart(house, whole, parted):
    other = np.array([*whole.labels[:6], "c"], dtype=object)
    changed = dataclasses.replace(whole, name="other", columns={**whole.columns, "labels": other})
    assert read_view(house.store, "parted").digest == parted.digest
    assert write_in_parts(house.store, changed).digest != parted.digest


def test_a_column_is_read_when_it_is_asked_for(house, parted):
    found = read_view(house.store, "parted")
    assert found.labels[0] is found.labels[4]  # one object, however many rows
    path = house.store.parts_path("parted") / parted.parts[1].file
    path.unlink()
    assert len(found) == 7
    assert len(found.labels) == 7
    with pytest.raises(CacheIncomplete, match=path.name):
        _ = found.ids.shape, found.groups, found.blocks["text"].items


def test_a_copy_in_another_process_reads_the_same(house, parted):
    table = load(house.store.root, "parted")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(table)).to_numpy(), table.to_numpy())  # noqa: S301


def test_damage_in_a_part_is_named(house, parted):
    path = house.store.parts_path("parted") / parted.parts[2].file
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(StoreDamaged, match=path.name):
        check_view(house.store, "parted")
    assert [path.name in problem for _, problem in verify_store(house.store).findings] == [True]


def test_a_part_that_is_gone_is_named_and_no_vector_with_it(house, parted):
    path = house.store.parts_path("parted") / parted.parts[1].file
    house.store.view_path("whole").unlink()
    before = house.store.encoders()[0].segment_paths()
    path.unlink()
    ((_, problem),) = verify_store(house.store).findings
    assert f"{path} is gone" in problem
    with pytest.raises(StoreDamaged, match=f"{path.name} is gone, and .*parted.view.h5 names it"):
        collect(house.store)
    assert house.store.encoders()[0].segment_paths() == before != []
    house.store.view_path("parted").unlink()  # the way out
    assert collect(house.store)["items"] == 6


def test_a_view_that_is_extracted_anew_while_it_is_checked_is_read_again(house, whole, parted, monkeypatch):
    inner = check_held

    def meanwhile(path, *held):
        if path.name == parted.parts[0].file:
            changed = {**whole.columns, "labels": whole.ids}
            write_in_parts(house.store, dataclasses.replace(whole, name="parted", columns=changed))
            for part in parted.parts:
                (house.store.parts_path("parted") / part.file).unlink(missing_ok=True)
        inner(path, *held)

    monkeypatch.setattr("cache.view.check_held", meanwhile)
    found = check_view(house.store, "parted")
    assert found.labels.tolist() == whole.ids.tolist()


def test_a_part_in_the_place_of_another_is_named(house, parted):
    first, second = (house.store.parts_path("parted") / part.file for part in parted.parts[:2])
    first.write_bytes(second.read_bytes())
    with pytest.raises(StoreDamaged, match=first.name):
        _ = read_view(house.store, "parted").ids


@pytest.mark.parametrize("name", ["../../whole.view.h5", "0-ab.h5", "/etc/passwd"])
def test_no_name_of_a_part_leads_out_of_the_store(house, whole, parted, name):
    hostile = dataclasses.replace(parted, parts=(dataclasses.replace(parted.parts[0], file=name),))
    write_view(house.store, hostile)
    with pytest.raises(StoreDamaged, match="it names the parts"):
        read_view(house.store, "parted")


def test_describing_and_status_count_all_rows(house, parted):
    named = {one["name"]: one for one in describe_store(house.store)["data_sets"]}
    assert (named["parted"]["rows"], named["parted"]["labelled"]) == (7, 7)
    (found,) = status_of(house.store, "parted")["data_sets"]
    assert found["modalities"]["text"] == {**found["modalities"]["text"], "stored": 5, "failed": 1, "missing": 1}


def test_files_of_rows_that_no_view_names_are_collected_and_no_vectors_of_those_that_one_does(house, whole, parted):
    before = load(house.store.root, "parted").to_numpy()
    stray = house.store.parts_path("parted") / "000009-00.view.h5"
    stray.write_bytes(b"left by an earlier extraction")
    house.store.view_path("whole").unlink()
    found = collect(house.store)
    assert (found["files"], found["items"]) == ([str(stray)], 0)
    np.testing.assert_array_equal(load(house.store.root, "parted").to_numpy(), before)


def test_files_of_rows_stay_while_the_data_set_is_being_extracted(house, whole, parted):
    house.store.view_path("parted").unlink()
    write_view(house.store, parted, pending=True)
    folder = house.store.parts_path("parted")
    (folder / "000009-00.view.h5").write_bytes(b"just written")
    assert collect(house.store)["files"] == []
    house.store.pending_path("parted").unlink()
    assert len(collect(house.store)["files"]) == 4
    assert not folder.exists()


def test_a_merge_takes_it_over_in_parts_and_the_same_again_is_the_same(house, whole, parted, tmp_path):
    house.store.view_path("whole").unlink()
    taken = FeatureStore(tmp_path / "taken")
    assert merge_stores(taken, house.store)["data_sets"] == ["parted"]
    found = read_view(taken, "parted")
    assert (found.digest, [part.rows for part in found.parts]) == (parted.digest, [3, 1, 3])
    assert merge_stores(taken, house.store)["data_sets"] == []
    expected = load(house.store.root, "parted")
    np.testing.assert_array_equal(load(taken.root, "parted").to_numpy(), expected.to_numpy())
    np.testing.assert_array_equal(load(taken.root, "parted").groups, expected.groups)
    assert verify_store(taken).findings == []


def test_a_merge_knows_the_same_data_in_parts_and_as_a_whole(house, whole, parted, tmp_path):
    taken = FeatureStore(tmp_path / "taken")
    merge_stores(taken, house.store)
    write_view(taken, dataclasses.replace(read_view(taken, "whole"), name="parted"))
    assert merge_stores(taken, house.store)["data_sets"] == []
    labels = np.array([*whole.labels[:6], "other"], dtype=object)
    write_view(taken, dataclasses.replace(whole, name="parted", columns={**whole.columns, "labels": labels}))
    with pytest.raises(UsageError, match="different data sets of the same name: parted"):
        merge_stores(taken, house.store)


def test_a_part_can_be_read_by_itself(house, whole, parted):
    found = read_part(house.store, "parted", parted.parts[1])
    assert (found.ids.tolist(), len(found)) == (["s3"], 1)
