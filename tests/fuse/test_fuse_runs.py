import csv
import json

import numpy as np
import pytest

import fuse.runs
from cache import PipelineError, StoreError, UsageError
from fuse import check_free, load_run, new_folder, run_head, write_run

SETTINGS = {"head": "logreg", "seed": 3, "store": "features", "params": {"C": 2.0}}
PROBABILITIES = ["p_apple", "p_berry", "p_cherry"]


@pytest.fixture
def partly(signal, make_table):
    """60 rows, every fourth without a label."""
    vectors, y = signal()
    return make_table(vectors, np.where(np.arange(60) % 4 == 3, "", y))


@pytest.fixture
def written(partly, tmp_path):
    """`(folder, evaluation, what write_run returned)` of a finished run."""
    evaluation, protocol = run_head(partly, "logreg", {"C": 2.0}, seed=3, folds=3)
    return tmp_path / "run", evaluation, write_run(tmp_path / "run", partly, evaluation, protocol, SETTINGS)


def test_metrics_file_has_every_key_and_the_returned_values(written):
    folder, evaluation, returned = written
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == returned
    named = {
        "head": "logreg",
        "modalities": ["text", "image"],
        "seed": 3,
        "n": 45,
        "protocol": "stratified-group-3-fold",
    }
    assert {key: metrics[key] for key in named} == named
    for key in ("accuracy", "macro_f1", "weighted_f1", "balanced_accuracy", "majority_accuracy", "per_class"):
        assert metrics[key] == evaluation.metrics[key]
    assert set(metrics["per_class"]["apple"]) == {"precision", "recall", "f1", "support"}


def test_predictions_file_is_aligned_with_the_ids(written, partly):
    folder, evaluation, _ = written
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "label", *PROBABILITIES, "true", "fold"]
    truth = dict(zip(partly.ids, partly.view.labels, strict=True))
    assert sorted(row["id"] for row in rows) == sorted(partly.ids[partly.labelled])
    assert all(row["true"] == truth[row["id"]] for row in rows)
    assert np.mean([row["label"] == row["true"] for row in rows]) == pytest.approx(evaluation.metrics["accuracy"])
    proba = np.array([[float(row[name]) for name in PROBABILITIES] for row in rows])
    np.testing.assert_allclose(proba, evaluation.predictions.proba, atol=1e-6)
    assert [row["label"] for row in rows] == [PROBABILITIES[best][2:] for best in proba.argmax(axis=1)]


def test_run_comes_back_with_model_encoders_and_provenance(written, partly):
    folder, evaluation, _ = written
    run, image = load_run(folder), partly.view.blocks["image"]
    np.testing.assert_array_equal(run.model.predict_proba(partly), evaluation.model.predict_proba(partly))
    assert run.settings == SETTINGS
    expected = {"encoder": image.encoder, "output": "mean", "dim": 6, "spec": {"model": "random"}}
    assert run.encoders["image"] == expected
    content = json.loads((folder / "run.json").read_text())
    assert (content["data"], content["data_digest"]) == ("posts", partly.view.digest)
    assert content["classes"] == ["apple", "berry", "cherry"]
    assert content["versions"]["numpy"] == np.__version__


def test_run_file_is_written_last(posts, tmp_path, monkeypatch):
    write_json, there = fuse.runs.write_json, {}

    def spy(path, value):
        there[path.name] = sorted(str(found.relative_to(path.parent)) for found in path.parent.rglob("*"))
        write_json(path, value)

    monkeypatch.setattr(fuse.runs, "write_json", spy)
    write_run(tmp_path / "run", posts, *run_head(posts, "text", folds=3), SETTINGS)
    model = ["model", "model/model.json", "model/model.safetensors"]
    assert there["run.json"] == ["metrics.json", *model, "predictions.csv"]


def test_run_that_broke_off_is_refused(posts, tmp_path, monkeypatch):
    def fail(*args):
        raise StoreError("the disk is full")

    monkeypatch.setattr(fuse.runs, "save_bundle", fail)
    with pytest.raises(StoreError, match="full"):
        write_run(tmp_path / "run", posts, *run_head(posts, "text", folds=3), SETTINGS)
    assert (tmp_path / "run" / "metrics.json").exists()
    for folder in ("run", "nowhere"):
        with pytest.raises(UsageError, match=r"no finished run .*run\.json"):
            load_run(tmp_path / folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 99}', '{"schema": 1}'])
def test_damaged_run_file_is_refused_by_path(written, content):
    (written[0] / "run.json").write_text(content)
    with pytest.raises(PipelineError, match=str(written[0])):
        load_run(written[0])


def test_finished_run_is_never_overwritten(written, posts):
    folder = written[0]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=str(folder)):
        check_free(folder)
    with pytest.raises(UsageError, match=str(folder)):
        write_run(folder, posts, *run_head(posts, "text", folds=3), SETTINGS)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_new_folders_are_numbered(tmp_path):
    root = tmp_path / "deep" / "runs"
    assert [new_folder("posts-mlp", root) for _ in range(3)] == [root / f"posts-mlp-{number}" for number in (1, 2, 3)]
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        new_folder("x", tmp_path / "file")


def test_seed_reaches_folds_and_head_unless_the_head_has_its_own(posts):
    tiny = {"hidden_sizes": (3,)}
    cases = ((0, tiny), (1, {**tiny, "random_state": 5}))
    first, other = (run_head(posts, "mlp", params, seed=seed, folds=2)[0] for seed, params in cases)
    assert [run.model.random_state for run in (first, other)] == [0, 5]
    assert first.predictions.rows.tolist() != other.predictions.rows.tolist()
