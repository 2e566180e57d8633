import numpy as np
import pytest

from fuse import classification_metrics

# Confusion (rows true, columns predicted a, b, c): a [3 1 0], b [1 2 1], c [0 0 2]
TRUE = np.array(list("aaaabbbbcc"))
PREDICTED = np.array(list("aaababbccc"))


def test_metrics_of_a_confusion_matrix_by_hand():
    found = classification_metrics(TRUE, PREDICTED, ["a", "b", "c"])
    per_class = found.pop("per_class")
    assert per_class["b"] == pytest.approx({"precision": 2 / 3, "recall": 1 / 2, "f1": 4 / 7, "support": 4})
    assert per_class["c"] == pytest.approx({"precision": 2 / 3, "recall": 1, "f1": 4 / 5, "support": 2})
    expected = {
        "accuracy": 7 / 10,
        "macro_f1": (3 / 4 + 4 / 7 + 4 / 5) / 3,
        "weighted_f1": (4 * 3 / 4 + 4 * 4 / 7 + 2 * 4 / 5) / 10,
        "balanced_accuracy": (3 / 4 + 2 / 4 + 1) / 3,
        "n": 10,
    }
    assert found == pytest.approx(expected)


def test_class_that_does_not_occur_is_listed_but_not_averaged():
    found, plain = (classification_metrics(TRUE, PREDICTED, list(classes)) for classes in ("abcd", "abc"))
    assert found.pop("per_class")["d"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
    del plain["per_class"]
    assert found == plain
