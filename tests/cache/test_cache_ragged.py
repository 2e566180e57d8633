import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import Ragged, take_items
from cache.ragged import take_rows

DIM = 3
lengths_of = st.lists(st.integers(0, 4), min_size=1, max_size=6)
sources_of = st.lists(lengths_of, min_size=1, max_size=4)


def made(lengths, seed=0):
    """Matrices of these lengths; no two vectors are equal."""
    random = np.random.default_rng([seed, *lengths])
    return [random.normal(size=(length, DIM)).astype("<f4") for length in lengths]


def assert_same(found, items):
    assert len(found) == len(items)
    assert found.lengths.tolist() == [len(item) for item in items]
    for one, item in zip(found, items, strict=True):
        np.testing.assert_array_equal(one, item)
    np.testing.assert_array_equal(found.values, np.concatenate([np.empty((0, DIM), "<f4"), *items]))


def rows_of(sources, data, min_size=0):
    places = [(number, row) for number, lengths in enumerate(sources) for row in range(len(lengths))]
    return data.draw(st.lists(st.sampled_from(places), min_size=min_size, max_size=12))


@given(lengths_of)
@settings(deadline=None, derandomize=True, database=None)
def test_items_laid_end_to_end_read_as_they_were(lengths):
    items = made(lengths)
    ragged = Ragged.of(items)
    assert_same(ragged, items)
    assert (ragged.shape, ragged.dtype) == ((len(items), DIM), np.dtype("<f4"))
    assert ragged.offsets.dtype == np.int64


@given(lengths_of, st.data())
@settings(deadline=None, derandomize=True, database=None)
def test_one_item_is_indexed_as_in_a_list(lengths, data):
    items = made(lengths)
    row = data.draw(st.integers(-len(items), len(items) - 1))
    np.testing.assert_array_equal(Ragged.of(items)[row], items[row])


@pytest.mark.parametrize("row", [3, -4, 100])
def test_a_row_that_is_not_there_is_an_index_error(row):
    with pytest.raises(IndexError, match=rf"row {row} of 3"):
        Ragged.of(made([1, 0, 2]))[row]


@given(lengths_of, st.data())
@settings(deadline=None, derandomize=True, database=None)
def test_taking_gives_the_chosen_items_with_repeats_in_order(lengths, data):
    items = made(lengths)
    rows = data.draw(st.lists(st.integers(0, len(items) - 1), max_size=12))
    assert_same(Ragged.of(items).take(np.array(rows, dtype=np.int64)), [items[row] for row in rows])
    assert_same(take_items(Ragged.of(items), np.array(rows, dtype=np.int64)), [items[row] for row in rows])


def test_taking_none_and_taking_items_without_vectors():
    ragged = Ragged.of(made([0, 0, 2]))
    assert ragged.take(np.array([], dtype=int)).values.shape == (0, DIM)
    assert ragged.take(np.array([1, 0, 1])).values.shape == (0, DIM)
    assert ragged.take(np.array([1, 0, 1])).lengths.tolist() == [0, 0, 0]


def test_what_was_taken_is_a_copy():
    ragged = Ragged.of(made([2, 1]))
    ragged.take(np.array([0])).values[:] = 0
    assert ragged.values.all()


def test_another_type_keeps_the_items():
    ragged = Ragged.of(made([2, 0, 1]))
    other = ragged.astype(np.dtype("<f2"))
    assert other.dtype == np.float16
    np.testing.assert_array_equal(other.values, ragged.values.astype("<f2"))
    assert other.offsets.tolist() == [0, 2, 2, 3]


@given(sources_of, st.data())
@settings(deadline=None, derandomize=True, database=None)
def test_rows_of_several_ragged_sources_come_in_the_order_asked_for(sources, data):
    lists = [made(lengths, seed) for seed, lengths in enumerate(sources)]
    places = rows_of(sources, data, min_size=1)
    source, row = np.array(places, dtype=np.int64).T
    assert_same(take_rows([Ragged.of(items) for items in lists], source, row), [lists[s][r] for s, r in places])


@given(sources_of, st.data())
@settings(deadline=None, derandomize=True, database=None)
def test_rows_of_several_matrices_come_in_the_order_asked_for(sources, data):
    matrices = [np.concatenate(made([len(lengths)], seed)) for seed, lengths in enumerate(sources)]
    places = rows_of(sources, data)
    source, row = np.array(places, dtype=np.int64).reshape(-1, 2).T
    found = take_rows(matrices, source, row)
    wanted = np.array([matrices[s][r] for s, r in places], dtype="<f4").reshape(-1, DIM)
    assert found.dtype == np.dtype("<f4")
    np.testing.assert_array_equal(found, wanted)


def test_items_of_a_matrix_are_its_rows():
    matrix = made([5])[0]
    np.testing.assert_array_equal(take_items(matrix, np.array([4, 0, 4])), matrix[[4, 0, 4]])
