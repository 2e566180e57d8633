import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from cache import UsageError
from fuse import LateVotingClassifier, LateVotingRegressor, UnimodalClassifier, UnimodalRegressor
from fuse.folds import inner_folds
from fuse.heads.vote import LEAST
from fuse.inputs import Inputs

PRIOR = np.array([0.2, 0.3, 0.5])
ROWS = {"text": np.r_[0:10, 17:60], "image": np.r_[10:15, 17:60]}  # rows of `gappy`
WEIGHT = np.linspace(0.5, 2, 60)


def _head(voting, opinions, weights=None):
    """A vote of hand-made voters, `(M, n, K)` opinions, over the classes a, b and c."""
    head = LateVotingClassifier(voting=voting)
    head.classes_, head.prior_ = np.array(["a", "b", "c"]), PRIOR
    head.estimators_ = [SimpleNamespace(_head_output=lambda inputs, p=p: p.copy(), scaler_=None) for p in opinions]
    head.weights_ = np.ones(len(opinions)) if weights is None else np.array(weights, dtype=float)
    return head


def _voted(voting, opinions, masks=None, weights=None):
    opinions = np.asarray(opinions, dtype=float)
    masks = np.ones(opinions.shape[:2], dtype=bool) if masks is None else np.asarray(masks)
    there = {str(number): mask for number, mask in enumerate(masks)}
    inputs = Inputs(dict.fromkeys(there, np.zeros((opinions.shape[1], 1))), there)
    return _head(voting, opinions, weights)._head_output(inputs)


def _hard(*probas, weights=None, masks=None):
    """The hard vote on one row."""
    return _voted("hard", np.array(probas)[:, None], None if masks is None else np.array(masks)[:, None], weights)[0]


def _by_hand(voting, p, w):
    """One row: opinions `(m, K)` of the modalities that it has, and their weights."""
    if voting == "soft":
        return w @ p
    if voting == "product":
        return np.prod(p ** w[:, None], axis=0)
    if voting == "prior":
        return PRIOR ** (1 - w.sum()) * np.prod(p ** w[:, None], axis=0)
    return {"max": np.max, "min": np.min, "median": np.median}[voting](p, axis=0)


@pytest.mark.parametrize("weights", [None, [2.0, 0.5, 1.0]])
@pytest.mark.parametrize("voting", ["soft", "product", "prior", "max", "min", "median"])
def test_rules_are_the_formulas_on_what_a_row_has(voting, weights):
    rng = np.random.default_rng(0)
    opinions, masks = rng.dirichlet(np.ones(3), size=(3, 40)), rng.random((3, 40)) > 0.4
    found = _voted(voting, opinions, masks, weights)
    w = np.ones(3) if weights is None else np.array(weights)
    for row in range(40):
        has = masks[:, row]
        expected = _by_hand(voting, opinions[has, row], w[has]) if has.any() else PRIOR
        np.testing.assert_allclose(found[row], expected / expected.sum(), rtol=1e-9)


@pytest.mark.parametrize("voting", ["soft", "hard", "product"])
def test_a_modality_without_weight_has_no_say(voting):
    opinions = np.array([[[0.7, 0.2, 0.1]], [[0.1, 0.1, 0.8]]])
    np.testing.assert_allclose(
        _voted(voting, opinions, weights=[0, 3])[0], _voted(voting, opinions[1:], weights=[3])[0], rtol=1e-9
    )
    np.testing.assert_allclose(_voted(voting, opinions, [[True], [False]], [0, 3])[0], PRIOR)


def test_impossible_in_one_modality_is_decided_by_the_others():
    sure = np.array([[[1.0, 0, 0]], [[0, 0.5, 0.5]]])
    for voting in ("product", "prior", "min"):
        found = _voted(voting, sure)[0]
        assert np.isfinite(found).all()
        assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize(("weights", "share"), [(None, 0.5), ({"text": 3, "image": 1}, 0.75), ({"image": 2}, 0.0)])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_soft_vote_is_the_weighted_mean(signal, logistic, make_table, weights, share, n_classes):
    vectors, y = signal(n_classes)
    text, image = (logistic({name: values}, y) for name, values in vectors.items())
    table = make_table(vectors, y)
    proba = LateVotingClassifier(weights=weights).fit(table, y).predict_proba(table)
    np.testing.assert_allclose(proba, share * text + (1 - share) * image, atol=1e-4)


@pytest.mark.parametrize("voting", ["soft", "hard"])
def test_missing_modalities_do_not_vote(gappy, signal, logistic, voting):
    vectors, y = signal()
    text, image = (logistic({name: vectors[name]}, y, rows) for name, rows in ROWS.items())
    if voting == "hard":
        text, image = (np.eye(3)[proba.argmax(axis=1)] for proba in (text, image))
    prior = np.full((2, 3), 1 / 3)
    expected = np.vstack([text[:10], image[10:15], prior, 0.25 * text[17:] + 0.75 * image[17:]])
    head = LateVotingClassifier(voting=voting, weights={"text": 1, "image": 3}).fit(gappy, y)
    np.testing.assert_allclose(head.predict_proba(gappy), expected, atol=1e-4)


def test_hard_vote_counts_votes_and_weights_not_sureness():
    np.testing.assert_allclose(_hard([0.51, 0.49, 0], [0.51, 0.49, 0], [0, 1, 0]), [2 / 3, 1 / 3, 0], atol=1e-5)
    np.testing.assert_allclose(_hard([1, 0, 0], [1, 0, 0], [0, 0, 1], weights=[1, 1, 3]), [0.4, 0, 0.6], atol=1e-5)
    assert _hard([0.34, 0.33, 0.33], [0, 1, 0], weights=[1.001, 1]).argmax() == 0


