import dataclasses
import pickle
from functools import partial

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cache import FeatureTable, UsageError
from fuse import ConcatMLPClassifier, make_classifier

FOLDS = KFold(2, shuffle=True, random_state=0)
ACCURATE = ("check_classifiers_train", "check_regressors_train", "check_class_weight_classifiers")
"""Checks of how well a head learns: only these need more than a few steps of training."""


def test_sklearn_contract(estimator, check, monkeypatch):
    accurate = getattr(check, "func", check).__name__ in ACCURATE
    monkeypatch.setattr("fuse.training.MIN_STEPS", 120 if accurate else 1)
    if not accurate and hasattr(estimator, "epochs"):
        estimator.set_params(epochs=2)
    assert check(estimator) is None


def test_parameters_are_the_fields_and_no_more(case):
    head = case.make()
    assert set(head.get_params()) == {field.name for field in dataclasses.fields(case.type)}
    for name, value in head.get_params().items():
        assert clone(head).set_params(**{name: "other"}).get_params() == head.get_params() | {name: "other"}
        assert clone(head).get_params()[name] == value
    with pytest.raises(ValueError, match=r"[Ii]nvalid parameter 'depth_of_sea'"):
        head.set_params(depth_of_sea=1)


def test_clone_forgets_and_pickle_keeps_every_bit(case, data, tmp_path):
    table, y = data(gaps=True)
    head = case.make().fit(table, y)
    assert clone(head).get_params() == head.get_params()
    with pytest.raises(NotFittedError):
        clone(head).predict(table)
    joblib.dump(head, tmp_path / "head.joblib")
    for copy in (pickle.loads(pickle.dumps(head)), joblib.load(tmp_path / "head.joblib")):  # noqa: S301
        np.testing.assert_array_equal(case.output(copy, table), case.output(head, table))


def test_equal_settings_give_equal_bits(case, data):
    table, y = data(gaps=True)
    one, other = (case.make().fit(table, y) for _ in range(2))
    np.testing.assert_array_equal(case.output(one, table), case.output(other, table))
    np.testing.assert_array_equal(case.output(one.fit(table, y), table), case.output(other, table))


def test_fit_leaves_parameters_and_rows_as_they_were(case, data):
    table, y = data()
    X, blocks = table.to_numpy(), dict(table.blocks)
    head = case.make(array=True, blocks=blocks)
    before, rows = {name: repr(value) for name, value in head.get_params().items()}, X.copy()
    head.fit(X, y)
    assert {name: repr(value) for name, value in head.get_params().items()} == before
    assert blocks == table.blocks
    np.testing.assert_array_equal(X, rows)


def test_learned_state_ends_in_an_underscore(case, data):
    table, y = data()
    head = case.make()
    before = set(vars(head))
    learned = set(vars(head.fit(table, y))) - before
    assert [name for name in learned if not name.endswith("_")] == []
    assert "n_features_in_" in learned


def test_cross_val_score_agrees_over_table_and_array(case, make_table, signal, data):
    table, y = make_table(*signal()), data()[1]
    with config_context(enable_metadata_routing=True):
        kept = {"params": {"groups": table.groups}}  # rows that are held out while fitting depend on them
        head = case.make(array=True, blocks=table.blocks).set_fit_request(groups=True)
        over_array = cross_val_score(head, table.to_numpy(), y, cv=FOLDS, **kept)
    assert np.isfinite(over_array).all()
    if not case.reads_tokens:  # a table's tokens are its own, and this one has none
        np.testing.assert_array_equal(cross_val_score(case.make(), table, y, cv=FOLDS), over_array)


