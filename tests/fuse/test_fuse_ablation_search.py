from dataclasses import dataclass, replace

import numpy as np
import pytest

from cache import UsageError
from fuse import HEADS, make_classifier, make_regressor
from fuse.ablation import search as module
from fuse.ablation.engine import read_data
from fuse.ablation.keys import wanted_fits
from fuse.ablation.plan import plan_ablation
from fuse.ablation.search import candidates, search
from fuse.ablation.work import Task, run_task
from fuse.gradient import GradientHead
from fuse.heads.linear import ConcatLogisticClassifier
from fuse.heads.mlp import ConcatMLPClassifier
from fuse.inputs import Inputs
from tests.fuse.ablation_data import make_posts, quick, settings  # noqa: F401

MAKERS = {"classifier": make_classifier, "regressor": make_regressor}
EVERY = [
    pytest.param(name, kind, id=f"{name}-{kind}") for name in HEADS for kind in MAKERS if getattr(HEADS[name], kind)
]


def inputs_of(**values):
    return Inputs(values, {name: np.ones(len(x), bool) for name, x in values.items()})


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_candidates_hold_the_head_s_own_settings_and_are_all_possible(name, kind):
    head = MAKERS[kind](name)
    own = head.get_params(deep=False)
    assert candidates(head, "none", {}) == [{}]
    sizes = []
    for grid in ("small", "full"):
        found = candidates(head, grid, {})
        sizes.append(len(found))
        assert {} in found or any(all(_plain(own[key]) == value for key, value in one.items()) for one in found)
        assert len({repr(sorted(one.items())) for one in found}) == len(found)
        for one in found:
            made = MAKERS[kind](name, **one)
            if isinstance(made, GradientHead):
                made.blocks_ = {"text": slice(0, 8), "image": slice(8, 16)}
                made._check_parameters()
        for key in found[0]:
            assert all(key not in one for one in candidates(head, grid, {key: own[key]}))
    assert sizes[0] <= sizes[1] <= 100


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def test_heads_have_the_axes_that_matter():
    def values(head, grid, key):
        return sorted({one[key] for one in candidates(head, grid, {})})

    assert values(make_classifier("logreg"), "small", "C") == [0.1, 1.0, 10.0]
    assert values(make_classifier("logreg"), "full", "C") == [0.01, 0.1, 1.0, 10.0, 100.0]
    assert values(make_regressor("ridge", alpha=4.0), "small", "alpha") == [0.4, 4.0, 40.0]
    assert len(values(make_classifier("mlp"), "small", "learning_rate")) == 3
    assert {len(one["hidden_sizes"]) for one in candidates(make_classifier("mlp"), "full", {})} == {1, 2}
    by_modality = make_classifier("logreg", C={"text": 1.0, "image": 2.0})
    assert candidates(by_modality, "full", {}) == [{}]
    with pytest.raises(UsageError, match="--grid must be one of none, small, full, got 'big'"):
        candidates(make_classifier("logreg"), "big", {})


SEEN = []


@dataclass(eq=False, repr=False)
class Spy(ConcatLogisticClassifier):
    """Notes which rows it is fitted to and which it judges, by the first column of the text."""

    def fit(self, X, y, **others):
        SEEN.append(("fit", X.values["text"][:, 0].copy()))
        return super().fit(X, y, **others)

    def predict_proba(self, X):
        found = super().predict_proba(X)
        SEEN.append(("judge", X.values["text"][:, 0].copy(), found))
        return found


def numbered(n=60):
    rng, target = np.random.default_rng(3), np.arange(n) % 3
    text = np.stack([np.arange(n), rng.normal(size=n) + target], axis=1)
    return inputs_of(text=text, image=rng.normal(size=(n, 3))), np.array(["a", "b", "c"])[target]