@pytest.mark.parametrize(
    ("one", "other", "winner"),
    [
        ([0.6, 0.4, 0], [0.1, 0.9, 0], 1),
        ([0.6, 0, 0.4], [0.45, 0, 0.55], 0),
        ([0.25, 0, 0.75], [0.125, 0.875, 0], 1),
        ([0.25, 0.75, 0], [0.25, 0, 0.75], 1),  # equal soft votes: the first class of the two
    ],
)
def test_hard_tie_goes_to_the_larger_soft_vote_then_to_the_first(one, other, winner):
    assert _hard(one, other).argmax() == winner
    assert _hard(other, one).argmax() == winner


def test_hard_vote_of_the_only_modality_there_and_of_none():
    np.testing.assert_allclose(_hard([0.4, 0.6, 0], [1, 0, 0], masks=[True, False]), [0, 1, 0], atol=1e-5)
    np.testing.assert_allclose(_hard([0.4, 0.6, 0], [1, 0, 0], masks=[False, False]), PRIOR)


def _grid():
    return [np.array([w, 1 - w]) for w in np.linspace(LEAST, 1 - LEAST, 999)]


def _mixed(opinions, masks, w):
    share = w[:, None] * masks
    share = share / share.sum(axis=0)
    return np.einsum("mn,mn...->n...", share, opinions)


@pytest.mark.parametrize("gaps", [False, True])
def test_fitted_weights_have_the_least_loss_out_of_fold(posts, gappy, gaps):
    table = gappy if gaps else posts
    some = np.any(list(table.masks.values()), axis=0)
    y, target = table.y, np.unique(table.y, return_inverse=True)[1]
    head = LateVotingClassifier(voting="fitted").fit(table, y, sample_weight=WEIGHT)
    if gaps:
        table, y, target = table[some], y[some], target[some]
    weight, masks = WEIGHT[some], np.array(list(table.masks.values()))
    opinions = _held_out(UnimodalClassifier, table, y, target, weight, head.prior_)
    own = opinions[:, np.arange(len(y)), target]

    def loss(w):
        return -np.average(np.log(_mixed(own, masks, w)), weights=weight)

    assert head.weights_.sum() == pytest.approx(1)
    assert loss(head.weights_) <= min(map(loss, _grid())) + 1e-6


def _held_out(make, table, y, target, weight, prior):
    fold = inner_folds(Inputs({}, table.masks, groups=table.groups), target, weight, 5)
    out = np.empty((2, len(y), *np.shape(prior)))
    for m, number in itertools.product(range(2), range(5)):
        train, held = fold != number, fold == number
        has = train & table.masks[table.modalities[m]]
        head = make(modality=table.modalities[m]).fit(table[has], y[has], sample_weight=weight[has])
        said = head.predict_proba(table[held]) if hasattr(head, "predict_proba") else head.predict(table[held])
        out[m, held] = said
    return out


def test_fitted_weights_of_numbers_have_the_least_squared_error_out_of_fold(posts):
    y = 3 * posts.to_numpy()[:, 0] - posts.to_numpy()[:, 5] + 40
    head = LateVotingRegressor(voting="fitted").fit(posts, y, sample_weight=WEIGHT)
    opinions = _held_out(UnimodalRegressor, posts, y, y, WEIGHT, 0.0)
    masks = np.ones((2, 60))

    def loss(w):
        return np.average((_mixed(opinions, masks, w) - y) ** 2, weights=WEIGHT) / head.target_scale_**2

    assert 0.1 < head.weights_[0] < 0.9
    assert loss(head.weights_) <= min(map(loss, _grid())) + 1e-6


@pytest.mark.parametrize(("voting", "weights"), [("mean", None), ("mean", {"text": 3, "image": 1}), ("median", None)])
def test_regressors_join_ridge_regressions_of_what_a_row_has(gappy, signal, zscore, voting, weights):
    vectors, _ = signal()
    y = np.random.default_rng(1).normal(size=60) * 4 + 9
    some = np.r_[0:15, 17:60]
    said = []
    for name, rows in ROWS.items():
        z = zscore({name: vectors[name]}, rows)
        said.append(Ridge().fit(z[rows], y[rows]).predict(z))
    text, image = said
    share = 0.75 if weights else 0.5
    expected = np.r_[text[:10], image[10:15], share * text[17:] + (1 - share) * image[17:]]
    head = LateVotingRegressor(voting=voting, weights=weights).fit(gappy, y)
    np.testing.assert_allclose(head.predict(gappy)[some], expected, rtol=1e-9)


BAD_WEIGHTS = ({"text": -1, "image": 2}, {"text": 0}, {"text": np.nan}, {"text": "heavy"}, {"sound": 1}, {}, 3)


@pytest.mark.parametrize(("parameter", "value"), [("voting", "x"), *(("weights", value) for value in BAD_WEIGHTS)])
@pytest.mark.parametrize("kind", [LateVotingClassifier, LateVotingRegressor])
def test_bad_parameter_is_refused_by_name(posts, kind, parameter, value):
    with pytest.raises(UsageError, match=parameter):
        kind(**{parameter: value}).fit(posts, posts.y if kind is LateVotingClassifier else np.arange(60.0))
