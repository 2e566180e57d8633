import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cache import NO_ITEM, item_key, pack_items
from cache.find import AT_ONCE, KeyIndex, find_rows

ZERO, ONE, LAST = bytes(8), b"\1" + bytes(7), bytes(7) + b"\1"
# Few halves, so that keys are stored twice and share the first or the last eight bytes; many end in zeros.
halves = st.sampled_from([ZERO, ONE, LAST, b"\xff" * 8, b"abcdefgh"])
keys = st.lists(st.tuples(halves, halves).map(b"".join), max_size=12)


def rows_by_dictionary(stored, wanted):
    first = {}
    for row, key in enumerate(stored):
        first.setdefault(key, row)
    return [first.get(key, -1) for key in wanted]


@given(keys, keys)
@example([ONE + ZERO, ZERO + ONE], [ZERO + ONE, ONE + ZERO, ONE + ONE])
@example([], [NO_ITEM])
@settings(deadline=None, derandomize=True, database=None)
def test_each_wanted_key_has_the_row_of_a_dictionary(stored, wanted):
    rows = find_rows(pack_items(stored), pack_items(wanted))
    assert rows.dtype == np.int64
    assert rows.tolist() == rows_by_dictionary(stored, wanted)


@given(keys, st.data())
@settings(deadline=None, derandomize=True, database=None)
def test_of_equal_stored_keys_the_first_is_found(stored, data):
    wanted = data.draw(st.permutations(stored))
    assert find_rows(pack_items(stored), pack_items(wanted)).tolist() == [stored.index(key) for key in wanted]


@given(keys)
@settings(deadline=None, derandomize=True, database=None)
def test_equal_stored_keys_have_one_number_and_one_of_them_is_the_first(stored):
    index = KeyIndex(pack_items(stored))
    assert index.first().tolist() == sorted({stored.index(key) for key in stored})
    assert index.repeated().tolist() == [row for row, key in enumerate(stored) if stored.count(key) > 1]
    numbers = index.numbers().tolist()
    assert len(set(zip(numbers, stored, strict=True))) == len(set(numbers)) == len(set(stored))
    assert set(numbers) == set(range(len(set(stored))))


def test_more_keys_than_are_looked_up_at_once_have_their_rows():
    keys = np.random.default_rng(0).integers(0, 256, (2 * AT_ONCE + 3, 16), dtype=np.uint8)
    assert (find_rows(keys, keys[::-1]) == np.arange(len(keys))[::-1]).all()


def test_many_keys_are_found_in_any_order():
    stored = [item_key(str(number)) for number in range(20_000)]
    wanted = [item_key(str(number)) for number in np.random.default_rng(0).integers(0, 30_000, size=9_000)]
    assert find_rows(pack_items(stored), pack_items(wanted)).tolist() == rows_by_dictionary(stored, wanted)


def test_every_other_row_of_an_array_is_looked_up_too():
    packed = pack_items([item_key(str(number)) for number in range(6)])
    assert find_rows(packed[::-2], packed[1::2]).tolist() == [2, 1, 0]
