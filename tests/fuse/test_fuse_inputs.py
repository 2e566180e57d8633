import numpy as np
import pytest

from cache import FeatureTable, UsageError
from fuse import ConcatLogisticClassifier, make_classifier
from fuse.inputs import BlockScaler, Inputs, unpadded

RNG = np.random.default_rng(1)
WEIGHT = np.array([1.0, 2.0, 0.5, 3.0, 1.0])
ALL = np.ones(5, dtype=bool)
NONE = np.zeros(60, dtype=bool)


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
        ["text"],
    ],
    ids=["too wide", "empty", "negative", "open", "step", "list", "overlap", "none", "names alone"],
)
def test_bad_blocks_are_refused_by_name(blocks):
    with pytest.raises(UsageError, match="block"):
        ConcatLogisticClassifier(blocks=blocks).fit(RNG.normal(size=(6, 4)), list("ababab"))


def test_table_array_and_swapped_table_give_the_same(vector_case, few_steps, data_of):
    table, y = data_of(vector_case)
    X, by_table = table.to_numpy(), vector_case.make().fit(table, y)
    expected = vector_case.output(by_table, table)
    by_array = vector_case.make(blocks=table.blocks).fit(X, y, groups=table.groups)
    for head, rows in ((by_array, X), (by_array, table), (by_table, X), (by_table, table.select(["image", "text"]))):
        np.testing.assert_array_equal(vector_case.output(head, rows), expected)


def test_table_with_other_widths_is_refused_even_where_the_sum_fits(posts, make_table):
    head = ConcatLogisticClassifier().fit(posts, posts.y)
    with pytest.raises(ValueError, match="text"):
        head.predict_proba(make_table({"text": posts.block("image"), "image": posts.block("text")}, posts.y))


def test_filler_of_missing_rows_changes_no_prediction(case, data, monkeypatch):
    table, y = data(gaps=True)
    expected = case.output(case.make().fit(table, y), table)
    plain = FeatureTable.to_numpy
    monkeypatch.setattr(FeatureTable, "to_numpy", lambda table, missing=1e6: plain(table, missing))
    assert (table.to_numpy() == 1e6).any()
    np.testing.assert_array_equal(case.output(case.make().fit(table, y), table), expected)


def test_row_that_lacks_everything_is_predicted_as_if_nothing_were_known(case, data):
    table, y = data(gaps=True)
    kept = np.r_[0:45, 45:60:3]  # classes of unequal size
    weight = np.linspace(1, 2, len(kept))
    head = case.make().fit(table[kept], y[kept], sample_weight=weight)
    if case.kind == "classifier":
        nothing = [weight[y[kept] == label].sum() / weight.sum() for label in head.classes_]
    else:
        nothing = np.average(y[kept], weights=weight)
    found = case.output(head, table)
    np.testing.assert_allclose(found[[15, 16]], [nothing, nothing], rtol=1e-9)
    assert np.isfinite(found).all()


def test_row_that_lacks_everything_has_no_share_but_in_the_prior(case, data):
    table, y = data(gaps=True)
    flipped = y.copy()
    flipped[15] = y[16]  # rows 15 and 16 lack both: what they swap cannot be learnt
    flipped[16] = y[15]
    one, other = case.make().fit(table, y), case.make().fit(table, flipped)
    np.testing.assert_allclose(case.output(other, table), case.output(one, table), rtol=1e-9, atol=1e-12)


def test_rows_that_lack_everything_teach_nothing(case, data):
    lost = [15, 16, 17] if case.kind == "classifier" else [15, 16]  # one of each class: the shares stay as they are
    has = np.isin(np.arange(60), lost, invert=True)
    table, y = data(present={"text": has, "image": has})
    if case.kind == "regressor":
        y[lost] = y[has].mean() + np.array([1, -1]) * y[has].std()  # so do mean and deviation
    with_them, without = case.make().fit(table, y), case.make().fit(table[has], y[has])
    np.testing.assert_allclose(case.output(with_them, table), case.output(without, table), rtol=1e-6, atol=1e-8)


