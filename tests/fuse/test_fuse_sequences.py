import numpy as np
import pytest

from cache import UsageError
from fuse import make_classifier
from fuse.registry import HEADS

DIM, STEPS = 3, 5
BLOCKS = {"text": slice(0, STEPS * DIM), "sound": slice(STEPS * DIM, 2 * STEPS * DIM)}
TOKEN_HEADS = [name for name, head in HEADS.items() if head.reads_tokens]
SETS = ["set-mean", "set-max", "deepsets", "gated-attention"]


def ragged(rows=30, seed=0):
    """Tokens `(n, 2, STEPS, DIM)`, as many in both modalities, zeros behind them; how many; and labels."""
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(rows, 2, STEPS, DIM))
    lengths = rng.integers(2, STEPS + 1, size=rows)
    lengths[0] = STEPS
    tokens[np.arange(STEPS) >= lengths[:, None, None].repeat(2, axis=1)] = 0
    return tokens, lengths, np.arange(rows) % 2


def flat(tokens):
    return tokens.reshape(len(tokens), -1)


def reordered(tokens, lengths, order):
    """Each row's tokens in the order that `order(length)` gives."""
    out = tokens.copy()
    for row, length in enumerate(lengths):
        out[row, :, :length] = tokens[row][:, order(length)]
    return out


@pytest.fixture
def quick(few_steps):
    """Fits a head in a few steps."""

    def fitted(name, X, y, **params):
        params = {"epochs": 10, "learning_rate": 1e-2, "random_state": 0, "token_dim": DIM} | params
        return make_classifier(name, blocks=BLOCKS, **params).fit(X, y)

    return fitted


def moved(head, tokens, lengths, order):
    """How far probabilities move when tokens are put in another order."""
    return np.abs(head.predict_proba(flat(tokens)) - head.predict_proba(flat(reordered(tokens, lengths, order)))).max()


def backwards(length):
    return np.arange(length)[::-1]


def backwards_after_the_first(length):
    return np.r_[0, np.arange(1, length)[::-1]]


# Rates


def test_the_weights_of_cmberts_modalities_may_have_a_rate_of_their_own(quick):
    tokens, _, y = ragged()
    start, still, apart = (
        quick("cmbert", flat(tokens), y, dropout=0.0, learning_rate=1e-12, **more).weights_
        for more in ({"epochs": 1}, {"epochs": 3}, {"epochs": 3, "fusion_rate": 0.01})
    )
    own = {"network.weight", "network.bias"}
    for name, weights in apart.items():
        np.testing.assert_allclose(still[name], start[name], atol=1e-9)
        if name not in own:
            np.testing.assert_allclose(weights, start[name], atol=1e-9)
    assert np.abs(apart["network.weight"] - 1).max() > 1e-3
    with pytest.raises(UsageError, match="fusion_rate must be a number above 0"):
        quick("cmbert", flat(tokens), y, fusion_rate=0.0)


# Order


@pytest.mark.parametrize("name", [*SETS, "cross-attention"])
def test_order_of_a_set_does_not_count(quick, name):
    tokens, lengths, y = ragged()
    head = quick(name, flat(tokens), y)
    assert moved(head, tokens, lengths, backwards) < 1e-12
    assert np.ptp(head.predict_proba(flat(tokens))) > 1e-3


@pytest.mark.parametrize("name", ["ef-lstm", "mult", "tokens-mlp"])
@pytest.mark.parametrize("order", [backwards, backwards_after_the_first])
def test_order_of_a_sequence_counts(quick, name, order):
    tokens, lengths, y = ragged()
    assert moved(quick(name, flat(tokens), y), tokens, lengths, order) > 1e-3


def test_cmbert_knows_the_first_token_and_no_other_place(quick):
    tokens, lengths, y = ragged()
    head = quick("cmbert", flat(tokens), y)
    assert moved(head, tokens, lengths, backwards_after_the_first) < 1e-12
    assert moved(head, tokens, lengths, backwards) > 1e-3


