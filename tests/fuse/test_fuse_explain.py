import itertools

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cache import UsageError
from fuse import make_classifier, make_regressor
from fuse.explain import emap, modality_shares

THREE = {"text": slice(0, 2), "image": slice(2, 5), "audio": slice(5, 9)}


@pytest.fixture
def trio():
    """60 rows of three modalities, of three classes and with a number that two of the modalities tell together."""
    rng = np.random.default_rng(0)
    X, target = rng.normal(size=(60, 9)), np.arange(60) % 3
    X[:, [0, 3]] += 0.8 * target[:, None]
    return X, np.array(["apple", "berry", "cherry"])[target], 5 + 3 * X[:, 0] * X[:, 2] + X[:, 5]


@pytest.fixture
def xor(make_table):
    """400 rows whose label is whether the signs of text and image differ."""
    rng = np.random.default_rng(0)
    signs = rng.choice([-1, 1], size=(400, 2))
    noisy = {
        name: signs[:, [m, m]] * [1, 0] + rng.normal(size=(400, 2)) / 4 for m, name in enumerate(("text", "image"))
    }
    return make_table(noisy, np.where(signs[:, 0] != signs[:, 1], "differ", "equal"))


@pytest.fixture
def quick(monkeypatch):
    """Networks are trained no longer than their epochs say: what they have learned does not matter."""
    monkeypatch.setattr("fuse.training.MIN_STEPS", 1)


def _permuted(value, count):
    """Shapley values by the definition: what each modality adds when it comes, on average over all orders."""
    orders = list(itertools.permutations(range(count)))
    shares = np.zeros((len(value(())), count))
    for order in orders:
        for place, m in enumerate(order):
            shares[:, m] += (value(order[: place + 1]) - value(order[:place])) / len(orders)
    return shares


@pytest.mark.parametrize("given", [True, False])
def test_shares_of_a_classifier_are_those_of_all_orders(trio, given):
    X, y, _ = trio
    head = make_classifier("vote", blocks=THREE).fit(X, y)
    labels = np.roll(y, 1) if given else head.predict(X)
    column = np.searchsorted(head.classes_, labels)
    own = []
    for part in THREE.values():
        alone = make_classifier("vote", blocks={"one": slice(0, part.stop - part.start)})
        own.append(alone.fit(X[:, part], y).predict_proba(X[:, part]))

    def value(shown):
        proba = np.mean([own[m] for m in shown], axis=0) if shown else np.full((60, 3), head.prior_)
        return proba[np.arange(60), column]

    found = modality_shares(head, X, labels if given else None)
    assert found.modalities == ("text", "image", "audio")
    np.testing.assert_allclose(found.values, _permuted(value, 3), atol=1e-6)
    assert found.mean.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.mean, np.abs(found.values).mean(axis=0) / np.abs(found.values).mean(axis=0).sum())
    np.testing.assert_allclose(found.values.sum(axis=1), value((0, 1, 2)) - value(()), atol=1e-6)


def test_shares_of_a_regressor_sum_to_what_it_predicts_beyond_the_mean(trio, quick):
    X, _, y = trio
    head = make_regressor("mlp", blocks=THREE, random_state=0).fit(X, 100 * y)
    found = modality_shares(head, X)
    np.testing.assert_allclose(found.values.sum(axis=1), head.predict(X) - head.target_mean_, atol=1e-8)


def test_shares_of_a_linear_head_are_its_summands(trio):
    X, _, y = trio
    head = make_regressor("ridge", blocks=THREE).fit(X, y)
    found = modality_shares(head, X).values
    for m, part in enumerate(THREE.values()):
        alone = np.where(np.isin(np.arange(9), np.arange(9)[part]), X, X.mean(axis=0))
        np.testing.assert_allclose(found[:, m], head.predict(alone) - y.mean(), atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "vote", "logreg", "kernel"])
def test_what_a_row_lacks_adds_nothing(name, gappy):
    head = make_classifier(name).fit(gappy, gappy.y)
    found = modality_shares(head, gappy, gappy.y)
    for m, modality in enumerate(found.modalities):
        np.testing.assert_allclose(found.values[~gappy.masks[modality], m], 0, atol=1e-12)
    column = np.searchsorted(head.classes_, gappy.y)
    expected = head.predict_proba(gappy)[np.arange(60), column] - head.prior_[column]
    np.testing.assert_allclose(found.values.sum(axis=1), expected, atol=1e-9)


def test_shares_of_a_useless_modality_are_small_and_none_gives_zeros(signal, make_table):
    vectors, y = signal()
    vectors["text"] = np.zeros_like(vectors["text"])
    table = make_table(vectors, y)
    head = make_classifier("logreg").fit(table, y)
    assert modality_shares(head, table).mean[1] > 0.9
    head.coef_ = np.zeros_like(head.coef_)
    head.intercept_ = np.log(head.prior_)
    np.testing.assert_allclose(modality_shares(head, table).mean, 0, atol=1e-9)


