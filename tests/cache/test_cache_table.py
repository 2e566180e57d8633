import contextlib
import pickle
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import Parallel, delayed
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score, train_test_split

from cache import CacheIncomplete, DataError, UsageError, item_key, load, table_of

N = 12
TEXT = [f"t{number}" for number in range(N)]
IMAGE = [None if number % 5 == 2 else "broken" if number == 4 else f"i{(number * 7) % N}" for number in range(N)]
CONTENTS = {"text": TEXT, "image": IMAGE}
PARTS = [
    slice(2, 7),
    slice(None, None, -2),
    [3, 0, 3, -1],
    np.arange(N) % 3 == 0,
    [True, False] * (N // 2),
    np.array([], dtype=int),
    slice(0, 0),
    np.int64(4),
    -1,
    (slice(None), slice(2, 4)),
    (np.array([1, 5]), 0),
    (3, 4),
    Ellipsis,
]


@pytest.fixture
def filled(house):
    house.add(TEXT)
    for part in (slice(0, 5), slice(5, N)):
        house.add([f"i{number}" for number in range(N)][part], "image")
    house.view(CONTENTS)
    return house


@pytest.fixture
def table(filled):
    return load(filled.store.root)


@pytest.mark.parametrize("missing", [0.0, np.nan])
def test_the_table_is_the_plain_array_with_missing_rows_filled(filled, table, missing):
    np.testing.assert_array_equal(table.to_numpy(missing=missing), filled.expected(CONTENTS, missing))
    for modality in CONTENTS:
        wanted = filled.expected({modality: CONTENTS[modality]}, missing)
        np.testing.assert_array_equal(table.block(modality, missing=missing), wanted)
        np.testing.assert_array_equal(table.to_numpy(missing=missing)[:, table.blocks[modality]], wanted)


def test_numpy_takes_a_table_for_an_array(filled, table):
    expected = filled.expected(CONTENTS)
    assert (len(table), table.shape, table.ndim, table.dtype) == (N, (N, 5), 2, np.float32)
    np.testing.assert_array_equal(np.asarray(table), expected)
    assert np.asarray(table, dtype=np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.array(list(table)), expected)


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_indexing_is_that_of_the_plain_array(filled, table, part):
    np.testing.assert_array_equal(np.asarray(table[part]), filled.expected(CONTENTS)[part])


@pytest.mark.parametrize("part", [slice(2, 7), [3, 0, 3], np.arange(N) % 3 == 0])
def test_rows_stay_a_table_with_all_that_belongs_to_them(filled, table, part):
    for chosen in (table[part], table[part, ...]):
        np.testing.assert_array_equal(chosen, filled.expected(CONTENTS)[part])
        assert chosen.ids.tolist() == np.array([f"s{number}" for number in range(N)])[part].tolist()
        assert chosen.y.tolist() == np.array(["a", "b"] * 6)[part].tolist()
        assert chosen.split.tolist() == np.array(["train", "test"] * 6)[part].tolist()
        assert chosen.groups.tolist() == np.arange(N)[part].tolist()
        assert chosen.masks["image"].tolist() == np.array([str(c).startswith("i") for c in IMAGE])[part].tolist()


def test_a_mask_of_the_wrong_length_is_an_index_error(table):
    with pytest.raises(IndexError):
        table[[True] * (N - 1)]


def test_select_takes_modalities_in_the_order_asked_for(filled, table):
    chosen = table.select(["image", "text"])
    assert chosen.modalities == ("image", "text")
    assert chosen.blocks == {"image": slice(0, 2), "text": slice(2, 5)}
    np.testing.assert_array_equal(chosen, filled.expected({"image": IMAGE, "text": TEXT}))
    np.testing.assert_array_equal(load(filled.store.root, modalities=["image"]), filled.expected({"image": IMAGE}))


@pytest.mark.parametrize("modalities", [["audio"], [], ["text", "text"]])
def test_a_selection_that_cannot_be_made_is_refused(table, modalities):
    with pytest.raises(UsageError, match="text"):
        table.select(modalities)


def test_masks_tell_missing_and_failed_from_present(table):
    assert table.masks["text"].all()
    assert np.flatnonzero(~table.masks["image"]).tolist() == [2, 4, 7]


def test_unlabelled_rows_are_named_and_can_be_left_out(filled):
    filled.view(CONTENTS, labels=["b", "", "a", ""] + ["c"] * 8)
    table = load(filled.store.root)
    with pytest.raises(DataError, match=r"2 of 12 .*s1, s3.*labelled"):
        _ = table.y
    assert table[table.labelled].y.tolist() == ["b", "a"] + ["c"] * 8
    assert table.classes == ("a", "b", "c")
    assert table[:2].classes == ("b",)


def test_one_modality_with_consecutive_rows_is_the_file_itself(table):
    text = table.select(["text"])
    assert np.shares_memory(text.to_numpy(), text.to_numpy())
    assert np.shares_memory(text[3:7].to_numpy(), text.to_numpy())
    with pytest.raises(ValueError, match="read-only"):
        text.to_numpy()[0, 0] = 1


@pytest.mark.parametrize("rows", [[0, 2], [1, 0], [1, 1]])
def test_other_rows_are_copied(table, rows):
    text = table.select(["text"])[rows]
    assert not np.shares_memory(text.to_numpy(), text.to_numpy())


def test_rows_of_two_segments_or_with_gaps_are_copied(filled, table):
    filled.view({"image": [f"i{number}" for number in range(N)]}, name="whole")
    for chosen in (table.select(["image"]), load(filled.store.root, "whole")):
        assert not np.shares_memory(chosen.to_numpy(), chosen.to_numpy())


def test_a_consolidated_data_set_is_the_file_itself(filled):
    contents = {"image": [f"i{number}" for number in reversed(range(N))]}
    filled.encoder("image").consolidate([item_key(content) for content in contents["image"]])
    filled.view(contents, name="whole")
    table = load(filled.store.root, "whole")
    assert np.shares_memory(table.to_numpy(), table.to_numpy())
    np.testing.assert_array_equal(table, filled.expected(contents))


def test_a_modality_that_no_sample_has_is_filled(house):
    house.add(["a", "b"])
    contents = {"text": ["a", "b"], "image": [None, "broken"]}
    house.view(contents)
    table = load(house.store.root)
    np.testing.assert_array_equal(table.to_numpy(np.nan), house.expected(contents, np.nan))
    assert table[:0].to_numpy().shape == (0, 5)


def test_modalities_of_different_types_share_the_wider_one(house):
    house.add(["a", "b"])
    house.add(["x", "y"], "audio")
    contents = {"text": ["a", "b"], "audio": ["y", None]}
    house.view(contents)
    table = load(house.store.root)
    assert table.to_numpy().dtype == table.dtype == np.float32
    assert table.block("audio").dtype == table.select(["audio"]).dtype == np.float16
    np.testing.assert_array_equal(table, house.expected(contents))


def test_a_view_that_was_never_written_makes_the_same_table(filled):
    view = filled.view(CONTENTS)
    filled.store.view_path("posts").unlink()
    np.testing.assert_array_equal(table_of(filled.store, view, ["image"]), filled.expected({"image": IMAGE}))


def test_pickling_carries_no_vectors_and_reads_right(house):
    contents = {"audio": [f"a{number}" for number in range(50)]}
    house.add(contents["audio"], "audio")
    house.view(contents)
    table = load(house.store.root)[10:30]
    expected = house.expected(contents)[10:30]
    np.testing.assert_array_equal(table, expected)  # the file is mapped by now
    raw = pickle.dumps(table)
    assert len(raw) < expected.nbytes / 2
    np.testing.assert_array_equal(pickle.loads(raw), expected)  # noqa: S301


def test_processes_read_the_same_rows(filled, table):
    parts = [slice(0, 6), [7, 3, 3]]
    found = Parallel(n_jobs=2)(delayed(np.asarray)(table[part]) for part in parts)
    for array, part in zip(found, parts, strict=True):
        np.testing.assert_array_equal(array, filled.expected(CONTENTS)[part])


def test_sklearn_scores_a_table_as_the_plain_array(filled, table):
    scores = cross_val_score(LogisticRegression(), table, table.y, cv=3)
    np.testing.assert_allclose(scores, cross_val_score(LogisticRegression(), filled.expected(CONTENTS), table.y, cv=3))


def test_sklearn_splits_a_table_into_tables(filled, table):
    train, test, y_train, y_test = train_test_split(table, table.y, test_size=4, random_state=0, stratify=table.y)
    assert (train.y.tolist(), test.y.tolist()) == (y_train.tolist(), y_test.tolist())
    assert sorted([*train.ids, *test.ids]) == sorted(table.ids)
    rows = [int(name.removeprefix("s")) for name in test.ids]
    np.testing.assert_array_equal(test, filled.expected(CONTENTS)[rows])


def test_a_table_opened_before_a_merge_reads_right_or_says_what_to_do(filled, table):
    filled.encoder("image").consolidate([])
    with contextlib.suppress(CacheIncomplete):  # but no bare FileNotFoundError, and no wrong rows
        np.testing.assert_array_equal(table, filled.expected(CONTENTS))


samples = st.lists(st.none() | st.sampled_from("abcdefgh"), min_size=1, max_size=5)
steps = st.one_of(
    st.tuples(st.just("add"), samples),
    st.tuples(st.just("relabel"), st.sampled_from("xyz")),
    st.tuples(st.just("consolidate"), st.permutations("abcdefgh")),
)


def take(house, step, column, labels):
    """Does one step as an extraction would; a merge leaves the view as it is."""
    what, value = step
    if what == "consolidate":
        house.encoder().consolidate([item_key(content) for content in value])
        return
    if what == "relabel":
        labels[:] = [value if number % 2 else label for number, label in enumerate(labels)]
    else:
        fresh = {content for content in value if content and item_key(content) not in house.encoder().items()}
        if fresh:
            house.add(sorted(fresh))
        column += value
        labels += ["new"] * len(value)
    house.view({"text": column}, labels=labels)


@given(st.lists(steps, max_size=6))
@settings(deadline=None, derandomize=True, database=None, max_examples=25)
def test_row_i_is_the_vector_of_sample_i_whatever_was_done(house_at, steps):
    with tempfile.TemporaryDirectory() as folder:
        house, column, labels = house_at(folder), [], []
        for step in [("add", ["a", None]), *steps]:
            take(house, step, column, labels)
            table = load(folder)
            np.testing.assert_array_equal(table, house.expected({"text": column}))
            assert table.y.tolist() == labels
