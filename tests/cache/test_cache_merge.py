import shutil

import numpy as np
import pytest

from cache import (
    CacheIncomplete,
    Failure,
    StoreDamaged,
    UsageError,
    item_key,
    load,
    merge_stores,
    standing_batches,
    verify_store,
    write_batches,
)

TEXT = ["a", "b", None, "c"]
OTHER = {"text": ["b", "d", "é", "d"], "image": ["x", None, "broken", "y"]}


@pytest.fixture
def other(house_at, tmp_path):
    """A store with two encoders, ragged tokens, a plan and failures."""
    there = house_at(tmp_path / "other")
    there.add(["d", "b"], tokens=True)
    there.add(["é", "", "long text"], tokens=True)
    there.add(["y", "x"], "image")
    there.view(OTHER, name="theirs")
    image = there.encoder("image")
    write_batches(image.folder, [[item_key("x"), item_key("y")], [item_key("z")]])
    image.record_failures([Failure("s2", "truncated", item_key("broken").hex(), "pillow 1")])
    return there


@pytest.fixture
def filled(house):
    house.add(["c", "a", "b"], tokens=True)
    house.view({"text": TEXT}, name="ours")
    return house


def same_tokens(house, column, name):
    table = load(house.store.root, name)
    wanted = [house.tokens("" if content is None else content) for content in column]
    for found, vectors in zip(table.tokens("text"), wanted, strict=True):
        np.testing.assert_array_equal(found, vectors)


def test_an_empty_store_takes_everything_over(house, other):
    result = merge_stores(house.store, other.store)
    assert (result["items"], result["data_sets"]) == (7, ["theirs"])
    assert result["bytes"] == sum(encoder.size() for encoder in house.store.encoders())
    np.testing.assert_array_equal(load(house.store.root, "theirs"), house.expected(OTHER))
    same_tokens(house, OTHER["text"], "theirs")
    assert [encoder.key() for encoder in house.store.encoders()] == [e.key() for e in other.store.encoders()]
    assert verify_store(house.store).findings == []


def test_only_what_is_lacking_is_copied(filled, other):
    result = merge_stores(filled.store, other.store)
    assert (result["items"], result["data_sets"]) == (6, ["theirs"])  # b was there
    items = np.concatenate([segment.items for segment in filled.encoder().segments()])
    assert len(items) == len(np.unique(items, axis=0)) == 7
    np.testing.assert_array_equal(load(filled.store.root, "ours"), filled.expected({"text": TEXT}))
    np.testing.assert_array_equal(load(filled.store.root, "theirs"), filled.expected(OTHER))
    same_tokens(filled, TEXT, "ours")
    same_tokens(filled, OTHER["text"], "theirs")
    assert verify_store(filled.store).findings == []


