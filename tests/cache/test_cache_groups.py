import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from cache import NO_ITEM, item_key, joined_groups, key_links, linked_groups, pack_items

columns_of = st.integers(0, 12).flatmap(
    lambda n: st.tuples(
        st.just(n), st.lists(st.lists(st.none() | st.integers(0, 8), min_size=n, max_size=n), max_size=3)
    )
)


def components(n, columns):
    """Numbers of the connected components, by first appearance."""
    pairs = [
        (a, b)
        for column in columns
        for a, b in itertools.combinations(range(n), 2)
        if column[a] is not None and column[a] == column[b]
    ]
    a, b = np.array(pairs, dtype=int).reshape(-1, 2).T
    _, labels = connected_components(coo_matrix((np.ones(len(a)), (a, b)), shape=(n, n)), directed=False)
    first = {label: number for number, label in enumerate(dict.fromkeys(labels.tolist()))}
    return [first[label] for label in labels]


@given(columns_of)
@settings(deadline=None, derandomize=True, database=None)
def test_groups_are_the_connected_components_numbered_by_first_appearance(case):
    n, columns = case
    assert joined_groups(n, columns).tolist() == (components(n, columns) if n else [])


@given(columns_of)
@settings(deadline=None, derandomize=True, database=None)
def test_keys_join_as_the_values_that_they_stand_for(case):
    n, columns = case
    keys = [pack_items([NO_ITEM if one is None else item_key(str(one)) for one in column]) for column in columns]
    assert linked_groups(n, [key_links([one]) for one in keys]).tolist() == joined_groups(n, columns).tolist()


def test_keys_of_two_columns_join_across_them():
    columns = [pack_items(map(item_key, "abcd")), pack_items(map(item_key, "xaxy"))]
    assert linked_groups(4, [key_links(columns)]).tolist() == [0, 0, 0, 1]


def test_samples_without_a_value_join_nothing():
    assert joined_groups(3, [[None, None, None], [None, "a", None]]).tolist() == [0, 1, 2]


def test_a_chain_over_two_columns_is_one_group_however_long():
    n = 5000
    columns = [[number // 2 for number in range(n)], [(number + 1) // 2 for number in range(n)]]
    assert not joined_groups(n, columns).any()