def test_rows_that_judge_settings_were_not_fitted_nor_their_groups():
    SEEN.clear()
    X, y = numbered()
    groups = np.arange(60) // 3  # one row of each class
    found = search(lambda params: Spy(**params), [{"C": c} for c in (0.1, 1.0, 10.0)], X, y, groups)
    fits, judged = ([one for one in SEEN if one[0] == what] for what in ("fit", "judge"))
    assert len(fits) == len(judged) == 3
    for fit, judge in zip(fits, judged, strict=True):
        trained, held = fit[1].astype(int), judge[1].astype(int)
        assert sorted([*trained, *held]) == list(range(60))
        assert not set(groups[trained]) & set(groups[held])
        assert len(held) == 12
        np.testing.assert_array_equal(held, judged[0][1])
    number = np.searchsorted(["a", "b", "c"], y)
    losses = [-np.log(proba[np.arange(len(rows)), number[rows.astype(int)]]).mean() for _, rows, proba in judged]
    np.testing.assert_allclose([loss for _, loss in found.tried], losses, rtol=1e-9)
    assert found.params == [{"C": 0.1}, {"C": 1.0}, {"C": 10.0}][int(np.argmin(losses))]


def test_the_temperature_is_the_best_of_the_held_out_rows():
    SEEN.clear()
    X, y = numbered()
    found = search(lambda params: Spy(C=1000.0), [{}], X, y, np.arange(60))
    rows, proba = SEEN[-1][1].astype(int), SEEN[-1][2]
    true = np.searchsorted(["a", "b", "c"], y[rows])

    def loss(temperature):
        powers = proba ** (1 / temperature)
        return -np.log((powers / powers.sum(axis=1, keepdims=True))[np.arange(len(true)), true]).mean()

    assert 0.01 <= found.temperature <= 100
    best = min(loss(one) for one in np.geomspace(0.02, 50, 400))
    assert loss(found.temperature) <= best + 1e-6
    assert loss(found.temperature) <= loss(1.0)


def test_a_clearly_better_strength_is_found():
    rng = np.random.default_rng(0)
    target = np.arange(90) % 2
    clear = inputs_of(text=rng.normal(size=(90, 3)) + 4 * target[:, None])
    noise = inputs_of(text=rng.normal(size=(90, 40)))
    y, tried = np.array(["a", "b"])[target], [{"C": 1e-6}, {"C": 1.0}, {"C": 1e5}]

    def build(params):
        return make_classifier("logreg", **params)

    assert search(build, tried, clear, y, np.arange(90)).params["C"] >= 1.0
    assert search(build, tried, noise, y, np.arange(90)).params["C"] == 1e-6


def test_numbers_are_searched_by_their_squared_error():
    rng = np.random.default_rng(0)
    X, y = inputs_of(text=rng.normal(size=(60, 3))), rng.normal(size=60)
    y += 5 * X.values["text"][:, 0]
    build = lambda params: make_regressor("ridge", **params)  # noqa: E731
    found = search(build, [{"alpha": 1e-3}, {"alpha": 1e6}], X, y, np.arange(60))
    assert found.params == {"alpha": 1e-3}
    assert found.temperature is None
    assert found.tried[0][1] < found.tried[1][1]
    assert found.tried[1][1] == pytest.approx(np.var(y), rel=0.5)


@pytest.fixture
def judged(monkeypatch):
    """Losses by candidate and share, and what was asked for."""
    asked = []

    def fake(heads, X, y, held, held_y, share=1.0):
        rates = [head.learning_rate for head in heads]
        asked.extend((rate, round(share, 3)) for rate in rates)
        # At first 1 is the best, of the three that go on 3 is in the end.
        return [(rate if share < 1 else 10 - rate, rate) for rate in rates]

    monkeypatch.setattr(module, "_judged", fake)
    return asked


