import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.linear_model import RidgeClassifier as SklearnRidgeClassifier

from cache import UsageError
from fuse import ConcatLogisticClassifier, RidgeClassifier, RidgeRegressor, UnimodalClassifier, make_classifier

TRAIN = np.arange(40)
PRESENT = {"text": np.r_[0:10, 17:60], "image": np.r_[10:15, 17:60]}  # rows of `gappy`
NUMBERS = np.random.default_rng(4).normal(size=60) * 5 + 100
STRENGTHS = {"text": 0.2, "image": 7.0}
ROOTS = np.repeat([0.2**0.5, 7.0**0.5], [4, 6])


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("C", [0.1, 1.0, 30.0])
def test_logreg_is_sklearns_on_the_formula(signal, logistic, make_table, n_classes, C):
    vectors, y = signal(n_classes)
    table = make_table(vectors, y)
    proba = ConcatLogisticClassifier(C=C).fit(table[TRAIN], y[TRAIN]).predict_proba(table)
    np.testing.assert_allclose(proba, logistic(vectors, y, TRAIN, C=C), atol=1e-4)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_penalty_of_each_modality_equals_scaling_its_block(signal, zscore, make_table, n_classes):
    vectors, y = signal(n_classes)
    z = zscore(vectors) * ROOTS
    expected = LogisticRegression(max_iter=10_000, tol=1e-9).fit(z, y).predict_proba(z)
    table = make_table(vectors, y)
    proba = ConcatLogisticClassifier(C=STRENGTHS).fit(table, y).predict_proba(table)
    np.testing.assert_allclose(proba, expected, atol=1e-4)
    alike = ConcatLogisticClassifier(C={"image": 3, "text": 3}).fit(table, y).predict_proba(table)
    np.testing.assert_allclose(alike, ConcatLogisticClassifier(C=3).fit(table, y).predict_proba(table), atol=1e-9)


@pytest.mark.parametrize("alpha", [0.01, 1.0, 50.0])
def test_ridge_is_sklearns_on_the_formula(signal, zscore, posts, alpha):
    z, weight = zscore(signal()[0]), np.linspace(0.5, 2, 60)
    head = RidgeRegressor(alpha=alpha).fit(posts, NUMBERS)
    np.testing.assert_allclose(head.predict(posts), Ridge(alpha=alpha).fit(z, NUMBERS).predict(z), rtol=1e-9)
    heavy = RidgeRegressor(alpha=alpha).fit(posts, NUMBERS, sample_weight=weight)
    own = heavy.scaler_
    z = (posts.to_numpy() - own.mean_) / own.scale_
    expected = Ridge(alpha=alpha).fit(z, NUMBERS, sample_weight=weight).predict(z)
    np.testing.assert_allclose(heavy.predict(posts), expected, rtol=1e-9)


def test_ridge_penalty_of_each_modality_equals_scaling_its_block(signal, zscore, posts):
    z = zscore(signal()[0]) / ROOTS
    head = RidgeRegressor(alpha=STRENGTHS).fit(posts, NUMBERS)
    np.testing.assert_allclose(head.predict(posts), Ridge().fit(z, NUMBERS).predict(z), rtol=1e-9)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("alpha", [0.1, 10.0])
def test_labels_of_ridge_are_those_of_sklearns_classifier(signal, zscore, make_table, n_classes, alpha):
    vectors, y = signal(n_classes)
    table, z = make_table(vectors, y), zscore(vectors)
    head, reference = RidgeClassifier(alpha=alpha).fit(table, y), SklearnRidgeClassifier(alpha=alpha).fit(z, y)
    np.testing.assert_array_equal(head.predict(table), reference.predict(z))
    scores = 2 * (z @ head.coef_.T + head.intercept_) - 1  # sklearn codes classes as -1 and 1
    decision = reference.decision_function(z)
    np.testing.assert_allclose(scores if n_classes > 2 else scores[:, 1], decision, rtol=1e-9)


@pytest.mark.parametrize("name", ["text", "image"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_unimodal_head_sees_its_block_only(signal, logistic, make_table, name, n_classes):
    vectors, y = signal(n_classes)
    table, expected = make_table(vectors, y), logistic({name: vectors[name]}, y)
    for head, X in ((make_classifier(name), table), (UnimodalClassifier(), table.select([name]))):
        np.testing.assert_allclose(head.fit(X, y).predict_proba(X), expected, atol=1e-4)


def test_missing_modality_counts_with_its_mean(gappy, signal, zscore):
    vectors, y = signal()
    parts = [zscore({name: vectors[name]}, rows) * gappy.masks[name][:, None] for name, rows in PRESENT.items()]
    some = np.r_[0:15, 17:60]
    z = np.hstack(parts)[some]
    expected = LogisticRegression(max_iter=10_000, tol=1e-9).fit(z, y[some]).predict_proba(z)
    proba = ConcatLogisticClassifier().fit(gappy, y).predict_proba(gappy)
    np.testing.assert_allclose(proba[some], expected, atol=1e-4)


def test_unimodal_head_learns_from_rows_that_have_it_and_gives_others_the_shares(signal, logistic, gappy):
    vectors, y = signal()
    kept = np.r_[0:40, 40:60:3]  # classes of unequal size
    rows = np.intersect1d(kept, PRESENT["image"])
    expected = logistic({"image": vectors["image"]}, y, rows)
    expected[[*range(10), 15, 16]] = np.unique(y[kept], return_counts=True)[1] / len(kept)
    proba = UnimodalClassifier(modality="image").fit(gappy[kept], y[kept]).predict_proba(gappy)
    np.testing.assert_allclose(proba, expected, atol=1e-4)


@pytest.mark.parametrize("imageless", [("cherry",), ("apple",), ("berry", "cherry")])
def test_class_that_the_modality_never_shows_gets_probability_zero(signal, make_table, imageless):
    vectors, y = signal()
    absent, columns = np.isin(y, imageless), np.isin(["apple", "berry", "cherry"], imageless)
    table = make_table(vectors, y, present={"image": ~absent})
    proba = UnimodalClassifier(modality="image").fit(table, y).predict_proba(table)
    assert (proba[~absent][:, columns] == 0).all()
    assert (proba[~absent][:, ~columns] > 0).all()
    np.testing.assert_allclose(proba[absent], 1 / 3)


@pytest.mark.parametrize(("modality", "message"), [("sound", r"modality sound.*text, image"), (None, "by `modality`")])
def test_modality_that_names_no_block_is_refused(posts, modality, message):
    with pytest.raises(UsageError, match=message):
        UnimodalClassifier(modality=modality).fit(posts, posts.y)


@pytest.mark.parametrize("value", [{"text": 1.0}, {"text": 1.0, "sound": 1.0}, {"text": 1.0, "image": 0}])
@pytest.mark.parametrize(("name", "parameter"), [("logreg", "C"), ("svm", "C"), ("ridge", "alpha")])
def test_strengths_that_do_not_fit_the_modalities_are_refused(posts, name, parameter, value):
    with pytest.raises(UsageError, match=rf"{parameter} must be .* map each of text, image"):
        make_classifier(name, **{parameter: value}).fit(posts, posts.y)
