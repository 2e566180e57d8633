"""Fine-tuning as a user types it, and what takes its runs."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cache import FeatureStore, load, read_part
from tests.conftest import ROOT, Result

Run = Callable[..., Result]
QUICK = (
    "--epochs",
    "2",
    "--batch-size",
    "8",
    "--precision",
    "fp32",
    "--modalities",
    "text",
    "--lr",
    "text=1e-3",
)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuse.training.MIN_STEPS", 1)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_finetune_leaves_a_run_that_predict_takes(run: Run, extracted: Path, models: list[str]) -> None:
    done = run("finetune", "posts", *models, *QUICK, "--json")
    assert done.code == 0, done.err
    folder = extracted / done.json["out"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == {key: value for key, value in done.json.items() if key not in ("out", "failed")}
    assert (metrics["head"], metrics["modalities"], metrics["protocol"]) == ("linear", ["text"], "hold-out-1-of-5")
    assert metrics["n"] == len(rows_of(folder / "predictions.csv")) == 8
    assert "training loss" in done.err
    labelled = run("predict", "--run", folder, "posts", "-o", "new.csv", "--json")
    assert labelled.code == 0, labelled.err
    assert [row["id"] for row in rows_of(extracted / "new.csv")] == ["40", "41", "42", "43"]
    everything = run("predict", "--run", folder, "posts", "-o", "all.csv", "--all")
    assert everything.code == 0
    again = {row["id"]: row["label"] for row in rows_of(extracted / "all.csv")}
    assert all(again[row["id"]] == row["label"] for row in rows_of(folder / "predictions.csv"))


@pytest.mark.slow
def test_a_moved_run_is_found_where_it_is_now(run: Run, extracted: Path, models: list[str]) -> None:
    assert run("finetune", "posts", *models, *QUICK, "--out", "tuned").code == 0
    (extracted / "tuned").rename(extracted / "elsewhere")
    done = run("extract", "posts", "--finetuned", "elsewhere", "--modalities", "text", "--name", "again", "--json")
    assert done.code == 0, done.err
    assert done.json["views"][0]["name"] == "again"


def test_extract_takes_the_tuned_encoders_and_heads_are_judged_on_rows_that_they_did_not_see(
    run: Run, extracted: Path, models: list[str]
) -> None:
    assert run("finetune", "posts", *models, *QUICK, "--out", "tuned").code == 0
    done = run("extract", "posts", "--finetuned", "tuned", *models[2:], "--name", "posts-tuned", "--json")
    assert done.code == 0, done.err
    test = {row["id"] for row in rows_of(extracted / "tuned" / "predictions.csv")}
    judged = run("fuse", "--head", "logreg", "--name", "posts-tuned", "--json")
    assert judged.code == 0, judged.err
    assert judged.json["protocol"] == "train-test"
    assert {row["id"] for row in rows_of(extracted / judged.json["out"] / "predictions.csv")} == test
    frozen = run("fuse", "--head", "logreg", "--name", "posts", "--json")
    assert frozen.json["n"] == 40  # the data set of the frozen encoders is as it was


def test_data_in_shards_takes_the_tuned_encoders_and_their_splits(run: Run, extracted: Path, models: list[str]) -> None:
    assert run("finetune", "posts", *models, *QUICK, "--out", "tuned").code == 0
    encode = ("extract", "posts", "--finetuned", "tuned", *models[2:], "--json")
    assert run(*encode, "--name", "whole").code == 0
    shards = run(*encode, "--name", "parts", "--shard-rows", "9")
    assert shards.code == 0, shards.err
    assert (shards.json["shards"], shards.json["encoded"], shards.json["finetuned"]) == (5, 0, "tuned")
    whole, parts = (load(extracted / "features", name) for name in ("whole", "parts"))
    assert Counter(whole.view.split) == {"train": 32, "test": 8, "": 4}
    for column in ("ids", "labels", "split", "groups"):
        assert getattr(parts.view, column).tolist() == getattr(whole.view, column).tolist()
    for name, block in whole.view.blocks.items():
        np.testing.assert_array_equal(np.array(parts.block(name)), np.array(whole.block(name)))
        assert parts.view.blocks[name].spec == block.spec
    assert "tuned_on" in parts.view.blocks["text"].spec
    part = read_part(FeatureStore(extracted / "features"), "parts", parts.view.parts[0])
    assert "tuned_on" not in part.blocks["text"].spec  # or each of a thousand parts would list all that was seen
    judged = [run("fuse", "--head", "logreg", "--name", name, "--json").json for name in ("whole", "parts")]
    assert judged[0]["accuracy"] == judged[1]["accuracy"]
    assert (judged[1]["protocol"], judged[1]["n"]) == ("train-test", 8)


@pytest.mark.slow
def test_data_in_shards_without_all_rows_that_judged_the_tuning_gets_no_splits(
    run: Run, extracted: Path, models: list[str]
) -> None:
    done = run("finetune", "posts", *models, *QUICK, "--out", "tuned", "--json")
    judged = {row["id"] for row in rows_of(extracted / "tuned" / "predictions.csv")}
    table = extracted / "posts" / "train.txt"
    gone = next(line for line in table.read_text().splitlines() if line.split(",")[0] in judged)
    table.write_text(table.read_text().replace(gone + "\n", ""))
    encode = ("extract", "posts", "--finetuned", "tuned", *models[2:], "--json")
    for name, options in (("whole", ()), ("parts", ("--shard-rows", "9"))):
        done = run(*encode, "--name", name, *options)
        assert done.code == 0, done.err
        assert set(load(extracted / "features", name).view.split) == {""}


@pytest.mark.slow
def test_what_shards_cannot_have_of_tuning_is_refused(run: Run, extracted: Path, models: list[str]) -> None:
    assert run("finetune", "posts", *models, *QUICK, "--cross-fit", "3", "--out", "folds").code == 0
    shards = ("extract", "posts", *models[2:], "--name", "x", "--shard-rows", "9")
    done = run(*shards, "--finetuned", "folds")
    assert (done.code, "was cross-fitted" in done.err) == (1, True), done.err
    done = run(*shards, "--finetune")
    assert (done.code, "tune them by finetune first" in done.err) == (2, True), done.err


@pytest.mark.slow
def test_cross_fitting_gives_a_data_set_of_one_view_a_fold(run: Run, extracted: Path, models: list[str]) -> None:
    done = run("finetune", "posts", *models, *QUICK, "--cross-fit", "3", "--out", "tuned", "--json")
    assert done.code == 0, done.err
    assert (done.json["n"], done.json["protocol"]) == (40, "cross-fit-3-fold")
    taken = run("extract", "posts", "--finetuned", "tuned", *models[2:])
    assert taken.code == 1
    assert "give another --name" in taken.err
    encoded = run("extract", "posts", "--finetuned", "tuned", *models[2:], "--name", "tuned", "--json")
    assert encoded.code == 0, encoded.err
    assert [view["name"] for view in encoded.json["views"]] == ["tuned.fold0", "tuned.fold1", "tuned.fold2"]
    judged = run("fuse", "--head", "vote-prior", "--name", "tuned", "--json")
    assert judged.code == 0, judged.err
    assert judged.json["n"] == 40
    fold = {row["id"]: row["fold"] for row in rows_of(extracted / "tuned" / "predictions.csv")}
    assert {row["id"]: row["fold"] for row in rows_of(extracted / judged.json["out"] / "predictions.csv")} == fold
    predicted = run("predict", "--run", "tuned", "posts", "-o", "new.csv")
    assert predicted.code == 0, predicted.err


@pytest.mark.slow
def test_extract_finetune_does_both(run: Run, extracted: Path, models: list[str]) -> None:
    done = run(
        "extract",
        "posts",
        *models,
        "--finetune",
        "--modalities",
        "text",
        "--precision",
        "fp32",
        "--name",
        "both",
        "--json",
    )
    assert done.code == 0, done.err
    assert (extracted / done.json["finetuned"] / "metrics.json").exists()
    assert done.json["views"][0]["name"] == "both"
    assert run("fuse", "--head", "logreg", "--name", "both").code == 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--head", "vote"], 1, "cannot be trained together"),
        (["--tune", "audio"], 2, "--tune names"),
        (["--lr", "text"], 2, "--lr takes"),
        (["--lr", "sound=1"], 1, "not among the modalities"),
        (["--freeze", "text=9"], 1, "3 parts to freeze"),
        (["--epochs", "0"], 1, "epochs must be 1 or more"),
        (["--cross-fit", "1"], 1, "must be 2 or more"),
    ],
)
def test_errors_are_one_message(
    run: Run, extracted: Path, models: list[str], options: list[str], code: int, message: str
) -> None:
    done = run("finetune", "posts", *models, *QUICK, *options)
    assert done.code == code
    assert message in done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--finetuned", "features"], "holds no finished fine-tuning"),
        (["--finetuned", "tuned", "--text-model", "other"], "brings its own text encoder"),
        (["--finetuned", "tuned", "--finetune"], "give one of them"),
    ],
)
def test_extract_refuses_what_contradicts_the_run(
    run: Run, extracted: Path, models: list[str], options: list[str], message: str
) -> None:
    assert run("finetune", "posts", *models, *QUICK, "--out", "tuned").code == 0
    done = run("extract", "posts", "--modalities", "text", "--name", "x", *options)
    assert done.code == 1
    assert message in done.err


@pytest.mark.slow
def test_data_with_splits_is_judged_on_its_test_rows(run: Run, extracted: Path, models: list[str]) -> None:
    rows = [line.split(",") for line in (extracted / "posts" / "train.txt").read_text().split()[1:]]
    with (extracted / "posts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "label", "split"])
        for number, (guid, tag) in enumerate(rows):
            text = (extracted / "posts" / "data" / f"{guid}.txt").read_text()
            writer.writerow([guid, text, tag, ["train", "train", "valid", "test"][number % 4]])
    done = run("finetune", "posts.csv", *models, *QUICK, "--patience", "1", "--out", "own", "--json")
    assert done.code == 0, done.err
    assert (done.json["protocol"], done.json["n"], done.json["valid"]["n"]) == ("train-test", 10, 10)
    assert json.loads((extracted / "own" / "tuned.json").read_text())["rows"] == {
        "train": 20,
        "watched": 10,
        "test": 10,
    }
    encoded = run("extract", "posts.csv", "--finetuned", "own", "--name", "own")
    assert encoded.code == 0, encoded.err
    judged = run("fuse", "--head", "text", "--name", "own", "--json")
    assert judged.code == 0, judged.err
    assert judged.json["n"] == 10
    assert "valid" not in judged.json  # rows that the tuning watched
    assert "valid rows are not reported" in judged.err
    refused = run("finetune", "posts.csv", *models, *QUICK, "--cross-fit", "3")
    assert "gives splits" in refused.err


@pytest.mark.slow
def test_several_processes_train_one_model(tmp_path: Path, extracted: Path, models: list[str]) -> None:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(ROOT / "pipeline.py")]
    args = ["finetune", "posts", *models, *QUICK, "--device", "cpu", "--out", "two", "--json"]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command, *args], cwd=extracted, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]  # one process tells
    assert json.loads(line)["n"] == 8
    tuned = json.loads((extracted / "two" / "tuned.json").read_text())
    assert tuned["steps"] == 2 * 2  # 32 rows in batches of 8 and 8, two epochs
    assert np.isfinite([epoch["train_loss"] for epoch in tuned["history"]]).all()
