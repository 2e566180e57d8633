import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cache import UsageError
from fuse import ConcatLogisticClassifier, UnimodalClassifier, make_classifier

TRAIN = np.arange(40)
PRESENT = {"text": np.r_[0:10, 17:60], "image": np.r_[10:15, 17:60]}  # rows of `gappy`


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("C", [0.1, 1.0, 30.0])
def test_logreg_is_sklearns_on_the_formula(signal, logistic, make_table, n_classes, C):
    vectors, y = signal(n_classes)
    table = make_table(vectors, y)
    proba = ConcatLogisticClassifier(C=C).fit(table[TRAIN], y[TRAIN]).predict_proba(table)
    np.testing.assert_allclose(proba, logistic(vectors, y, TRAIN, C=C), atol=1e-4)


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
    z = np.hstack(parts)
    expected = LogisticRegression().fit(z, y).predict_proba(z)
    np.testing.assert_allclose(ConcatLogisticClassifier().fit(gappy, y).predict_proba(gappy), expected, atol=1e-4)


def test_unimodal_head_learns_from_rows_that_have_it_and_gives_others_the_shares(signal, logistic, gappy):
    vectors, y = signal()
    kept = np.r_[0:40, 40:60:3]  # classes of unequal size
    rows = np.intersect1d(kept, PRESENT["image"])
    expected = logistic({"image": vectors["image"]}, y, rows)
    expected[[*range(10), 15, 16]] = np.unique(y[kept], return_counts=True)[1] / len(kept)
    proba = UnimodalClassifier("image").fit(gappy[kept], y[kept]).predict_proba(gappy)
    np.testing.assert_allclose(proba, expected, atol=1e-4)


@pytest.mark.parametrize("imageless", [("cherry",), ("apple",), ("berry", "cherry")])
def test_class_that_the_modality_never_shows_gets_probability_zero(signal, make_table, imageless):
    vectors, y = signal()
    absent, columns = np.isin(y, imageless), np.isin(["apple", "berry", "cherry"], imageless)
    table = make_table(vectors, y, present={"image": ~absent})
    proba = UnimodalClassifier("image").fit(table, y).predict_proba(table)
    assert (proba[~absent][:, columns] == 0).all()
    assert (proba[~absent][:, ~columns] > 0).all()
    np.testing.assert_allclose(proba[absent], 1 / 3)


@pytest.mark.parametrize(("modality", "message"), [("sound", r"modality sound.*text, image"), (None, "by `modality`")])
def test_modality_that_names_no_block_is_refused(posts, modality, message):
    with pytest.raises(UsageError, match=message):
        UnimodalClassifier(modality).fit(posts, posts.y)


@pytest.mark.parametrize("name", ["logreg", "vote", "text"])
@pytest.mark.parametrize(("parameter", "value"), [("C", -1), ("C", "a"), ("C", np.nan), ("max_iter", 0), ("tol", -1)])
def test_bad_parameter_is_refused_by_name(posts, name, parameter, value):
    with pytest.raises(UsageError, match=rf"\b{parameter} must be .* got {value!r}"):
        make_classifier(name, **{parameter: value}).fit(posts, posts.y)
