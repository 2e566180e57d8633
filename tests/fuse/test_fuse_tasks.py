"""Generated tasks whose answer is known, and how heads are trained."""

import numpy as np
import pytest
import torch

import fuse.training
from fuse import make_classifier, make_regressor
from fuse.gradient import GradientHead
from fuse.inputs import read_inputs
from fuse.registry import HEADS

VECTOR_HEADS = [name for name, head in HEADS.items() if not head.reads_tokens and name != "unimodal"]
GRADIENT_HEADS = [name for name, head in HEADS.items() if issubclass(head.any_class, GradientHead)]


def blocks(text, image):
    return {"text": slice(0, text), "image": slice(text, text + image)}


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


def seeded(name, seed=0):
    return {"random_state": seed} if "random_state" in HEADS[name].any_class().get_params(deep=False) else {}


def accuracy(name, task, train, seed=0, **params):
    X, y, parts = task
    head = make_classifier(name, blocks=parts, **seeded(name, seed), **params).fit(X[:train], y[:train])
    return head.score(X[train:], y[train:])


# What can be learnt


def xor(seed, noise=3, rows=1200):
    """The label is whether the signs of one column of text and one of image differ; all other columns are noise."""
    rng = np.random.default_rng(seed)
    X, signs = rng.normal(size=(rows, 2 + 2 * noise)), rng.choice([-1.0, 1.0], size=(rows, 2))
    X[:, 0], X[:, 1 + noise] = signs.T
    return X, (signs[:, 0] != signs[:, 1]).astype(int), blocks(1 + noise, 1 + noise)


JOINT = ["bilinear", "mlb", "tensor", "lowrank", "multiplicative", "mlp", "mlp-aux", "mutan", "mfb", "film"]
ADDITIVE = [name for name in HEADS if name.startswith("vote")]
ADDITIVE += ["logit-mean", "logit-sum", "stacking", "text", "image", "logreg", "ridge", "svm"]


def test_a_product_learns_xor():
    assert accuracy("film", xor(0), 600) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize("seed", [1, 2])
def test_heads_that_join_modalities_learn_xor(name, seed):
    assert accuracy(name, xor(seed), 600, seed) >= 0.95


@pytest.mark.parametrize("name", [slow(name) if name in GRADIENT_HEADS else name for name in ADDITIVE])
def test_sums_of_modalities_do_not_learn_xor(name):
    assert np.mean([accuracy(name, xor(seed), 600, seed) for seed in range(3)]) <= 0.6


@pytest.mark.slow
def test_largest_logit_learns_three_quarters_of_xor():
    """A maximum of linear functions a class may be right in three of the four corners, and in no more."""
    found = [accuracy("logit-max", xor(seed), 600, seed) for seed in range(3)]
    assert np.max(found) <= 0.8


