import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, recall_score
from statsmodels.stats.multitest import multipletests

from fuse import make_classifier
from fuse.ablation.closer import closer_look, look
from fuse.ablation.engine import FITS, read_data
from fuse.ablation.fits import Fits
from fuse.ablation.summary import Comparison, control_rows, majority_row, table_rows
from fuse.controls import noise, shuffled
from fuse.inputs import Inputs
from tests.fuse.ablation_data import CLASSES, column_of, fitted, gaps, make_numbers, make_posts, quick  # noqa: F401

HEADS = ("logreg", "ridge", "vote-fitted", "mlp")
BOTH = ["text", "image"]
C = np.array(CLASSES)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return make_posts(tmp_path_factory.mktemp("summary") / "posts", present=gaps())


@pytest.fixture(scope="module")
def done(table, tmp_path_factory):
    given = {"params": {"mlp": {"epochs": 20}}, "controls": ("logreg",)}
    return fitted(table, tmp_path_factory.mktemp("runs") / "all", heads=HEADS, **given)


@pytest.fixture(scope="module")
def comparison(done):
    return Comparison(done.results())


@pytest.fixture(scope="module")
def rows(comparison):
    return table_rows(comparison)


@pytest.fixture(scope="module")
def controls(comparison):
    return control_rows(comparison)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    return fitted(make_numbers(folder / "numbers"), folder / "a", heads=("ridge", "vote"), task="regression")


def row_of(rows, head, modalities=BOTH):
    return next(one for one in rows if (one["head"], one["modalities"]) == (head, modalities))


def each(done, rows):
    """Rows of the summary beside the predictions that they are of, `(S, n)` labels."""
    for row in rows:
        column = column_of(done, row["head"], row["modalities"])
        yield row, column, C[column.label]


def test_metrics_are_those_of_the_predictions(table, done, rows):
    assert len(rows) == 12
    for row, column, labels in each(done, rows):
        metrics = row["metrics"]
        for name, function in (
            ("accuracy", accuracy_score),
            ("macro_f1", lambda *both: f1_score(*both, average="macro")),
            ("weighted_f1", lambda *both: f1_score(*both, average="weighted")),
            ("balanced_accuracy", balanced_accuracy_score),
        ):
            assert metrics[name]["mean"] == pytest.approx(
                np.mean([function(table.y, one) for one in labels]), abs=1e-12
            )
            folds = [
                function(table.y[fold == number], label[fold == number])
                for label, fold in zip(labels, column.rows.fold, strict=True)
                for number in range(3)
            ]
            assert metrics[name]["sd"] == pytest.approx(np.std(folds, ddof=1), abs=1e-12)
        matrices = [confusion_matrix(table.y, label, labels=CLASSES) for label in labels]
        np.testing.assert_allclose(row["confusion"], np.mean(matrices, axis=0))
        recalls = np.mean([recall_score(table.y, label, average=None) for label in labels], axis=0)
        np.testing.assert_allclose([row["recall"][name] for name in CLASSES], recalls)
        assert row["fits"] == 6


def test_the_best_stands_first(rows):
    values = [row["metrics"]["accuracy"]["mean"] for row in rows]
    assert values == sorted(values, reverse=True)


def test_intervals_hold_the_mean(rows):
    for row in rows:
        for name in ("accuracy", "macro_f1"):
            found = row["metrics"][name]
            assert 0 <= found["low"] < found["mean"] < found["high"] <= 1
        for versus in filter(None, row["versus"].values()):
            assert versus["low"] <= versus["difference"] <= versus["high"]
            assert versus["f1_low"] <= versus["f1_difference"] <= versus["f1_high"]


def ece(true, proba):
    sure, total = proba.max(axis=1), 0.0
    for low in np.arange(15) / 15:
        inside = (sure > low) & (sure <= low + 1 / 15)
        if inside.any():
            total += abs((proba.argmax(axis=1) == true)[inside].mean() - sure[inside].mean()) * inside.mean()
    return total


