from dataclasses import replace

import numpy as np
import pytest

import cache
from cache import DataError, UsageError
from fuse import HEADS, Settings
from fuse.ablation.engine import read_data
from fuse.ablation.keys import wanted_fits
from fuse.ablation.plan import ALL, COMMON, Cell, make, plan_ablation
from fuse.leaks import TUNED_ON
from tests.fuse.ablation_data import make_numbers, make_posts, quick, settings  # noqa: F401

C, R = "classification", "regression"


@pytest.fixture
def table(tmp_path):
    return make_posts(tmp_path / "posts")


def many(tmp_path, count, **options):
    return make_posts(tmp_path / f"posts{count}", modalities=tuple("abcdefg"[:count]), **options)


def subsets(plan, head="logreg"):
    return ["".join(cell.modalities) for cell in plan.cells if cell.head == head and not cell.control]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, ["a"]),
        (2, ["a", "b", "ab"]),
        (3, ["a", "b", "c", "ab", "ac", "bc", "abc"]),
        (4, [*"abcd", "ab", "ac", "ad", "bc", "bd", "cd", "abc", "abd", "acd", "bcd", "abcd"]),
        (5, [*"abcde", "abcd", "abce", "abde", "acde", "bcde", "abcde"]),
    ],
)
def test_subsets_of_the_modalities(tmp_path, count, expected):
    assert subsets(plan_ablation(many(tmp_path, count), settings(), C)) == expected


def test_heads_join_only_what_their_formula_allows(tmp_path):
    assert HEADS["film"].any_class.most_modalities == 2
    plan = plan_ablation(many(tmp_path, 3), settings(heads=("film", "mlp")), C)
    assert max(map(len, subsets(plan, "film"))) == 2
    assert "abc" in subsets(plan, "mlp")
    assert plan.left_out == ()


def test_unimodal_heads_are_fitted_to_their_modality_alone(table):
    plan = plan_ablation(table, settings(heads=("text", "image", "logreg")), C)
    assert [cell.modalities for cell in plan.cells if cell.head == "text"] == [("text",)]
    assert [cell.modalities for cell in plan.cells if cell.head == "image"] == [("image",)]
    free = plan_ablation(table, settings(heads=("unimodal",)), C)
    assert [cell.modalities for cell in free.cells] == [("text",), ("image",)]
    bound = settings(heads=("unimodal",), params={"unimodal": {"modality": "image"}})
    assert [cell.modalities for cell in plan_ablation(table, bound, C).cells] == [("image",)]


def test_heads_without_what_they_read_are_left_out_with_a_word(table):
    plan = plan_ablation(table, settings(heads=(ALL,)), C)
    compared = {cell.head for cell in plan.cells}
    said = {one.partition(": ")[0]: one for one in plan.left_out}
    tokens = {name for name, head in HEADS.items() if head.reads_tokens}
    assert tokens
    assert not tokens & compared
    assert all("extract --tokens" in said[name] for name in tokens)
    assert set(COMMON) <= compared
    assert not {"text", "image"} & (compared | set(said))


def test_token_heads_are_fitted_where_there_are_tokens(tmp_path):
    rng = np.random.default_rng(0)
    tokens = {"text": [rng.normal(size=(1 + row % 3, 3)).astype(np.float32) for row in range(60)]}
    table = make_posts(tmp_path / "posts", tokens=tokens)
    plan = plan_ablation(table, settings(heads=(ALL,)), C)
    read = {cell.modalities for cell in plan.cells if cell.head == "set-max"}
    assert read == {("text",), ("text", "image")}
    aligned = [name for name, head in HEADS.items() if getattr(head.any_class, "aligned", False)]
    assert aligned
    assert not set(aligned) & {cell.head for cell in plan.cells}
    assert all(any(one.startswith(f"{name}: ") and "aligned" in one for one in plan.left_out) for name in aligned)


