"""One head on a cross-fitted data set: every fold by its own encoders."""

import csv
import json

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import accuracy_score, f1_score

import cache
from cache import DataError
from fuse import judge, load_run, make_classifier, make_regressor, predict, protocol_for, run_head
from fuse.leaks import refuse_tuned
from tests.fuse.families import FOLDS, Family

IN_WORDS = "of fold 0 of a cross-fitted data set, with the encoders of fold 0"


@pytest.fixture(scope="module", autouse=True)
def no_disk():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return Family(tmp_path_factory.mktemp("family") / "features")


@pytest.fixture
def judged(family, tmp_path):
    return judge(family.load(), "logreg", {"C": 2.0}, store=family.root, out=tmp_path / "run", seed=3, folds=9)


def by_hand(family, head):
    """Of each row its label and fold, by a loop over plain data sets that knows nothing of families."""
    label, fold = {}, {}
    for number in range(FOLDS):
        table = cache.load(family.root, f"posts.fold{number}")
        train, test = table[table.split == "train"], table[table.split == "test"]
        model = clone(head).fit(train, train.y)
        label |= dict(zip(test.ids.tolist(), model.predict(test).tolist(), strict=True))
        fold |= dict.fromkeys(test.ids.tolist(), str(number))
    return label, fold


@pytest.mark.parametrize("head", ["logreg", "vote", "stacking"])
def test_predictions_are_those_of_a_loop_over_the_tables(family, tmp_path, head):
    run = judge(family.load(), head, store=family.root, out=tmp_path / "run")
    label, fold = by_hand(family, make_classifier(head))
    with (tmp_path / "run" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["id"]: row["label"] for row in rows} == label
    assert {row["id"]: row["fold"] for row in rows} == fold
    assert len(rows) == len(family.labelled) == 48
    truth = {f"id{row}": family.labels[row] for row in family.labelled}
    true, said = [truth[row["id"]] for row in rows], [row["label"] for row in rows]
    assert [row["true"] for row in rows] == true
    assert run.metrics["accuracy"] == pytest.approx(accuracy_score(true, said))
    assert run.metrics["macro_f1"] == pytest.approx(f1_score(true, said, average="macro"))
    assert [(one["fold"], one["n"]) for one in run.metrics["folds"]] == [
        (str(number), int((family.fold == number).sum())) for number in range(FOLDS)
    ]


def test_probabilities_are_sklearns_on_the_fold_s_own_vectors(family, judged, logistic):
    predictions = judged.evaluation.predictions
    for number in range(FOLDS):
        train, test = family.parts(number)
        own = predictions.fold == str(number)
        np.testing.assert_array_equal(family.labelled[predictions.rows[own]], test)
        expected = logistic(family.vectors[number], family.labels, train, C=2.0)[test]
        np.testing.assert_allclose(predictions.proba[own], expected, atol=1e-4)
        other = logistic(family.vectors[(number + 1) % FOLDS], family.labels, train, C=2.0)[test]
        assert np.abs(other - expected).max() > 0.05  # the wrong table would be seen


def test_the_kept_model_is_that_of_fold_0_and_says_so(family, judged, tmp_path):
    run = load_run(judged.folder)
    table = cache.load(family.root, "posts.fold0")
    train = table[table.split == "train"]
    expected = make_classifier("logreg", C=2.0).fit(train, train.y).predict_proba(table)
    np.testing.assert_allclose(run.model.predict_proba(table), expected, atol=1e-6)
    assert {name: one["encoder"] for name, one in run.encoders.items()} == {
        name: block.encoder for name, block in table.view.blocks.items()
    }
    assert predict(run.model, table, tmp_path / "out.csv")["rows"] == 60
    content = json.loads((judged.folder / "run.json").read_text())
    assert content["data"] == "posts"
    assert content["data_digest"] == family.load().digest
    for said in (content["model"], content["protocol"], judged.metrics["model"], judged.protocol.description):
        assert IN_WORDS in said
    assert judged.metrics["protocol"] == judged.protocol.name == "cross-fit-3-fold"
    assert judged.metrics["seed"] == 3
    assert json.loads((judged.folder / "metrics.json").read_text()) == judged.metrics


