import numpy as np
import pytest

from cache import SPLITS, UsageError, label_numbers, task_of


def test_labels_as_numbers():
    found = label_numbers(["1", "-0.5", "1e3", "good", ""])
    assert found[:3].tolist() == [1.0, -0.5, 1000.0]
    assert np.isnan(found[3:]).all()


def test_a_task_that_is_asked_for_is_not_guessed():
    assert task_of(["1.5", "2"], "classification") == "classification"
    assert task_of(["1.5", "2"]) == "regression"
    with pytest.raises(UsageError, match="no task 'ranking'"):
        task_of(["1"], "ranking")


def test_splits_mean_three_things():
    assert set(SPLITS.values()) == {"train", "valid", "test"}
    assert all(name == name.lower() for name in SPLITS)
