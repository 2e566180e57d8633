import numpy as np
import pytest

from cache import Ragged, UsageError
from fuse import HEADS, make_classifier
from fuse.inputs import unpadded

ALIGNED = ["cmbert", "ef-lstm"]
NEEDS_TOKENS = ["cross-attention", "cmbert", "ef-lstm", "mult", "tokens-mlp"]
ROWS = np.arange(60)


def _items(lengths, columns=3, seed=7):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, columns)) for length in lengths]


@pytest.fixture
def padded():
    """Turns a table's tokens into an array with blocks: tokens end to end, zeros at the end."""

    def make(table, steps=4):
        blocks, parts, start = {}, [], 0
        for name in table.modalities:
            tokens = table.tokens(name)
            part = np.zeros((len(table), steps, tokens.shape[1]))
            for row, one in enumerate(tokens):
                part[row, : len(one)] = one
            parts.append(part.reshape(len(table), -1))
            blocks[name] = slice(start, start + parts[-1].shape[1])
            start = blocks[name].stop
        return np.hstack(parts), blocks

    return make


def test_table_and_padded_array_give_the_same(token_case, few_steps, data_of, padded):
    table, y = data_of(token_case)
    chosen = ("text", "image")
    by_table = token_case.make(tokens=chosen).fit(table, y)
    X, blocks = padded(table)
    by_array = token_case.make(blocks=blocks, token_dim=3).fit(X, y, groups=table.groups)
    np.testing.assert_allclose(token_case.output(by_array, X), token_case.output(by_table, table), rtol=1e-6, atol=1e-7)
    assert by_table.read_by_token_ == by_array.read_by_token_ == ["text", "image"]


def test_padding_to_any_length_changes_nothing(token_case, few_steps, data_of, padded):
    table, y = data_of(token_case)
    one, other = (padded(table, steps) for steps in (4, 7))
    heads = [token_case.make(blocks=blocks, token_dim={"text": 3, "image": 3}).fit(X, y) for X, blocks in (one, other)]
    outputs = [token_case.output(head, X) for head, (X, _) in zip(heads, (one, other), strict=True)]
    if token_case.name == "tokens-mlp":
        assert heads[0].parts_ == heads[1].parts_
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-9, atol=1e-12)


def test_longer_sequences_than_in_training_are_read_or_cut(token_case, few_steps, signal, make_table, data_of):
    vectors, labels = signal()
    lengths = np.where(ROWS < 40, 1 + ROWS % 4, 9)
    tokens = {"text": _items(lengths), "image": _items(lengths, seed=8)}
    cut = {name: [one[:4] for one in items] for name, items in tokens.items()}
    table, short = (make_table(vectors, labels, tokens=one) for one in (tokens, cut))
    y = data_of(token_case)[1]
    head = token_case.make().fit(table[:40], y[:40])
    found = token_case.output(head, table)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, token_case.output(head, short), rtol=1e-9)


def test_rows_without_tokens_lack_the_modality(token_case, few_steps, signal, make_table, data_of):
    vectors, labels = signal()
    lengths = np.where(ROWS % 5 == 0, 0, 1 + ROWS % 4)
    tokens = {"text": _items(1 + ROWS % 4), "image": _items(lengths, seed=8)}
    masked = {"text": tokens["text"], "image": _items(1 + ROWS % 4, seed=9)}
    for row in np.flatnonzero(lengths):
        masked["image"][row] = tokens["image"][row]
    empty, missing = (
        make_table(vectors, labels, tokens=tokens),
        make_table(vectors, labels, tokens=masked, present={"image": lengths > 0}),
    )
    y, chosen = data_of(token_case)[1], {"tokens": ("text", "image")}
    one, other = (token_case.make(**chosen).fit(table, y) for table in (empty, missing))
    np.testing.assert_allclose(token_case.output(other, missing), token_case.output(one, empty), rtol=1e-9)


def test_all_tokens_that_there_are_count_by_default(token_case, data_of, few_steps):
    table, y = data_of(token_case)
    head = token_case.make().fit(table, y)
    assert head.read_by_token_ == (["text"] if token_case.name == "tokens-mlp" else ["text", "image"])


@pytest.mark.parametrize("name", [name for name, head in HEADS.items() if head.reads_tokens and name not in ALIGNED])
@pytest.mark.parametrize("chosen", [["text"], ["image"], ("image", "text")])
def test_modalities_that_are_read_by_token_may_be_chosen(name, chosen, few_steps, signal, make_table, aligned_tokens):
    vectors, y = signal()
    table = make_table(vectors, y, tokens=aligned_tokens(vectors))
    head = make_classifier(name, tokens=chosen, epochs=1, random_state=0).fit(table, y)
    assert set(head.read_by_token_) == set(chosen)
    assert [bool(steps) for steps in head.parts_[2]] == ["text" in chosen, "image" in chosen]
    assert head.predict_proba(table).shape == (60, 3)


@pytest.mark.parametrize("name", ["cross-attention", "cmbert", "mult", "tokens-mlp"])
def test_pooled_features_are_refused_with_the_reason(posts, name):
    reason = {"tokens-mlp": "posts has no text tokens|reads token vectors", "cmbert": "joins modalities token by token"}
    expected = reason.get(name, r"reads token vectors.*every attention weight is 1.*Run extract with --tokens")
    with pytest.raises((UsageError, FileNotFoundError), match=expected):
        make_classifier(name).fit(posts, posts.y)