def test_an_ordinary_run_says_what_its_model_was_fitted_to(posts, split_posts, tmp_path):
    folds = judge(posts, "text", store=tmp_path, out=tmp_path / "a", folds=2)
    given = judge(split_posts, "text", store=tmp_path, out=tmp_path / "b")
    assert folds.metrics["model"] == "fitted to all labelled rows"
    assert given.metrics["model"] == "fitted to the training rows"


def test_seed_and_folds_change_no_fold(family):
    data = family.load()
    data = data[data.labelled]
    first, other = protocol_for(data, folds=5, seed=0), protocol_for(data, folds=2, seed=1)
    assert [fold.name for fold in first.judged] == ["0", "1", "2"]
    assert [fold.table for fold in first.judged] == [0, 1, 2]
    for one, two in zip(first.judged, other.judged, strict=True):
        np.testing.assert_array_equal(one.test, two.test)
        np.testing.assert_array_equal(np.sort(np.r_[one.train, one.test]), np.arange(48))


def test_a_single_view_is_an_ordinary_data_set_with_splits(family):
    evaluation, protocol = run_head(cache.load_data_set(family.root, "posts.fold1"), "logreg")
    assert protocol.name == "train-test"
    label, fold = by_hand(family, make_classifier("logreg"))
    own = {id_: label[id_] for id_, number in fold.items() if number == "1"}
    found = evaluation.predictions
    ids = np.array([f"id{row}" for row in family.labelled])[found.rows]
    assert dict(zip(ids.tolist(), found.label.tolist(), strict=True)) == own


def test_numbers_are_cross_fitted_too(tmp_path):
    y = np.random.default_rng(9).normal(size=60).round(3)
    family = Family(tmp_path / "features", labels=[str(one) for one in y])
    run = judge(family.load(), "ridge", store=family.root, out=tmp_path / "run")
    assert (run.metrics["task"], run.metrics["protocol"], run.metrics["n"]) == ("regression", "cross-fit-3-fold", 48)
    found = run.evaluation.predictions
    for number in range(FOLDS):
        table = cache.load(family.root, f"posts.fold{number}")
        train, test = table[table.split == "train"], table[table.split == "test"]
        expected = make_regressor("ridge").fit(train, train.y.astype(float)).predict(test)
        np.testing.assert_allclose(found.label[found.fold == str(number)], expected, rtol=1e-5)


def test_a_modality_can_be_left_out(family, tmp_path):
    run = judge(family.load(["image", "text"]), "image", store=family.root, out=tmp_path / "run")
    assert run.metrics["modalities"] == ["image"]
    assert list(load_run(run.folder).encoders) == ["image"]


def test_a_test_row_that_tuned_its_fold_s_encoder_is_refused_by_name(tmp_path, family):
    good = family.load()
    refuse_tuned(good[good.labelled], protocol_for(good[good.labelled]).judged)
    seen = int(family.parts(0)[1][2])
    leaky = Family(tmp_path / "features", extra=[seen])
    with pytest.raises(DataError, match=rf"1 of \d+ test rows of posts\.fold0 \(fold 0\) tuned the text.*: id{seen};"):
        judge(leaky.load(), "logreg", store=leaky.root, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    judge(leaky.load(["image"]), "image", store=leaky.root, out=tmp_path / "run")  # no encoder of it was tuned
    with pytest.raises(DataError, match=rf"id{seen}"):
        run_head(cache.load(leaky.root, "posts.fold0"), "logreg")
    run_head(cache.load(leaky.root, "posts.fold1"), "logreg")


def test_rows_that_leave_a_fold_nothing_to_test_are_refused(family):
    data = family.load()
    with pytest.raises(
        DataError, match=r"posts\.fold1 has the splits train on these rows.*cross-fitted data set posts"
    ):
        protocol_for(data[np.isin(family.fold, (0, 2))])


def test_a_class_in_one_fold_alone_is_refused_by_row(tmp_path):
    fold = Family(tmp_path / "a").fold
    row = int(np.flatnonzero(fold == 1)[0])
    labels = np.array(["apple", "berry"])[np.arange(60) % 2].astype(object)
    labels[row] = "quince"
    family = Family(tmp_path / "b", labels=labels)
    with pytest.raises(DataError, match=rf"1 test rows have a label that no training row has: id{row} \(quince\)"):
        run_head(family.load(), "logreg")