@pytest.mark.parametrize(("count", "kept"), [(4, 2), (9, 3), (10, 4), (3, 3)])
def test_successive_halving_keeps_the_best_third(judged, count, kept):
    X, y = numbered()
    rates = [float(one) for one in np.random.default_rng(1).permutation(count) + 1]
    tried = [{"learning_rate": one} for one in rates]
    found = search(lambda params: ConcatMLPClassifier(**params), tried, X, y, np.arange(60))
    first = [rate for rate, share in judged if share < 1]
    last = [rate for rate, share in judged if share == 1]
    assert first == (rates if count > 3 else [])
    assert {share for _, share in judged} <= {0.333, 1.0}
    assert sorted(last) == [float(one) for one in range(1, kept + 1)]
    assert found.params == {"learning_rate": float(kept)}
    assert found.temperature == kept
    assert [params["learning_rate"] for params, _ in found.tried] == rates
    assert {params["learning_rate"]: loss for params, loss in found.tried} == {
        rate: 10 - rate if rate <= kept else rate for rate in rates
    }


def test_heads_without_steps_are_all_judged_in_full(monkeypatch):
    shares = []

    def fake(heads, *args, share=1.0):
        shares.extend(share for _ in heads)
        return [(1.0, None) for _ in heads]

    monkeypatch.setattr(module, "_judged", fake)
    X, y = numbered()
    tried = [{"C": float(one)} for one in range(1, 8)]
    search(lambda params: make_classifier("logreg", **params), tried, X, y, np.arange(60))
    assert shares == [1.0] * 7


@pytest.fixture
def all_steps(monkeypatch):
    """As many steps as outside of tests."""
    monkeypatch.setattr("fuse.training.MIN_STEPS", 400)


@pytest.mark.parametrize(
    ("epochs", "share", "steps", "rounds"), [(9, 1.0, 400, 9), (9, 1 / 3, 133, 3), (1, 0.3, 400, 1)]
)
def test_a_share_of_the_steps_is_trained(monkeypatch, all_steps, epochs, share, steps, rounds):
    taken = []
    from fuse.training import _Learner

    real = _Learner.step
    monkeypatch.setattr(_Learner, "step", lambda self: taken.append(1) or real(self))
    X, y = numbered()
    head = ConcatMLPClassifier(epochs=epochs, hidden_sizes=(4,), random_state=0)
    GradientHead.fit_together([head], X, y, share)
    assert (len(taken), head.n_iter_, len(head.history_)) == (steps, rounds, rounds)


