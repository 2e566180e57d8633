import numpy as np
import pytest
import torch
from scipy.special import softmax

from cache import UsageError
from fuse import ConcatMLPClassifier, ConcatMLPRegressor, make_classifier, make_regressor


@pytest.fixture
def xor(make_table):
    """800 rows whose label is whether the signs of text and image differ."""
    rng = np.random.default_rng(0)
    signs = rng.choice([-1, 1], size=(800, 2))
    noisy = {name: rng.normal(size=(800, 2)) / 4 for name in ("text", "image")}
    for place, values in enumerate(noisy.values()):
        values[:, 0] += signs[:, place]
    return make_table(noisy, np.where(signs[:, 0] != signs[:, 1], "differ", "equal"))


LEARN = ["mlp", "bilinear", "mfb", "mutan", "tensor", "lowrank", "film", "multiplicative", "kernel-product"]


@pytest.mark.parametrize("name", LEARN)
def test_heads_with_interactions_learn_xor(xor, name):
    train, test = xor[:400], xor[400:]
    head = make_classifier(name)
    head.set_params(**{"random_state": 0} if "random_state" in head.get_params() else {})
    assert head.fit(train, train.y).score(test, test.y) >= 0.95


@pytest.mark.parametrize("name", ["logreg", "vote", "ridge", "svm", "kernel"])
def test_heads_without_interactions_cannot_learn_xor(xor, name):
    train, test = xor[:400], xor[400:]
    assert make_classifier(name).fit(train, train.y).score(test, test.y) <= 0.65


@pytest.mark.parametrize(("hidden", "batch_size"), [((), 128), ((8,), 16), ((8, 5), 128)])
def test_probabilities_are_the_formula_on_the_weights(signal, zscore, make_table, few_steps, hidden, batch_size):
    vectors, y = signal()
    table, values = make_table(vectors, y), zscore(vectors)
    head = ConcatMLPClassifier(hidden, dropout=0.2, epochs=2, batch_size=batch_size, random_state=0).fit(table, y)
    names = [name for name in head.weights_ if ".layers." in name]
    layers = sorted({int(name.split(".")[-2]) for name in names})
    assert len(layers) == len(hidden) + 1
    for layer in layers:
        w, b = (head.weights_[f"network.layers.{layer}.{part}"] for part in ("weight", "bias"))
        values = values @ w.T + b
        values = values if layer == layers[-1] else np.maximum(values, 0)
    np.testing.assert_allclose(head.predict_proba(table), softmax(values, axis=1), atol=1e-6)


def test_values_are_in_the_unit_of_the_target(posts, zscore, signal, few_steps):
    y = np.arange(60) * 100.0
    head = ConcatMLPRegressor((), epochs=2, random_state=0).fit(posts, y)
    w, b = (head.weights_[f"network.layers.0.{part}"] for part in ("weight", "bias"))
    expected = (zscore(signal()[0]) @ w.T + b)[:, 0] * y.std() + y.mean()
    np.testing.assert_allclose(head.predict(posts), expected, atol=1e-3)


@pytest.mark.parametrize("batch_size", [16, 128])
def test_seed_decides_whatever_torchs_generator_holds(posts, few_steps, batch_size):
    def fitted(state, seed):
        torch.manual_seed(state)
        head = ConcatMLPClassifier((4,), dropout=0.5, batch_size=batch_size, random_state=seed)
        return head.fit(posts, posts.y).predict_proba(posts)

    first, again, other = fitted(1, 0), fitted(2, 0), fitted(1, 7)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize("kind", [make_classifier, make_regressor])
def test_early_stopping_keeps_the_weights_of_the_least_held_out_loss(posts, few_steps, kind):
    y = posts.y if kind is make_classifier else posts.to_numpy()[:, 0]
    settings = {
        "learning_rate": 0.3,
        "batch_size": 16,
        "early_stopping": True,
        "random_state": 0,
        "hidden_sizes": (16,),
    }
    head = kind("mlp", epochs=100, patience=3, **settings).fit(posts, y)
    held = head.history_[:, 1]
    best = int(np.argmin(held))
    assert head.n_iter_ == len(held) == best + 4 < 100
    upto = kind("mlp", epochs=100, patience=best + 1, schedule="constant", **settings)
    assert np.isfinite(upto.fit(posts, y).history_).all()
    assert np.isnan(kind("mlp", epochs=2).fit(posts, y).history_[:, 1]).all()


def test_whole_weights_equal_repetition_where_rows_are_held_out(posts, few_steps):
    weight = np.where(np.arange(60) % 2 == 0, 2.0, 1.0)
    rows = np.repeat(np.arange(60), weight.astype(int))
    make = lambda: ConcatMLPClassifier((8,), early_stopping=True, clip_norm=0.05, random_state=0)  # noqa: E731
    weighted, repeated = make().fit(posts, posts.y, weight), make().fit(posts[rows], posts.y[rows])
    np.testing.assert_allclose(weighted.history_, repeated.history_, rtol=1e-6)
    np.testing.assert_allclose(weighted.predict_proba(posts), repeated.predict_proba(posts), atol=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "plateau", "constant"])