@pytest.mark.parametrize("name", ["cross-attention", "cmbert", "mult", "ef-lstm", "tokens-mlp"])
def test_arrays_without_token_dim_are_refused_with_the_remedy(posts, name):
    for X, blocks in ((posts.to_numpy(), None), (posts.to_numpy(), posts.blocks)):
        with pytest.raises(UsageError, match="token_dim"):
            make_classifier(name, blocks=blocks).fit(X, posts.y)


@pytest.mark.parametrize("name", ["cross-attention", "cmbert", "mult"])
def test_one_token_a_sample_is_refused_with_the_reason(signal, make_table, name):
    vectors, y = signal()
    table = make_table(vectors, y, tokens={"text": _items(np.ones(60, int)), "image": _items(np.ones(60, int))})
    with pytest.raises(UsageError, match="with a single key every attention weight is 1"):
        make_classifier(name).fit(table, y)


@pytest.mark.parametrize("name", ALIGNED)
def test_aligned_heads_refuse_lengths_that_differ_and_name_the_rows(name, few_steps, signal, make_table):
    vectors, y = signal()
    lengths = 1 + ROWS % 4
    longer = np.where(ROWS == 41, 9, lengths)
    table = make_table(vectors, y, tokens={"text": _items(lengths), "image": _items(longer)})
    message = r"1 samples have different numbers of tokens \(id41; the first: text 2, image 9\)"
    with pytest.raises(UsageError, match=message):
        make_classifier(name).fit(table, y)
    head = make_classifier(name, epochs=1).fit(table[:40], y[:40])
    with pytest.raises(UsageError, match=message):
        head.predict(table)


@pytest.mark.parametrize("name", ALIGNED)
def test_aligned_heads_refuse_a_modality_of_one_vector_by_name(name, signal, make_table):
    vectors, y = signal()
    with pytest.raises(UsageError, match="image has one vector a sample; leave it out"):
        make_classifier(name).fit(make_table(vectors, y, tokens={"text": _items(1 + ROWS % 4)}), y)


def test_tokens_that_name_no_modality_are_refused(token_case, data_of):
    table, y = data_of(token_case)
    with pytest.raises(UsageError, match="tokens names sound; the features hold text, image"):
        token_case.make(tokens=["sound"]).fit(table, y)


@pytest.mark.parametrize("dim", [3, 0, -1, 1.5, {"text": 3}, {"sound": 1}, {"text": 2, "image": 4}])
def test_token_dim_that_does_not_divide_is_refused(posts, dim):
    with pytest.raises(UsageError, match="token_dim must divide the columns of each modality"):
        make_classifier("cross-attention", token_dim=dim, blocks=posts.blocks).fit(posts.to_numpy(), posts.y)


@pytest.mark.parametrize("name", ["set-mean", "set-max", "deepsets", "gated-attention"])
def test_the_order_of_a_set_changes_nothing(name, few_steps, signal, make_table):
    vectors, y = signal()
    items = _items(1 + ROWS % 4)
    table, turned = (
        make_table(vectors, y, tokens={"text": one, "image": one}) for one in (items, [one[::-1] for one in items])
    )
    head = make_classifier(name, random_state=0, epochs=2).fit(table, y)
    np.testing.assert_allclose(head.predict_proba(turned), head.predict_proba(table), rtol=1e-9)


@pytest.mark.parametrize("name", ["cross-attention", "cmbert", "gated-attention"])
def test_attention_sums_to_one_over_the_tokens_of_a_row(name, few_steps, signal, make_table, aligned_tokens):
    vectors, y = signal()
    table = make_table(vectors, y, tokens=aligned_tokens(vectors))
    weights = make_classifier(name, random_state=0, epochs=1).fit(table, y).attention(table)
    assert [len(one) for one in weights] == table.tokens("text").lengths.tolist()
    np.testing.assert_allclose([one.sum() for one in weights], 1, rtol=1e-6)


def test_tokens_that_are_not_finite_are_refused(signal, make_table, aligned_tokens, monkeypatch):
    vectors, y = signal()
    table = make_table(vectors, y, tokens=aligned_tokens(vectors))
    plain = type(table).tokens

    def damaged(table, name):
        tokens = plain(table, name)
        values = np.array(tokens.values)
        values[-1, -1] = np.nan
        return Ragged(values, tokens.offsets)

    monkeypatch.setattr(type(table), "tokens", damaged)
    with pytest.raises(UsageError, match="the text tokens hold NaN or infinity"):
        make_classifier("mult").fit(table, y)


def test_aligned_arrays_take_the_lengths_of_the_first_modality():
    rows = np.array([[1.0, 2, 0], [0, 0, 0]])
    assert unpadded(rows, 1).lengths.tolist() == [2, 0]
    assert unpadded(rows, 1, lengths=np.array([3, 1])).lengths.tolist() == [3, 1]


def test_rows_that_all_lack_a_modality_have_no_tokens_of_the_same_width(signal, make_table):
    vectors, y = signal()
    tokens = {"image": [np.full((row % 3 + 1, 5), row, dtype=np.float16) for row in range(len(y))]}
    table = make_table(vectors, y, present={"image": np.arange(len(y)) > 4}, tokens=tokens)
    assert table.tokens("image").shape == (len(y), 5)
    assert table[:4].tokens("image").shape == (4, 5)
    assert table[:4].tokens("image").lengths.tolist() == [0, 0, 0, 0]
