"""Cross-fitted data sets: K views of the same rows that are opened as one."""

import re
from dataclasses import replace

import numpy as np
import pytest

from cache import (
    Block,
    CacheIncomplete,
    CrossFitted,
    FeatureWriter,
    StoreDamaged,
    StoreError,
    UsageError,
    View,
    collect,
    describe_store,
    fold_view_name,
    item_key,
    load,
    load_data_set,
    load_folds,
    pack_items,
    placed,
    read_view,
    status_of,
    tables_of,
    verify_store,
    write_view,
)

CONTENTS = ["a", "b", "c", "d", "e", "f", None]
IMAGES = ["x", "y", "z", "x", "y", "z", "x"]
LABELS = ["p", "q", "p", "q", "p", "q", ""]
FOLD = np.array([0, 1, 2, 0, 1, 2, -1])
FOLDS = 3


def tuned(house, fold, contents=CONTENTS):
    """The texts by the encoder of one fold: each vector plus 1 + the fold's number."""
    encoder = house.encoder("text", version=fold + 2)
    held = encoder.items()
    new = [content for content in dict.fromkeys(contents) if content and item_key(content) not in held]
    if new:
        vectors = np.array([house.vector("text", content) + fold + 1 for content in new])
        FeatureWriter(encoder, ["mean"], {}).write([item_key(content) for content in new], {"mean": vectors})
    plain = house.block("text", [None] * len(contents))
    items = pack_items([item_key(content) if content else bytes(16) for content in contents])
    state = np.array([bool(content) for content in contents], dtype=np.uint8)
    arrays = {"items": items, "state": state, "row": np.full(len(items), -1)}
    return placed(encoder, Block("text", encoder.digest, "mean", plain.dim, arrays))[0]


def write(house, fold, name="posts", **changed):
    """The view of one fold."""
    contents = changed.pop("contents", CONTENTS)
    split = np.where(FOLD < 0, "", np.where(fold == FOLD, "test", "train"))
    columns = {"ids": [f"s{row}" for row in range(7)], "labels": LABELS, "split": split, **changed.pop("columns", {})}
    columns = {key: np.array(values, dtype=object) for key, values in columns.items()}
    columns["groups"] = np.array(changed.pop("groups", range(7)))
    blocks = {"text": tuned(house, fold, contents), "image": house.block("image", IMAGES)}
    blocks = {key: blocks[key] for key in changed.pop("modalities", blocks)}
    write_view(house.store, View(fold_view_name(name, fold), columns, blocks))


@pytest.fixture
def family(house):
    house.add(["a"])
    house.add(["x", "y", "z"], "image")
    for fold in range(FOLDS):
        write(house, fold)
    return house


def test_all_tables_are_opened_with_the_vectors_of_their_own_encoders(family):
    data = load_folds(family.store.root, "posts")
    assert (data.name, len(data), data.modalities) == ("posts", 7, ("text", "image"))
    assert [table.name for table in data.tables] == ["posts.fold0", "posts.fold1", "posts.fold2"]
    plain = family.expected({"text": CONTENTS, "image": IMAGES})
    for fold, table in enumerate(data.tables):
        expected = plain.copy()
        expected[:6, :3] += fold + 1
        np.testing.assert_allclose(table.to_numpy(), expected, rtol=1e-6)
        assert table.split.tolist() == ["" if own < 0 else "test" if own == fold else "train" for own in FOLD.tolist()]
    assert tables_of(data) == data.tables
    assert data.labelled.tolist() == [True] * 6 + [False]


def test_rows_and_modalities_are_taken_of_every_table(family):
    data = load_folds(family.store.root, "posts", ["image"])[np.array([4, 0])].select(["image"])
    assert [table.shape for table in data.tables] == [(2, 2)] * 3
    assert [table.ids.tolist() for table in data.tables] == [["s4", "s0"]] * 3
    with pytest.raises(UsageError, match="smell"):
        load_folds(family.store.root, "posts", ["smell"])