def one_of_noise(seed, rows=6000):
    """Five columns of text tell something, fifty of the image nothing."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 55))
    y = X[:, :5] @ [2, 1, -1, 0.5, 0] + rng.normal(size=rows) > 0
    return X, y.astype(int), blocks(5, 50)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gmu", "mlp", "mlp-aux"])
def test_a_modality_of_noise_costs_little(name):
    lost = [accuracy("text", one_of_noise(s), 2000) - accuracy(name, one_of_noise(s), 2000, s) for s in range(3)]
    assert np.mean(lost) <= 0.02


@pytest.fixture
def holes(make_table):
    """600 rows, 40 % of them of the second of three classes; each modality is missing from 30 %, at random."""

    def make(labels):
        rng = np.random.default_rng(0)
        target = rng.choice(3, size=600, p=[0.35, 0.4, 0.25])
        vectors = {name: rng.normal(size=(600, 6)) for name in ("text", "image")}
        vectors["text"][:, :3] += np.eye(3)[target] * 2
        vectors["image"][:, 2:5] -= np.eye(3)[target] * 2
        table = make_table(vectors, labels(target), present={name: rng.random(600) >= 0.3 for name in vectors})
        return table[:300], table[300:]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in VECTOR_HEADS if HEADS[name].classifier])
def test_with_missing_values_no_classifier_falls_below_the_majority(holes, name):
    train, test = holes(lambda target: np.array(["a", "b", "c"])[target])
    head = make_classifier(name, **seeded(name)).fit(train, train.y)
    majority = np.unique(test.y, return_counts=True)[1].max() / len(test.y)
    assert head.score(test, test.y) > majority + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in VECTOR_HEADS if HEADS[name].regressor])
def test_with_missing_values_no_regressor_falls_below_the_mean(holes, name):
    train, test = holes(lambda target: (target * 3.0 - 2).astype(str))
    members = {"members": ("unimodal", "ridge", "mlp-aux")} if name == "ensemble" else {}
    head = make_regressor(name, **seeded(name), **members).fit(train, train.y)
    truth = test.y.astype(float)
    constant = np.mean((truth - train.y.astype(float).mean()) ** 2)
    assert np.mean((head.predict(test) - truth) ** 2) < 0.9 * constant


def test_ensemble_of_regressors_needs_no_list_of_members(holes):
    train, test = holes(lambda target: (target * 3.0 - 2).astype(str))
    assert np.isfinite(make_regressor("ensemble", random_state=0).fit(train, train.y).predict(test)).all()


def agreeing(seed=0, rows=900):
    """Both modalities tell the same, the text with less noise."""
    rng = np.random.default_rng(seed)
    y, X = np.arange(rows) % 2, rng.normal(size=(rows, 8))
    X[:, 0] = 2 * (2 * y - 1) + rng.normal(size=rows) * 0.5
    X[:, 4] = 2 * (2 * y - 1) + rng.normal(size=rows) * 1.2
    return X, y, blocks(4, 4)


@pytest.mark.parametrize("name", ["mlp", slow("tensor"), slow("gmu")])
def test_modality_dropout_prepares_for_a_hidden_modality(name):
    X, y, parts = agreeing()

    def without_text(dropped):
        head = make_classifier(name, blocks=parts, modality_dropout=dropped, random_state=0).fit(X[:300], y[:300])
        hidden = read_inputs(head, X[300:], reset=False)[0].without(["text"])
        return -np.log(head._known(hidden)[np.arange(600), y[300:]]).mean()

    assert without_text(0.5) < without_text(0.0) - 0.02


def rare(seed=0, rows=2400):
    """One row of twelve is of the second class; the classes overlap."""
    rng = np.random.default_rng(seed)
    y, X = (np.arange(rows) % 12 == 0).astype(int), rng.normal(size=(rows, 6))
    X[:, [0, 3]] += y[:, None]
    return X, y, blocks(3, 3)


@pytest.mark.parametrize("name", [slow("mlp"), "logit-sum"])
def test_logit_adjustment_raises_the_recall_of_a_rare_class(name):
    X, y, parts = rare()

    def recalls(tau):
        head = make_classifier(name, blocks=parts, logit_adjustment=tau, random_state=0).fit(X[:1200], y[:1200])
        found = head.predict(X[1200:])
        return np.array([np.mean(found[y[1200:] == k] == k) for k in (0, 1)])

    plain, adjusted = recalls(0.0), recalls(1.0)
    assert adjusted[1] > plain[1] + 0.3
    assert adjusted.mean() > plain.mean() + 0.1


# Early stopping, schedules, clipping


def noisy(rows=150):
    """A third of the labels are wrong: who trains on, overfits."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 20))
    return X, ((X[:, 0] > 0) ^ (rng.random(rows) < 0.33)).astype(int), blocks(10, 10)


def fitted(name="mlp", groups=None, **params):
    X, y, parts = noisy()
    return make_classifier(name, blocks=parts, random_state=0, **params).fit(X, y, groups=groups)


@pytest.fixture
def trainings(monkeypatch):
    """Rows, model and optimizer of each training that is run."""
    seen = []

    class Watched(fuse.training._Training):
        def __init__(self, models, rows, *rest):
            super().__init__(models, rows, *rest)
            self.rows, self.rates, self.norms = rows, [], []
            (self.learner,) = self._learners
            self.learner._optimizer.register_step_pre_hook(self._look)
            seen.append(self)

        def _look(self, optimizer, *_):
            slopes = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self.rates.append(optimizer.param_groups[0]["lr"])
            self.norms.append(float(torch.cat([slope.flatten() for slope in slopes]).norm()))

    monkeypatch.setattr(fuse.training, "_Training", Watched)
    return seen


STOPPING = {"early_stopping": True, "validation_fraction": 0.3, "epochs": 60, "learning_rate": 1e-2, "patience": 4}


def test_early_stopping_stops_and_keeps_the_best_weights(trainings):
    head = fitted(**STOPPING)
    held = head.history_[:, 1]
    assert head.n_iter_ == len(head.history_) < 60
    assert held.argmin() == head.n_iter_ - 1 - 4  # patience: none of the last four was better
    rows, model = trainings[0].rows, head._model().eval().to(trainings[0].rows.weight.dtype)
    model.load_state_dict({name: torch.as_tensor(value) for name, value in head.weights_.items()})
    with torch.inference_mode():
        kept = float(rows.take(torch.nonzero(rows.held).flatten()).loss(model, head._loss()))
    assert kept == pytest.approx(held.min(), rel=1e-6)


