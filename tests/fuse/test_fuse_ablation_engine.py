import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss, recall_score, roc_auc_score

import cache
from cache import DataError, UsageError
from fuse import run_head
from fuse.ablation.engine import STATE_FILE, open_folder, read_data, run_ablation
from fuse.ablation.fits import Fit, Fits
from fuse.heads.vote import LateVotingClassifier
from fuse.runs import RUN_FILE
from tests.fuse.ablation_data import (  # noqa: F401
    CLASSES,
    column_of,
    csv_rows,
    fitted,
    gaps,
    make_numbers,
    make_posts,
    quick,
    settings,
    vectors,
)
from tests.fuse.conftest import _write_table

BOTH = ("text", "image")


@pytest.fixture
def table(tmp_path):
    return make_posts(tmp_path / "posts")


@pytest.fixture(scope="module")
def gappy(tmp_path_factory):
    return make_posts(tmp_path_factory.mktemp("engine") / "posts", present=gaps())


@pytest.fixture(scope="module")
def done(gappy, tmp_path_factory):
    """An ablation of several kinds of heads on rows that lack modalities."""
    given = {"heads": ("logreg", "ridge", "vote-fitted", "mlp", "text"), "params": {"mlp": {"epochs": 3}}}
    return fitted(gappy, tmp_path_factory.mktemp("runs") / "all", **given)


def by_row(evaluation):
    order = np.argsort(evaluation.predictions.rows)
    return evaluation.predictions.label[order], evaluation.predictions.proba[order]


@pytest.mark.parametrize(
    ("head", "modalities"),
    [(head, BOTH) for head in ("logreg", "ridge", "vote-fitted", "mlp")]
    + [("logreg", ("text",)), ("ridge", ("image",))],
)
def test_a_fit_is_what_evaluate_makes_of_the_same_fold(gappy, done, head, modalities):
    column = column_of(done, head, modalities)
    params = {"epochs": 3} if head == "mlp" else {}
    for place, seed in enumerate((0, 1)):
        evaluation, _ = run_head(gappy.select(modalities), head, params, seed=seed, folds=3)
        label, proba = by_row(evaluation)
        np.testing.assert_array_equal(np.array(CLASSES)[column.label[place]], label)
        np.testing.assert_allclose(column.proba[place], proba, atol=1e-6)
        assert column.metrics[place]["macro_f1"] == pytest.approx(evaluation.metrics["macro_f1"], abs=1e-12)
        assert np.array(CLASSES)[column.rows.majority[place]].tolist() == (
            evaluation.predictions.majority[np.argsort(evaluation.predictions.rows)].tolist()
        )


def test_a_unimodal_head_is_the_linear_head_on_its_modality_where_all_have_it(table, tmp_path):
    done = fitted(table, tmp_path / "a", heads=("text", "logreg"))
    unimodal, linear = column_of(done, "text", ("text",)), column_of(done, "logreg", ("text",))
    np.testing.assert_allclose(unimodal.proba, linear.proba, atol=1e-6)


@pytest.mark.slow
def test_results_hold_one_line_a_fit_with_the_metrics_of_its_rows(gappy, done):
    rows = csv_rows(done.folder / "results.csv")
    cells = [
        (head, "+".join(m)) for head in ("logreg", "ridge", "vote-fitted", "mlp") for m in (BOTH[:1], BOTH[1:], BOTH)
    ]
    expected = [(*cell, str(seed), str(f)) for cell in [*cells, ("text", "text")] for seed in (0, 1) for f in range(3)]
    assert sorted((row["head"], row["modalities"], row["seed"], row["fold"]) for row in rows) == sorted(expected)
    truth = gappy.y
    for row in rows:
        column = column_of(done, row["head"], row["modalities"].split("+"))
        place = [0, 1].index(int(row["seed"]))
        judged = column.rows.fold[place] == int(row["fold"])
        true, label = truth[judged], np.array(CLASSES)[column.label[place, judged]]
        proba = column.proba[place, judged].astype(np.float64)
        proba /= proba.sum(axis=1, keepdims=True)
        recall = recall_score(true, label, labels=CLASSES, average=None)
        expected = {
            "accuracy": accuracy_score(true, label),
            "macro_f1": f1_score(true, label, average="macro"),
            "weighted_f1": f1_score(true, label, average="weighted"),
            "balanced_accuracy": balanced_accuracy_score(true, label),
            "nll": log_loss(true, proba, labels=CLASSES),
            "auroc": roc_auc_score(true, proba, multi_class="ovr", average="macro"),
            "n_test": len(true),
            "n_train": len(truth) - len(true),
            **{f"recall_{name}": one for name, one in zip(CLASSES, recall, strict=True)},
        }
        for name, value in expected.items():
            assert float(row[name]) == pytest.approx(value, rel=1e-4), (row, name)
        assert float(row["fit_seconds"]) >= 0
        assert (row["temperature"] != "") == (row["seed"] == "0")
        assert int(row["weights"]) > 0


