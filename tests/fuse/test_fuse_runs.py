import csv
import json
from pathlib import Path

import numpy as np
import pytest

import fuse.runs
from cache import PipelineError, StoreError, UsageError
from fuse import judge, load_run, predict

PROBABILITIES = ["p_apple", "p_berry", "p_cherry"]


@pytest.fixture
def partly(signal, make_table):
    """60 rows, every fourth without a label."""
    vectors, y = signal()
    return make_table(vectors, np.where(np.arange(60) % 4 == 3, "", y))


@pytest.fixture
def written(partly, tmp_path):
    """The finished run of a logistic head."""
    return judge(partly, "logreg", {"C": 2.0}, store=tmp_path, out=tmp_path / "run", seed=3, folds=3)


def _rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    proba = np.array([[float(row[name]) for name in PROBABILITIES] for row in rows])
    assert [row["label"] for row in rows] == [PROBABILITIES[best][2:] for best in proba.argmax(axis=1)]
    return rows, proba


def test_metrics_file_has_every_key_and_the_returned_values(written):
    metrics = json.loads((written.folder / "metrics.json").read_text())
    assert metrics == written.metrics
    protocol = "stratified-group-3-fold"
    named = {"head": "logreg", "modalities": ["text", "image"], "seed": 3, "n": 45, "protocol": protocol}
    assert {key: metrics[key] for key in named} == named
    for key in ("accuracy", "macro_f1", "weighted_f1", "balanced_accuracy", "majority_accuracy", "per_class"):
        assert metrics[key] == written.evaluation.metrics[key]
    assert set(metrics["per_class"]["apple"]) == {"precision", "recall", "f1", "support"}


def test_predictions_file_is_aligned_with_the_ids(written, partly):
    rows, proba = _rows(written.folder / "predictions.csv")
    assert list(rows[0]) == ["id", "label", *PROBABILITIES, "true", "fold"]
    truth = dict(zip(partly.ids, partly.view.labels, strict=True))
    assert sorted(row["id"] for row in rows) == sorted(partly.ids[partly.labelled])
    assert all(row["true"] == truth[row["id"]] for row in rows)
    assert np.mean([row["label"] == row["true"] for row in rows]) == pytest.approx(written.metrics["accuracy"])
    np.testing.assert_allclose(proba, written.evaluation.predictions.proba, atol=1e-6)


def test_run_comes_back_with_model_encoders_and_provenance(written, partly, tmp_path):
    run, image = load_run(written.folder), partly.view.blocks["image"]
    model = written.evaluation.model
    np.testing.assert_array_equal(run.model.predict_proba(partly), model.predict_proba(partly))
    named = {"head": "logreg", "seed": 3, "folds": 3, "params": {"C": 2.0}, "store": str(tmp_path)}
    assert {key: run.settings[key] for key in named} == named
    expected = {"encoder": image.encoder, "output": "mean", "dim": 6, "spec": {"model": "random"}}
    assert run.encoders["image"] == expected
    content = json.loads((written.folder / "run.json").read_text())
    assert (content["data"], content["data_digest"]) == ("posts", partly.view.digest)
    assert content["classes"] == ["apple", "berry", "cherry"]
    assert content["versions"]["numpy"] == np.__version__


def test_unlabelled_rows_are_predicted_too(written, partly, tmp_path):
    counts = predict(written.evaluation.model, partly, tmp_path / "out.csv")
    rows, proba = _rows(tmp_path / "out.csv")
    assert [row["id"] for row in rows] == partly.ids.tolist()
    np.testing.assert_allclose(proba, written.evaluation.model.predict_proba(partly), atol=1e-6)
    labels = [row["label"] for row in rows]
    assert counts == {"rows": 60, "labels": {label: labels.count(label) for label in ("apple", "berry", "cherry")}}


def test_unimodal_run_needs_only_its_modality(posts, make_table, tmp_path):
    run = judge(posts, "text", store=tmp_path, out=tmp_path / "run", folds=3)
    assert run.metrics["modalities"] == ["text"]
    assert list(load_run(run.folder).encoders) == ["text"]
    texts = make_table({"text": posts.block("text")}, posts.y)
    expected = run.evaluation.model.predict_proba(posts)
    np.testing.assert_array_equal(load_run(run.folder).model.predict_proba(texts), expected)


def test_run_file_is_written_last(posts, tmp_path, monkeypatch):
    write_json, there = fuse.runs.write_json, {}

    def spy(path, value):
        there[path.name] = sorted(str(found.relative_to(path.parent)) for found in path.parent.rglob("*"))
        write_json(path, value)

    monkeypatch.setattr(fuse.runs, "write_json", spy)
    judge(posts, "text", store=tmp_path, out=tmp_path / "run", folds=3)
    model = ["model", "model/model.json", "model/model.safetensors"]
    assert there["run.json"] == ["metrics.json", *model, "predictions.csv"]


def test_run_that_broke_off_is_refused(posts, tmp_path, monkeypatch):
    def fail(*args):
        raise StoreError("the disk is full")

    monkeypatch.setattr(fuse.runs, "save_bundle", fail)
    with pytest.raises(StoreError, match="full"):
        judge(posts, "text", store=tmp_path, out=tmp_path / "run", folds=3)
    assert (tmp_path / "run" / "metrics.json").exists()
    for folder in ("run", "nowhere"):
        with pytest.raises(UsageError, match=r"no finished run .*run\.json"):
            load_run(tmp_path / folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 99}', '{"schema": 1}'])
