import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import plan_extraction

items = st.lists(st.integers(0, 15).map(lambda number: bytes([number])), max_size=20)


@given(items, items, items)
@settings(deadline=None, derandomize=True, database=None)
def test_every_wanted_item_is_missing_reused_or_refused_once(wanted, stored, bad):
    plan = plan_extraction(wanted, stored, bad)
    assert list(plan.missing) == sorted(set(wanted) - set(stored) - set(bad))
    assert list(plan.refused) == sorted((set(wanted) & set(bad)) - set(stored))
    assert len(plan.missing) + plan.reused + len(plan.refused) == len(set(wanted))


@given(items, items, items, st.randoms(use_true_random=False))
@settings(deadline=None, derandomize=True, database=None)
def test_order_and_repeats_do_not_matter(wanted, stored, bad, random):
    plan = plan_extraction(wanted, stored, bad)
    for column in (wanted, stored, bad):
        column.extend(column[:3])
        random.shuffle(column)
    assert plan_extraction(wanted, set(stored), bad) == plan


@pytest.mark.parametrize(
    ("stored", "bad", "action"),
    [
        ([], [], "create"),
        ([b"z"], [], "create"),
        ([b"a"], [], "resume"),
        ([b"a", b"b", b"z"], [], "reuse"),
        ([b"a"], [b"b"], "reuse"),
    ],
)
def test_the_action_follows_from_what_is_stored(stored, bad, action):
    plan = plan_extraction([b"b", b"a"], stored, bad)
    assert plan.action == action
    assert plan.reason


def test_a_stored_item_is_reused_though_it_failed_once():
    plan = plan_extraction([b"a"], [b"a"], [b"a"])
    assert (plan.reused, plan.refused, plan.missing) == (1, (), ())
