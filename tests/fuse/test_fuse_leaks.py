import json
from dataclasses import replace

import numpy as np
import pytest

import cache
from cache import DataError
from fuse import leaks
from fuse.leaks import across, describe, near_duplicates, refuse_tuned, tuned_rows
from fuse.splits import Fold


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def brute(values, present, groups, threshold):
    """`{row: (cosine of its nearest row of another group, all rows as near)}`, by the formula in float64."""
    centred = values.astype(np.float64) - values[present].astype(np.float64).mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    cosine = unit @ unit.T
    cosine[:, ~present] = cosine[groups[:, None] == groups[None, :]] = -2
    best = cosine.max(axis=1)
    return {
        row: (best[row], set(np.flatnonzero(cosine[row] > best[row] - 1e-5).tolist()))
        for row in np.flatnonzero(present & (best >= threshold)).tolist()
    }


def make_rows(rng, n=50, columns=6, dtype=np.float32):
    """Rows with a common offset; many of them are nearly another one."""
    values = rng.normal(size=(n, columns)) + 20
    for row in range(0, n - 3, 4):
        values[row + 3] = values[row] + rng.normal(size=columns) * 0.05
    return values.astype(dtype), rng.random(n) < 0.9, np.arange(n) // 2 * (np.arange(n) % 5 != 0)


@pytest.mark.parametrize("at_once", [1, 7, 25, 50, 4096])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_pairs_are_those_of_all_cosines_wherever_chunks_end(rng, monkeypatch, at_once, dtype):
    monkeypatch.setattr(leaks, "ROWS_AT_ONCE", at_once)
    for threshold in (0.5, 0.95):
        values, present, groups = make_rows(rng, dtype=dtype)
        expected = brute(values, present, groups, threshold)
        found = near_duplicates(values, present, groups, threshold)
        assert (found.rows, found.checked, found.threshold) == (present.sum(), present.sum(), threshold)
        assert len(expected) > 5
        assert {row for pair in found.pairs.tolist() for row in pair} >= set(expected)
        for (row, nearest), cosine in zip(found.pairs.tolist(), found.cosine.tolist(), strict=True):
            assert nearest in expected[row][1]
            assert cosine == pytest.approx(expected[row][0], abs=1e-5)
        assert (np.diff(found.cosine) <= 0).all()
        assert len({frozenset(pair) for pair in found.pairs.tolist()}) == len(found.pairs)


def test_most_rows_are_checked_against_all_of_them(rng):
    values = rng.normal(size=(40, 8))
    values[20:] = values[:20]  # row r and row r + 20
    groups, present = np.arange(40), np.ones(40, bool)
    found = near_duplicates(values, present, groups, most=10, seed=3)
    assert (found.rows, found.checked) == (40, 10)
    assert set(np.abs(found.pairs[:, 0] - found.pairs[:, 1]).tolist()) == {20}
    assert len(found.pairs) in range(5, 11)  # those whose twin was drawn, too, are one pair
    again = near_duplicates(values, present, groups, most=10, seed=3)
    np.testing.assert_array_equal(found.pairs, again.pairs)
    assert not np.array_equal(found.pairs, near_duplicates(values, present, groups, most=10, seed=4).pairs)
    assert len(near_duplicates(values, present, groups, most=40).pairs) == 20


def test_a_common_offset_makes_no_rows_alike_and_identical_rows_always_are(rng):
    values = (rng.normal(size=(30, 16)) + 1000).astype(np.float32)
    groups, present = np.arange(30), np.ones(30, bool)
    assert not len(near_duplicates(values, present, groups, 0.9).pairs)
    values[17] = values[4]
    found = near_duplicates(values, present, groups, 1.0)
    assert found.pairs.tolist() == [[4, 17]]
    assert found.cosine.tolist() == [pytest.approx(1.0, abs=1e-6)]
    assert found.cosine.max() <= 1.0
    present[4] = False
    assert not len(near_duplicates(values, present, groups).pairs)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6, -3.3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_that_are_the_mean_are_like_each_other_and_like_no_other(rng, constant, dtype):
    other = rng.normal(size=(4, 5))
    values = (np.concatenate([np.zeros((2, 5)), other, -other]) + constant).astype(dtype)
    if constant == 0.0 or dtype == np.float64:
        found = near_duplicates(values, np.ones(10, bool), np.arange(10))
        assert found.pairs.tolist() == [[0, 1]]
    same = near_duplicates(np.full((7, 5), constant, dtype), np.ones(7, bool), np.arange(7))
    assert {row for pair in same.pairs.tolist() for row in pair} == set(range(7))
    np.testing.assert_allclose(same.cosine, 1.0)


