import numpy as np
import pytest
from sklearn.svm import SVR, LinearSVC, LinearSVR

from fuse import LinearSVMClassifier, LinearSVMRegressor

WEIGHT = np.linspace(0.5, 2, 60)
LIBLINEAR = {"tol": 1e-8, "max_iter": 1_000_000, "intercept_scaling": 100.0}  # hardly penalises the intercept


def _close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2 * np.abs(expected).max())


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("C", [0.1, 5.0])
def test_classifier_is_liblinears(signal, zscore, make_table, n_classes, C):
    vectors, y = signal(n_classes)
    table, z = make_table(vectors, y), zscore(vectors)
    head = LinearSVMClassifier(C=C).fit(table, y)
    reference = LinearSVC(C=C, dual=False, **LIBLINEAR).fit(z, y)
    scores = z @ head.coef_.T + head.intercept_
    _close(scores[:, 1] if n_classes == 2 else scores, reference.decision_function(z))
    assert (head.predict(table) == reference.predict(z)).mean() > 0.98


def test_two_classes_score_as_opposites(signal, make_table):
    vectors, y = signal(2)
    head = LinearSVMClassifier().fit(make_table(vectors, y), y)
    np.testing.assert_allclose(head.coef_[0], -head.coef_[1], atol=1e-3)
    np.testing.assert_allclose(head.intercept_[0], -head.intercept_[1], atol=1e-3)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_regressor_is_liblinears(signal, zscore, posts, epsilon, weight):
    y = 100 + 7 * posts.to_numpy()[:, 0] + np.random.default_rng(0).normal(size=60)
    head = LinearSVMRegressor(C=2.0, epsilon=epsilon).fit(posts, y, sample_weight=weight)
    z = (posts.to_numpy() - head.scaler_.mean_) / head.scaler_.scale_
    target = (y - head.target_mean_) / head.target_scale_
    reference = LinearSVR(C=2.0, epsilon=epsilon, loss="squared_epsilon_insensitive", dual=False, **LIBLINEAR)
    reference.fit(z, target, sample_weight=weight)
    _close(head.predict(posts), reference.predict(z) * head.target_scale_ + head.target_mean_)


def test_objective_is_a_minimum(posts):
    head = LinearSVMRegressor(C=3.0, epsilon=0.1, tol=1e-8).fit(posts, posts.to_numpy()[:, 0])
    z = (posts.to_numpy() - head.scaler_.mean_) / head.scaler_.scale_
    target = (posts.to_numpy()[:, 0] - head.target_mean_) / head.target_scale_

    def objective(coef, intercept):
        off = np.maximum(np.abs(z @ coef + intercept - target) - 0.1, 0)
        return 0.5 * coef @ coef + 3 * np.sum(off**2)

    coef, intercept = head.coef_[0], head.intercept_[0]
    least, rng = objective(coef, intercept), np.random.default_rng(0)
    for size in (1e-1, 1e-3):
        for _ in range(50):
            assert objective(coef + size * rng.normal(size=10), intercept + size * rng.normal()) >= least


def test_errors_below_epsilon_cost_nothing(posts):
    y = np.where(np.arange(60) % 2 == 0, 1.0, -1.0)
    head = LinearSVMRegressor(epsilon=1.5).fit(posts, y)
    np.testing.assert_allclose(head.coef_, 0, atol=1e-6)
    assert SVR(kernel="linear", epsilon=1.5).fit(posts.to_numpy(), y).support_.size == 0