def test_masks_and_class_weights_together_equal_row_weights(classifier_case, few_steps, data_of):
    table, y = data_of(classifier_case, gaps=True)
    weights = {"apple": 3.0, "berry": 0.5, "cherry": 1.0}
    by_class = classifier_case.make(class_weight=weights).fit(table, y)
    by_row = classifier_case.make().fit(table, y, sample_weight=[weights[label] for label in y])
    np.testing.assert_array_equal(by_class.predict_proba(table), by_row.predict_proba(table))


def test_modality_that_no_training_row_had_counts_for_nothing(case, data_of, signal, aligned_tokens, make_table):
    known, strange = ("image", "text") if case.name == "image" else ("text", "image")
    vectors, y = signal()
    again = np.r_[:30, :30]  # rows 30 to 59 are rows 0 to 29, and have the other modality, too
    vectors = {name: x[again] for name, x in vectors.items()}
    tokens = aligned_tokens({name: x[:30] for name, x in vectors.items()}) if case.reads_tokens else {}
    tokens = {name: rows * 2 for name, rows in tokens.items()}
    table = make_table(vectors, y[again], present={strange: np.arange(60) >= 30}, tokens=tokens)
    target = data_of(case)[1][:30]
    head = case.make().fit(table[:30], target)
    assert head.unseen_ == [strange]
    found = case.output(head, table)
    np.testing.assert_allclose(found[30:], found[:30], rtol=1e-9)
    np.testing.assert_allclose(case.output(head, table.select([known, strange])), found, rtol=1e-9)


def test_modality_that_lacks_only_in_prediction_is_left_out(case, data):
    table, y = data()
    gappy, _ = data(gaps=True)
    head = case.make().fit(table, y)
    whole, found = case.output(head, table), case.output(head, gappy)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[17:], whole[17:], rtol=0, atol=1e-12)
    np.testing.assert_allclose(case.output(head, gappy[:17]), found[:17], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "gmu", "tensor", "lowrank", "film"])
def test_stand_in_of_a_modality_that_no_training_row_lacks_is_its_mean(name, few_steps, posts, gappy):
    head = make_classifier(name, random_state=0, epochs=3).fit(posts, posts.y)
    filled = gappy.to_numpy()
    for modality, columns in gappy.blocks.items():
        filled[~gappy.masks[modality], columns] = posts.to_numpy()[:, columns].mean(axis=0)
    some = np.r_[0:15, 17:60]
    np.testing.assert_allclose(head.predict_proba(gappy)[some], head.predict_proba(filled)[some], atol=1e-9)


def test_hidden_modalities_leave_no_tokens(data_of, token_case):
    table, _ = data_of(token_case)
    tokens = table.tokens("text")
    inputs = Inputs({}, {"text": ~NONE, "image": ~NONE}, {"text": tokens, "image": tokens})
    hidden = inputs.without(["image"])
    assert not hidden.masks["image"].any()
    assert hidden.tokens["image"].lengths.sum() == 0
    assert hidden.tokens["text"] is tokens


@pytest.mark.parametrize("kind", [int, str, float])
def test_groups_keep_their_numbers_where_rows_are_left_out(posts, kind):
    head = make_classifier("stacking", blocks=posts.blocks)
    X, groups = posts.to_numpy(), (np.arange(60) // 2 + 5).astype(kind)
    weight = np.where(np.isin(np.arange(60) // 2, [0, 7, 20]), 0.0, 1.0)
    kept = weight > 0
    weighted = head.fit(X, posts.y, sample_weight=weight, groups=groups).predict_proba(X)
    removed = head.fit(X[kept], posts.y[kept], groups=groups[kept]).predict_proba(X)
    np.testing.assert_array_equal(weighted, removed)


def test_padding_is_zeros_at_the_end_and_nothing_else():
    rows = np.array([[1, 2, 0, 0, 0, 0], [0, 0, 3, 4, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 5]], dtype=float)
    ragged = unpadded(rows, 2)
    assert ragged.lengths.tolist() == [1, 2, 0, 3]
    np.testing.assert_array_equal(ragged[1], [[0, 0], [3, 4]])
    np.testing.assert_array_equal(ragged[3], [[1, 1], [1, 1], [0, 5]])
    assert unpadded(rows, 2, np.array([2, 2, 9, 0])).lengths.tolist() == [2, 2, 3, 0]