def test_a_family_is_chosen_where_there_is_nothing_else(family):
    assert family.store.choose(None) == family.store.choose("posts") == "posts"
    assert isinstance(load_data_set(family.store.root), CrossFitted)
    assert load_folds(family.store.root).name == "posts"
    assert load_data_set(family.store.root, "posts.fold1").name == "posts.fold1"
    assert load(family.store.root, "posts.fold2").split.tolist()[2] == "test"


def test_users_read_of_one_name(family):
    family.view({"image": ["x"]}, name="reviews")
    with pytest.raises(CacheIncomplete, match=r"several.*--name: posts, reviews$"):
        family.store.choose(None)
    with pytest.raises(CacheIncomplete, match=r"'post' .*holds posts, reviews;"):
        load_data_set(family.store.root, "post")
    assert load_data_set(family.store.root, "reviews").shape == (1, 2)


def test_one_table_is_not_taken_for_all(family):
    for name in (None, "posts"):
        with pytest.raises(
            UsageError, match=r"posts is a cross-fitted data set of 3 views.*such as posts\.fold0;.*load_f"
        ):
            load(family.store.root, name)
    for name in ("posts.fold0", "reviews"):
        family.view({"image": ["x"]}, name="reviews")
        with pytest.raises(UsageError, match=rf"{re.escape(name)} is not a cross-fitted data set"):
            load_folds(family.store.root, name)


def test_a_name_of_two_meanings_is_refused_with_both_ways_out(family):
    family.view({"image": ["x"]}, name="posts")
    path = re.escape(str(family.store.view_path("posts")))
    for opening in (load, load_folds, load_data_set):
        for name in (None, "posts"):
            with pytest.raises(UsageError, match=rf"posts is ambiguous.*posts\.fold0.*Remove {path}.*--name"):
                opening(family.store.root, name)
    assert load(family.store.root, "posts.fold0").shape == (7, 5)
    family.store.view_path("posts").unlink()
    assert load_data_set(family.store.root).name == "posts"


def test_a_single_view_is_no_family(house):
    house.add(["x", "y", "z"], "image")
    write(house, 1)
    assert house.store.choose(None) == "posts.fold1"
    assert load_data_set(house.store.root).name == "posts.fold1"
    with pytest.raises(CacheIncomplete, match=r"'posts' .*holds posts\.fold1;"):
        load_data_set(house.store.root, "posts")


def test_a_fold_that_is_gone_is_named(family):
    family.store.view_path("posts.fold1").unlink()
    with pytest.raises(StoreError, match=r"posts lacks posts\.fold1 in .*extract --finetuned again"):
        load_folds(family.store.root, "posts")
    write(family, 1)
    family.store.view_path("posts.fold2").unlink()  # nobody can know that there was one, but its rows are not tested
    with pytest.raises(
        StoreError, match=r"2 rows.*s2 \(train, train\), s5 \(train, train\).*extract --finetuned again"
    ):
        load_folds(family.store.root, "posts")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"columns": {"ids": ["s0", "s2", "s1", *(f"s{row}" for row in range(3, 7))]}}, "the ids of 2 rows: s1, s2"),
        ({"columns": {"labels": ["p", "q", "p", "q", "p", "p", ""]}}, "the labels of 1 rows: s5"),
        ({"groups": [0, 1, 2, 3, 3, 5, 6]}, "the groups of 1 rows: s4"),
        ({"modalities": ["image", "text"]}, "their modalities, text, image and image, text"),
        ({"contents": ["a", "b", "c", "e", "d", "f", None]}, "the text content of 2 rows: s3, s4"),
    ],
)
def test_views_of_other_rows_are_named_with_what_differs(family, changed, named):
    write(family, 2, **changed)
    with pytest.raises(
        StoreError, match=rf"posts\.fold0 and posts\.fold2 differ in {re.escape(named)};.*extract --fine"
    ):
        load_folds(family.store.root, "posts")