def test_weights_are_those_that_were_learned(done):
    rows = {(row["head"], row["modalities"]): int(row["weights"]) for row in csv_rows(done.folder / "results.csv")}
    assert rows["logreg", "text"] == 3 * 4 + 3
    assert rows["logreg", "text+image"] == 3 * 9 + 3
    assert rows["vote-fitted", "text+image"] == (3 * 4 + 3) + (3 * 5 + 3) + 2
    assert rows["text", "text"] == 3 * 4 + 3


def test_folds_of_a_repeat_judge_every_row_once(done):
    rows = done.results().rows
    for fold in rows.fold:
        assert sorted(np.bincount(fold).tolist()) == [20, 20, 20]
    assert rows.seeds.tolist() == [0, 1]
    assert rows.test_share == pytest.approx(1 / 3)


def test_labels_of_hidden_modalities_are_kept_for_every_row(done):
    column = column_of(done, "logreg")
    assert set(column.hidden) == {"text", "image"}
    assert column.hidden["text"].shape == column.label.shape
    assert column_of(done, "logreg", ("text",)).hidden == {}


# What is there is not fitted again.


class Stop:
    """Ctrl-C after so many reports of progress."""

    def __init__(self, after):
        self.after, self.seen = after, []

    def __call__(self, what, count, total):
        self.seen.append((what, count, total))
        if len(self.seen) == self.after:
            raise KeyboardInterrupt


def test_a_stopped_ablation_goes_on_with_what_is_missing(table, tmp_path):
    stop, given = Stop(2), {"heads": ("logreg", "vote"), "seeds": (0,)}
    with pytest.raises(KeyboardInterrupt):
        fitted(table, tmp_path / "a", stop, **given)
    kept = len(list((tmp_path / "a" / "fits").glob("*.fit")))
    assert stop.seen[-1] == ("fit", kept, 18)
    assert 0 < kept < 18
    assert 0 < len(csv_rows(tmp_path / "a" / "results.csv")) < 18
    seen = []
    done = fitted(table, tmp_path / "a", lambda *said: seen.append(said), **given)
    assert (done.fitted, done.reused, done.failed) == (18 - kept, kept, ())
    assert seen[-1] == ("fit", 18 - kept, 18 - kept)
    whole = fitted(table, tmp_path / "elsewhere" / "b", **given)
    assert (whole.fitted, whole.reused) == (18, 0)
    assert same(tmp_path / "a", tmp_path / "elsewhere" / "b")
    again = fitted(table, tmp_path / "a", **given)
    assert (again.fitted, again.reused) == (0, 18)


def same(one, other):
    """Whether two tables of results are equal but for seconds."""
    tables = [
        [{key: value for key, value in row.items() if "seconds" not in key} for row in csv_rows(folder / "results.csv")]
        for folder in (one, other)
    ]
    return tables[0] == tables[1]


@pytest.mark.parametrize(
    ("first", "then", "fitted_then", "reused"),
    [
        ({}, {}, 0, 6),
        ({}, {"heads": ("logreg", "ridge")}, 6, 6),
        ({}, {"heads": ("ridge", "logreg")}, 6, 6),
        ({}, {"seeds": (0, 1, 2)}, 3, 6),
        ({}, {"seeds": (0,)}, 0, 3),
        ({}, {"params": {"logreg": {"C": 0.3}}}, 6, 0),
        ({"heads": ("logreg", "ridge")}, {"heads": ("logreg", "ridge"), "params": {"ridge": {"alpha": 3.0}}}, 6, 6),
        ({}, {"folds": 4}, 8, 0),
        ({"split_seed": 0}, {}, 3, 3),
        ({}, {"grid": "small"}, 6, 0),
    ],
)
def test_of_changed_settings_only_what_changed_is_fitted(table, tmp_path, first, then, fitted_then, reused):
    table = table.select(["text"])
    fitted(table, tmp_path / "a", **first)
    done = fitted(table, tmp_path / "a", **then)
    assert (done.fitted, done.reused) == (fitted_then, reused)
    assert fitted(table, tmp_path / "a", **then).fitted == 0