def test_cmbert_needs_the_alignment(quick):
    tokens, lengths, y = ragged()
    head, other = quick("cmbert", flat(tokens), y), tokens.copy()
    other[:, 1] = reordered(tokens, lengths, backwards)[:, 1]  # the sound alone runs backwards
    assert np.abs(head.predict_proba(flat(other)) - head.predict_proba(flat(tokens))).max() > 1e-5


# Rows and lengths


@pytest.mark.parametrize("name", TOKEN_HEADS)
def test_prediction_of_a_row_does_not_depend_on_longer_ones(quick, name):
    tokens, _, y = ragged()
    tokens[::4, 0] = 0  # no text
    if name not in ("cmbert", "ef-lstm"):  # of which the first modality says how many tokens there are
        tokens[1::4, 1] = 0
    head = quick(name, flat(tokens), y)
    together = head.predict_proba(flat(tokens))
    alone = np.vstack([head.predict_proba(flat(tokens[row : row + 1])) for row in range(len(tokens))])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", TOKEN_HEADS)
def test_tokens_beyond_the_longest_training_row_are_cut(quick, name):
    tokens, _, y = ragged()
    short = tokens.copy()
    short[:, :, 3:] = 0
    head = quick(name, flat(short), y)
    np.testing.assert_allclose(head.predict_proba(flat(tokens)), head.predict_proba(flat(short)), atol=1e-12)


@pytest.mark.parametrize("name", [name for name in TOKEN_HEADS if name not in SETS])
def test_single_vectors_are_refused_with_the_reason(quick, name):
    tokens, _, y = ragged()
    one = tokens.copy()
    one[:, :, 1:] = 0
    with pytest.raises(UsageError, match="reads token vectors; these features have one vector a modality"):
        quick(name, flat(one), y)


@pytest.mark.parametrize("name", SETS)
def test_sets_may_hold_one_vector_each(quick, name):
    tokens, _, y = ragged()
    tokens[:, :, 1:] = 0
    assert np.isfinite(quick(name, flat(tokens), y).predict_proba(flat(tokens))).all()


@pytest.mark.parametrize("name", ["cmbert", "ef-lstm"])
def test_aligned_heads_refuse_a_modality_of_one_vector(name):
    tokens, _, y = ragged()
    head = make_classifier(name, blocks=BLOCKS, token_dim={"text": DIM})
    with pytest.raises(UsageError, match="joins modalities token by token, and sound has one vector a sample"):
        head.fit(flat(tokens), y)


@pytest.mark.parametrize("name", ["cross-attention", "mult", "tokens-mlp", *SETS])
def test_tokens_stand_beside_whole_vectors(quick, name):
    tokens, _, y = ragged()
    head = quick(name, flat(tokens), y, token_dim={"text": DIM})
    assert head.predict_proba(flat(tokens)).shape == (30, 2)
    assert dict(zip(head.parts_[0], head.parts_[1], strict=True)) == {"text": DIM, "sound": STEPS * DIM}


@pytest.mark.parametrize("token_dim", [4, 0, 2.5, True, {"text": 7}, {"voice": 3}])
def test_token_dim_must_divide_the_columns(token_dim):
    tokens, _, y = ragged()
    with pytest.raises(UsageError, match="token_dim must divide the columns of each modality"):
        make_classifier("mult", blocks=BLOCKS, token_dim=token_dim).fit(flat(tokens), y)


# Attention


@pytest.mark.parametrize("name", ["cmbert", "cross-attention", "gated-attention"])
def test_attention_is_one_weight_a_token_of_the_row_itself(quick, name):
    tokens, lengths, y = ragged()
    head = quick(name, flat(tokens), y)
    weights = head.attention(flat(tokens))
    assert [len(row) for row in weights] == lengths.tolist()
    np.testing.assert_allclose([row.sum() for row in weights], 1, atol=1e-12)
    for row in (0, 7):
        np.testing.assert_allclose(head.attention(flat(tokens[row : row + 1]))[0], weights[row], atol=1e-12)


@pytest.mark.parametrize("name", [n for n in TOKEN_HEADS if n not in ("cmbert", "cross-attention", "gated-attention")])
def test_heads_without_attention_say_so(quick, name):
    tokens, _, y = ragged()
    with pytest.raises(UsageError, match="has no attention weights over tokens"):
        quick(name, flat(tokens), y, epochs=1).attention(flat(tokens))