def test_labels_groups_and_provenance_come_along(filled, other):
    other.view(OTHER, name="theirs", labels=["", "ü", "", "b"], groups=[0, 1, 0, 2])
    merge_stores(filled.store, other.store)
    ours, theirs = (load(house.store.root, "theirs") for house in (filled, other))
    for name in ("ids", "labels", "split", "groups"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert (ours.view.digest, ours.view.source) == (theirs.view.digest, theirs.view.source)
    assert ours.view.blocks["image"].spec == {"model": "tiny"}


def test_failures_and_plans_come_along(filled, other):
    merge_stores(filled.store, other.store)
    assert filled.encoder("image").failures() == other.encoder("image").failures() != []
    assert standing_batches(filled.encoder("image").folder, {item_key("z")}) == [[item_key("z")]]


def test_failures_of_items_that_are_stored_by_now_are_dropped(filled, other):
    filled.add(["w"], "image")
    filled.encoder("image").record_failures([Failure("s9", "truncated", item_key("x").hex(), "pillow 1")])
    merge_stores(filled.store, other.store)
    assert [failure.id for failure in filled.encoder("image").failures()] == ["s2"]


def test_merging_twice_changes_nothing_more(filled, other, files_of):
    merge_stores(filled.store, other.store)
    before = files_of(filled.store.root)
    assert merge_stores(filled.store, other.store) == {"items": 0, "bytes": 0, "data_sets": []}
    assert files_of(filled.store.root) == before


def test_a_killed_merge_goes_on(filled, other, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("cache.merge.write_view", killed)
    with pytest.raises(KeyboardInterrupt):
        merge_stores(filled.store, other.store)
    monkeypatch.undo()
    assert merge_stores(filled.store, other.store) == {"items": 0, "bytes": 0, "data_sets": ["theirs"]}
    np.testing.assert_array_equal(load(filled.store.root, "theirs"), filled.expected(OTHER))


def test_the_other_store_stays_byte_for_byte(filled, other, files_of):
    before = files_of(other.store.root)
    merge_stores(filled.store, other.store)
    assert files_of(other.store.root) == before


def test_a_large_copy_is_parted(house, other, monkeypatch):
    monkeypatch.setattr("cache.segment.PART_BYTES", 40)
    merge_stores(house.store, other.store)
    assert len(house.encoder().segment_paths()) > len(other.encoder().segment_paths())
    np.testing.assert_array_equal(load(house.store.root, "theirs"), house.expected(OTHER))


def test_progress_names_every_encoder(house, other):
    steps = []
    merge_stores(house.store, other.store, lambda *step: steps.append(step))
    assert steps == [("merge", 1, 2), ("merge", 2, 2)]


def test_the_same_store_is_refused_by_any_path(filled, tmp_path, house_at, files_of):
    before = files_of(filled.store.root)
    (tmp_path / "link").symlink_to(filled.store.root)
    for root in (filled.store.root, tmp_path / "link", tmp_path / "x" / ".." / "features"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match="this very store"):
            merge_stores(filled.store, house_at(root).store)
    assert files_of(filled.store.root) == before


def test_a_store_that_is_not_there_is_named(filled, house_at, tmp_path):
    with pytest.raises(CacheIncomplete, match=r"no store at .*gone"):
        merge_stores(filled.store, house_at(tmp_path / "gone").store)


def test_a_data_set_that_is_the_same_in_both_is_kept(filled, other, files_of):
    other.add(["a", "c"], tokens=True)
    other.view({"text": TEXT}, name="ours")
    before = filled.store.view_path("ours").read_bytes()
    assert merge_stores(filled.store, other.store)["data_sets"] == ["theirs"]
    assert filled.store.view_path("ours").read_bytes() == before


@pytest.mark.parametrize("labels", [None, ["x", "", "y", "z"]])
def test_conflicting_data_sets_are_refused_before_anything_is_copied(filled, other, files_of, labels):
    filled.view({"text": TEXT}, name="theirs")
    other.add(["a", "c"], tokens=True)
    other.view({"text": TEXT} if labels else OTHER, name="theirs", labels=labels)
    before = files_of(filled.store.root)
    with pytest.raises(UsageError, match=r"same name: theirs\. Extract"):
        merge_stores(filled.store, other.store)
    assert files_of(filled.store.root) == before


@pytest.mark.parametrize("what", ["vectors", "items", "view", "key", "plan", "failures"])
def test_a_damaged_file_of_the_other_store_is_named(filled, other, flip, what):
    image = other.encoder("image")
    path, part = {
        "vectors": (image.segment_paths()[0], other.vector("image", "x").tobytes()),
        "items": (image.segment_paths()[0], item_key("x")),
        "view": (other.store.view_path("theirs"), b"blocks"),
        "key": (image.folder / "key.json", b"weights"),
        "plan": (next(image.folder.glob("*.plan")), item_key("z")),
        "failures": (image.failures_path, b"truncated"),
    }[what]
    flip(path, part)
    with pytest.raises(StoreDamaged, match=path.name):
        merge_stores(filled.store, other.store)
    np.testing.assert_array_equal(load(filled.store.root, "ours"), filled.expected({"text": TEXT}))
    assert verify_store(filled.store).findings == []


def test_a_data_set_whose_vectors_are_gone_is_named(filled, other):
    shutil.rmtree(other.encoder("image").folder)
    with pytest.raises(CacheIncomplete, match="image vectors of this data set"):
        merge_stores(filled.store, other.store)
    assert filled.store.names() == ["ours"]
