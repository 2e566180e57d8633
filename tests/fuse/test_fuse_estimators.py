import pickle

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from cache import FeatureTable, UsageError
from fuse import HEADS, make_classifier

FOLDS = StratifiedKFold(2)


def _make(name, **params):
    return make_classifier(name, **params, **({"random_state": 0} if name == "mlp" else {}))


@parametrize_with_checks([_make(name) for name in HEADS])
def test_sklearn_contract(estimator, check):
    check(estimator)


@pytest.fixture(params=HEADS)
def name(request):
    return request.param


def test_clone_forgets_and_pickle_keeps_every_bit(name, posts, tmp_path):
    head = _make(name, class_weight="balanced").fit(posts, posts.y)
    assert clone(head).get_params() == head.get_params()
    with pytest.raises(NotFittedError):
        clone(head).predict(posts)
    joblib.dump(head, tmp_path / "head.joblib")
    for copy in (pickle.loads(pickle.dumps(head)), joblib.load(tmp_path / "head.joblib")):  # noqa: S301
        np.testing.assert_array_equal(copy.predict_proba(posts), head.predict_proba(posts))


def test_cross_val_score_agrees_over_table_and_array(name, posts):
    over_table = cross_val_score(_make(name), posts, posts.y, cv=FOLDS)
    over_array = cross_val_score(_make(name, blocks=posts.blocks), posts.to_numpy(), posts.y, cv=FOLDS)
    np.testing.assert_array_equal(over_table, over_array)
    assert over_table.mean() > 0.45  # chance is a third


@pytest.mark.parametrize("array", [False, True])
def test_grid_search_with_two_processes_equals_one(posts, array):
    X, blocks = (posts.to_numpy(), posts.blocks) if array else (posts, None)
    grid = {"C": [1e-6, 0.1, 10.0]}
    one, two = (
        GridSearchCV(_make("vote", blocks=blocks), grid, cv=FOLDS, n_jobs=jobs).fit(X, posts.y) for jobs in (1, 2)
    )
    np.testing.assert_array_equal(one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"])
    assert two.predict(X).shape == (60,)


@pytest.mark.parametrize("array", [False, True])
def test_pipeline_after_a_scaler(name, posts, array):
    X = posts.to_numpy() if array else posts
    head = _make(name, blocks=posts.blocks)
    scaled = StandardScaler().fit_transform(posts.to_numpy())
    pipe = make_pipeline(StandardScaler(), clone(head)).fit(X, posts.y)
    np.testing.assert_array_equal(pipe.predict_proba(X), head.fit(scaled, posts.y).predict_proba(scaled))


def test_weight_zero_equals_removal(name, gappy):
    weight = np.where(np.arange(60) % 4 == 0, 0.0, np.linspace(0.5, 2, 60))
    kept = weight > 0
    weighted = _make(name).fit(gappy, gappy.y, sample_weight=weight)
    removed = _make(name).fit(gappy[kept], gappy.y[kept], sample_weight=weight[kept])
    np.testing.assert_array_equal(weighted.predict_proba(gappy), removed.predict_proba(gappy))


def test_negative_weights_are_refused(posts):
    with pytest.raises(ValueError, match=r"(?i)negative"):
        _make("logreg").fit(posts, posts.y, sample_weight=np.where(np.arange(60) < 5, -1.0, 1.0))


@pytest.mark.parametrize("weight", [-2.0, -0.5, np.nan, np.inf])
def test_class_weights_that_are_no_weights_are_refused(posts, weight):
    with pytest.raises(UsageError, match="class_weight"):
        _make("logreg", class_weight={"apple": weight}).fit(posts, posts.y)


def test_balanced_equals_explicit_weights(name, gappy):
    few = np.r_[0:60:3, 1:30:3, 2:15:3]  # 20, 10 and 5 rows
    table, y = gappy[few], gappy.y[few]
    by_label = {"apple": 35 / 60, "berry": 35 / 30, "cherry": 35 / 15}
    balanced = _make(name, class_weight="balanced").fit(table, y).predict_proba(table)
    by_row = _make(name).fit(table, y, sample_weight=[by_label[label] for label in y])
    for other in (_make(name, class_weight=by_label).fit(table, y), by_row):
        np.testing.assert_allclose(other.predict_proba(table), balanced, atol=1e-9)
    assert np.abs(_make(name).fit(table, y).predict_proba(table) - balanced).max() > 1e-3


def test_row_does_not_depend_on_its_neighbours(name, gappy):
    head = _make(name).fit(gappy, gappy.y)
    together = head.predict_proba(gappy)
    alone = np.vstack([head.predict_proba(gappy[row : row + 1]) for row in range(60)])
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-12)


def test_filler_of_missing_rows_changes_no_prediction(name, gappy, monkeypatch):
    expected = _make(name).fit(gappy, gappy.y).predict_proba(gappy)
    plain = FeatureTable.to_numpy
    monkeypatch.setattr(FeatureTable, "to_numpy", lambda table, missing=1e6: plain(table, missing))
    assert (gappy.to_numpy() == 1e6).any()
    np.testing.assert_array_equal(_make(name).fit(gappy, gappy.y).predict_proba(gappy), expected)


def test_one_class_is_refused_by_its_name(name, posts):
    with pytest.raises(UsageError, match=r"two classes.*apple"):
        _make(name).fit(posts[::3], posts.y[::3])