def test_calibration_is_that_of_the_first_repeat_with_each_fold_s_temperature(done, rows):
    for row, column, _ in each(done, rows):
        true, proba = column.rows.true, column.proba[0].astype(np.float64)
        assert row["metrics"]["ece"]["mean"] == pytest.approx(ece(true, proba), abs=1e-7)
        tempered = np.empty_like(proba)
        for number, about in enumerate(column.about[:3]):
            assert (about["seed"], about["fold"]) == (0, str(number))
            judged = column.rows.fold[0] == number
            powers = proba[judged].clip(min=2.3e-16) ** (1 / about["temperature"])
            tempered[judged] = powers / powers.sum(axis=1, keepdims=True)
        assert row["metrics"]["ece_calibrated"]["mean"] == pytest.approx(ece(true, tempered), abs=1e-6)
        assert sum(one["share"] for one in row["reliability"]["after"]) == pytest.approx(1)
        assert all(about["temperature"] is None for about in column.about[3:])


def test_what_is_compared_with_what(rows, comparison):
    baseline, unimodal = comparison.baseline.cell, comparison.unimodal.cell
    assert (baseline.head, baseline.modalities) == ("logreg", ("text", "image"))
    single = {name: row_of(rows, "logreg", [name])["metrics"]["accuracy"]["mean"] for name in BOTH}
    assert unimodal.head == "logreg"
    assert single[unimodal.modalities[0]] == max(single.values())
    for row in rows:
        own = (row["head"], tuple(row["modalities"]))
        assert (row["versus"]["baseline"] is None) == (own == ("logreg", ("text", "image")))
        assert (row["versus"]["unimodal"] is None) == (len(row["modalities"]) == 1)


def test_differences_are_those_of_the_metrics(rows, comparison):
    def of(name, row):
        return row["metrics"][name]["mean"]

    references = {
        "baseline": row_of(rows, "logreg"),
        "unimodal": row_of(rows, "logreg", [*comparison.unimodal.cell.modalities]),
    }
    for row in rows:
        for name, other in references.items():
            versus = row["versus"][name]
            if versus is not None:
                assert versus["difference"] == pytest.approx(of("accuracy", row) - of("accuracy", other), abs=1e-12)
                assert versus["f1_difference"] == pytest.approx(of("macro_f1", row) - of("macro_f1", other), abs=1e-12)
                assert versus["test"] == "folds"


def test_p_is_nadeau_and_bengio_s(comparison):
    from scipy.stats import t

    one, other = comparison.table[-1], comparison.baseline
    found = comparison.versus(one, other)
    differences = np.array(
        [(one.score[s] - other.score[s])[one.rows.fold[s] == number].mean() for s in range(2) for number in range(3)]
    )
    error = np.sqrt(differences.var(ddof=1) * (1 / 6 + (1 / 3) / (2 / 3)))
    assert found["p"] == pytest.approx(2 * t.sf(abs(differences.mean()) / error, 5))


@pytest.mark.parametrize("reference", ["baseline", "unimodal"])
def test_holm_is_over_the_heads_on_the_same_modalities(rows, reference):
    for modalities in (["text"], ["image"], BOTH):
        family = [row["versus"][reference] for row in rows if row["modalities"] == modalities]
        family = [one for one in family if one is not None]
        if not family:
            continue
        for kind in ("p", "p_rows"):
            expected = multipletests([one[kind] for one in family], method="holm")[1]
            np.testing.assert_allclose([one[f"{kind}_holm"] for one in family], expected)
    assert any(
        row["versus"][reference]["p_holm"] > row["versus"][reference]["p"] for row in rows if row["versus"][reference]
    )


def test_a_comparison_turned_round_says_the_opposite(comparison):
    for one, other in zip(comparison.table[:-1], comparison.table[1:], strict=True):
        there, back = comparison.versus(one, other), comparison.versus(other, one)
        for name, low, high in (("difference", "low", "high"), ("f1_difference", "f1_low", "f1_high")):
            assert there[name] == pytest.approx(-back[name], abs=1e-12)
            assert (there[low], there[high]) == pytest.approx((-back[high], -back[low]), abs=1e-12)
        assert [there[key] for key in ("p", "p_rows", "discordant", "detectable")] == pytest.approx(
            [back[key] for key in ("p", "p_rows", "discordant", "detectable")], abs=1e-12
        )


