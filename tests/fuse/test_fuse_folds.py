import numpy as np
import pytest

from cache import UsageError
from fuse.folds import inner_folds, out_of_fold
from fuse.inputs import Inputs

RNG = np.random.default_rng(2)


def _inputs(groups=None, n=None):
    n = len(groups) if n is None else n
    groups = None if groups is None else np.asarray(groups, dtype=np.int64)
    return Inputs({"text": np.arange(2.0 * n).reshape(n, 2)}, {"text": np.ones(n, dtype=bool)}, groups=groups)


def _folds(inputs, target, folds=5, seed=0, weight=None):
    return inner_folds(inputs, np.asarray(target), np.ones(len(inputs)) if weight is None else weight, folds, seed)


@pytest.fixture
def posts_of_users():
    """90 rows of 30 users, each of one of 3 classes: groups and class numbers."""
    groups = RNG.permutation(np.repeat(np.arange(30) * 7919, 3))
    return groups, groups // 7919 % 3


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_groups_are_whole_and_each_class_is_dealt_evenly(posts_of_users, folds):
    groups, target = posts_of_users
    found = _folds(_inputs(groups), target, folds)
    assert set(found) == set(range(folds))
    for group in np.unique(groups):
        assert len(set(found[groups == group])) == 1
    for kind in range(3):
        counts = [len(np.unique(groups[(target == kind) & (found == fold)])) for fold in range(folds)]
        assert max(counts) - min(counts) <= 1


def test_groups_of_unequal_classes_are_dealt_evenly_too():
    target = np.repeat([0, 1, 2], [31, 9, 4])
    found = _folds(_inputs(np.arange(44)), target)
    for kind in range(3):
        counts = np.bincount(found[target == kind], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert np.ptp(np.bincount(found)) <= 1


def test_numbers_to_predict_are_dealt_evenly_too():
    found = _folds(_inputs(np.arange(52)), RNG.normal(size=52), folds=5)
    assert sorted(np.bincount(found)) == [10, 10, 10, 11, 11]


@pytest.mark.parametrize("given", [True, False])
def test_neither_the_order_of_rows_nor_repetition_changes_the_fold_of_one(posts_of_users, given):
    groups, target = posts_of_users
    inputs = _inputs(groups if given else None, 90)
    expected = _folds(inputs, target)
    shuffled = RNG.permutation(np.r_[np.arange(90), np.arange(0, 90, 4)])
    np.testing.assert_array_equal(_folds(inputs.keep(shuffled), target[shuffled]), expected[shuffled])


def test_weights_count_as_repetition():
    groups, target = [0, 0, 0, 1, 1, 2, 3, 4, 5], np.array([0, 0, 1, 0, 1, 0, 1, 0, 1])
    weight = np.array([1, 1, 3, 1, 2, 1, 1, 1, 1.0])
    rows = np.repeat(np.arange(9), weight.astype(int))
    weighted = _folds(_inputs(groups), target, 2, weight=weight)
    np.testing.assert_array_equal(_folds(_inputs(groups).keep(rows), target[rows], 2), weighted[rows])


def test_the_seed_deals_anew(posts_of_users):
    groups, target = posts_of_users
    first, again, other = (_folds(_inputs(groups), target, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_rows_of_equal_content_share_a_fold():
    inputs = _inputs(n=20)
    twice = inputs.keep(np.r_[np.arange(20), np.arange(20)])
    assert len(np.unique(twice.row_groups())) == 20
    np.testing.assert_array_equal(*np.split(_folds(twice, np.zeros(40, dtype=int)), 2))


def test_content_is_that_of_all_modalities_and_tokens():
    ones = np.ones((3, 2))
    masks = {"text": np.ones(3, dtype=bool), "image": np.ones(3, dtype=bool)}
    inputs = Inputs({"text": ones, "image": np.array([[1.0], [1.0], [2.0]])}, masks)
    groups = inputs.row_groups()
    assert groups[0] == groups[1] != groups[2]


def test_a_single_group_is_refused():
    with pytest.raises(UsageError, match="two groups of rows or more; found 1"):
        _folds(_inputs([3, 3, 3]), [0, 1, 0])


def test_fewer_groups_than_folds_leave_folds_empty():
    assert sorted(_folds(_inputs([1, 2, 3]), [0, 0, 0])) == [0, 1, 2]


def test_out_of_fold_predictions_are_those_of_models_that_did_not_see_the_row():
    fold = np.array([0, 1, 2, 0, 1, 2, 2])
    seen = []

    def predict(train, held):
        seen.append((set(train), set(held)))
        return np.column_stack([held, np.full(len(held), len(train))])

    out = out_of_fold(predict, fold)
    np.testing.assert_array_equal(out[:, 0], np.arange(7))
    np.testing.assert_array_equal(out[:, 1], 7 - np.bincount(fold)[fold])
    assert all(train | held == set(range(7)) and not train & held for train, held in seen)
