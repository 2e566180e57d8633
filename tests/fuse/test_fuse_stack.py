import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from cache import UsageError
from fuse import (
    EnsembleSelectionClassifier,
    EnsembleSelectionRegressor,
    StackingClassifier,
    StackingRegressor,
    make_classifier,
    make_regressor,
)
from fuse.folds import inner_folds
from fuse.inputs import Inputs

WEIGHT = np.linspace(0.5, 2, 60)
MEMBERS = ("unimodal", "logreg", "ridge", "kernel")


@pytest.fixture
def numbers(posts):
    """Something to learn from both modalities."""
    X = posts.to_numpy()
    return 3 * X[:, 0] - X[:, 5] + np.random.default_rng(0).normal(size=60) + 40


def _folds(table, target, folds):
    return inner_folds(Inputs({}, table.masks, groups=table.groups), target, WEIGHT[: len(table)], folds)


def _out_of_fold(table, y, target, make):
    """What heads of one modality say of each row that they did not see, `(2, n, ...)`."""
    fold, out = _folds(table, target, 5), []
    for name in table.modalities:
        said = {}
        for number in range(5):
            train, held = fold != number, np.flatnonzero(fold == number)
            head = make("unimodal", modality=name).fit(table[train], y[train], sample_weight=WEIGHT[train])
            output = head.predict_proba if hasattr(head, "predict_proba") else head.predict
            said |= dict(zip(held, output(table[held]), strict=True))
        out.append([said[row] for row in range(60)])
    return np.array(out)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_stacking_is_logistic_regression_on_out_of_fold_logarithms(signal, make_table, n_classes):
    vectors, y = signal(n_classes)
    table, target = make_table(vectors, y), np.unique(y, return_inverse=True)[1]
    head = StackingClassifier(second_c=0.7, tol=1e-9).fit(table, y, sample_weight=WEIGHT)
    said = np.hstack(np.log(_out_of_fold(table, y, target, make_classifier)))
    model = LogisticRegression(C=0.7, tol=1e-9, max_iter=10_000).fit(said, y, sample_weight=WEIGHT)
    own = [make_classifier("unimodal", modality=name).fit(table, y, sample_weight=WEIGHT) for name in table.modalities]
    expected = model.predict_proba(np.hstack([np.log(one.predict_proba(table)) for one in own]))
    np.testing.assert_allclose(head.predict_proba(table), expected, atol=1e-4)


def test_stacking_of_numbers_is_ridge_on_out_of_fold_values(posts, numbers):
    head = StackingRegressor(final_alpha=2.0).fit(posts, numbers, sample_weight=WEIGHT)
    target = (numbers - head.target_mean_) / head.target_scale_
    held = _out_of_fold(posts, target, target, make_regressor)
    model = Ridge(alpha=2.0).fit(held.T, target, sample_weight=WEIGHT)
    own = [make_regressor("unimodal", modality=m).fit(posts, target, sample_weight=WEIGHT) for m in posts.modalities]
    expected = model.predict(np.column_stack([one.predict(posts) for one in own]))
    np.testing.assert_allclose(head.predict(posts), expected * head.target_scale_ + head.target_mean_, rtol=1e-8)


def test_a_missing_modality_says_the_shares_to_stacking(gappy, signal):
    head = StackingClassifier().fit(gappy, gappy.y)
    opinions = head._opinions(head.estimators_, Inputs(signal()[0], gappy.masks))
    np.testing.assert_allclose(opinions[1, :10], np.tile(head.prior_, (10, 1)))
    np.testing.assert_allclose(opinions[0, 10:15], np.tile(head.prior_, (5, 1)))


def _library(make, modalities):
    heads = {f"unimodal {m}": make("unimodal", modality=m) for m in modalities}
    return heads | {name: make(name) for name in MEMBERS[1:] if not (name == "logreg" and make is make_regressor)}