def folds_of(done):
    for round_ in done.plan.rounds:
        yield (0, 1).index(round_.seed), round_


def masked(inputs, hidden):
    masks = {name: mask & (name != hidden) for name, mask in inputs.masks.items()}
    return Inputs(inputs.values, masks, groups=inputs.groups)


@pytest.mark.parametrize("head", ["logreg", "vote-fitted"])
def test_knockout_is_the_fitted_head_without_a_modality(table, done, rows, head):
    inputs, column = read_data(table).inputs, column_of(done, head)
    expected = {name: np.empty((2, 60), dtype=object) for name in BOTH}
    for place, round_ in folds_of(done):
        fold = round_.fold
        model = make_classifier(head).fit(table[fold.train], table.y[fold.train])
        for name in BOTH:
            expected[name][place, fold.test] = model.predict(masked(inputs.keep(fold.test), name))
    knockout = row_of(rows, head)["knockout"]
    assert set(knockout) == set(BOTH)
    for name in BOTH:
        np.testing.assert_array_equal(C[column.hidden[name]], expected[name])
        right = (expected[name] == table.y).mean()
        assert knockout[name]["accuracy"] == pytest.approx(right)
    assert row_of(rows, head, ["text"])["knockout"] == {}


@pytest.mark.parametrize(("control", "spoil"), [("shuffled", shuffled), ("noise", noise)])
@pytest.mark.parametrize("name", BOTH)
def test_a_control_is_the_head_on_spoilt_rows(table, done, controls, control, spoil, name):
    inputs = read_data(table).inputs
    label = np.empty((2, 60), dtype=object)
    for place, round_ in folds_of(done):
        fold, seed = round_.fold, 2 * round_.seed
        train, test = spoil(inputs.keep(fold.train), name, seed), spoil(inputs.keep(fold.test), name, seed + 1)
        label[place, fold.test] = make_classifier("logreg").fit(train, table.y[fold.train]).predict(test)
    np.testing.assert_array_equal(C[column_of(done, "logreg", BOTH, control, name).label], label)
    said = f"{name} {'shuffled' if control == 'shuffled' else 'replaced by noise'}"
    found = next(one for one in controls if one["control"] == said)
    assert found["metrics"]["accuracy"] == pytest.approx((label == table.y).mean())
    real = (C[column_of(done, "logreg").label] == table.y).mean()
    assert found["versus"]["difference"] == pytest.approx(real - (label == table.y).mean())


def test_each_modality_is_controlled_once_each_way(controls):
    assert sorted(one["control"] for one in controls) == sorted(
        f"{name} {how}" for name in BOTH for how in ("shuffled", "replaced by noise")
    )
    assert {one["head"] for one in controls} == {"logreg"}


def test_the_majority_is_that_of_the_training_rows(table, comparison):
    found = majority_row(comparison.rows)
    assert found["label"] in CLASSES
    right = []
    for place, fold in enumerate(comparison.rows.fold):
        said = np.empty(60, dtype=object)
        for number in range(3):
            train = table.y[fold != number]
            labels, counts = np.unique(train, return_counts=True)
            said[fold == number] = labels[counts.argmax()]
        np.testing.assert_array_equal(C[comparison.rows.majority[place]], said)
        right.append((said == table.y).mean())
    assert found["metrics"]["accuracy"] == pytest.approx(np.mean(right))


def test_learning_is_shown_of_networks_alone(rows):
    for row in rows:
        if row["head"] == "mlp":
            assert len(row["learning"]) == 20
            assert row["learning"][-1][0] < row["learning"][0][0]
            assert row["learning"][0][1] is None
        else:
            assert row["learning"] is None


def test_everything_is_json_without_nan(rows, controls, comparison):
    whole = [rows, controls, majority_row(comparison.rows)]
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole


def test_costs_are_means_of_the_fits(done, rows):
    for row, column, _ in each(done, rows):
        for name in ("fit_seconds", "predict_seconds", "weights"):
            assert row["cost"][name] == pytest.approx(np.mean([one[name] for one in column.about]))


# Numbers.