def test_early_stopping_does_no_worse_on_held_out_rows_than_training_on():
    short, long = fitted(**STOPPING), fitted(**STOPPING | {"patience": 1000})
    assert long.n_iter_ == 60
    assert long.history_[-1, 1] > short.history_[:, 1].min()
    np.testing.assert_array_equal(short.history_, long.history_[: short.n_iter_])


def test_without_early_stopping_nothing_is_held_out_and_all_epochs_run(trainings):
    head = fitted(epochs=7)
    assert head.n_iter_ == 7
    assert not trainings[0].rows.held.any()
    assert np.isfinite(head.history_[:, 0]).all()
    assert np.isnan(head.history_[:, 1]).all()


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_early_stopping_holds_out_whole_groups(trainings, fraction):
    groups = np.random.default_rng(3).integers(40, size=150)
    fitted(groups=groups, early_stopping=True, validation_fraction=fraction, epochs=1)
    held = trainings[0].rows.held.numpy()
    assert not set(groups[held]) & set(groups[~held])
    assert held.mean() == pytest.approx(fraction, abs=0.08)


def test_early_stopping_never_holds_out_a_copy_of_a_training_row(trainings):
    X, y, parts = noisy()
    X, y = np.vstack([X, X[:60]]), np.r_[y, y[:60]]
    head = make_classifier("mlp", blocks=parts, early_stopping=True, epochs=1, random_state=0)
    head.fit(X, y)
    held = trainings[0].rows.held.numpy()
    np.testing.assert_array_equal(held[:60], held[150:])
    assert 0 < held.sum() < 210


def test_labels_of_held_out_rows_teach_nothing(trainings):
    X, _, parts = noisy()
    y, groups = np.arange(150) % 2, np.arange(150) // 2
    head = make_classifier("mlp", blocks=parts, early_stopping=True, epochs=1, random_state=0)
    first = head.fit(X, y, groups=groups).weights_
    held = trainings[0].rows.held.numpy()
    second = head.fit(X, np.where(held, 1 - y, y), groups=groups).weights_
    np.testing.assert_array_equal(held, trainings[1].rows.held.numpy())
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])


def test_plateau_lowers_the_rate_and_constant_does_not(trainings):
    for schedule in ("plateau", "constant", "cosine"):
        fitted(**STOPPING | {"schedule": schedule, "patience": 12})
    plateau, constant, cosine = (np.array(one.rates) for one in trainings)
    assert set(constant) == {1e-2}
    assert plateau[0] == 1e-2
    assert (np.diff(plateau) <= 0).all()
    assert plateau[-1] < 1e-2
    np.testing.assert_allclose(np.log2(1e-2 / np.unique(plateau)) % 1, 0, atol=1e-9)  # halved
    assert (np.diff(cosine) < 0).all()


def test_cosine_ends_near_zero(trainings):
    fitted(epochs=5)
    assert trainings[0].rates[0] == 1e-3
    assert trainings[0].rates[-1] < 1e-7


def test_clip_norm_bounds_the_gradient_of_every_step(trainings):
    fitted(epochs=3)
    fitted(epochs=3, clip_norm=1e-2)
    free, clipped = (np.array(one.norms) for one in trainings)
    assert free.max() > 2e-2
    assert clipped.max() <= 1e-2 * (1 + 1e-6)
    assert clipped[0] == pytest.approx(1e-2, rel=1e-3)


# Seeds


@pytest.mark.parametrize("batch_size", [16, slow(128)])
@pytest.mark.parametrize("name", GRADIENT_HEADS)
@pytest.mark.usefixtures("few_steps")
def test_seed_decides_whatever_torchs_generator_holds(name, batch_size):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 12)), np.arange(40) % 2

    def proba(state, seed):
        torch.manual_seed(state)
        params = {"token_dim": 2} if HEADS[name].reads_tokens else {}
        head = make_classifier(name, blocks=blocks(6, 6), epochs=2, dropout=0.2, modality_dropout=0.2, **params)
        return head.set_params(random_state=seed, batch_size=batch_size).fit(X, y).predict_proba(X)

    first, again, other = proba(1, 0), proba(2, 0), proba(1, 7)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-6