def test_grid_search_over_a_table_and_over_an_array(case, data):
    table, y = data()
    grid = {"class_weight": [None, "balanced"]} if case.kind == "classifier" else {"blocks": [None]}
    over_table = GridSearchCV(case.make(), grid, cv=FOLDS, error_score="raise").fit(table, y)
    assert len(over_table.predict(table)) == 60
    grid["blocks"] = [table.blocks]
    over_array = GridSearchCV(case.make(array=True), grid, cv=FOLDS, error_score="raise").fit(table.to_numpy(), y)
    assert over_array.best_estimator_.blocks_ == table.blocks


@pytest.mark.slow
def test_grid_search_with_two_processes_equals_one_and_maps_what_is_big(posts):
    for X, blocks in ((posts, None), (posts.to_numpy(), posts.blocks)):
        for head, grid in (
            (make_classifier("vote", blocks=blocks), {"C": [1e-6, 0.1, 10.0]}),
            (ConcatMLPClassifier((4,), epochs=2, random_state=0, blocks=blocks), {"learning_rate": [1e-5, 1e-2]}),
        ):
            search = partial(GridSearchCV, head, grid, cv=FOLDS, error_score="raise")
            one, two = (search(n_jobs=jobs).fit(X, posts.y) for jobs in (1, 2))
            np.testing.assert_array_equal(one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"])
            assert one.cv_results_["mean_test_score"].std() > 0
            np.testing.assert_array_equal(one.predict_proba(X), two.predict_proba(X))
    big = np.zeros((2000, 128))
    assert joblib.Parallel(2)(joblib.delayed(type)(big) for _ in range(2)) == [np.memmap] * 2


def test_a_table_goes_to_workers_without_its_vectors(make_table, aligned_tokens):
    vectors = {name: np.random.default_rng(0).normal(size=(200, 1024)) for name in ("text", "image")}
    tokens = {name: [np.tile(row, (4, 1)) for row in x] for name, x in vectors.items()}
    table = make_table(vectors, list("ab") * 100, tokens=tokens)
    head = make_classifier("vote").fit(table, table.y)
    np.testing.assert_array_equal(table.to_numpy()[:, 1024:], vectors["image"])  # has read its files
    assert len(pickle.dumps(table)) < 0.01 * table.to_numpy().nbytes
    again = pickle.loads(pickle.dumps(table[50:60]))  # noqa: S301
    np.testing.assert_array_equal(head.predict_proba(again), head.predict_proba(table)[50:60])


@pytest.mark.parametrize("array", [False, True])
def test_pipeline_after_a_scaler_that_gives_data_frames(case, data, array):
    table, y = data()
    X = table.to_numpy() if array else table
    head = case.make(array=True, blocks=table.blocks)
    scaler = StandardScaler().set_output(transform="pandas")
    pipe = make_pipeline(scaler, clone(head)).fit(X, y)
    scaled = StandardScaler().fit_transform(table.to_numpy())
    np.testing.assert_array_equal(case.output(pipe, X), case.output(head.fit(scaled, y), scaled))
    assert list(pipe[-1].feature_names_in_) == [f"x{column}" for column in range(10)]
    assert not hasattr(head, "set_output")


def test_data_frame_of_other_columns_is_refused(case, data):
    table, y = data()
    frame = pd.DataFrame(table.to_numpy(), columns=[f"column {number}" for number in range(10)])
    head = case.make(array=True, blocks=table.blocks).fit(frame, y)
    assert (head.n_features_in_, list(head.feature_names_in_)) == (10, list(frame.columns))
    assert len(head.predict(frame)) == 60
    with pytest.raises(ValueError, match="feature names"):
        head.predict(frame[frame.columns[::-1]])
    with pytest.raises(ValueError, match="feature names"):
        head.predict(frame[frame.columns[:9]])


def test_weight_zero_equals_removal(case, data):
    table, y = data(gaps=True)
    weight = np.where(np.arange(60) % 4 == 0, 0.0, np.linspace(0.5, 2, 60))
    kept = weight > 0
    weighted = case.make().fit(table, y, sample_weight=weight)
    removed = case.make().fit(table[kept], y[kept], sample_weight=weight[kept])
    np.testing.assert_array_equal(case.output(weighted, table), case.output(removed, table))


def test_whole_weights_equal_repetition_of_rows_of_one_group(case, data):
    table, y = data(gaps=True)
    weight = np.where(np.arange(60) % 3 == 0, 2.0, 1.0)
    rows = np.repeat(np.arange(60), weight.astype(int))
    weighted, repeated = case.make().fit(table, y, weight), case.make().fit(table[rows], y[rows])
    np.testing.assert_allclose(case.output(repeated, table), case.output(weighted, table), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_weights_that_are_no_weights_are_refused(posts, weight):
    weights = np.where(np.arange(60) < 5, weight, 1.0)
    with pytest.raises(ValueError, match=r"(?i)negative|nan|infinity"):
        make_classifier("logreg").fit(posts, posts.y, sample_weight=weights)


@pytest.mark.parametrize("weight", [-2.0, -0.5, np.nan, np.inf])
def test_class_weights_that_are_no_weights_are_refused(posts, weight):
    with pytest.raises(UsageError, match="class_weight"):
        make_classifier("logreg", class_weight={"apple": weight}).fit(posts, posts.y)


def test_balanced_equals_explicit_weights(classifier_case, few_steps, data_of):
    case = classifier_case
    table, y = data_of(case, gaps=True)
    few = np.r_[0:60:3, 1:30:3, 2:15:3]  # 20, 10 and 5 rows
    table, y = table[few], y[few]
    by_label = {"apple": 35 / 60, "berry": 35 / 30, "cherry": 35 / 15}
    balanced = case.make(class_weight="balanced").fit(table, y).predict_proba(table)
    by_row = case.make().fit(table, y, sample_weight=[by_label[label] for label in y])
    for other in (case.make(class_weight=by_label).fit(table, y), by_row):
        np.testing.assert_allclose(other.predict_proba(table), balanced, atol=1e-7)
    assert np.abs(case.make().fit(table, y).predict_proba(table) - balanced).max() > 1e-6


def test_probabilities_are_those_of_the_classes_and_sum_to_one(classifier_case, few_steps, data_of):
    table, y = data_of(classifier_case, gaps=True)
    head = classifier_case.make().fit(table, y)
    proba = head.predict_proba(table)
    assert list(head.classes_) == ["apple", "berry", "cherry"]
    assert proba.shape == (60, 3)
    assert (proba >= 0).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_array_equal(head.predict(table), head.classes_[proba.argmax(axis=1)])


def test_row_does_not_depend_on_its_neighbours(case, data):
    table, y = data(gaps=True)
    head = case.make().fit(table, y)
    together = case.output(head, table)
    alone = np.concatenate([case.output(head, table[row : row + 1]) for row in range(20)])
    np.testing.assert_allclose(alone, together[:20], rtol=0, atol=1e-11)
    backwards = case.output(head, table[np.arange(60)[::-1]])[::-1]
    np.testing.assert_allclose(backwards, together, rtol=0, atol=1e-11)


def test_one_class_is_refused_by_its_name(classifier_case, data_of):
    table, y = data_of(classifier_case)
    with pytest.raises(UsageError, match=r"two classes.*apple"):
        classifier_case.make().fit(table[::3], y[::3])


def test_a_head_takes_a_table_only_where_rows_have_a_modality(make_table, signal):
    vectors, y = signal()
    none = np.zeros(60, dtype=bool)
    with pytest.raises(UsageError, match="no training row has a modality of text, image"):
        make_classifier("logreg").fit(make_table(vectors, y, present={"text": none, "image": none}), y)


def test_table_of_one_modality_is_read_without_a_copy(posts):
    assert isinstance(FeatureTable.to_numpy(posts.select(["text"])[:20]), np.ndarray)
    head = make_classifier("logreg").fit(posts.select(["text"]), posts.y)
    assert head.coef_.shape == (3, 4)
