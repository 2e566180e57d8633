import pickle
from dataclasses import replace

import numpy as np
import pytest

from fuse import HEADS, make_classifier, make_regressor
from fuse.ablation.engine import read_data
from fuse.inputs import Inputs
from fuse.memo import Memo
from tests.fuse.ablation_data import gaps, make_numbers, make_posts, quick  # noqa: F401

VOTES = [name for name in HEADS if name.startswith("vote")]
SHARING = ["logreg", "ridge", *VOTES, "stacking", "ensemble"]
FEW = ["logreg", "ridge", "vote", "vote-prior", "vote-fitted", "stacking", "mlp"]


def build(name, numbers=False, **params):
    quickly = {"epochs": 2, "random_state": 0} | (
        {"members": ("unimodal", "ridge" if numbers else "logreg")} if name == "ensemble" else {}
    )
    make = make_regressor if numbers else make_classifier
    known = make(name).get_params(deep=False)
    return make(name, **{key: value for key, value in quickly.items() if key in known} | params)


def output(head, rows):
    return head.predict_proba(rows) if hasattr(head, "predict_proba") else head.predict(rows)


@pytest.fixture(scope="module")
def posts(tmp_path_factory):
    table = make_posts(tmp_path_factory.mktemp("memo") / "posts", present=gaps())
    return table, read_data(table)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    table = make_numbers(tmp_path_factory.mktemp("memo") / "numbers", present=gaps())
    return table, read_data(table)


def held(memo):
    return [(key, pickle.dumps(value)) for key, (value, _) in memo._held.items()] + [
        (key, held(part)) for key, part in memo._parts.items()
    ]


def test_each_result_is_made_once_and_what_it_spares_is_counted(monkeypatch):
    times = iter([10.0, 13.0, 20.0, 24.0])
    monkeypatch.setattr("fuse.memo.time.perf_counter", lambda: next(times))
    memo, made = Memo(), []

    def make(value):
        made.append(value)
        return value

    assert memo.get("a", lambda: make(1)) == 1
    assert memo.clock.saved == 0
    assert [memo.get("a", lambda: make(2)), memo.get("a", lambda: make(3))] == [1, 1]
    assert memo.clock.saved == 6
    part = memo.part("half")
    assert part is memo.part("half")
    assert part.get("a", lambda: make(4)) == 4
    assert part.get("a", lambda: make(5)) == 4
    assert memo.clock.saved == 10
    assert made == [1, 4]


@pytest.mark.parametrize(
    ("kind", "heads"),
    [("posts", FEW), ("numbers", [*SHARING, "mlp"]), pytest.param("posts", [*SHARING, "mlp"], marks=pytest.mark.slow)],
    ids=["posts", "numbers", "all"],
)
def test_results_with_a_shared_memo_are_the_same_to_the_bit(request, kind, heads, few_steps):
    """Heads in turn, on all and on single modalities, on some rows: each may take what those before it left."""
    data = request.getfixturevalue(kind)[1]
    wanted = [
        (name, only)
        for name in heads
        if (HEADS[name].classifier if kind == "posts" else HEADS[name].regressor)
        for only in (("text", "image"), ("image", "text"), ("image",))
    ]
    rows, test = np.flatnonzero(np.arange(len(data.y)) % 4 != 0), np.flatnonzero(np.arange(len(data.y)) % 4 == 0)
    shared = Memo()
    train = replace(data.inputs.keep(rows), memo=shared)
    for name, only in (*wanted, *wanted[::-5]):
        before = held(shared)
        with_memo = build(name, kind == "numbers").fit(train.only(only), data.y[rows])
        alone = build(name, kind == "numbers").fit(data.inputs.keep(rows).only(only), data.y[rows])
        found, expected = (output(head, data.inputs.keep(test).only(only)) for head in (with_memo, alone))
        assert found.tobytes() == expected.tobytes(), (name, only)
        after = dict_of(held(shared))
        assert all(after[key] == value for key, value in flat(before)), (name, only)
    assert shared.clock.saved > 0


def flat(content, path=()):
    for key, value in content:
        if isinstance(value, list):
            yield from flat(value, (*path, key))
        else:
            yield (*path, key), value


def dict_of(content):
    return dict(flat(content))


