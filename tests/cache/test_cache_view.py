import contextlib
import dataclasses

import h5py
import numpy as np
import pytest

from cache import CacheIncomplete, StoreDamaged, item_key, load
from cache.view import read_view


def read_all(store):
    table = load(store.root)
    return [table.ids, table.classes, table.split, table.groups, table.view.digest, table.to_numpy()]


CONTENTS = {"text": ["a", "b", None, "a", "broken"], "image": ["x", None, "y", "z", "x"]}


@pytest.fixture
def filled(house):
    house.add(["b", "a"])
    for content in "xyz":
        house.add([content], "image")
    return house


def test_a_view_reads_as_it_was_written(filled):
    written = filled.view(CONTENTS, labels=["é", "", "positive 🐟", " x ", "é"], groups=[0, 1, 1, 0, 2])
    found = read_view(filled.store, "posts")
    for name in ("ids", "labels", "split", "groups"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name))
    assert (found.name, found.source, list(found.blocks)) == ("posts", {"data": "posts.csv"}, ["text", "image"])
    for modality, block in found.blocks.items():
        expected = written.blocks[modality]
        assert dataclasses.replace(block, arrays={}) == dataclasses.replace(expected, arrays={})
        for name, value in expected.arrays.items():
            np.testing.assert_array_equal(block.arrays[name], value)
    assert found.digest == written.digest


def test_the_digest_of_a_view_changes_with_what_the_data_says(filled):
    views = [
        filled.view(CONTENTS),
        filled.view(CONTENTS, labels=list("abcab")),
        filled.view(CONTENTS, groups=[0, 0, 1, 2, 3]),
        filled.view({**CONTENTS, "text": ["b", "a", None, "a", "broken"]}),
        filled.view({"text": CONTENTS["text"]}),
    ]
    assert len({view.digest for view in views}) == len(views)


CHANGES = [("labels", "b"), ("ids", "s9"), ("split", "dev"), ("groups", 7), ("text/items", 1), ("text/state", 0)]


@pytest.mark.parametrize(("dataset", "value"), CHANGES)
def test_a_view_that_is_not_what_was_written_is_named(filled, dataset, value):
    filled.view(CONTENTS)
    path = filled.store.view_path("posts")
    with h5py.File(path, "r+") as file:
        file[dataset if dataset in file else f"blocks/{dataset}"][0] = value
    with pytest.raises(StoreDamaged, match=path.name):
        read_all(filled.store)


@pytest.mark.parametrize("structure", [b"TREE", b"HEAP", b"SNOD", b"GCOL"])
def test_a_flipped_byte_in_the_structure_of_a_view_is_named(filled, flip, structure):
    filled.view(CONTENTS)
    path = filled.store.view_path("posts")
    flip(path, structure)
    with pytest.raises(StoreDamaged, match=path.name):
        read_all(filled.store)


@pytest.mark.parametrize("kept", [0, 300, -1])
def test_a_truncated_view_is_named(filled, kept):
    filled.view(CONTENTS)
    path = filled.store.view_path("posts")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StoreDamaged, match=path.name):
        read_all(filled.store)


def test_a_wrong_row_in_a_view_never_gives_another_samples_vector(filled):
    filled.view(CONTENTS)
    with h5py.File(filled.store.view_path("posts"), "r+") as file:
        file["blocks/image/row"][...] = [1, -1, 0, 2, 1]
    with contextlib.suppress(StoreDamaged):  # as good as rows that are found anew
        np.testing.assert_array_equal(load(filled.store.root), filled.expected(CONTENTS))


def merge(house):
    house.encoder("image").consolidate([item_key(text) for text in "zxy"])


def rename(house):
    for number, path in enumerate(reversed(house.encoder("image").segment_paths())):
        path.rename(path.with_name(f"{number}.h5"))


def add_older(house):
    house.add(["w"], "image")
    newest = house.encoder("image").segment_paths()[-1]
    newest.rename(newest.with_name("0.h5"))


@pytest.mark.parametrize("change", [merge, rename, add_older])
def test_rows_are_found_anew_when_segments_changed(filled, change):
    filled.view(CONTENTS)
    change(filled)
    np.testing.assert_array_equal(load(filled.store.root), filled.expected(CONTENTS))


def test_an_item_that_is_gone_is_named_with_its_modality_and_samples(filled):
    filled.view(CONTENTS)
    filled.encoder("image").segment_paths()[0].unlink()
    folder = filled.encoder("image").folder
    with pytest.raises(CacheIncomplete, match=rf"2 image vectors .* {folder} .*samples: 0, 4.*extract"):
        load(filled.store.root)
