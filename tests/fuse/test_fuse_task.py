import numpy as np
import pytest

from cache import DataError, UsageError
from fuse import task_of
from fuse.task import targets


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        (["good", "bad"], "classification"),
        (["0", "1", "2"], "classification"),
        (["-1", "1.0"], "classification"),
        (["0.5", "1"], "regression"),
        ([str(number) for number in range(21)], "regression"),
        ([str(number) for number in range(20)], "classification"),
        (["0.5", "good"], "classification"),
        (["0.5", "nan"], "classification"),
        (["1e-3", "2"], "regression"),
        ([], "classification"),
    ],
)
def test_task_goes_by_the_labels(labels, task):
    assert task_of(np.array(labels, dtype=str)) == task


def test_what_is_asked_for_wins():
    assert task_of(np.array(["0.5", "1.5"]), "classification") == "classification"
    assert task_of(np.array(["a", "b"]), "regression") == "regression"
    with pytest.raises(UsageError, match="no task 'ranking'; choose one of classification, regression"):
        task_of(np.array(["a"]), "ranking")


def test_labels_that_are_no_numbers_are_listed(make_labelled):
    table = make_labelled(["1.5", "good", "inf", "2"])
    with pytest.raises(DataError, match=r"2 rows of posts have others: id1 \(good\), id2 \(inf\)"):
        targets(table, "regression")
    np.testing.assert_array_equal(targets(table[[0, 3]], "regression"), [1.5, 2.0])
    assert targets(table, "classification").tolist() == ["1.5", "good", "inf", "2"]