# Tasks


def accuracy(name, tokens, y, **params):
    half = len(y) // 2
    head = make_classifier(name, blocks=BLOCKS, token_dim=DIM, random_state=0, **params)
    return head.fit(flat(tokens[:half]), y[:half]).score(flat(tokens[half:]), y[half:])


def which_comes_first(rows=800):
    """A pulse up and a pulse down in each row; which was first. The order is all there is."""
    rng, y = np.random.default_rng(0), np.arange(rows) % 2
    tokens = rng.normal(size=(rows, 2, STEPS, DIM)) * 0.3
    places = np.sort(rng.permuted(np.tile(np.arange(STEPS), (rows, 1)), axis=1)[:, :2], axis=1)
    for sign, place in ((1, 0), (-1, 1)):
        tokens[np.arange(rows), 0, places[:, place], 0] += 3 * sign * (2 * y - 1)
    return tokens, y


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("ef-lstm", 0.95, 1), ("mult", 0.9, 1), ("tokens-mlp", 0.9, 1), *[(name, 0, 0.6) for name in SETS]],
)
def test_only_sequences_learn_what_came_first(name, low, high):
    assert low <= accuracy(name, *which_comes_first(), epochs=30, learning_rate=3e-3) <= high


def how_many(rows=800):
    """Two or four tokens, all alike."""
    lengths = np.random.default_rng(0).choice([2, 4], size=rows)
    tokens = np.ones((rows, 2, STEPS, DIM))
    tokens[np.arange(STEPS) >= lengths[:, None, None].repeat(2, axis=1)] = 0
    return tokens, (lengths == 4).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "low", "high"), [("deepsets", 0.99, 1), ("set-mean", 0, 0.6)])
def test_sums_count_what_means_do_not(name, low, high):
    assert low <= accuracy(name, *how_many()) <= high


def one_that_decides(rows=800):
    """One marked vector among five; its second column is the label's, that of all others is a coin's."""
    rng, y = np.random.default_rng(0), np.arange(rows) % 2
    tokens = rng.normal(size=(rows, 2, STEPS, DIM)) * 0.3
    tokens[..., 1] += rng.choice([-2, 2], size=tokens.shape[:-1])
    place = rng.integers(STEPS, size=rows)
    tokens[np.arange(rows), 0, place, 0] += 4
    tokens[np.arange(rows), 0, place, 1] = 2 * (2 * y - 1)
    return tokens, y, place


@pytest.mark.slow
def test_gated_attention_finds_the_vector_that_decides():
    tokens, y, place = one_that_decides()
    head = make_classifier("gated-attention", blocks=BLOCKS, token_dim=DIM, random_state=0, epochs=60)
    head.set_params(learning_rate=1e-2).fit(flat(tokens[:400]), y[:400])
    assert head.score(flat(tokens[400:]), y[400:]) >= 0.95
    assert accuracy("set-mean", tokens, y) <= 0.85
    looked = np.array(head.attention(flat(tokens[400:])))
    assert (looked.argmax(axis=1) == place[400:]).mean() >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["sample", "batch", "none"])
def test_cmbert_learns_from_the_sound_which_word_counts(scale):
    """The first word is the question; the loud word like it holds the answer."""
    tokens, y, place = one_that_decides()
    rows = np.arange(len(y))
    place = 1 + place % (STEPS - 1)
    tokens[..., 0] = 0.3 * tokens[..., 2]
    tokens[:, 0, 0, 1] = 0
    tokens[rows, 0, place, 1] = 2 * (2 * y - 1)
    tokens[rows, 1] = 0.1
    tokens[rows, 1, 0, 2] = tokens[rows, 1, place, 2] = 4  # the sound of the first word and of the one that counts
    silent = tokens * np.array([1, 0])[:, None, None]
    heard, deaf = (accuracy("cmbert", one, y, scale=scale, epochs=60, learning_rate=1e-2) for one in (tokens, silent))
    assert heard >= max(0.97, deaf + 0.08)
