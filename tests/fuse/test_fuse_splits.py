import numpy as np
import pytest

from cache import DataError, UsageError
from fuse import protocol_for

LABELS = list("ab" * 6)


def _rows(folds):
    return [(fold.name, fold.train.tolist(), fold.test.tolist()) for fold in folds]


@pytest.mark.parametrize("names", [("train", "val", "test"), ("TRAIN", " Dev ", "Testing")])
def test_own_splits_are_judged_on_test_with_validation_beside(make_labelled, names):
    protocol = protocol_for(make_labelled(LABELS, split=np.repeat(names, [6, 2, 4])))
    train = list(range(6))
    assert protocol.name == "train-test"
    assert "6 train, 2 valid, 4 test" in protocol.description
    assert _rows(protocol.judged) == [("test", train, [8, 9, 10, 11])]
    assert _rows(protocol.also) == [("valid", train, [6, 7])]


@pytest.mark.parametrize("split", [None, ["train"] * 12])
def test_without_a_part_to_judge_on_rows_are_folded(make_labelled, split):
    protocol = protocol_for(make_labelled(LABELS, split=split), folds=3)
    assert protocol.name == "stratified-group-3-fold"
    assert sorted(np.concatenate([fold.test for fold in protocol.judged])) == list(range(12))
    for fold in protocol.judged:
        assert sorted([*fold.train, *fold.test]) == list(range(12))
        assert [LABELS[row] for row in fold.test].count("a") == 2


def test_folds_never_part_a_group(make_labelled):
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 25, size=80)
    table = make_labelled(rng.choice(list("abc"), size=80), groups=groups)
    for seed in range(5):
        for fold in protocol_for(table, folds=4, seed=seed).judged:
            assert not set(groups[fold.train]) & set(groups[fold.test])


def test_seed_and_nothing_else_shuffles_the_folds(make_labelled):
    table = make_labelled(LABELS * 3)
    first, again, other = (_rows(protocol_for(table, seed=seed).judged) for seed in (0, 0, 1))
    assert first == again != other


RARE = [*LABELS, "rare", "rare"]
TRAINED = ["train"] * 10


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (RARE, {}, r"class 'rare' has 2 independent rows \(id12, id13\), fewer than 5 folds"),
        ([*RARE, *RARE[-2:] * 2], {"groups": [*range(12), *[50] * 6]}, "'rare' has 1 independent"),
        (RARE, {"split": [*TRAINED, *["test"] * 4]}, r"2 test rows .*: id12 \(rare\), id13 \(rare\)"),
        (RARE, {"split": [*TRAINED, *["val"] * 4]}, r"2 valid rows .*: id12 \(rare\), id13 \(rare\)"),
        (RARE, {"split": [*TRAINED, "test", "test", "val", "val"]}, r"2 valid rows .*: id12 \(rare\)"),
        ([*LABELS, *["rare"] * 23], {"split": ["train"] * 12 + ["test"] * 23}, r"23 test rows .* and 3 more"),
        (LABELS, {"split": [*["train"] * 3, "", *["test"] * 7, ""]}, r"2 labelled rows .* no split .*: id3, id11"),
        (LABELS, {"split": [*["train"] * 9, "left", "hold", "left"]}, r"hold, left \(3 rows\); expected train, valid"),
        (["a"] * 6, {}, r"6 labelled rows of one class \(a\)"),
    ],
    ids=["rare", "one group", "test", "valid", "beside", "many", "partial", "unknown", "one class"],
)
def test_data_that_cannot_be_judged_is_refused_with_its_rows(make_labelled, labels, options, message):
    with pytest.raises(DataError, match=message):
        protocol_for(make_labelled(labels, **options))


def test_one_fold_is_refused(make_labelled):
    with pytest.raises(UsageError, match="folds must be 2 or more, got 1"):
        protocol_for(make_labelled(LABELS), folds=1)


def test_numbers_are_folded_by_group(make_labelled):
    table = make_labelled([f"{row / 7:.3f}" for row in range(24)], groups=np.arange(24) // 3)
    protocol = protocol_for(table, folds=4, seed=1, task="regression")
    assert protocol.name == "group-4-fold"
    assert "16 rows kept with a duplicate or group of theirs" in protocol.description
    for fold in protocol.judged:
        assert not set(table.groups[fold.train]) & set(table.groups[fold.test])
    assert sorted(np.concatenate([fold.test for fold in protocol.judged])) == list(range(24))
    assert _rows(protocol.judged) != _rows(protocol_for(table, folds=4, seed=2, task="regression").judged)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (np.arange(12), "no rows kept with a duplicate or group of theirs"),
        ([0, 0, *range(1, 11)], "1 row kept with its"),
    ],
)
def test_rows_kept_together_are_counted_in_words(make_labelled, groups, said):
    assert said in protocol_for(make_labelled(list("ab" * 6), groups=groups), folds=2).description


def test_one_row_of_a_class_cannot_be_helped_by_fewer_folds(make_labelled):
    with pytest.raises(DataError, match=r"'a' has 1 independent row \(.*\), fewer than 2 folds; add rows"):
        protocol_for(make_labelled(list("abb")), folds=2)


def test_fewer_groups_than_folds_of_numbers_are_refused(make_labelled):
    table = make_labelled(["0.5", "1.5", "2.5", "3.5"], groups=[0, 0, 1, 1])
    with pytest.raises(DataError, match="2 independent labelled rows, 3 folds need as many"):
        protocol_for(table, folds=3, task="regression")


def test_labels_of_test_rows_may_be_new_numbers(make_labelled):
    table = make_labelled(["0.5", "1.5", "2.5"], split=["train", "train", "test"])
    assert protocol_for(table, task="regression").name == "train-test"
