import numpy as np
import pytest
import torch
from scipy.special import softmax

from cache import UsageError
from fuse import ConcatMLPClassifier, make_classifier


@pytest.fixture
def xor(make_table):
    """800 rows whose label is whether the signs of text and image differ."""
    rng = np.random.default_rng(0)
    signs = rng.choice([-1, 1], size=(800, 2))
    noisy = {name: rng.normal(size=(800, 2)) / 4 for name in ("text", "image")}
    for place, values in enumerate(noisy.values()):
        values[:, 0] += signs[:, place]
    return make_table(noisy, np.where(signs[:, 0] != signs[:, 1], "differ", "equal"))


@pytest.mark.parametrize(("name", "low", "high"), [("mlp", 0.95, 1), ("logreg", 0, 0.65), ("vote", 0, 0.65)])
def test_only_the_mlp_learns_xor(xor, name, low, high):
    train, test = xor[:400], xor[400:]
    params = {"random_state": 0} if name == "mlp" else {}
    assert low <= make_classifier(name, **params).fit(train, train.y).score(test, test.y) <= high


@pytest.mark.parametrize(("hidden", "batch_size"), [((), 128), ((8,), 16), ((8, 5), 128)])
def test_probabilities_are_the_formula_on_the_weights(signal, zscore, make_table, hidden, batch_size):
    vectors, y = signal()
    table, values = make_table(vectors, y), zscore(vectors)
    head = ConcatMLPClassifier(hidden, dropout=0.2, epochs=2, batch_size=batch_size, random_state=0).fit(table, y)
    layers = sorted({int(name.split(".")[0]) for name in head.weights_})
    assert len(layers) == len(hidden) + 1
    for layer in layers:
        values = values @ head.weights_[f"{layer}.weight"].T + head.weights_[f"{layer}.bias"]
        values = values if layer == layers[-1] else np.maximum(values, 0)
    np.testing.assert_allclose(head.predict_proba(table), softmax(values, axis=1), atol=1e-6)


def test_missing_modality_counts_with_its_mean(gappy):
    head = ConcatMLPClassifier((8,), random_state=0).fit(gappy, gappy.y)
    filled = gappy.to_numpy()
    for name, columns in gappy.blocks.items():
        has = gappy.masks[name]
        filled[~has, columns] = filled[has, columns].mean(axis=0)
    np.testing.assert_allclose(head.predict_proba(gappy), head.predict_proba(filled), atol=1e-6)


@pytest.mark.parametrize("batch_size", [16, 128])
def test_seed_decides_whatever_torchs_generator_holds(posts, batch_size):
    def fitted(state, seed):
        torch.manual_seed(state)
        head = ConcatMLPClassifier((4,), dropout=0.5, batch_size=batch_size, random_state=seed)
        return head.fit(posts, posts.y).predict_proba(posts)

    first, again, other = fitted(1, 0), fitted(2, 0), fitted(1, 7)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_whole_weights_equal_repetition(posts):
    rows = np.r_[np.arange(60), np.arange(0, 60, 3)]  # every apple twice
    weighted = ConcatMLPClassifier(random_state=0).fit(posts, posts.y, np.where(posts.y == "apple", 2.0, 1.0))
    repeated = ConcatMLPClassifier(random_state=0).fit(posts[rows], posts.y[rows])
    np.testing.assert_allclose(weighted.predict_proba(posts), repeated.predict_proba(posts), atol=1e-6)


@pytest.mark.parametrize("method", ["fit", "predict_proba"])
def test_torchs_global_generator_is_left_as_it_was(posts, method):
    head = ConcatMLPClassifier((4,), batch_size=16, random_state=0).fit(posts, posts.y)
    before = torch.manual_seed(123).get_state()
    head.fit(posts, posts.y) if method == "fit" else head.predict_proba(posts)
    assert torch.equal(torch.get_rng_state(), before)


def test_number_of_threads_is_left_as_it_was(posts):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        ConcatMLPClassifier((4,), random_state=0).fit(posts, posts.y)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("hidden", [[6, 3], (6, 3), np.array([6, 3])])
def test_hidden_sizes_may_be_any_sequence_of_integers(posts, hidden):
    head = ConcatMLPClassifier(hidden, random_state=0).fit(posts, posts.y)
    shapes = [values.shape for name, values in head.weights_.items() if name.endswith("weight")]
    assert shapes == [(6, 10), (3, 6), (3, 3)]


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        *(("dropout", 1), ("dropout", -0.1), ("learning_rate", 0), ("weight_decay", -1), ("epochs", 0)),
        *(("hidden_sizes", [0]), ("hidden_sizes", [3.5]), ("hidden_sizes", 8), ("hidden_sizes", "8")),
        *(("batch_size", 0), ("batch_size", 0.5)),
    ],
)
def test_bad_parameter_is_refused_by_name(posts, parameter, value):
    with pytest.raises(UsageError, match=rf"\b{parameter} must be"):
        ConcatMLPClassifier(**{parameter: value}).fit(posts, posts.y)