@pytest.mark.parametrize("name", ["logreg", "ridge", "vote", "stacking"])
def test_whatever_a_fit_depends_on_is_in_its_key(posts, name):
    """One memo for fits that differ in a single thing; were it not in the key, the first would be given again."""
    data, rng = posts[1], np.random.default_rng(1)
    shared = replace(data.inputs, memo=Memo())
    half, other = np.arange(0, len(data.y), 2), np.arange(1, len(data.y), 2)
    strength = "alpha" if name == "ridge" else "C"
    weight = rng.uniform(0.2, 3, size=len(data.y))
    changed = np.where(np.arange(len(data.y)) < 15, np.roll(data.y, 1), data.y)
    hidden = ["text"]
    variants = [
        lambda inputs: build(name).fit(inputs, data.y),
        lambda inputs: build(name, **{strength: 0.01}).fit(inputs, data.y),
        lambda inputs: build(name).fit(inputs, data.y, sample_weight=weight),
        lambda inputs: build(name, class_weight={"apple": 9.0, "berry": 1.0, "cherry": 1.0}).fit(inputs, data.y),
        lambda inputs: build(name).fit(inputs, changed),
        lambda inputs: build(name).fit(inputs.keep(half), data.y[half]),
        lambda inputs: build(name).fit(inputs.keep(other), data.y[other]),
        lambda inputs: build(name).fit(inputs.keep(np.arange(len(data.y)) % 2 == 0), data.y[half]),
        lambda inputs: build(name).fit(inputs.without(hidden), data.y),
        lambda inputs: build(name).fit(inputs.only(["image", "text"]), data.y),
        lambda inputs: build(name).fit(inputs.only(["text"]), data.y),
    ]
    found = []
    for variant in variants:
        with_memo, alone = variant(shared), variant(data.inputs)
        seen = data.inputs.only(list(alone.blocks_))
        found.append(output(with_memo, seen).tobytes())
        assert found[-1] == output(alone, seen).tobytes()
    pairs = {(b, a) for a in range(len(found)) for b in range(a) if found[a] == found[b]}
    assert (5, 7) in pairs  # the same rows, by number and by mask
    assert pairs <= {(5, 7), (0, 9)}  # the order of the modalities may matter in the last digits only


def test_a_memo_spares_the_second_fit(posts, monkeypatch):
    data = posts[1]
    fits = []
    real = __import__("fuse.heads.linear", fromlist=["_fit_softmax"])._fit_softmax
    monkeypatch.setattr("fuse.heads.linear._fit_softmax", lambda *args: fits.append(1) or real(*args))
    shared = replace(data.inputs, memo=Memo())
    build("vote").fit(shared, data.y)
    assert len(fits) == 2
    for name in ("vote-prior", "vote-max"):
        build(name).fit(shared, data.y)
    assert len(fits) == 2
    build("vote-fitted").fit(shared, data.y)  # five inner folds of two modalities
    assert len(fits) == 12
    build("stacking").fit(shared, data.y)  # the same inner folds
    assert len(fits) == 12
    build("vote", C=2.0).fit(shared, data.y)
    assert len(fits) == 14


@pytest.mark.parametrize("name", [*SHARING, "mlp", "svm", "kernel"])
def test_a_head_on_inputs_is_the_head_on_the_table(posts, name, few_steps):
    table, data = posts
    rows, test = np.arange(45), np.arange(45, 60)
    on_table = build(name).fit(table[rows], table.y[rows])
    on_inputs = build(name).fit(data.inputs[rows], data.y[rows])
    np.testing.assert_array_equal(output(on_inputs, data.inputs[test]), output(on_table, table[test]))
    np.testing.assert_array_equal(output(on_inputs, table[test]), output(on_table, data.inputs[test]))
    assert on_inputs.blocks_ == on_table.blocks_
    assert on_inputs.n_features_in_ == on_table.n_features_in_


@pytest.mark.parametrize("name", ["ridge", "stacking", "mlp"])
def test_a_regressor_on_inputs_is_the_regressor_on_the_table(numbers, name, few_steps):
    table, data = numbers
    on_table = build(name, True).fit(table, table.y)
    on_inputs = build(name, True).fit(data.inputs, data.y)
    np.testing.assert_allclose(output(on_inputs, data.inputs), output(on_table, table), rtol=1e-12)


def test_modalities_that_a_head_does_not_read_are_passed_over(posts):
    table, data = posts
    head = build("logreg").fit(data.inputs.only(["text"]), data.y)
    np.testing.assert_array_equal(output(head, data.inputs), output(head, table))


def test_inputs_of_other_widths_are_refused_and_of_another_order_are_not(posts):
    data = posts[1]
    head = build("logreg").fit(data.inputs, data.y)
    swapped = data.inputs.only(["image", "text"])
    np.testing.assert_array_equal(output(head, swapped), output(head, data.inputs))
    narrow = Inputs({name: x[:, :3] for name, x in data.inputs.values.items()}, data.inputs.masks)
    with pytest.raises(ValueError, match="block 'text' has 3 columns, the head was fitted on 4"):
        output(head, narrow)