def test_shares_over_tokens(quick):
    X, y, blocks, _ = planted("gated-attention")
    head = make_classifier("gated-attention", blocks=blocks, token_dim=4, epochs=2, random_state=0).fit(X, y)
    found = modality_shares(head, X[:20])
    proba = head.predict_proba(X[:20])
    np.testing.assert_allclose(
        found.values.sum(axis=1), proba.max(axis=1) - head.prior_[proba.argmax(axis=1)], atol=1e-9
    )


def test_what_shares_cannot_be_computed_of_is_refused(posts, trio):
    X, y, number = trio
    head = make_classifier("logreg", blocks=THREE).fit(X, y)
    with pytest.raises(UsageError, match=r"classes apple, berry, cherry; y holds kiwi"):
        modality_shares(head, X, np.where(np.arange(60) == 3, "kiwi", y))
    with pytest.raises(UsageError, match=r"one label for each of 60 rows, got shape \(59,\)"):
        modality_shares(head, X, y[1:])
    with pytest.raises(UsageError, match="leave y out"):
        modality_shares(make_regressor("ridge", blocks=THREE).fit(X, number), X, number)
    with pytest.raises(NotFittedError):
        modality_shares(make_classifier("logreg"), X)
    with pytest.raises(UsageError, match=r"expected a head of fuse, got Pipeline; of a pipeline give its last step"):
        modality_shares(make_pipeline(StandardScaler(), head).fit(X, y), X)
    many = {f"m{number}": slice(number, number + 1) for number in range(13)}
    wide = np.random.default_rng(0).normal(size=(60, 13))
    with pytest.raises(UsageError, match=r"2\^M predictions of every row, M up to 12; .* 13 modalities"):
        modality_shares(make_classifier("logreg", blocks=many).fit(wide, y), wide)


def _logits(proba):
    logs = np.log(proba.clip(min=1e-12))
    return logs - logs.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("name", "space"), [("logreg", "logit"), ("vote-product", "logit"), ("vote", "proba")])
def test_additive_classifier_is_its_own_projection(name, space, exact, posts):
    head = make_classifier(name).fit(posts, posts.y)
    found = emap(head, posts, space, most=3600 if exact else 3599, draws=7)
    proba = head.predict_proba(posts)
    np.testing.assert_allclose(found.values, _logits(proba) if space == "logit" else proba, atol=1e-6)
    np.testing.assert_array_equal(found.labels, head.predict(posts))
    assert found.exact == exact


@pytest.mark.parametrize("most", [10**6, 0])
def test_additive_heads_of_three_modalities_are_their_own_projection(trio, most):
    X, y, number = trio
    head = make_classifier("logreg", blocks=THREE).fit(X, y)
    found = emap(head, X, most=most)
    assert found.exact == bool(most)
    np.testing.assert_allclose(found.values, _logits(head.predict_proba(X)), atol=1e-6)
    ridge = make_regressor("ridge", blocks=THREE).fit(X, number)
    found = emap(ridge, X, most=most)
    np.testing.assert_allclose(found.values, ridge.predict(X), atol=1e-6)
    np.testing.assert_array_equal(found.labels, found.values)


def _naive(predict, vectors, rows):
    """`f(t_i, v_j)` pair by pair, then the formula of Hessel and Lee."""
    pairs = np.array([[predict(*(vectors[m][k] for m, k in enumerate((i, j)))) for j in rows] for i in rows])
    return pairs.mean(axis=1) + pairs.mean(axis=0) - pairs.mean(axis=(0, 1))


@pytest.mark.parametrize("space", ["logit", "proba"])
def test_projection_is_that_of_a_double_loop(space, posts):
    table = posts[:12]
    head = make_classifier("bilinear", random_state=0, epochs=2).fit(posts, posts.y)
    array = make_classifier("bilinear", blocks=posts.blocks)
    array.__dict__.update(head.__dict__)
    vectors = [table.block("text"), table.block("image")]

    def predict(text, image):
        proba = array.predict_proba(np.hstack([text, image])[None])
        return (_logits(proba) if space == "logit" else proba)[0]

    found = emap(head, table, space)
    np.testing.assert_allclose(found.values, _naive(predict, vectors, range(12)), atol=1e-9)
    assert found.exact
    np.testing.assert_array_equal(found.labels, head.classes_[found.values.argmax(axis=1)])


def test_projection_over_chunks_and_lacking_modalities(gappy, monkeypatch):
    monkeypatch.setattr("fuse.explain.VECTOR_ROWS", 7)
    head = make_classifier("logit-mean", random_state=0).fit(gappy, gappy.y)  # leaves out what a row lacks
    rows = [3, 20, 12, 40, 15]  # without image, all, without text, all, with nothing
    inputs = head._read_again(gappy)
    scores = np.empty((5, 5, 3))
    for a, i in enumerate(rows):
        for b, j in enumerate(rows):
            pair = inputs.keep(np.array([i]))
            other = inputs.keep(np.array([j]))
            pair.values["image"][:], pair.masks["image"][:] = other.values["image"], other.masks["image"]
            scores[a, b] = _logits(head._known(pair))[0]
    expected = scores.mean(axis=1) + scores.mean(axis=0) - scores.mean(axis=(0, 1))
    np.testing.assert_allclose(emap(head, gappy[rows]).values, expected, atol=1e-9)


