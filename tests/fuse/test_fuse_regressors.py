import numpy as np
import pytest

from cache import UsageError
from fuse import RidgeRegressor, make_regressor


def test_units_of_the_target_change_nothing(regressor_case, few_steps, data_of):
    table, y = data_of(regressor_case, gaps=True)
    one, other = (regressor_case.make().fit(table, target).predict(table) for target in (y, 1000 * y - 7))
    np.testing.assert_allclose(other, 1000 * one - 7, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("value", [0.0, 3.5, 1e9])
def test_constant_target_is_predicted(regressor_case, few_steps, data_of, value):
    table, _ = data_of(regressor_case, gaps=True)
    head = regressor_case.make().fit(table, np.full(60, value))
    trained = "epochs" in regressor_case.fields or regressor_case.name == "ensemble"  # a network only comes near it
    np.testing.assert_allclose(head.predict(table), value, atol=1.5 if trained else 1e-6 * max(value, 1))
    assert (head.target_mean_, head.target_scale_) == (value, 1.0)


def test_labels_of_a_table_are_texts_and_are_read_as_numbers(regressor_case, few_steps, data_of):
    table, y = data_of(regressor_case)
    by_text = regressor_case.make().fit(table, np.array([repr(float(one)) for one in y]))
    np.testing.assert_array_equal(by_text.predict(table), regressor_case.make().fit(table, y).predict(table))


def test_labels_that_are_no_numbers_are_refused(regressor_case, data_of):
    table, _ = data_of(regressor_case)
    with pytest.raises(UsageError, match=r"needs numbers as labels: .*'apple'; classify, or correct"):
        regressor_case.make().fit(table, table.y)


@pytest.mark.parametrize("kind", [list, object, "U5", np.float32, int])
def test_labels_may_be_any_kind_of_numbers(posts, kind):
    y = list(range(60)) if kind is list else np.arange(60).astype(kind)
    expected = RidgeRegressor().fit(posts, np.arange(60.0)).predict(posts)
    np.testing.assert_allclose(RidgeRegressor().fit(posts, y).predict(posts), expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_labels_that_are_not_finite_are_refused(posts, bad):
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        RidgeRegressor().fit(posts, np.r_[np.arange(59.0), bad])


def test_object_labels_that_are_no_numbers_are_refused(posts):
    with pytest.raises(ValueError, match=r"numbers|could not convert"):
        RidgeRegressor().fit(posts, posts.y.astype(object))


def test_score_is_the_share_of_variance(posts):
    y = posts.to_numpy()[:, 0]
    head = make_regressor("ridge", alpha=1e-6).fit(posts, y)
    assert head.score(posts, y) > 0.999
    weight = np.linspace(0, 1, 60)
    residual = np.average((y - head.predict(posts)) ** 2, weights=weight)
    total = np.average((y - np.average(y, weights=weight)) ** 2, weights=weight)
    assert head.score(posts, y, sample_weight=weight) == pytest.approx(1 - residual / total)