def test_controls_are_fitted_beside_what_is_there(table, tmp_path):
    fitted(table, tmp_path / "a", seeds=(0,))
    done = fitted(table, tmp_path / "a", seeds=(0,), controls=("logreg",))
    assert (done.fitted, done.reused) == (12, 9)
    assert {row["head"] for row in csv_rows(tmp_path / "a" / "results.csv")} == {"logreg"}
    assert len(csv_rows(tmp_path / "a" / "results.csv")) == 9  # controls have no line there


def test_a_seed_that_the_user_sets_is_part_of_a_fit_s_name(table, tmp_path, few_steps):
    given = {"heads": ("mlp",), "seeds": (0,)}
    fitted(table.select(["text"]), tmp_path / "a", **given, params={"mlp": {"epochs": 2}})
    done = fitted(table.select(["text"]), tmp_path / "a", **given, params={"mlp": {"epochs": 2, "random_state": 5}})
    assert (done.fitted, done.reused) == (3, 0)


def test_fits_beside_are_adopted(table, tmp_path):
    table = table.select(["text"])
    fitted(table, tmp_path / "runs" / "a")
    done = fitted(table, tmp_path / "runs" / "b", heads=("logreg", "ridge"))
    assert (done.fitted, done.reused) == (6, 6)
    assert len(list((tmp_path / "runs" / "b" / "fits").glob("*.fit"))) == 12
    for file in (tmp_path / "runs" / "a" / "fits").iterdir():
        file.unlink()
    assert fitted(table, tmp_path / "runs" / "b").reused == 6
    assert fitted(table, tmp_path / "other" / "c").fitted == 6