def test_damaged_run_file_is_refused_by_path(written, content):
    (written.folder / "run.json").write_text(content)
    with pytest.raises(PipelineError, match=str(written.folder)):
        load_run(written.folder)


def test_a_run_file_of_which_one_letter_changed_is_refused(written):
    path = written.folder / "run.json"
    raw = path.read_text()
    for part, other in (('"encoder"', '"encodes"'), ("logreg", "logres"), ('"crc32"', '"crc33"')):
        assert part in raw
        path.write_text(raw.replace(part, other, 1))
        with pytest.raises(PipelineError, match=r"run\.json is damaged \(its checksum does not fit\); run fuse again"):
            load_run(written.folder)
    content = json.loads(raw)
    del content["crc32"]  # as an earlier version wrote it
    path.write_text(json.dumps(content))
    assert load_run(written.folder).settings["head"] == content["settings"]["head"]


def test_finished_run_is_never_overwritten(written, posts, tmp_path):
    folder = written.folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=str(folder)):
        fuse.runs.check_free(folder)
    with pytest.raises(UsageError, match=str(folder)):
        judge(posts, "text", store=tmp_path, out=folder, folds=3)
    with pytest.raises(UsageError, match=str(folder)):
        fuse.runs.write_run(folder, posts, written.evaluation, written.protocol, {"head": "logreg", "seed": 3})
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_runs_without_a_folder_get_numbered_ones(posts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [judge(posts, "text", store=tmp_path, folds=2).folder for _ in range(2)]
    assert folders == [Path("runs") / "posts-text-1", Path("runs") / "posts-text-2"]
    assert (tmp_path / "runs" / "posts-text-2" / "run.json").exists()
    assert fuse.runs.new_folder("one", tmp_path / "deep" / "runs") == tmp_path / "deep" / "runs" / "one-1"
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        fuse.runs.new_folder("one", tmp_path / "file")


def test_seed_reaches_folds_and_head_unless_the_head_has_its_own(posts):
    tiny = {"hidden_sizes": (3,)}
    cases = ((0, tiny), (1, {**tiny, "random_state": 5}))
    first, other = (fuse.run_head(posts, "mlp", params, seed=seed, folds=2)[0] for seed, params in cases)
    assert [run.model.random_state for run in (first, other)] == [0, 5]
    assert first.predictions.rows.tolist() != other.predictions.rows.tolist()


@pytest.fixture
def scored(make_table):
    """60 rows in 12 groups, with numbers as labels: the sum of two columns, one of each modality."""
    rng = np.random.default_rng(0)
    vectors = {"text": rng.normal(size=(60, 4)), "image": rng.normal(size=(60, 6))}
    y = vectors["text"][:, 0] + vectors["image"][:, 1]
    return make_table(vectors, [f"{value:.4f}" for value in y], groups=np.arange(60) // 5)


def test_numbers_as_labels_are_regressed_and_judged_by_group(scored, tmp_path):
    run = judge(scored, "ridge", {"alpha": 0.01}, store=tmp_path, out=tmp_path / "run", folds=4)
    metrics, predictions = json.loads((run.folder / "metrics.json").read_text()), run.evaluation.predictions
    assert metrics == run.metrics
    assert (metrics["task"], metrics["protocol"], metrics["n"]) == ("regression", "group-4-fold", 60)
    assert metrics["mae"] < 0.1 * metrics["mean_mae"]
    assert {"corr", "acc7", *(f"{kind}_{side}" for kind in ("acc2", "f1") for side in ("has0", "non0", "gt0"))} < set(
        metrics
    )
    assert len(metrics["folds"]) == 4
    for group in np.unique(scored.groups):
        assert len(set(predictions.fold[np.isin(predictions.rows, np.flatnonzero(scored.groups == group))])) == 1


def test_files_of_a_regression_hold_numbers(scored, tmp_path):
    run = judge(scored, "mlp", {"epochs": 1}, store=tmp_path, out=tmp_path / "run", folds=3)
    with (run.folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "label", "true", "fold"]
    truth = dict(zip(scored.ids, scored.labels.astype(float), strict=True))
    assert all(float(row["true"]) == pytest.approx(truth[row["id"]], abs=1e-4) for row in rows)
    loaded = load_run(run.folder)
    assert loaded.settings["task"] == "regression"
    found = predict(loaded.model, scored, tmp_path / "out.csv")
    expected = loaded.model.predict(scored)
    assert found == pytest.approx(
        {"rows": 60, "mean": expected.mean(), "least": expected.min(), "largest": expected.max()}
    )
    with (tmp_path / "out.csv").open(newline="") as file:
        written = [float(row["label"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(written, expected, rtol=1e-5)


def test_numbers_may_be_asked_to_be_classes_and_the_other_way_round(make_table, scored, tmp_path):
    vectors = {"text": np.random.default_rng(0).normal(size=(30, 3))}
    stars = make_table(vectors, [str(row % 3 + 1) for row in range(30)])
    options = {"store": tmp_path, "folds": 2}
    assert judge(stars, "text", out=tmp_path / "a", **options).metrics["task"] == "classification"
    assert judge(stars, "text", out=tmp_path / "b", task="regression", **options).metrics["task"] == "regression"
    with pytest.raises(PipelineError, match="fewer than 2 folds"):
        judge(scored, "text", out=tmp_path / "c", task="classification", **options)
    with pytest.raises(UsageError, match="'logreg' predicts classes only; those that predict numbers: text,"):
        judge(scored, "logreg", out=tmp_path / "d", **options)