def test_a_head_that_no_subset_suits_is_named(tmp_path):
    plan = plan_ablation(many(tmp_path, 2), settings(heads=("logreg", "text")), C)
    assert {cell.head for cell in plan.cells} == {"logreg"}
    assert len(plan.left_out) == 1
    assert plan.left_out[0].startswith("text: ")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"heads": ("mpl",)}, "no head 'mpl'.*did you mean 'mlp'"),
        ({"heads": ("mlp", "logreg", "mlp")}, "--heads names a head twice: mlp, logreg, mlp"),
        ({"params": {"mlp": {"dropout": 0.1}}}, "--set names mlp, which is not among the heads logreg"),
        ({"params": {"logreg": {"dropot": 0.1}}}, "no parameter dropot; it has .*class_weight"),
        ({"heads": None, "params": {"mpl": {}}}, "did you mean 'mlp'"),
        ({"controls": ("mpl",)}, "did you mean 'mlp'"),
        ({"seeds": ()}, "--seeds must be at least one, each once; got none"),
        ({"seeds": (1, 2, 1)}, "--seeds must be .*each once; got 1, 2, 1"),
        ({"folds": 1}, "--folds must be 2 or more"),
        ({"device": "tpu"}, "cannot train on the device 'tpu'.*choose cpu"),
    ],
)
def test_what_cannot_be_compared_is_refused(table, given, message):
    with pytest.raises(UsageError, match=message):
        plan_ablation(table, settings(**given), C)


def test_heads_of_classes_are_left_out_of_numbers(tmp_path):
    table = make_numbers(tmp_path / "numbers")
    plan = plan_ablation(table, settings(heads=None, controls=None), R)
    assert "logreg: not for regression" in plan.left_out
    assert "logreg" not in {cell.head for cell in plan.cells}
    assert {cell.head for cell in plan.cells if cell.control} == {"ridge"}
    with pytest.raises(UsageError, match="'logreg' predicts classes only; those that predict numbers"):
        plan_ablation(table, settings(heads=("logreg",)), R)


def test_what_needs_the_square_of_the_rows_is_left_out_of_many(table, monkeypatch):
    assert HEADS["kernel"].most_rows == 10_000
    assert "kernel" in {cell.head for cell in plan_ablation(table, settings(heads=None), C).cells}
    monkeypatch.setitem(HEADS, "kernel", replace(HEADS["kernel"], most_rows=59))
    plan = plan_ablation(table, settings(heads=None), C)
    assert "kernel" not in {cell.head for cell in plan.cells}
    assert any(one.startswith("kernel: its memory") and "60" in one for one in plan.left_out)
    named = plan_ablation(table, settings(heads=("kernel",)), C)
    assert {cell.head for cell in named.cells} == {"kernel"}


def test_controls_are_made_of_the_linear_head_or_of_those_named(table):
    def controls(**given):
        cells = plan_ablation(table, settings(**{"controls": None, **given}), C).cells
        return {(cell.head, cell.control, cell.spoilt) for cell in cells if cell.control}

    four = [(control, name) for control in ("shuffled", "noise") for name in ("text", "image")]
    assert controls(heads=("ridge", "logreg")) == {("logreg", *one) for one in four}
    assert controls(heads=("ridge", "mlp")) == {("ridge", *one) for one in four}
    assert controls(heads=("mlp",)) == set()
    assert controls(heads=("mlp", "logreg"), controls=("mlp",)) == {("mlp", *one) for one in four}
    assert controls(controls=()) == set()


@pytest.mark.parametrize("given", [{"heads": ("logreg",), "controls": ("mlp",)}])
def test_controls_of_a_head_that_is_not_compared_are_refused(table, given):
    with pytest.raises(UsageError, match="--controls"):
        plan_ablation(table, settings(**given), C)


def test_a_single_modality_has_no_controls(tmp_path):
    plan = plan_ablation(many(tmp_path, 1), settings(controls=None), C)
    assert plan.cells == (Cell("logreg", ("a",)),)


def test_each_repeat_has_folds_of_its_own_and_a_split_seed_fixes_them(table):
    def folds(plan, seed):
        return [one.fold.test.tolist() for one in plan.rounds if one.seed == seed]

    own = plan_ablation(table, settings(), C)
    assert [(one.seed, one.split_seed, one.fold.name) for one in own.rounds] == [
        (seed, seed, str(fold)) for seed in (0, 1) for fold in range(3)
    ]
    assert folds(own, 0) != folds(own, 1)
    for seed in (0, 1):
        assert sorted(row for fold in folds(own, seed) for row in fold) == list(range(60))
    fixed = plan_ablation(table, settings(split_seed=1), C)
    assert folds(fixed, 0) == folds(fixed, 1) == folds(own, 1)
    assert {one.split_seed for one in fixed.rounds} == {1}


