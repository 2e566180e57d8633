import numpy as np
import pytest

from cache import Ragged, UsageError
from fuse import ConcatLogisticClassifier
from fuse.controls import noise, shuffled
from fuse.inputs import Inputs

N = 40


@pytest.fixture
def rng():
    return np.random.default_rng(2)


def make(rng, n=N, groups=None, dtype=np.float32, gaps=True):
    """Rows in which the text is the number of the row, its mask one of a kind, and the image something else."""
    text = np.stack([np.arange(n), np.full(n, 3)], axis=1).astype(dtype)
    mask = np.arange(n) % 4 != 1 if gaps else np.ones(n, bool)
    return Inputs(
        {"text": text, "image": rng.normal(size=(n, 3)).astype(dtype)},
        {"text": mask, "image": np.arange(n) % 3 != 0},
        groups=groups,
    )


def source(inputs):
    return inputs.values["text"][:, 0].astype(int)


def frozen(inputs):
    """The same inputs; whoever writes to them fails."""
    for array in (*inputs.values.values(), *inputs.masks.values()):
        array.flags.writeable = False
    return inputs


@pytest.mark.parametrize("control", [shuffled, noise])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_the_one_modality_changes(rng, control, dtype):
    inputs = frozen(make(rng, groups=np.arange(N) // 2, dtype=dtype))
    found = control(inputs, "text", 0)
    assert found.modalities == inputs.modalities
    assert found.columns() == inputs.columns()
    np.testing.assert_array_equal(found.groups, inputs.groups)
    np.testing.assert_array_equal(found.values["image"], inputs.values["image"])
    np.testing.assert_array_equal(found.masks["image"], inputs.masks["image"])
    assert found.values["text"].dtype == dtype
    assert not np.array_equal(found.values["text"], inputs.values["text"])
    assert not np.shares_memory(found.values["text"], inputs.values["text"])
    assert not np.shares_memory(found.masks["text"], inputs.masks["text"])


@pytest.mark.parametrize("control", [shuffled, noise])
def test_controls_are_the_same_by_the_same_seed_only(rng, control):
    inputs = make(rng)
    one, again, other = control(inputs, "text", 5), control(inputs, "text", 5), control(inputs, "text", 6)
    np.testing.assert_array_equal(one.values["text"], again.values["text"])
    assert not np.array_equal(one.values["text"], other.values["text"])


@pytest.mark.parametrize("control", [shuffled, noise])
def test_two_modalities_of_equal_content_do_not_stay_together(rng, control):
    """Else text and image would still belong to each other where both are controls."""
    content = rng.normal(size=(N, 2))
    inputs = Inputs({"a": content, "b": content}, {name: np.ones(N, bool) for name in "ab"}, groups=np.arange(N))
    found = control(control(inputs, "a", 0), "b", 0)
    assert abs(np.corrcoef(found.values["a"][:, 0], found.values["b"][:, 0])[0, 1]) < 0.5


@pytest.mark.parametrize("control", [shuffled, noise])
def test_unknown_modality_is_refused(rng, control):
    with pytest.raises(UsageError, match="audio"):
        control(make(rng), "audio", 0)


@pytest.mark.parametrize("groups", [None, np.arange(N) // 3, np.arange(N) % 2, np.minimum(np.arange(N), 20)])
def test_shuffling_permutes_rows_with_their_mask_and_leads_out_of_the_group(rng, groups):
    inputs = make(rng, groups=groups)
    seen = set()
    for seed in range(20):
        found = shuffled(inputs, "text", seed)
        rows = source(found)
        assert sorted(rows) == list(range(N))
        np.testing.assert_array_equal(found.values["text"], inputs.values["text"][rows])
        np.testing.assert_array_equal(found.masks["text"], inputs.masks["text"][rows])
        of = np.arange(N) if groups is None else groups
        assert (of[rows] != of).all()
        seen.add(rows.tobytes())
    assert len(seen) > 15


def test_every_other_row_is_dealt_about_as_often(rng):
    inputs, counts = make(rng, 8, groups=np.arange(8), gaps=False), np.zeros((8, 8))
    for seed in range(1400):
        counts[np.arange(8), source(shuffled(inputs, "text", seed))] += 1
    assert not counts.diagonal().any()
    assert counts[~np.eye(8, dtype=bool)].min() > 140  # 200 on average, with a deviation of 13
    assert counts.max() < 260


@pytest.mark.parametrize("held", [21, 30, 39])
def test_of_a_group_of_more_than_half_as_few_rows_as_can_be_keep_their_groups(rng, held):
    groups = np.where(np.arange(N) < held, 0, np.arange(N))
    rows = source(shuffled(make(rng, groups=groups), "text", 1))
    assert (groups[rows] == groups).sum() == held - (N - held)


def test_one_group_and_one_row_are_dealt_as_well_as_can_be(rng):
    rows = source(shuffled(make(rng, groups=np.full(N, 5)), "text", 0))
    assert (rows != np.arange(N)).all()
    assert sorted(rows) == list(range(N))
    assert source(shuffled(make(rng, 2, gaps=False), "text", 0)).tolist() == [1, 0]
    for control in (shuffled, noise):
        assert control(make(rng, 1), "text", 0).values["text"].shape == (1, 2)
        assert control(make(rng, 3).keep(np.zeros(0, int)), "text", 0).values["text"].shape == (0, 2)
    assert source(shuffled(make(rng, 1), "text", 0)).tolist() == [0]


def test_without_groups_equal_content_does_not_stay_with_its_label(rng):
    text = np.repeat(rng.normal(size=(N // 4, 2)), 4, axis=0)
    inputs = Inputs({"text": text, "image": rng.normal(size=(N, 2))}, {m: np.ones(N, bool) for m in ("text", "image")})
    for seed in range(10):
        assert (shuffled(inputs, "text", seed).values["text"] != text).all()


def test_missing_rows_are_no_group_of_their_own(rng):
    """Else the mask would be dealt so that it says the opposite of what it said."""
    inputs = make(rng)
    mask = np.arange(N) < 12
    text = np.where(mask[:, None], inputs.values["text"], 0)
    inputs = Inputs({"text": text}, {"text": mask})
    kept = [int((shuffled(inputs, "text", seed).masks["text"] & mask).sum()) for seed in range(40)]
    assert 2.4 < np.mean(kept) < 4.8  # by chance 12 * 11 / 39 = 3.4


def test_shuffling_cuts_the_link_to_the_label(rng):
    target = np.arange(400) % 2
    text = rng.normal(size=(400, 2)) + 3 * target[:, None]
    inputs = Inputs({"text": text}, {"text": np.ones(400, bool)}, groups=np.arange(400))
    for control in (shuffled, noise):
        X = control(inputs, "text", 0).values["text"]
        assert ConcatLogisticClassifier().fit(X[:200], target[:200]).score(X[200:], target[200:]) < 0.65
    assert ConcatLogisticClassifier().fit(text[:200], target[:200]).score(text[200:], target[200:]) > 0.95


@pytest.mark.parametrize("at_once", [64, 4096])
def test_noise_has_the_moments_of_present_rows_and_nothing_else_of_them(rng, monkeypatch, at_once):
    monkeypatch.setattr("fuse.controls.ROWS_AT_ONCE", at_once)
    n = 4000
    values = (rng.normal(size=(n, 3)) * [1, 50, 0] + [5, -200, 0.1]).astype(np.float32)
    mask = np.arange(n) % 3 != 0
    values[~mask] = 1e6
    found = noise(Inputs({"text": values}, {"text": mask}), "text", 0)
    drawn = found.values["text"]
    np.testing.assert_array_equal(found.masks["text"], mask)
    assert not drawn[~mask].any()
    np.testing.assert_allclose(drawn[mask].mean(axis=0), values[mask].mean(axis=0), rtol=0.03)
    np.testing.assert_allclose(drawn[mask].std(axis=0), values[mask].std(axis=0), rtol=0.05, atol=1e-6)
    np.testing.assert_array_equal(drawn[mask][:, 2], values[mask][:, 2])  # a constant column
    correlations = np.corrcoef(np.hstack([drawn[mask][:, :2], values[mask][:, :2]]), rowvar=False)
    assert np.abs(correlations - np.eye(4)).max() < 0.1
    standard = (drawn[mask][:, 0] - drawn[mask][:, 0].mean()) / drawn[mask][:, 0].std()
    assert abs((standard**4).mean() - 3) < 0.4  # a normal distribution's


def test_noise_tells_identical_rows_apart_and_a_missing_modality_stays_missing(rng):
    text = np.repeat(rng.normal(size=(2, 3)), 10, axis=0)
    found = noise(Inputs({"text": text}, {"text": np.ones(20, bool)}, groups=np.repeat([0, 1], 10)), "text", 0)
    assert len(np.unique(found.values["text"], axis=0)) == 20
    none = noise(Inputs({"text": text}, {"text": np.zeros(20, bool)}), "text", 0)
    assert not none.values["text"].any()
    assert not none.masks["text"].any()


def test_tokens_move_with_their_row_and_noise_keeps_their_number():
    parts = [np.full((1 + row % 3, 2), row, dtype=np.float16) for row in range(12)]
    mask = np.arange(12) != 4
    parts[4] = parts[4][:0]
    inputs = Inputs(
        {"image": np.ones((12, 2))},
        {"text": mask, "image": np.ones(12, bool)},
        {"text": Ragged.of(parts)},
        np.arange(12) // 2,
    )
    dealt, drawn = shuffled(inputs, "text", 0), noise(inputs, "text", 0)
    for row, tokens in enumerate(dealt.tokens["text"]):
        if not dealt.masks["text"][row]:
            assert not len(tokens)
            continue
        assert len(np.unique(tokens)) == 1
        assert tokens[0, 0] // 2 != row // 2
        assert len(tokens) == 1 + tokens[0, 0] % 3
    np.testing.assert_array_equal(drawn.tokens["text"].offsets, inputs.tokens["text"].offsets)
    np.testing.assert_array_equal(drawn.masks["text"], mask)
    for found in (dealt, drawn):
        assert found.modalities == inputs.modalities
        assert found.tokens["text"].dtype == np.float16
        assert list(found.values) == ["image"]
        assert not np.shares_memory(found.tokens["text"].values, inputs.tokens["text"].values)
    assert np.isfinite(drawn.tokens["text"].values).all()
    assert len(np.unique(drawn.tokens["text"].values)) > 15


def test_inputs_of_a_table_can_be_shuffled(gappy):
    inputs = Inputs({name: gappy.block(name) for name in gappy.modalities}, gappy.masks, groups=gappy.groups)
    found = shuffled(inputs, "image", 0)
    shown = found.values["image"][found.masks["image"]]
    np.testing.assert_array_equal(np.sort(shown, axis=0), np.sort(gappy.block("image")[gappy.masks["image"]], axis=0))
