import numpy as np
import pytest
from scipy.special import log_softmax

from fuse import make_classifier
from fuse.folds import inner_folds
from fuse.inputs import Inputs
from fuse.scores import PARTS, fit_sharpness

HEADS = ["ridge", "svm", "kernel"]
GRID = np.exp(np.linspace(np.log(0.01), np.log(100), 4001))


def _loss(factor, scores, target, weight):
    return -np.average(log_softmax(factor * scores, axis=1)[np.arange(len(target)), target], weights=weight)


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_sharpness_has_the_least_loss_of_a_grid(scale):
    rng = np.random.default_rng(0)
    target, weight = rng.integers(3, size=200), rng.uniform(0.5, 2, size=200)
    scores = scale * (np.eye(3)[target] + rng.normal(size=(200, 3)))
    found = fit_sharpness(scores, target, weight)
    losses = [_loss(factor, scores, target, weight) for factor in GRID]
    assert _loss(found, scores, target, weight) <= min(losses) + 1e-9
    assert found == pytest.approx(GRID[np.argmin(losses)], rel=0.01)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_sharpness_is_that_of_rows_which_were_held_out(signal, make_table, name, n_classes):
    vectors, y = signal(n_classes)
    table, target = make_table(vectors, y), np.unique(y, return_inverse=True)[1]
    head = make_classifier(name).fit(table, y)
    held = inner_folds(Inputs(vectors, table.masks, groups=table.groups), target, np.ones(60), PARTS) == 0
    part = make_classifier(name).fit(table[~held], y[~held])
    scores = np.log(part.predict_proba(table[held])) / part.sharpness_  # softmax forgets a shift, which changes no loss
    losses = [_loss(factor, scores, target[held], np.ones(held.sum())) for factor in GRID]
    assert head.sharpness_ == pytest.approx(GRID[np.argmin(losses)], rel=0.01)


@pytest.mark.parametrize("name", HEADS)
def test_sharpness_changes_no_label(posts, name):
    head = make_classifier(name).fit(posts, posts.y)
    labels = head.predict(posts)
    head.sharpness_ = 0.01
    np.testing.assert_array_equal(head.predict(posts), labels)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("kind", ["one group", "a class in the held-out part alone"])
def test_sharpness_is_one_where_nothing_can_be_held_out(signal, make_table, name, kind):
    place = np.arange(60)
    y = np.where(place % 3 == 0, "apple", "berry")
    groups = np.zeros(60) if kind == "one group" else np.where(place % 3 == 0, 0, 1 + place % 2)
    table = make_table(signal()[0], y, groups=groups)
    head = make_classifier(name).fit(table, y)
    assert head.sharpness_ == 1.0
    assert set(head.predict(table)) == {"apple", "berry"}
