import numpy as np
import pytest

from cache import UsageError
from fuse import HEADS, ConcatLogisticClassifier, make_classifier
from fuse.inputs import BlockScaler, Inputs

RNG = np.random.default_rng(1)
WEIGHT = np.array([1.0, 2.0, 0.5, 3.0, 1.0])
ALL = np.ones(5, dtype=bool)


def _scaled(x, mask=ALL):
    inputs = Inputs({"text": x}, {"text": mask})
    return BlockScaler().fit(inputs, WEIGHT).transform(inputs)


@pytest.mark.parametrize("unit", [1, 1e6, 1e-9])
def test_scaler_is_the_weighted_formula_in_any_unit(unit):
    x = (RNG.normal(size=(5, 3)) * 4 + 7) * unit
    mean = WEIGHT @ x / WEIGHT.sum()
    std = np.sqrt(WEIGHT @ (x - mean) ** 2 / WEIGHT.sum())
    np.testing.assert_allclose(_scaled(x), (x - mean) / (std * np.sqrt(3)), rtol=1e-9)


def test_rows_without_the_modality_neither_count_nor_show():
    x, mask = RNG.normal(size=(5, 3)), np.array([True, True, False, True, True])
    expected = _scaled(x.copy(), mask)
    x[2] = 1e9
    np.testing.assert_array_equal(_scaled(x, mask), expected)
    assert not expected[2].any()


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_constant_column_scales_to_zero(constant):
    scaled = _scaled(np.column_stack([np.full(5, constant), np.arange(5.0)]))
    np.testing.assert_allclose(scaled[:, 0], 0, atol=1e-9)
    assert scaled[:, 1].std() > 0.5


@pytest.mark.parametrize(
    "blocks",
    [
        *({"text": part} for part in (slice(0, 5), slice(2, 2), slice(-2, 4), slice(0, None), slice(0, 4, 2), [0, 1])),
        {"text": slice(0, 3), "image": slice(2, 4)},
        {},
    ],
    ids=["too wide", "empty", "negative", "open", "step", "list", "overlap", "none"],
)
def test_bad_blocks_are_refused_by_name(blocks):
    with pytest.raises(UsageError, match="block"):
        ConcatLogisticClassifier(blocks=blocks).fit(RNG.normal(size=(20, 4)), np.arange(20) % 2)


@pytest.mark.parametrize("name", HEADS)
def test_table_array_and_swapped_table_give_the_same(name, posts):
    params = {"random_state": 0} if name == "mlp" else {}
    X, by_table = posts.to_numpy(), make_classifier(name, **params).fit(posts, posts.y)
    expected = by_table.predict_proba(posts)
    by_array = make_classifier(name, blocks=posts.blocks, **params).fit(X, posts.y)
    for proba in (by_array.predict_proba(X), by_array.predict_proba(posts), by_table.predict_proba(X)):
        np.testing.assert_array_equal(proba, expected)
    np.testing.assert_array_equal(by_table.predict_proba(posts.select(["image", "text"])), expected)


def test_table_with_other_widths_is_refused_even_where_the_sum_fits(posts, make_table):
    head = ConcatLogisticClassifier().fit(posts, posts.y)
    with pytest.raises(ValueError, match="text"):
        head.predict_proba(make_table({"text": posts.block("image"), "image": posts.block("text")}, posts.y))
