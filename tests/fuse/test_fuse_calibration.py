import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, roc_auc_score

from fuse.calibration import (
    expected_calibration_error,
    fit_temperature,
    probability_metrics,
    reliability,
    tempered,
)


@pytest.fixture
def judged():
    """True classes drawn from probabilities, and these made surer by a temperature of 1 / 2."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4000, 3))
    proba = softmax(scores, axis=1)
    true = np.array([rng.choice(3, p=one) for one in proba])
    return true, softmax(2 * scores, axis=1)


def test_error_is_a_loop_over_bins(judged):
    true, proba = judged
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (proba.max(axis=1) > low) & (proba.max(axis=1) <= low + 1 / 15)
        if inside.any():
            gap = np.mean(proba.argmax(axis=1)[inside] == true[inside]) - proba.max(axis=1)[inside].mean()
            expected += inside.mean() * abs(gap)
    assert expected_calibration_error(true, proba) == pytest.approx(expected)


def test_reliability_is_sklearns_curve_of_the_top_class(judged):
    true, proba = judged
    found = reliability(true, proba, bins=10)
    accuracy, confidence = calibration_curve(proba.argmax(axis=1) == true, proba.max(axis=1), n_bins=10)
    np.testing.assert_allclose(found.accuracy, accuracy)
    np.testing.assert_allclose(found.confidence, confidence)
    assert found.share.sum() == pytest.approx(1)
    assert len(found.share) == 7  # of three classes none is surest below a third


def test_bins_hold_their_upper_end():
    proba = np.array([[0.5, 0.5], [0.51, 0.49], [1.0, 0.0]])
    found = reliability(np.array([0, 1, 0]), proba, bins=2)
    assert found.confidence.tolist() == pytest.approx([0.5, 0.755])
    assert found.accuracy.tolist() == [1.0, 0.5]
    assert found.share.tolist() == pytest.approx([1 / 3, 2 / 3])


def test_temperature_undoes_what_made_probabilities_too_sure(judged):
    true, proba = judged
    found = fit_temperature(proba, true)
    assert found == pytest.approx(2, rel=0.1)
    best = minimize_scalar(lambda t: log_loss(true, softmax(np.log(proba) / t, axis=1)), bounds=(0.5, 9)).x
    assert found == pytest.approx(best, rel=1e-3)
    cooled = tempered(proba, found)
    np.testing.assert_array_equal(cooled.argmax(axis=1), proba.argmax(axis=1))
    assert expected_calibration_error(true, cooled) < 0.03 < expected_calibration_error(true, proba)
    np.testing.assert_allclose(tempered(proba, 1.0), proba, atol=1e-12)


def test_metrics_are_sklearns_and_the_formulas(judged):
    true, proba = judged
    names = np.array(["b", "c", "a"])  # in the order of the columns, which sklearn would sort
    found = probability_metrics(names[true], proba.astype(np.float32), names.tolist())
    expected = {
        "auroc": roc_auc_score(true, proba, multi_class="ovr"),
        "nll": -np.log(proba[np.arange(len(true)), true]).mean(),
        "brier": np.sum((proba - np.eye(3)[true]) ** 2, axis=1).mean(),
        "ece": expected_calibration_error(true, proba),
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_metrics_of_two_classes():
    true, proba = np.array([0, 0, 1, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5], [0.2, 0.8]])
    found = probability_metrics(true, proba, [0, 1])
    assert found["auroc"] == 0.75
    assert found["brier"] == pytest.approx(np.mean((proba[:, 1] - true) ** 2))


@pytest.mark.parametrize("true", [[0, 0, 0], [1, 1, 1], [0, 1, 0]])
def test_degenerate_rows_give_numbers(true):
    sure = np.tile([1.0, 0.0, 0.0], (3, 1))
    found = probability_metrics(np.array(true), sure, [0, 1, 2])
    wrong = np.mean(np.array(true) != 0)
    assert found["auroc"] is None  # a class has no row
    assert found["nll"] == pytest.approx(wrong * -np.log(np.finfo(float).eps), abs=1e-9)
    assert found["brier"] == pytest.approx(2 * wrong)
    assert found["ece"] == pytest.approx(wrong)
    temperature = fit_temperature(sure, np.array(true))
    assert 0.01 <= temperature <= 100.01
    np.testing.assert_allclose(tempered(sure, temperature).sum(axis=1), 1)


def test_temperature_of_one_class_is_one():
    assert fit_temperature(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 0])) == 1.0


def test_one_class_in_all_is_always_right():
    found = probability_metrics(np.zeros(3, dtype=int), np.ones((3, 1)), [0])
    assert found == {"auroc": None, "nll": 0.0, "brier": 0.0, "ece": 0.0}


def test_labels_that_are_no_class_are_refused():
    with pytest.raises(ValueError, match="'z'"):
        probability_metrics(np.array(["a", "z"]), np.full((2, 2), 0.5), ["a", "b"])
    with pytest.raises(ValueError, match="probabilities"):
        probability_metrics(np.array(["a", "b"]), np.full((2, 3), 1 / 3), ["a", "b"])