def _greedy(said, loss, rounds):
    """Caruana's loop: add with replacement what makes the mean best; the first best prefix wins."""
    bag, prefixes = [], []
    for _ in range(rounds):
        tried = [loss(np.mean([said[one] for one in [*bag, name]], axis=0)) for name in said]
        bag.append(list(said)[int(np.argmin(tried))])
        prefixes.append((min(tried), list(bag)))
    best = min(prefixes, key=lambda prefix: prefix[0])
    return best[0], {name: best[1].count(name) / len(best[1]) for name in dict.fromkeys(best[1])}


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
@pytest.mark.parametrize("gaps", [False, True])
def test_ensemble_is_the_greedy_loop_on_held_out_rows(posts, gappy, numbers, kind, gaps):
    table = gappy[np.r_[0:15, 17:60]] if gaps else posts
    y = table.y if kind == "classifier" else (numbers[np.r_[0:15, 17:60]] if gaps else numbers)
    weight = WEIGHT[: len(table)]
    head = {"classifier": EnsembleSelectionClassifier, "regressor": EnsembleSelectionRegressor}[kind](
        members=MEMBERS if kind == "classifier" else ("unimodal", "ridge", "kernel"), rounds=12
    ).fit(table, y, sample_weight=weight)
    if kind == "classifier":
        make, target = make_classifier, np.unique(y, return_inverse=True)[1]
    else:
        make, target = make_regressor, (y - head.target_mean_) / head.target_scale_
    held = _folds(table, target, 3) == 0
    said = {}
    for name, one in _library(make, table.modalities).items():
        one.fit(table[~held], (y if kind == "classifier" else target)[~held], sample_weight=weight[~held])
        said[name] = one.predict_proba(table[held]) if kind == "classifier" else one.predict(table[held])

    def loss(output):
        if kind == "classifier":
            return -np.average(np.log(output[np.arange(held.sum()), target[held]]), weights=weight[held])
        return np.average((output - target[held]) ** 2, weights=weight[held])

    least, shares = _greedy(said, loss, 12)
    found = dict(zip(head.chosen_, head.shares_, strict=True))
    assert loss(sum(found[name] * said[name] for name in found)) == pytest.approx(least, rel=1e-6)
    assert least <= min(map(loss, said.values()))
    assert set(found) == set(shares)
    for name, share in shares.items():
        assert found[name] == pytest.approx(share)


def test_ensemble_predicts_by_the_shares_of_heads_fitted_to_all_rows(posts):
    head = EnsembleSelectionClassifier(members=MEMBERS).fit(posts, posts.y)
    assert head.shares_.sum() == pytest.approx(1)
    own = _library(make_classifier, posts.modalities)
    expected = sum(
        share * own[name].fit(posts, posts.y).predict_proba(posts)
        for name, share in zip(head.chosen_, head.shares_, strict=True)
    )
    np.testing.assert_allclose(head.predict_proba(posts), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["cross-attention"], "cross-attention needs tokens"),
        (["logreg", "ensemble"], "cannot hold the ensemble itself"),
        (["nobody"], "there is no head 'nobody'"),
        ([], "members must be a list of heads"),
    ],
)
def test_members_that_cannot_be_are_refused(posts, members, message):
    with pytest.raises(UsageError, match=message):
        EnsembleSelectionClassifier(members=members).fit(posts, posts.y)


def test_members_that_predict_classes_only_are_refused_for_numbers(posts, numbers):
    with pytest.raises(UsageError, match="'logreg' predicts classes only"):
        EnsembleSelectionRegressor(members=["logreg"]).fit(posts, numbers)


def test_default_members_fit_both_tasks(posts, numbers, few_steps):
    assert len(EnsembleSelectionClassifier(random_state=0).fit(posts, posts.y).predict(posts)) == 60
    assert len(EnsembleSelectionRegressor(random_state=0).fit(posts, numbers).predict(posts)) == 60
