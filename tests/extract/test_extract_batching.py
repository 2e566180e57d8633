from hypothesis import given
from hypothesis import strategies as st

from extract.batching import Budget, plan_batches

COSTS = st.lists(st.integers(0, 40), max_size=60)
BUDGETS = st.builds(Budget, cost=st.integers(1, 100), items=st.integers(1, 20))


@given(COSTS, BUDGETS)
def test_every_item_stands_in_one_batch_and_the_budget_is_kept(costs: list[int], budget: Budget):
    batches = plan_batches(costs, budget)
    assert sorted(item for batch in batches for item in batch) == list(range(len(costs)))
    for batch in batches:
        assert 1 <= len(batch) <= budget.items
        assert len(batch) == 1 or len(batch) * max(costs[item] for item in batch) <= budget.cost


@given(COSTS, BUDGETS)
def test_only_small_batches_are_padded_much(costs: list[int], budget: Budget):
    for batch in plan_batches(costs, budget):
        padded = len(batch) * max(1, *(costs[item] for item in batch), 1)
        wasted = padded - sum(costs[item] for item in batch)
        assert len(batch) == 1 or wasted <= 0.1 * padded or padded * 8 <= budget.cost


@given(COSTS, BUDGETS)
def test_costliest_first_and_equal_costs_keep_their_order(costs: list[int], budget: Budget):
    order = [item for batch in plan_batches(costs, budget) for item in batch]
    assert order == sorted(range(len(costs)), key=lambda item: -costs[item])
    assert plan_batches(costs, budget) == plan_batches(list(costs), budget)


def test_batches_are_filled():
    assert plan_batches([1] * 10, Budget(cost=8, items=4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert plan_batches([5, 5, 9, 5], Budget(cost=10, items=4)) == [[2], [0, 1], [3]]
    assert plan_batches([99], Budget(cost=10, items=4)) == [[0]]
    assert plan_batches([], Budget(cost=10, items=4)) == []