def test_a_few_rows_less_do_not_double_the_steps(monkeypatch, all_steps):
    taken = []
    from fuse.training import _Learner

    real = _Learner.loss
    monkeypatch.setattr(_Learner, "loss", lambda self, rows: taken.append(len(rows.target)) or real(self, rows))
    X, y = numbered(60)
    for rows in (60, 59, 33):
        taken.clear()
        keep = np.arange(rows)
        ConcatMLPClassifier(epochs=3, hidden_sizes=(4,), batch_size=16, random_state=0).fit(X.keep(keep), y[keep])
        assert len(taken) == 400
        assert sum(taken) == pytest.approx(400 * rows / -(-rows // 16), rel=0.02)


def test_the_test_fold_takes_no_part_in_the_search(tmp_path, monkeypatch):
    table = make_posts(tmp_path / "posts", groups=np.arange(60) // 2 * (np.arange(60) % 4 < 2) + np.arange(60) * 100)
    data, chosen = read_data(table), settings(grid="small")
    plan = plan_ablation(table, chosen, data.task)
    wanted = wanted_fits(data, chosen, plan)
    numbers = {tuple(row): number for number, row in enumerate(data.inputs.values["text"].tolist())}
    seen = []
    monkeypatch.setattr(
        "fuse.ablation.work.search", lambda build, tried, X, y, groups: seen.append((X, y, groups)) or _first(tried)
    )
    (tmp_path / "fits").mkdir()
    for number, round_ in enumerate(plan.rounds[:2]):
        cell = plan.cells[-1]
        assert run_task(data, chosen, Task(round_, (wanted[cell, number],)), tmp_path / "fits") == []
        X, y, groups = seen[-1]
        rows = [numbers[tuple(row)] for row in X.values["text"].tolist()]
        assert rows == round_.fold.train.tolist()
        np.testing.assert_array_equal(y, table.y[round_.fold.train])
        np.testing.assert_array_equal(groups, table.groups[round_.fold.train])
    assert len(seen) == 2


def _first(tried):
    return module.Found(tried[0], 1.0, ((tried[0], 0.5),))


def test_the_search_is_of_the_user_s_own_settings_where_these_are_fixed(tmp_path):
    table = make_posts(tmp_path / "posts")
    data = read_data(table)
    chosen = settings(grid="small", params={"logreg": {"C": 0.5}}, seeds=(0,))
    plan = plan_ablation(table, chosen, data.task)
    wanted = wanted_fits(data, chosen, plan)
    (tmp_path / "fits").mkdir()
    cell = plan.cells[-1]
    run_task(data, chosen, Task(plan.rounds[0], (wanted[cell, 0],)), tmp_path / "fits")
    from fuse.ablation.fits import Fits

    about = Fits(tmp_path / "fits").read(wanted[cell, 0].key).about
    assert about["params"] == {}
    assert about["temperature"] is not None
    chosen = replace(chosen, params={})
    wanted = wanted_fits(data, chosen, plan)
    run_task(data, chosen, Task(plan.rounds[0], (wanted[cell, 0],)), tmp_path / "fits")
    about = Fits(tmp_path / "fits").read(wanted[cell, 0].key).about
    assert about["params"]["C"] in (0.1, 1.0, 10.0)
    assert len(about["tried"]) == 3
    assert about["params"] == min(about["tried"], key=lambda one: one[1])[0]


def several(name, rates, **options):
    return [make_classifier(name, learning_rate=rate, random_state=3, **options) for rate in rates]


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("name", ["mlp", "gmu", "mlp-aux", "blend"])
def test_heads_that_are_fitted_together_are_what_each_is_alone(name, early_stopping):
    X, y = numbered(90)
    rates, options = (1e-3, 3e-3, 0.1), {"batch_size": 16, "epochs": 4, "patience": 1}
    together = several(name, rates, **options, early_stopping=early_stopping)
    GradientHead.fit_together(together, X, y)
    for head, alone in zip(together, several(name, rates, **options, early_stopping=early_stopping), strict=True):
        alone.fit(X, y)
        assert head.n_iter_ == alone.n_iter_
        np.testing.assert_allclose(head.history_, alone.history_, rtol=1e-5)
        np.testing.assert_allclose(head.predict_proba(X), alone.predict_proba(X), atol=1e-6)
    assert not any("_together" in vars(head) for head in together)


def test_heads_of_other_widths_are_fitted_together_too():
    X, y = numbered(90)
    heads = [ConcatMLPClassifier(hidden_sizes=(width,), random_state=0, epochs=3) for width in (2, 8)]
    GradientHead.fit_together(heads, X, y, share=1 / 3)
    assert [head.weights_["network.layers.0.weight"].shape[0] for head in heads] == [2, 8]
    assert [head.n_iter_ for head in heads] == [1, 1]


def test_large_heads_are_fitted_one_after_another_by_their_share_of_the_steps(monkeypatch):
    X, y = numbered(90)
    small, large = several("mlp", (1e-3, 1e-2), epochs=2), several("mlp", (1e-3, 1e-2), epochs=2)
    GradientHead.fit_together(small, X, y, share=0.5)
    trained = []
    real = module.GradientHead._keep
    monkeypatch.setattr("fuse.training.SIDE_BY_SIDE", 1)
    monkeypatch.setattr(GradientHead, "_keep", lambda self, found: trained.append(self) or real(self, found))
    GradientHead.fit_together(large, X, y, share=0.5)
    assert trained == large
    for one, other in zip(small, large, strict=True):
        assert one.n_iter_ == other.n_iter_ == 1
        np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(X), atol=1e-6)