def test_the_rounding_of_the_mean_is_no_direction():
    values = np.array([0.1] * 3 + [0.3, -0.1])[:, None]
    assert values[0, 0] != values.sum() / 5  # the mean, but for rounding
    found = near_duplicates(values, np.ones(5, bool), np.arange(5))
    assert {row for pair in found.pairs.tolist() for row in pair} == {0, 1, 2}


@pytest.mark.parametrize(
    ("present", "groups"),
    [
        (np.ones(1, bool), np.zeros(1, int)),
        (np.zeros(6, bool), np.arange(6)),
        (np.ones(6, bool), np.full(6, 8)),
        (np.arange(6) == 2, np.arange(6)),
        (np.zeros(0, bool), np.zeros(0, int)),
    ],
    ids=["one row", "all missing", "one group", "one present", "no rows"],
)
def test_where_nothing_can_be_alike_nothing_is(present, groups):
    found = near_duplicates(np.ones((len(present), 3), np.float32), present, groups, 0.0)
    assert (found.rows, found.checked, found.pairs.shape) == (present.sum(), present.sum(), (0, 2))
    fold = np.zeros(len(present), int)
    assert across(found, fold) == 0
    assert describe(found, np.array([], str), fold)["examples"] == []


def test_rows_that_lack_the_modality_neither_count_nor_show(rng):
    values, present, groups = make_rows(rng)
    present[5] = False
    before = near_duplicates(values, present, groups)
    values[~present] = 1e9
    after = near_duplicates(values, present, groups)
    np.testing.assert_array_equal(before.pairs, after.pairs)
    np.testing.assert_array_equal(before.cosine, after.cosine)


def test_pairs_across_folds_are_counted_once_and_shown_by_id(rng):
    values = rng.normal(size=(36, 12))
    values[18:] = values[:18] + rng.normal(size=(18, 12)) * np.linspace(0.001, 0.1, 18)[:, None]
    found = near_duplicates(values, np.ones(36, bool), np.arange(36), 0.9)
    fold = np.repeat([0, 1], 18)
    fold[18:22] = 0  # twins of rows 0 to 3
    assert len(found.pairs) == 18
    assert across(found, fold) == 14
    about = describe(found, np.array([f"ü{row}" for row in range(36)]), fold)
    assert json.loads(json.dumps(about)) == about
    assert {name: about[name] for name in ("threshold", "rows", "checked", "pairs", "across")} == {
        "threshold": 0.9,
        "rows": 36,
        "checked": 36,
        "pairs": 18,
        "across": 14,
    }
    assert len(about["examples"]) == 10
    assert about["examples"][0][:2] == ["ü0", "ü18"]
    shown = [cosine for *_, cosine in about["examples"]]
    assert shown == sorted(shown, reverse=True)
    assert len({frozenset(pair) for *pair, _ in about["examples"]}) == 10


# The encoder was tuned on some of the very rows.


def store_of(table):
    return cache.FeatureStore(table._readers["text"]._encoder.folder.parent)


def items_of(table, modality, rows):
    return [table.view.blocks[modality].items[row].tobytes().hex() for row in rows]


@pytest.fixture
def tuned(rng, make_table):
    """Builds a table of 12 rows, written and loaded, whose encoders were tuned: `{modality: tuned_on}`."""

    def make(tuned_on, **options):
        vectors = {"text": rng.normal(size=(12, 2)), "image": rng.normal(size=(12, 3))}
        table = make_table(vectors, ["a", "b"] * 6, **options)
        blocks = dict(table.view.blocks)
        for name, about in tuned_on(table).items():
            blocks[name] = replace(blocks[name], spec={**blocks[name].spec, leaks.TUNED_ON: about})
        store = store_of(table)
        cache.write_view(store, replace(table.view, blocks=blocks))
        return cache.load(store.root, "posts")

    return make