@pytest.mark.parametrize("name", ["mlp", "bilinear"])
def test_xor_drops_to_chance_without_interactions(name, xor):
    head = make_classifier(name, random_state=0).fit(xor[:200], xor.y[:200])
    test, y = xor[200:], xor.y[200:]
    assert (head.predict(test) == y).mean() > 0.95
    exact, sampled = emap(head, test), emap(head, test, most=0, draws=300, seed=1)
    for found in (exact, sampled):
        assert 0.3 < (found.labels == y).mean() < 0.7
    assert np.abs(exact.values - sampled.values).mean() < 0.2 * np.abs(_logits(head.predict_proba(test))).mean()
    again, other = (emap(head, test, most=0, draws=300, seed=seed) for seed in (1, 2))
    np.testing.assert_array_equal(again.values, sampled.values)
    assert np.abs(other.values - sampled.values).max() > 0


def test_what_cannot_be_projected_is_refused(posts, trio):
    X, y, _ = trio
    head = make_classifier("logreg").fit(posts, posts.y)
    with pytest.raises(UsageError, match="needs two, found all alone"):
        emap(make_classifier("logreg").fit(X, y), X)
    with pytest.raises(UsageError, match="space must be 'logit' or 'proba', got 'log'"):
        emap(head, posts, "log")
    with pytest.raises(UsageError, match="draws 1 or more"):
        emap(head, posts, draws=0)
    with pytest.raises(NotFittedError):
        emap(make_classifier("logreg"), posts)


def planted(name):
    """400 rows of 3 to 6 tokens; those of "yes" have one with a mark, at the returned place, others have none.

    Columns of a token: start, mark, and noise twice. For cross-attention the marked ones are the
    image's, which the text's tokens look at.
    """
    rng = np.random.default_rng(0)
    n, most = 400, 6
    lengths = rng.integers(3, most + 1, n)
    place = rng.integers(1, lengths)
    target = rng.integers(2, size=n)
    tokens = rng.normal(size=(n, most, 4)) * [0, 0, 1, 1]
    tokens[:, 0, 0] = 1
    tokens[np.arange(n), place, 1] = target
    tokens[np.arange(most) >= lengths[:, None]] = 0
    noise = rng.normal(size=(n, most, 4)) * (np.arange(most) < lengths[:, None])[..., None]
    names = ("image", "text") if name == "cross-attention" else ("text", "image")
    both = {names[0]: tokens, names[1]: noise}
    X = np.hstack([both["text"].reshape(n, -1), both["image"].reshape(n, -1)])
    return X, np.array(["no", "yes"])[target], {"text": slice(0, 24), "image": slice(24, 48)}, (lengths, place)


@pytest.mark.parametrize(
    ("name", "params"),
    [("gated-attention", {}), ("cross-attention", {}), ("cmbert", {"learning_rate": 1e-2})],
)
def test_attention_sums_to_one_over_a_rows_tokens_and_follows_the_planted_one(name, params):
    X, y, blocks, (lengths, place) = planted(name)
    head = make_classifier(name, blocks=blocks, token_dim=4, random_state=0, **params).fit(X[:300], y[:300])
    assert head.score(X[300:], y[300:]) > 0.9
    found = head.attention(X)
    assert [len(row) for row in found] == lengths.tolist()
    np.testing.assert_allclose([row.sum() for row in found], 1)
    assert min(row.min() for row in found) >= 0
    planted_weight = np.array([row[at] for row, at in zip(found, place, strict=True)])
    others = (1 - planted_weight) / (lengths - 1)
    held = (np.arange(400) >= 300) & (y == "yes")
    assert planted_weight[held].mean() > 2 * others[held].mean()


@pytest.mark.parametrize("name", ["set-mean", "set-max", "deepsets", "mult", "ef-lstm", "tokens-mlp"])
def test_heads_without_weights_over_tokens_say_so(name, quick):
    X, y, blocks, _ = planted(name)
    head = make_classifier(name, blocks=blocks, token_dim=4, epochs=1, random_state=0).fit(X[:20], y[:20])
    with pytest.raises(UsageError, match=rf"{type(head).__name__} has no attention weights over tokens"):
        head.attention(X)
    with pytest.raises(NotFittedError):
        make_classifier(name).attention(X)


@pytest.mark.parametrize("same", [True, False])
def test_projection_of_aligned_tokens_needs_rows_of_one_length(same, quick):
    X, y, blocks, _ = planted("cmbert")
    X = X.reshape(-1, 2, 6, 4)[:, :, :3].reshape(-1, 24) if same else X
    blocks = {"text": slice(0, X.shape[1] // 2), "image": slice(X.shape[1] // 2, X.shape[1])}
    head = make_classifier("cmbert", blocks=blocks, token_dim=4, epochs=1, random_state=0).fit(X[:40], y[:40])
    if same:
        assert emap(head, X[:10]).values.shape == (10, 2)
        return
    with pytest.raises(UsageError, match=r"rows have 3 to 6 tokens; .*give rows of one length"):
        emap(head, X[:10])