def test_other_labels_or_other_vectors_are_fitted_anew(table, tmp_path):
    fitted(table, tmp_path / "runs" / "a", seeds=(0,))
    labels = table.view.columns["labels"].copy()
    labels[0] = "berry"
    relabelled = replace(table.view, columns={**table.view.columns, "labels": labels})
    cache.write_view(cache.FeatureStore(tmp_path / "posts"), relabelled)
    done = fitted(cache.load(tmp_path / "posts", "posts"), tmp_path / "runs" / "b", seeds=(0,))
    assert (done.fitted, done.reused) == (9, 0)
    others = make_posts(tmp_path / "others", groups=np.arange(60) // 2)
    assert fitted(others, tmp_path / "runs" / "c", seeds=(0,)).reused == 0


@pytest.mark.slow
def test_another_encoder_s_vectors_are_fitted_anew(table, tmp_path):
    fitted(table, tmp_path / "runs" / "a", seeds=(0,))
    blocks = dict(table.view.blocks)
    renamed = make_posts(tmp_path / "other", modalities=("text", "sound"))
    assert renamed.view.blocks["text"].encoder == blocks["text"].encoder
    done = fitted(renamed, tmp_path / "runs" / "b", seeds=(0,))
    assert (done.fitted, done.reused) == (9, 0)


def spoil(path, how):
    raw = path.read_bytes()
    middle = len(raw) // 2
    path.write_bytes(
        {
            "truncated": raw[:middle],
            "empty": b"",
            "flipped": raw[:middle] + bytes([raw[middle] ^ 255]) + raw[middle + 1 :],
            "text": b"not what was written",
        }[how]
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", pytest.param("text", marks=pytest.mark.slow)])
def test_a_damaged_fit_is_made_again(table, tmp_path, how):
    table = table.select(["text"])
    label = column_of(fitted(table, tmp_path / "a"), "logreg", ["text"]).label
    for path in sorted((tmp_path / "a" / "fits").glob("*.fit"))[:3]:
        spoil(path, how)
    done = fitted(table, tmp_path / "a")
    assert (done.fitted, done.reused) == (3, 3)
    np.testing.assert_array_equal(column_of(done, "logreg", ["text"]).label, label)
    assert fitted(table, tmp_path / "a").fitted == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_damage_of_a_fit_goes_unseen(tmp_path):
    """Any byte may be another, and the file may end anywhere."""
    fits = Fits(tmp_path)
    arrays = {"label": np.arange(6, dtype=np.int32), "proba": np.linspace(0, 1, 12, dtype=np.float32).reshape(6, 2)}
    fits.write("a", Fit({"metrics": {"accuracy": 0.5}, "temperature": None}, arrays))
    path = next(tmp_path.glob("*"))
    raw = path.read_bytes()

    def whole():
        found = fits.read("a")
        if found is None:
            return False
        assert found.about == {"metrics": {"accuracy": 0.5}, "temperature": None}
        assert set(found.arrays) == set(arrays)
        return all(np.array_equal(found.arrays[name], arrays[name]) for name in arrays)

    assert whole()
    wrong = []
    damages = [raw[:end] for end in range(0, len(raw), 17)]
    damages += [raw[:k] + bytes([raw[k] ^ (1, 255)[k % 2]]) + raw[k + 1 :] for k in range(len(raw))]
    for content in damages:
        path.write_bytes(content)
        try:
            whole()
        except Exception as error:
            wrong.append(repr(error))
    assert not wrong


# Failures.


@pytest.fixture
def failing(monkeypatch):
    """Votes cannot be fitted."""

    def fail(self, X, y, *args, **kwargs):
        raise UsageError("votes are off today")

    monkeypatch.setattr(LateVotingClassifier, "fit", fail)


def test_a_head_that_fails_leaves_the_others(table, tmp_path, failing):
    done = fitted(table, tmp_path / "a", heads=("vote", "logreg"), seeds=(0,))
    assert (done.fitted, done.reused) == (9, 0)
    assert {(str(one.cell), one.reason) for one in done.failed} == {
        (f"vote on {name}", "votes are off today") for name in ("text", "image", "text + image")
    }
    assert len(done.failed) == 9
    assert {row["head"] for row in csv_rows(tmp_path / "a" / "results.csv")} == {"logreg"}
    assert {column.cell.head for column in done.results().columns} == {"logreg"}


@pytest.mark.slow
def test_what_failed_is_tried_again(table, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(LateVotingClassifier, "fit", lambda *_, **__: (_ for _ in ()).throw(UsageError("no")))
        fitted(table, tmp_path / "a", heads=("vote", "logreg"), seeds=(0,))
    done = fitted(table, tmp_path / "a", heads=("vote", "logreg"), seeds=(0,))
    assert (done.fitted, done.reused, done.failed) == (9, 9, ())


def test_where_all_fail_it_says_why(table, tmp_path, failing):
    done = fitted(table, tmp_path / "a", heads=("vote",), seeds=(0,))
    with pytest.raises(DataError, match="no head could be fitted: votes are off today"):
        done.results()


# Data.


def test_data_that_cannot_be_used_is_refused(make_table):
    with pytest.raises(DataError, match="no labelled rows"):
        read_data(make_table({"text": np.ones((6, 2))}, [""] * 6))
    with pytest.raises((DataError, UsageError), match="number"):
        read_data(make_table({"text": np.ones((6, 2))}, list("ababab")), "regression")


def test_vectors_that_are_not_finite_are_refused_by_name(table, monkeypatch):
    real = cache.FeatureTable.block

    def damaged(self, name):
        values = real(self, name).copy()
        if name == "image":
            values[2, 1], values[4, 0] = np.nan, np.inf
        return values

    monkeypatch.setattr(cache.FeatureTable, "block", damaged)
    with pytest.raises(DataError, match=r"2 rows of posts hold NaN or infinity in their image vectors: id2, id4"):
        read_data(table)


def test_rows_without_a_label_take_no_part(make_table, signal, tmp_path):
    vectors, y = signal()
    y = y.astype(object)
    y[::10] = ""
    done = fitted(make_table(vectors, y), tmp_path / "a", seeds=(0,))
    assert len(done.results().rows) == 54
    assert "id0" not in done.results().rows.ids.tolist()


def test_halves_are_read_as_floats(make_table, signal):
    vectors, y = signal()
    data = read_data(make_table({name: x.astype(np.float16) for name, x in vectors.items()}, y))
    assert {x.dtype for x in data.inputs.values.values()} == {np.dtype(np.float32)}


def test_a_class_of_few_rows_fails_no_fit_that_fuse_can_make(tmp_path):
    target = np.zeros(32, dtype=int)
    target[[0, 5]] = 1
    table = _write_table(tmp_path / "rare", vectors(target, ("text",)), np.array(["a", "b"], dtype=object)[target])
    assert run_head(table, "logreg", folds=2)[0].metrics["n"] == 32
    assert fitted(table, tmp_path / "a", folds=2, seeds=(0,)).failed == ()


# Folders.


def test_without_out_an_unfinished_one_goes_on_and_a_finished_one_is_left(table, tmp_path):
    data, chosen, root = read_data(table), settings(), tmp_path / "runs"
    first = open_folder(data, chosen, None, root)
    assert first == root / "posts-ablation-1"
    assert open_folder(data, chosen, None, root) == first
    assert open_folder(data, replace(chosen, seeds=(5,)), None, root) == root / "posts-ablation-2"
    (first / RUN_FILE).write_text("{}")
    assert open_folder(data, chosen, None, root) == root / "posts-ablation-3"
    assert (first / RUN_FILE).exists()


def test_out_goes_on_whatever_the_settings(table, tmp_path):
    data, out = read_data(table), tmp_path / "mine" / "here"
    assert open_folder(data, settings(), out, tmp_path / "runs") == out
    (out / RUN_FILE).write_text("{}")
    assert open_folder(data, settings(heads=("mlp",)), out, tmp_path / "runs") == out
    assert not (out / RUN_FILE).exists()  # until it is finished again
    assert not (tmp_path / "runs").exists()


def test_out_of_something_else_is_refused(table, tmp_path):
    data, out = read_data(table), tmp_path / "out"
    out.mkdir()
    (out / RUN_FILE).write_text("{}")
    with pytest.raises(UsageError, match="out holds the run of a head; choose another --out"):
        open_folder(data, settings(), out, tmp_path)
    assert (out / RUN_FILE).read_text() == "{}"
    other = tmp_path / "other"
    open_folder(read_data(make_posts(tmp_path / "more", rows=63)), settings(), other, tmp_path)
    (other / RUN_FILE).write_text("{}")
    with pytest.raises(UsageError, match=r"other holds an ablation of posts as it was then.*choose another --out"):
        open_folder(data, settings(), other, tmp_path)
    assert (other / RUN_FILE).exists()
    (out / STATE_FILE).write_text('{"settings": ')
    with pytest.raises(UsageError, match=r"ablation.json cannot be read.*choose another --out"):
        open_folder(data, settings(), out, tmp_path)
    with pytest.raises(UsageError, match="choose another --out"):
        open_folder(data, settings(), tmp_path / "out" / RUN_FILE, tmp_path)


def test_what_was_stopped_while_the_report_was_written_goes_on(table, tmp_path):
    """By then the state names the cells, too."""
    data, root = read_data(table), tmp_path / "runs"
    folder = open_folder(data, settings(), None, root)
    state = json.loads((folder / STATE_FILE).read_text())
    (folder / STATE_FILE).write_text(json.dumps(state | {"modalities": ["text", "image"], "cells": []}))
    assert open_folder(data, settings(), None, root) == folder


def test_a_damaged_folder_beside_does_no_harm(table, tmp_path):
    (tmp_path / "runs" / "old").mkdir(parents=True)
    (tmp_path / "runs" / "old" / STATE_FILE).write_text("{")
    assert open_folder(read_data(table), settings(), None, tmp_path / "runs").name == "posts-ablation-1"


# Numbers, and processes.


def test_numbers_are_judged_by_their_errors(tmp_path):
    table = make_numbers(tmp_path / "numbers", present=gaps())
    done = fitted(table, tmp_path / "a", heads=("ridge", "vote"), task="regression")
    column = column_of(done, "ridge")
    for place, seed in enumerate((0, 1)):
        evaluation, _ = run_head(table, "ridge", {}, seed=seed, folds=3)
        np.testing.assert_allclose(column.label[place], by_row(evaluation)[0], atol=1e-6)
    truth = np.array([float(one) for one in table.y])
    for row in csv_rows(tmp_path / "a" / "results.csv"):
        judged = column_of(done, row["head"], row["modalities"].split("+"))
        place = int(row["seed"])
        inside = judged.rows.fold[place] == int(row["fold"])
        assert float(row["mae"]) == pytest.approx(np.abs(judged.label[place, inside] - truth[inside]).mean(), rel=1e-9)
        assert row["temperature"] == ""
        assert "accuracy" not in row


@pytest.mark.slow
def test_processes_give_what_one_gives(table, tmp_path, monkeypatch):
    monkeypatch.setattr("fuse.training.MIN_STEPS", 400)  # as in the workers
    given = {"heads": ("logreg", "vote", "mlp"), "params": {"mlp": {"epochs": 3}}, "controls": ("logreg",)}
    one = fitted(table, tmp_path / "x" / "a", **given)
    chosen = settings(**given)
    seen = []
    two = run_ablation(read_data(table), chosen, tmp_path / "y" / "b", 2, lambda *said: seen.append(said))
    assert (two.fitted, two.reused) == (one.fitted, 0)
    assert seen[-1][1] == seen[-1][2] == one.fitted
    assert same(tmp_path / "x" / "a", tmp_path / "y" / "b")
    names = [sorted(path.name for path in (tmp_path / at / "fits").iterdir()) for at in ("x/a", "y/b")]
    assert names[0] == names[1]
    for first, second in zip(one.results().columns, two.results().columns, strict=True):
        np.testing.assert_array_equal(first.proba, second.proba)
        for name in first.hidden:
            np.testing.assert_array_equal(first.hidden[name], second.hidden[name])