def test_training_lowers_the_loss(posts, schedule):
    history = ConcatMLPClassifier((8,), schedule=schedule, random_state=0).fit(posts, posts.y).history_[:, 0]
    assert history.shape == (20,)
    assert history[-1] < 0.7 * history[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"label_smoothing": 0.2},
        {"focal_gamma": 2.0},
        {"logit_adjustment": 1.0},
        {"modality_dropout": 0.5},
        {"clip_norm": 0.01},
        {"weight_decay": 5.0},
        {"dropout": 0.5},
        {"auxiliary": 1.0},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_each_setting_changes_what_is_learnt(make_table, signal, few_steps, settings):
    vectors, y = signal()
    few = np.r_[0:60:3, 1:30:3, 2:15:3]  # classes of unequal size
    table = make_table(vectors, y)[few]
    plain, other = (
        ConcatMLPClassifier((8,), random_state=0, epochs=5, **one).fit(table, y[few]) for one in ({}, settings)
    )
    assert (plain.predict_proba(table) != other.predict_proba(table)).any()


@pytest.mark.parametrize("loss", ["absolute", "huber"])
def test_each_loss_of_regressors_changes_what_is_learnt(posts, few_steps, loss):
    y = posts.to_numpy()[:, 0] ** 3
    plain, other = (ConcatMLPRegressor(random_state=0, loss=one).fit(posts, y) for one in ("squared", loss))
    assert np.abs(plain.predict(posts) - other.predict(posts)).max() > 1e-3


def test_logit_adjustment_favours_rare_classes(make_table, signal):
    vectors, _ = signal()
    y = np.where(np.arange(60) % 10 == 0, "rare", "usual")
    table = make_table(vectors, y)
    plain, adjusted = (ConcatMLPClassifier((4,), logit_adjustment=tau, random_state=0).fit(table, y) for tau in (0, 1))
    assert adjusted.predict_proba(table)[:, 0].mean() > plain.predict_proba(table)[:, 0].mean() + 0.05


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_shares_of_blending_are_of_the_joint_output_and_of_each_modality(gappy, few_steps, kind):
    make, y = (make_classifier, gappy.y) if kind == "classifier" else (make_regressor, np.arange(60.0))
    head = make("blend", random_state=0, epochs=5).fit(gappy, y)
    assert head.shares_.shape == (3,)
    assert (head.shares_ >= 0).all()
    assert head.shares_.sum() == pytest.approx(1)


@pytest.mark.parametrize("method", ["fit", "predict_proba"])
def test_torchs_global_generator_is_left_as_it_was(posts, few_steps, method):
    head = ConcatMLPClassifier((4,), batch_size=16, random_state=0).fit(posts, posts.y)
    before = torch.manual_seed(123).get_state()
    head.fit(posts, posts.y) if method == "fit" else head.predict_proba(posts)
    assert torch.equal(torch.get_rng_state(), before)


def test_number_of_threads_is_left_as_it_was(posts, few_steps):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        ConcatMLPClassifier((4,), random_state=0).fit(posts, posts.y)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("hidden", [[6, 3], (6, 3), np.array([6, 3])])
def test_hidden_sizes_may_be_any_sequence_of_integers(posts, few_steps, hidden):
    head = ConcatMLPClassifier(hidden, random_state=0).fit(posts, posts.y)
    shapes = [values.shape for name, values in head.weights_.items() if name.endswith("weight")]
    assert shapes == [(6, 10), (3, 6), (3, 3)]


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_refused_not_replaced(posts, device, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if torch.cuda.is_available():  # torch looked at the GPUs before this test
        device = "cuda:99"
    with pytest.raises(UsageError, match=rf"cannot train on the device '{device}'.*choose cpu"):
        ConcatMLPClassifier(device=device).fit(posts, posts.y)


@pytest.mark.parametrize("device", ["meta", "gpu", "cuda:x", 0.5])
def test_unknown_device_is_refused_by_its_name(posts, device):
    with pytest.raises(UsageError, match=rf"cannot train on the device {device!r}"):
        ConcatMLPClassifier(device=device).fit(posts, posts.y)


@pytest.mark.parametrize("sizes", [(), []])
def test_auxiliary_losses_need_a_hidden_layer(posts, sizes):
    with pytest.raises(UsageError, match="auxiliary losses need a hidden layer"):
        ConcatMLPClassifier(sizes, auxiliary=1.0).fit(posts, posts.y)


def test_early_stopping_needs_rows_to_hold_out(posts):
    with pytest.raises(UsageError, match="early_stopping needs a validation_fraction above 0"):
        ConcatMLPClassifier(early_stopping=True, validation_fraction=0.0).fit(posts, posts.y)


@pytest.mark.parametrize("name", ["cross-attention", "mult"])
def test_heads_of_attention_divide_the_width(posts, name):
    with pytest.raises(UsageError, match="heads must divide hidden, got 3 and 8"):
        make_classifier(name, hidden=8, heads=3, token_dim=1).fit(posts.to_numpy(), posts.y)


def test_outer_product_that_is_too_large_is_refused_before_it_is_made(posts):
    with pytest.raises(UsageError, match="choose a smaller hidden, or the head lowrank"):
        make_classifier("tensor", hidden=5000).fit(posts, posts.y)


@pytest.mark.parametrize("name", ["bilinear", "film", "multiplicative"])
@pytest.mark.parametrize("make", [make_classifier, make_regressor])
def test_formula_of_two_modalities_refuses_three_by_name(make_table, signal, make, name):
    vectors, y = signal()
    table = make_table(vectors | {"sound": vectors["text"]}, y)
    with pytest.raises(UsageError, match="joins at most 2 modalities, found text, image, sound"):
        make(name).fit(table, y if make is make_classifier else np.arange(60.0))
