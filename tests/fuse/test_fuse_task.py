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
        ([f"2024_{number:02}" for number in range(25)], "classification"),  # numbers to Python
        ([*"0123456789abcdefghij"], "classification"),
        (["iPhone", "Pixel", "3.5"], "classification"),
        ([f"{year}_{month:02d}" for year in (2020, 2021) for month in range(1, 13)], "classification"),
        (["1_2", "12"], "classification"),
    ],
)
def test_task_goes_by_the_labels(labels, task):
    assert task_of(np.array(labels, dtype=str)) == task


@pytest.mark.parametrize("stray", ["n/a", "nan", "inf", "high", "1,5"])
def test_a_word_among_quantities_is_refused_and_not_made_a_class(stray):
    labels = np.array(["1.5", "2", "-0.25", stray, "3"], dtype=object)
    with pytest.raises(DataError, match=rf"4 of 5 labels are numbers such as 1\.5, .*: '{stray}' \(1 rows\)"):
        task_of(labels)
    with pytest.raises(DataError, match="give --task classification"):
        task_of(np.array([*map(str, range(40)), stray], dtype=object))
    assert task_of(labels, "classification") == "classification"
    assert task_of(labels, "regression") == "regression"  # `targets` lists the rows


@pytest.mark.parametrize("asked", [None, "classification"])
def test_one_number_in_two_spellings_is_refused_as_two_classes(asked):
    labels = np.array(["1", "2", "1.0", "1"], dtype=object)
    with pytest.raises(DataError, match=r"'1' \(2 rows\) and '1\.0' \(1 rows\) are one number in two spellings"):
        task_of(labels, asked)
    assert task_of(labels, "regression") == "regression"
    assert task_of(np.array(["nan", "NaN", "a"], dtype=object)) == "classification"


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