def on(modality, rows):
    return lambda table: {modality: {"data": "other posts", "items": items_of(table, modality, rows)}}


def fold(test, n=12, name="test"):
    return Fold(name, np.setdiff1d(np.arange(n), test), np.asarray(test))


def test_rows_that_did_not_tune_may_be_judged(tuned, posts):
    table = tuned(on("text", range(8)))
    np.testing.assert_array_equal(tuned_rows(table, "text"), np.arange(12) < 8)
    assert not tuned_rows(table, "image").any()
    refuse_tuned(table, [fold([8, 9, 10, 11])])
    refuse_tuned(posts, [fold(range(60), 60)])  # no encoder of them was tuned
    refuse_tuned(table, [])


def test_test_rows_that_tuned_an_encoder_are_refused_by_name(tuned):
    table = tuned(on("image", [2, 5, 9]))
    message = r"2 of 4 test rows of posts \(fold 1\) tuned the image encoder.*: id5, id9; .*on other posts.*training"
    with pytest.raises(DataError, match=message):
        refuse_tuned(table, [fold([0, 1], name="0"), fold([5, 9], name="1")])


def test_joint_tuning_is_refused_by_any_modality_of_a_row(tuned):
    table = tuned(lambda table: on("text", [0, 1])(table) | on("image", [1, 2])(table))
    for row in (0, 1, 2):
        with pytest.raises(DataError, match=f"id{row}"):
            refuse_tuned(table, [fold([row, 7])])
    refuse_tuned(table, [fold([3, 7])])
    refuse_tuned(table.select(["image"]), [fold([0, 7])])  # the text's vectors are not used


def test_a_subset_in_another_order_hides_nothing(tuned):
    table = tuned(on("text", [3, 4]))[np.array([11, 4, 0, 3, 4])]
    assert tuned_rows(table, "text").tolist() == [False, True, False, True, True]
    refuse_tuned(table, [fold([0, 2], 5)])
    with pytest.raises(DataError, match=r"1 of 2 test rows.*id3"):
        refuse_tuned(table, [fold([0, 3], 5)])
    refuse_tuned(table[np.array([0, 2])], [fold([0, 1], 2)])


def test_another_name_and_other_ids_hide_nothing(tuned):
    """The same content stands in a data set of another name, on which the encoder is said to be tuned."""
    table = tuned(on("text", [6]))
    view = table.view
    columns = {**view.columns, "ids": np.array([f"新{row}" for row in range(12)], dtype=object)}
    store = store_of(table)
    cache.write_view(store, replace(view, name="renamed", columns=columns))
    with pytest.raises(DataError, match=r"1 of 12 test rows of renamed.*新6; it was tuned on other posts"):
        refuse_tuned(cache.load(store.root, "renamed"), [fold(range(12))])


def test_rows_that_lack_the_modality_did_not_tune_it(tuned):
    has = np.arange(12) % 3 != 0
    table = tuned(lambda table: on("text", [*range(6)])(table), present={"text": has})
    assert "0" * 32 in items_of(table, "text", range(6))
    np.testing.assert_array_equal(tuned_rows(table, "text"), has & (np.arange(12) < 6))


@pytest.mark.parametrize(
    "tuned_on",
    [
        *({}, "posts", {"data": "posts"}),
        *({"items": items} for items in ([], ["xyz"], ["ab"], 3, [5], "0" * 32, ["0" * 32])),
    ],
)
def test_tuning_on_nobody_knows_what_is_refused(tuned, tuned_on):
    table = tuned(lambda _: {"text": tuned_on})
    with pytest.raises(DataError, match=r"text encoder of posts was fine-tuned.*extract again"):
        refuse_tuned(table, [fold([0])])


def test_a_spec_that_says_that_nothing_was_tuned_is_trusted(tuned):
    table = tuned(lambda _: {"text": None})
    refuse_tuned(table, [fold([0])])
    assert not tuned_rows(table, "text").any()