def test_views_of_another_length_or_width_are_refused(family):
    view = read_view(family.store, "posts.fold1")
    columns = {name: values[:6] for name, values in view.columns.items()}
    blocks = {
        name: replace(block, arrays={key: values[:6] for key, values in block.arrays.items()})
        for name, block in view.blocks.items()
    }
    write_view(family.store, replace(view, columns=columns, blocks=blocks))
    with pytest.raises(StoreError, match=r"fold0 and posts\.fold1 differ in their rows, 7 and 6"):
        load_folds(family.store.root, "posts")
    blocks = {**view.blocks, "text": replace(view.blocks["text"], output="cls")}
    write_view(family.store, replace(view, blocks=blocks))
    with pytest.raises(StoreError, match="text vectors, mean of 3 and cls of 3 columns"):
        load_folds(family.store.root, "posts")


@pytest.mark.parametrize(
    ("fold", "split", "named"),
    [
        (0, ["train", *["train"] * 2, "test", *["train"] * 2, ""], r"1 rows.*s0 \(train, train, train\)"),
        (0, ["test", "test", "train", "test", "train", "train", ""], r"1 rows.*s1 \(test, test, train\)"),
        (0, ["test", "", "train", "test", "train", "train", ""], r"1 rows.*s1 \(none, test, train\)"),
        (0, ["test", "valid", "train", "test", "train", "train", ""], r"1 rows.*s1 \(valid, test, train\)"),
        (1, ["train", "test", "train", "train", "test", "train", "train"], r"1 rows.*s6 \(none, train, none\)"),
    ],
)
def test_splits_that_are_not_folds_are_refused_by_row(family, fold, split, named):
    write(family, fold, columns={"split": split})
    with pytest.raises(StoreError, match=rf"{named}; expected of a labelled row test in one view and train"):
        load_folds(family.store.root, "posts")


def test_a_view_that_tests_nothing_is_refused(family):
    write(family, 3)
    with pytest.raises(StoreError, match=r"posts\.fold3 of the cross-fitted data set posts have no test rows"):
        load_folds(family.store.root, "posts")


def test_every_byte_is_checked_when_asked(family, flip):
    vector = family.vector("text", "b") + 3
    [path] = family.encoder("text", version=4).segment_paths()
    flip(path, vector.tobytes())
    load_folds(family.store.root, "posts")
    with pytest.raises(StoreDamaged, match=re.escape(str(path))):
        load_folds(family.store.root, "posts", check=True)


def test_vectors_that_are_gone_are_named(family):
    for path in family.encoder("text", version=3).segment_paths():
        path.unlink()
    with pytest.raises(CacheIncomplete, match=r"6 text vectors.*extract"):
        load_folds(family.store.root, "posts")


def test_the_digest_is_that_of_all_views(family):
    before = load_folds(family.store.root, "posts").digest
    assert load_folds(family.store.root, "posts").digest == before
    swapped = np.where(FOLD == 0, 1, np.where(FOLD == 1, 0, FOLD))
    for fold in (0, 1):
        split = np.where(swapped < 0, "", np.where(swapped == fold, "test", "train"))
        write(family, fold, columns={"split": split})
    assert load_folds(family.store.root, "posts").digest != before


def test_the_store_s_keepers_see_ordinary_views(family):
    names = ["posts.fold0", "posts.fold1", "posts.fold2"]
    assert [one["name"] for one in describe_store(family.store)["data_sets"]] == names
    assert [one["name"] for one in status_of(family.store)["data_sets"]] == names
    assert [one["name"] for one in status_of(family.store, "posts")["data_sets"]] == names
    assert [one["name"] for one in status_of(family.store, "posts.fold1")["data_sets"]] == ["posts.fold1"]
    with pytest.raises(CacheIncomplete, match="'post'"):
        status_of(family.store, "post")
    assert verify_store(family.store).findings == []


def test_garbage_collection_keeps_what_any_fold_reaches(family):
    removed = collect(family.store)
    assert removed["items"] == 1  # what no view names: the plain vector of "a"
    assert len(load_folds(family.store.root, "posts", check=True)) == 7
    family.store.view_path("posts.fold2").unlink()
    assert collect(family.store)["items"] == 6
    np.testing.assert_allclose(
        load(family.store.root, "posts.fold1").block("text")[0], family.vector("text", "a") + 2, rtol=1e-6
    )
