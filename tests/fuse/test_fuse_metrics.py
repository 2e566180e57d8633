import numpy as np
import pytest

from fuse import classification_metrics, regression_metrics

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
        "weighted_precision": (4 * 3 / 4 + 4 * 2 / 3 + 2 * 2 / 3) / 10,
        "weighted_recall": 7 / 10,
        "balanced_accuracy": (3 / 4 + 2 / 4 + 1) / 3,
        "n": 10,
    }
    assert found == pytest.approx(expected)


def test_class_that_does_not_occur_is_listed_but_not_averaged():
    found, plain = (classification_metrics(TRUE, PREDICTED, list(classes)) for classes in ("abcd", "abc"))
    assert found.pop("per_class")["d"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
    del plain["per_class"]
    assert found == plain


def _weighted_f1(true, predicted):
    """Mean of both sides' F1 by how many rows truly lie there."""
    total = 0.0
    for side in (True, False):
        hits = np.sum((true == side) & (predicted == side))
        f1 = 2 * hits / max(np.sum(true == side) + np.sum(predicted == side), 1)
        total += f1 * np.mean(true == side)
    return total


def test_metrics_of_sentiment_are_the_formulas():
    rng = np.random.default_rng(0)
    true = np.r_[rng.uniform(-3.4, 3.4, 80), np.zeros(10), 0.5, 1.5, 2.5, -0.5]
    predicted = true + rng.normal(size=len(true))
    predicted[:3] = [0.0, -0.0, 7.0]
    found = regression_metrics(true, predicted)
    rest = true != 0
    sides = {
        "has0": (true >= 0, predicted >= 0),
        "non0": (true[rest] > 0, predicted[rest] > 0),
        "gt0": (true > 0, predicted > 0),
    }
    for name, (a, b) in sides.items():
        assert found[f"acc2_{name}"] == pytest.approx(np.mean(a == b))
        assert found[f"f1_{name}"] == pytest.approx(_weighted_f1(a, b))
    assert found["mae"] == pytest.approx(np.abs(true - predicted).mean())
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((true - predicted) ** 2)))
    assert found["corr"] == pytest.approx(np.corrcoef(true, predicted)[0, 1])
    assert found["r2"] == pytest.approx(1 - np.sum((true - predicted) ** 2) / np.sum((true - true.mean()) ** 2))
    assert found["acc7"] == pytest.approx(np.mean(np.rint(np.clip(predicted, -3, 3)) == np.rint(np.clip(true, -3, 3))))
    assert found["n"] == len(true)


def test_halves_are_rounded_to_even():
    assert regression_metrics(np.array([0.5, 1.5, 2.5, -0.5]), np.array([0.0, 2.0, 2.0, 0.0]))["acc7"] == 1


def test_perfect_predictions_score_one_by_every_convention():
    true = np.array([-2.0, -0.4, 0.0, 0.0, 1.0, 3.0])
    found = regression_metrics(true, true)
    assert [found[key] for key in found if key.startswith(("acc", "f1", "corr", "r2"))] == [1.0] * 9
    assert found["mae"] == found["rmse"] == 0


def test_what_is_not_defined_is_none():
    constant = regression_metrics(np.array([0.0, 0.0, 0.0]), np.array([1.0, 2.0, 3.0]))
    assert (constant["corr"], constant["acc2_non0"], constant["f1_non0"]) == (None, None, None)
    assert regression_metrics(np.array([1.0]), np.array([2.0]))["r2"] is None
    nearly = np.array([0.1, np.nextafter(0.1, 1), 0.1])
    assert regression_metrics(np.array([1.0, 3.0, 2.0]), nearly)["corr"] is None
    assert regression_metrics(nearly, np.array([1.0, 3.0, 2.0]))["corr"] is None
    far = 1e9 + np.array([0.0, 1.0, 2.0])
    assert regression_metrics(far, far)["corr"] == pytest.approx(1)