def test_given_splits_are_one_fold_and_heads_without_chance_are_fitted_once(tmp_path):
    table = make_posts(tmp_path / "split", split=np.repeat(["train", "val", "test"], [36, 9, 15]))
    chosen = settings(heads=("logreg", "mlp"), seeds=(0, 1, 2))
    plan = plan_ablation(table, chosen, C)
    assert [(one.seed, one.fold.name, len(one.fold.test)) for one in plan.rounds] == [(s, "test", 15) for s in range(3)]
    wanted = wanted_fits(read_data(table), chosen, plan)
    keys = {head: {one.key for (cell, _), one in wanted.items() if cell.head == head} for head in ("logreg", "mlp")}
    assert {head: len(own) for head, own in keys.items()} == {"logreg": 3, "mlp": 9}
    calibrated = [(cell.head, number) for (cell, number), one in wanted.items() if one.calibrate]
    assert {number for head, number in calibrated if head == "mlp"} == {0}
    assert {number for head, number in calibrated if head == "logreg"} == {0, 1, 2}


def test_repeats_on_the_same_folds_fit_heads_without_chance_once(table):
    chosen = settings(split_seed=4, controls=None)
    plan = plan_ablation(table, chosen, C)
    wanted = wanted_fits(read_data(table), chosen, plan)
    assert len({one.key for (cell, _), one in wanted.items() if not cell.control}) == 3 * 3
    assert len({one.key for (cell, _), one in wanted.items() if cell.control}) == 4 * 6  # drawn by the seed


def test_heads_are_made_with_the_seed_and_what_the_user_sets(table):
    chosen = Settings(params={"mlp": {"epochs": 3}, "gmu": {"random_state": 5}}, device="cpu")
    head = make(chosen, Cell("mlp", table.modalities), C, 7)
    assert (head.epochs, head.random_state, head.device) == (3, 7, "cpu")
    assert make(chosen, Cell("gmu", table.modalities), C, 7).random_state == 5
    assert make(chosen, Cell("ridge", table.modalities), R, 7).get_params()["alpha"] == 1.0


def test_rows_that_tuned_an_encoder_are_refused(tmp_path):
    table = make_posts(tmp_path / "posts")
    block = table.view.blocks["text"]
    about = {"data": "tweets", "items": [block.items[3].tobytes().hex()]}
    blocks = {**table.view.blocks, "text": replace(block, spec={**block.spec, TUNED_ON: about})}
    cache.write_view(cache.FeatureStore(tmp_path / "posts"), replace(table.view, blocks=blocks))
    tuned = cache.load(tmp_path / "posts", "posts")
    with pytest.raises(DataError, match=r"1 of 60 test rows.*text encoder.*id3.*tweets"):
        plan_ablation(tuned, settings(), C)
    plan_ablation(tuned.select(["image"]), settings(), C)


def _keys(table, **given):
    chosen = settings(**given)
    plan = plan_ablation(table, chosen, C)
    return {one.key for one in wanted_fits(read_data(table), chosen, plan).values()}


@pytest.mark.parametrize(
    "given",
    [
        {"params": {"mlp": {"dropout": 0.25}}},
        {"params": {"mlp": {"random_state": 5}}},
        {"grid": "small"},
        {"seeds": (3,)},
        {"split_seed": 3},
        {"folds": 4},
    ],
)
def test_fits_are_named_by_all_that_they_depend_on(table, given):
    plain = {"heads": ("mlp",), "seeds": (0,), "params": {"mlp": {}}}
    assert not _keys(table, **plain) & _keys(table, **{**plain, **given})
    assert _keys(table, **plain) == _keys(table, **plain)


def test_what_other_heads_are_given_leaves_a_head_s_fits(table):
    alone = _keys(table, heads=("logreg",))
    both = _keys(table, heads=("ridge", "logreg"), params={"ridge": {"alpha": 3.0}}, controls=None)
    assert alone < both