def test_less_error_is_better(numbers):
    comparison = Comparison(numbers.results())
    rows = table_rows(comparison)
    values = [row["metrics"]["mae"]["mean"] for row in rows]
    assert values == sorted(values)
    truth = comparison.rows.true
    for row in rows:
        column = column_of(numbers, row["head"], row["modalities"])
        metrics = row["metrics"]
        assert metrics["mae"]["mean"] == pytest.approx(np.abs(column.label - truth).mean())
        assert metrics["mae"]["low"] < metrics["mae"]["mean"] < metrics["mae"]["high"]
        assert metrics["rmse"]["mean"] == pytest.approx(np.sqrt(((column.label - truth) ** 2).mean(axis=1)).mean())
        assert metrics["corr"]["mean"] == pytest.approx(
            np.mean([np.corrcoef(one, truth)[0, 1] for one in column.label])
        )
        versus = row["versus"]["baseline"]
        if versus is not None:
            difference = metrics["mae"]["mean"] - row_of(rows, "ridge")["metrics"]["mae"]["mean"]
            assert versus["difference"] == pytest.approx(difference, abs=1e-12)
            assert versus["low"] <= difference <= versus["high"]
        assert "confusion" not in row
    json.dumps(rows, allow_nan=False)
    found = majority_row(comparison.rows)
    assert found["metrics"]["mae"] == pytest.approx(
        np.mean(
            [
                np.abs(np.where(fold == number, truth[fold != number].mean(), np.nan) - truth)[fold == number].mean()
                for fold in comparison.rows.fold
                for number in range(3)
            ]
        ),
        rel=1e-9,
    )


# The closer look.


@pytest.fixture(scope="module")
def closer(done, comparison):
    column = column_of(done, "logreg")
    rounds = [one for one in done.plan.rounds if one.seed == 0]
    fits = Fits(done.folder / FITS)
    held = {one.fold.name: fits.read(key) for one, key in zip(rounds, done.keys[column.cell], strict=False)}
    looks = look(done, column.cell, rounds, held, 1)
    return closer_look(done.data, column, looks), looks


def test_the_closer_look_is_at_the_heads_that_judged(done, closer):
    column, (found, looks) = column_of(done, "logreg"), closer
    rows = np.concatenate([one.arrays["rows"] for one in looks])
    label = np.concatenate([one.arrays["label"] for one in looks])
    assert sorted(rows.tolist()) == list(range(60))
    np.testing.assert_array_equal(label, C[column.label[0]][rows])
    assert found["emap"]["value"] == pytest.approx(column.score[0].mean())
    assert found["emap"]["difference"] == pytest.approx(found["emap"]["value"] - found["emap"]["projected"])
    assert found["emap"]["exact"]
    assert found["emap"]["rows"] == 60
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert set(found["shares_by_class"]) == set(CLASSES)
    json.dumps(found, allow_nan=False)


def test_mistakes_are_the_surest_wrong_labels(table, done, closer):
    column = column_of(done, "logreg")
    wrong = np.flatnonzero(C[column.label[0]] != table.y)
    sure = column.proba[0].max(axis=1)[wrong]
    found = closer[0]["mistakes"]
    assert [one["id"] for one in found] == [f"id{row}" for row in wrong[np.argsort(-sure, kind="stable")][:12]]
    for one in found:
        row = int(one["id"][2:])
        assert (one["true"], one["label"]) == (table.y[row], C[column.label[0, row]])
        assert one["confidence"] == pytest.approx(column.proba[0, row].max())
        assert one["fold"] == column.rows.fold[0, row]
        assert set(one["shares"]) == set(BOTH)


def test_a_second_look_fits_nothing(done, closer, monkeypatch):
    column = column_of(done, "logreg")
    rounds = [one for one in done.plan.rounds if one.seed == 0]
    monkeypatch.setattr("fuse.ablation.closer.make", lambda *_: pytest.fail("a head was made"))
    held = {
        one.fold.name: Fits(done.folder / FITS).read(key)
        for one, key in zip(rounds, done.keys[column.cell], strict=False)
    }
    looks = look(done, column.cell, rounds, held, 1)
    assert closer_look(done.data, column, looks) == closer[0]
