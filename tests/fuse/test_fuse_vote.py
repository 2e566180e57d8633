from types import SimpleNamespace

import numpy as np
import pytest

from cache import UsageError
from fuse import LateVotingClassifier
from fuse.inputs import Inputs

PRIOR = [0.2, 0.3, 0.5]


def _hard(*probas, weights=None, masks=None):
    """The hard vote of hand-made voters on one row of the classes a, b and c."""
    head = LateVotingClassifier(voting="hard")
    head.classes_, head.prior_ = np.array(["a", "b", "c"]), np.array(PRIOR)
    head.estimators_ = [SimpleNamespace(_head_proba=lambda inputs, p=p: np.array([p], dtype=float)) for p in probas]
    head.weights_ = np.array(weights or [1] * len(probas), dtype=float)
    there = {str(number): np.array([mask]) for number, mask in enumerate(masks or [True] * len(probas))}
    return head._head_proba(Inputs(dict.fromkeys(there, np.zeros((1, 1))), there))[0]


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
    text = logistic({"text": vectors["text"]}, y, np.r_[0:10, 17:60])
    image = logistic({"image": vectors["image"]}, y, np.r_[10:15, 17:60])
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


BAD_WEIGHTS = ({"text": -1, "image": 2}, {"text": 0}, {"text": np.nan}, {"text": "heavy"}, {"sound": 1}, {})


@pytest.mark.parametrize(("parameter", "value"), [("voting", "x"), *(("weights", value) for value in BAD_WEIGHTS)])
def test_bad_parameter_is_refused_by_name(posts, parameter, value):
    with pytest.raises(UsageError, match=parameter):
        LateVotingClassifier(**{parameter: value}).fit(posts, posts.y)
