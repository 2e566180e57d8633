import time

import numpy as np
import pytest
from scipy.linalg import eigh
from sklearn.cross_decomposition import CCA
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from cache import UsageError
from fuse import ConcatMLPClassifier, make_classifier
from fuse.cca import CanonicalCorrelation

BLOCKS = {"text": slice(0, 4), "image": slice(4, 10)}


@pytest.mark.parametrize("made", [CanonicalCorrelation(), CanonicalCorrelation(2, regularization=0.0)])
def test_sklearn_contract(made):
    check_estimator(made, on_skip=None)


@pytest.fixture
def pair():
    """200 rows of 4 and 6 columns of different units that share two of three sources."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(200, 2))
    mixed = [np.hstack([shared, rng.normal(size=(200, width - 2))]) for width in (4, 6)]
    first, second = (
        (x + rng.normal(size=x.shape) / 3) @ (np.eye(x.shape[1]) + rng.uniform(size=[x.shape[1]] * 2)) + 5
        for x in mixed
    )
    return first * [1, 10, 0.1, 3], second


def _variates(x):
    """Columns centred and of unit length, their signs those of the largest entry."""
    x = (x - x.mean(axis=0)) / np.linalg.norm(x - x.mean(axis=0), axis=0)
    return x * np.sign(x[np.abs(x).argmax(axis=0), np.arange(x.shape[1])])


def test_variates_are_those_of_sklearn(pair):
    own = CanonicalCorrelation(3, regularization=0.0, blocks=BLOCKS)
    found = own.fit_transform(np.hstack(pair))
    theirs = CCA(3, tol=1e-20, max_iter=100_000).fit_transform(*pair)
    np.testing.assert_allclose(_variates(found), _variates(np.hstack(theirs)), atol=1e-6)
    pairs = [np.corrcoef(found[:, i], found[:, 3 + i])[0, 1] for i in range(3)]
    np.testing.assert_allclose(own.correlations_, pairs, atol=1e-8)  # positive: both signs are turned together


@pytest.mark.parametrize("regularization", [0.0, 0.3])
def test_correlations_solve_the_generalised_eigenproblem(pair, regularization):
    own = CanonicalCorrelation(4, regularization=regularization, blocks=BLOCKS).fit(np.hstack(pair))
    covariance = np.cov(np.hstack(pair), rowvar=False)
    within = np.zeros_like(covariance)
    for part in BLOCKS.values():
        block = covariance[part, part]
        within[part, part] = block + regularization * np.trace(block) / len(block) * np.eye(len(block))
    across = covariance.copy()
    across[:4, :4] = across[4:, 4:] = 0
    values = eigh(across, within, eigvals_only=True)[::-1]
    np.testing.assert_allclose(own.correlations_, values[:4], atol=1e-6)
    for name, part in BLOCKS.items():
        weights = own.weights_[name]
        np.testing.assert_allclose(weights.T @ within[part, part] @ weights, np.eye(4), atol=1e-6)


def test_table_and_array_agree_and_a_lacking_modality_gets_zeros(gappy):
    own = CanonicalCorrelation(3).fit(gappy)
    found, masks = own.transform(gappy), gappy.masks
    both = masks["text"] & masks["image"]
    alone = CanonicalCorrelation(3, blocks=gappy.blocks).fit(gappy.to_numpy()[both])
    np.testing.assert_allclose(found[both], alone.transform(gappy.to_numpy()[both]), atol=1e-10)
    assert own.blocks_out_ == {"text": slice(0, 3), "image": slice(3, 6)}
    for name, columns in own.blocks_out_.items():
        assert not found[~masks[name], columns].any()
        assert found[masks[name], columns].any(axis=1).all()
    np.testing.assert_array_equal(own.transform(gappy.select(["image", "text"])), found)


def test_head_follows_in_a_pipeline(posts):
    made = CanonicalCorrelation(2, blocks=posts.blocks)
    pipe = make_pipeline(made, ConcatMLPClassifier(blocks={"text": slice(0, 2), "image": slice(2, 4)}, random_state=0))
    assert pipe.fit(posts, posts.y).score(posts.to_numpy(), posts.y) > 0.6  # chance is a third
    assert made.blocks_out_ == pipe[-1].blocks_
    make_classifier("logreg", blocks=made.blocks_out_).fit(pipe[0].transform(posts.to_numpy()), posts.y)


def test_names_and_pandas(pair):
    pandas = pytest.importorskip("pandas")
    own = CanonicalCorrelation(2, blocks=BLOCKS).set_output(transform="pandas")
    found = own.fit_transform(np.hstack(pair))
    assert isinstance(found, pandas.DataFrame)
    assert list(found) == list(own.get_feature_names_out()) == ["text_cca0", "text_cca1", "image_cca0", "image_cca1"]


def test_array_without_blocks_is_halved(pair, posts):
    X = np.hstack(pair)[:, :9]
    own = CanonicalCorrelation(2).fit(X)
    named = CanonicalCorrelation(2, blocks={"a": slice(0, 4), "b": slice(4, 9)}).fit(X)
    np.testing.assert_array_equal(own.transform(X), named.transform(X))
    halves = CanonicalCorrelation(2).fit(posts.to_numpy())
    np.testing.assert_array_equal(halves.transform(posts), halves.transform(posts.to_numpy()))
    with pytest.raises(ValueError, match="n_features = 1"):
        CanonicalCorrelation().fit(X[:, :1])


@pytest.mark.parametrize("regularization", [0.0, 1e-3])
def test_dependent_and_constant_columns_and_few_rows(pair, regularization):
    first, second = pair
    wide = np.hstack([first, first[:, :1], np.ones((200, 1)), second, 2 * second])
    blocks = {"text": slice(0, 6), "image": slice(6, 18)}
    own = CanonicalCorrelation(6, regularization=regularization, blocks=blocks).fit(wide)
    plain = CanonicalCorrelation(4, regularization=regularization, blocks=BLOCKS).fit(np.hstack(pair))
    np.testing.assert_allclose(own.correlations_[:2], plain.correlations_[:2], atol=0.05 if regularization else 1e-6)
    assert (own.correlations_ <= 1).all()
    few = CanonicalCorrelation(regularization=regularization, blocks=blocks).fit_transform(wide[:3])
    assert few.shape == (3, 12)
    assert np.isfinite(few).all()
    constant = CanonicalCorrelation(blocks=BLOCKS).fit_transform(np.ones((9, 10)))
    assert not constant.any()


@pytest.mark.parametrize(("names", "found"), [(["text"], "text"), (["text", "image", "audio"], "text, image, audio")])
def test_other_than_two_modalities_are_refused(names, found):
    blocks = {name: slice(2 * m, 2 * m + 2) for m, name in enumerate(names)}
    with pytest.raises(UsageError, match=rf"exactly two modalities, found {found}; choose two by table.select"):
        CanonicalCorrelation(blocks=blocks).fit(np.eye(6))


def test_too_few_rows_with_both_are_refused(make_table, signal):
    has = {"text": np.arange(60) < 30, "image": np.arange(60) >= 29}
    with pytest.raises(UsageError, match=r"both text and image, found 1 \(n_samples = 60\)"):
        CanonicalCorrelation().fit(make_table(*signal(), present=has))


@pytest.mark.parametrize(("name", "value"), [("n_components", 0), ("n_components", 2.5), ("regularization", -1)])
def test_bad_parameter_is_refused_by_name(pair, name, value):
    with pytest.raises(UsageError, match=rf"\b{name} must be"):
        CanonicalCorrelation(**{name: value}, blocks=BLOCKS).fit(np.hstack(pair))


@pytest.mark.slow
def test_3200_rows_of_bert_and_resnet_take_under_five_seconds():
    X = np.random.default_rng(0).normal(size=(3200, 768 + 2048)).astype(np.float32)
    start = time.process_time()
    found = CanonicalCorrelation(blocks={"text": slice(0, 768), "image": slice(768, 2816)}).fit_transform(X)
    assert time.process_time() - start < 5
    assert found.shape == (3200, 32)
