"""The commands as a user types them: output, files, exit codes."""

from __future__ import annotations

import csv
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.conftest import ROOT, Result, write_posts

Run = Callable[..., Result]
METRICS = "accuracy macro_f1 weighted_f1 balanced_accuracy per_class majority_accuracy n protocol head modalities seed"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_help_is_there_for_every_command_in_a_blink(run_process: Run) -> None:
    assert all(name in run_process("--help").out for name in ("extract", "fuse", "predict", "demo", "cache"))
    for command in (["extract"], ["fuse"], ["predict"], ["demo"], ["cache"], ["cache", "list"]):
        done = run_process(*command, "--help")
        assert done.code == 0
        assert "Usage" in done.out
    times = []  # of a processor, which a busy machine does not make longer
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run_process("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert 0 < min(times) < 0.3


def test_extract_fuse_predict_from_posts_to_labels(run: Run, extracted: Path) -> None:
    judged = run("fuse", "--head", "mlp", "--set", "epochs=60")
    assert judged.code == 0, judged.err
    assert "majority" in judged.out
    folder = extracted / judged.out.splitlines()[-1].removeprefix("run: ")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(METRICS.split()) <= set(metrics)
    assert metrics["head"] == "mlp"
    assert metrics["modalities"] == ["text", "image"]
    assert metrics["n"] == 40
    predictions = rows_of(folder / "predictions.csv")
    assert sorted(row["id"] for row in predictions) == sorted(map(str, range(40)))
    right = [row["label"] == row["true"] for row in predictions]
    assert np.mean(right) == pytest.approx(metrics["accuracy"])

    done = run("predict", "--run", folder, "posts", "-o", "new.csv", "--json")
    assert done.code == 0, done.err
    assert done.json["encoded"] == 0
    rows = rows_of(extracted / "new.csv")
    assert [row["id"] for row in rows] == ["40", "41", "42", "43"]
    assert list(rows[0]) == ["id", "label", "p_other", "p_same"]
    for row in rows:
        shares = {label: float(row[f"p_{label}"]) for label in ("other", "same")}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert row["label"] == max(shares, key=shares.__getitem__)
    everything = run("predict", "--run", folder, "posts", "-o", "all.csv", "--all", "--json")
    assert everything.json["rows"] == 44


def test_a_saved_run_gives_the_probabilities_of_the_model_that_was_trained(extracted: Path, run: Run) -> None:
    from cache import load
    from fuse import ConcatLogisticClassifier

    done = run("fuse", "--head", "logreg", "--out", "r")
    assert done.code == 0, done.err
    assert run("predict", "--run", "r", "posts", "-o", "p.csv").code == 0
    table = load(extracted / "features")
    labelled = table[table.labelled]
    model = ConcatLogisticClassifier().fit(labelled, labelled.y)
    expected = model.predict_proba(table[~table.labelled])
    found = [[float(row["p_other"]), float(row["p_same"])] for row in rows_of(extracted / "p.csv")]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_new_data_is_encoded_by_the_encoders_of_the_run(run: Run, extracted: Path, models: list[str]) -> None:
    assert run("fuse", "--head", "vote", "--out", "r").code == 0
    (extracted / "new").mkdir()
    shutil.copy(extracted / "posts" / "data" / "1.jpg", extracted / "new" / "a.jpg")
    (extracted / "new" / "new.csv").write_text("id,text,image\nx,love the day,a.jpg\ny,hate my day,gone.jpg\n")
    done = run("predict", "--run", "r", "new/new.csv", "--json")
    assert done.code == 0, done.err
    assert done.json["encoded"] == 2  # the picture is stored already, the other is missing
    assert done.json["missing"] == {"text": 0, "image": 1}
    assert [row["id"] for row in rows_of(extracted / "predictions.csv")] == ["x", "y"]
    wrong = run("predict", "--run", "r", "new/new.csv", "--random-init", "image=1")
    assert wrong.code == 1
    assert "trained on image features" in wrong.err
    assert "Traceback" not in wrong.err


def test_extract_again_encodes_nothing_and_loads_no_model(run: Run, extracted: Path, models: list[str]) -> None:
    done = run("extract", "posts", *models, "--json")
    assert (done.json["encoded"], done.json["reused"], done.json["failed"]) == (0, 88 - repeats(extracted), 0)
    assert done.json["encode_seconds"] <= done.json["seconds"]
    assert done.json["seconds"] < 5


def repeats(folder: Path) -> int:
    """Texts and pictures of the 44 posts that are equal to an earlier one."""
    files = [path.read_bytes() for path in (folder / "posts" / "data").iterdir()]
    return len(files) - len(set(files))


def test_a_gpu_that_is_not_there_is_an_error_in_one_line(run_process: Run, posts: Path, models: list[str]) -> None:
    done = run_process("extract", posts, *models, "--gpu")
    assert done.code == 1
    assert len(done.err.strip().splitlines()) == 1
    assert "GPU" in done.err
    assert not (posts.parent / "features").exists()


@pytest.mark.parametrize("head", ["text", "ridge", "vote-prior", "stacking", "gmu"])
def test_a_head_runs_by_its_name(run: Run, extracted: Path, head: str) -> None:
    done = run("fuse", "--head", head, "--out", "run", "--folds", "2", "--json")
    assert done.code == 0, done.err
    assert done.json["head"] == head
    assert (extracted / "run" / "run.json").exists()


def test_vectors_that_do_not_fit_stay_on_disk_and_it_is_said(run: Run, extracted: Path) -> None:
    inside, outside = (run("fuse", "--head", "logreg", "--memory", size, "--json") for size in ("9GB", "1kB"))
    assert (inside.code, outside.code) == (0, 0), inside.err + outside.err
    assert "there are 1 kB (what was said by --memory); vectors stay on disk" in outside.err
    assert "vectors stay on disk" not in inside.err
    assert outside.json["out_of_core"] is True
    assert outside.json["accuracy"] == pytest.approx(inside.json["accuracy"], abs=0.03)


@pytest.mark.slow
def test_every_head_goes_from_tokens_to_new_labels(
    run: Run, posts: Path, models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fuse import HEADS

    monkeypatch.setattr("fuse.training.MIN_STEPS", 1)
    assert run("extract", posts, *models, "--tokens").code == 0
    for name, head in HEADS.items():
        aligned = getattr(head.any_class, "aligned", False)  # the words of a text and the grid of a picture are not
        own = ["--set", "modality=text"] if name == "unimodal" else []
        own += ["--set", "epochs=2"] if "epochs" in head.any_class().get_params() else []
        modalities = ["--modalities", "text"] if aligned else []
        done = run("fuse", "--head", name, *own, *modalities, "--out", f"run-{name}", "--folds", "2", "--json")
        assert done.code == 0, f"{name}: {done.err}"
        predicted = run("predict", "--run", f"run-{name}", posts, "-o", f"{name}.csv", "--json")
        assert predicted.code == 0, f"{name}: {predicted.err}"
        assert predicted.json["encoded"] == 0
        assert len(rows_of(tmp_path / f"{name}.csv")) == 4


def test_json_is_the_last_line_and_progress_goes_to_stderr(run: Run, posts: Path, models: list[str]) -> None:
    done = run("extract", posts, *models, "--json")
    assert len(done.out.strip().splitlines()) == 1
    expected = {"samples", "encoded", "reused", "failed", "seconds", "encode_seconds"}
    assert expected <= set(done.json)
    assert done.json["samples"] == 44


def test_failed_samples_are_recorded_and_end_in_exit_code_3(run: Run, posts: Path, models: list[str]) -> None:
    (posts / "data" / "5.jpg").write_bytes(b"no picture")
    done = run("extract", posts, *models, "--json")
    assert done.code == 3
    assert done.json["failed"] == 1
    assert "failed: 5 (image)" in done.err
    record = next((posts.parent / "features").glob("*/failures.jsonl")).read_text()
    assert json.loads(record)["id"] == "5"
    assert run("extract", posts, *models).code == 3
    strict = run("extract", posts, *models, "--on-error", "fail", "--retry-failed")
    assert strict.code == 1
    assert "5: " in strict.err


def test_user_errors_are_one_message_without_a_traceback(run: Run, extracted: Path) -> None:
    cases = [
        (["extract", "nowhere"], 1, "there is no data at nowhere"),
        (["extract", "posts", "--text-model", "no-such-model"], 1, "no-such-model"),
        (["extract", "posts", "--modalities", "smell"], 1, "smell"),
        (["extract", "posts", "--modalities", "image", "--image-model", "resnet5"], 1, "resnet5"),
        (["extract", "posts", "--modalities", "image", "--image-weights", "gone.pth"], 1, "gone.pth"),
        (["fuse", "--head", "mpl"], 1, "did you mean 'mlp'"),
        (["fuse", "--head", "mlp", "--store", "elsewhere"], 1, "run extract first"),
        (["fuse", "--head", "mlp", "--name", "other"], 1, "posts"),
        (["fuse", "--head", "logreg", "--set", "C=-1"], 1, "C must be"),
        (["fuse", "--head", "logreg", "--set", "D=1"], 1, "no parameter D"),
        (["fuse", "--head", "logreg", "--folds", "30"], 1, "lower --folds"),
        (["fuse", "--head", "logreg", "--memory", "lots"], 1, "write it as 500MB"),
        (["fuse", "--head", "kernel", "--memory", "1kB"], 1, "needs all vectors in memory"),
        (["predict", "--run", "gone", "posts"], 1, "no finished run"),
        (["cache", "list", "--store", "elsewhere"], 1, "elsewhere"),
        (["fuse"], 2, "--head"),
        (["extract", "posts", "--random-init", "x"], 2, "--random-init"),
        (["extract", "posts", "--columns", "text=a,text=b"], 2, "names a role twice"),
    ]
    for args, code, text in cases:
        done = run(*args)
        assert (done.code, "Traceback" in done.err) == (code, False), (args, done.err)
        assert text in done.err, (args, done.err)


def test_a_wrong_image_model_is_found_before_any_text_is_encoded(run: Run, posts: Path, bert: Path) -> None:
    done = run("extract", posts, "--text-model", bert, "--image-model", "resnet5")
    assert done.code == 1
    assert "resnet5" in done.err
    assert not list((posts.parent / "features").glob("*/*.h5"))


def test_a_run_is_never_overwritten(run: Run, extracted: Path) -> None:
    assert run("fuse", "--head", "text", "--out", "r").code == 0
    before = (extracted / "r" / "metrics.json").read_bytes()
    assert run("fuse", "--head", "image", "--out", "r").code == 1
    assert (extracted / "r" / "metrics.json").read_bytes() == before
    assert [run("fuse", "--head", "text").out.splitlines()[-1] for _ in range(2)] == [
        "run: runs/posts-text-1",
        "run: runs/posts-text-2",
    ]


def test_cache_list_tells_what_is_there(run: Run, extracted: Path) -> None:
    content = run("cache", "list", "--json").json
    assert [(one["name"], one["rows"], one["labelled"]) for one in content["data_sets"]] == [("posts", 44, 40)]
    assert {one["modality"] for one in content["encoders"]} == {"text", "image"}
    assert "posts: 44 rows" in run("cache", "list").out


def test_splits_of_the_data_are_used(run: Run, posts: Path, bert: Path) -> None:
    table = posts.parent / "table"
    table.mkdir()
    lines = ["id,text,label,split"]
    for row, split in zip(rows_of(posts / "train.txt"), ["train"] * 24 + ["val"] * 8 + ["test"] * 8, strict=True):
        text = (posts / "data" / f"{row['guid']}.txt").read_text()
        lines.append(f"{row['guid']},{text},{row['tag']},{split}")
    (table / "t.csv").write_text("\n".join(lines) + "\n")
    assert run("extract", table / "t.csv", "--text-model", bert).code == 0
    metrics = run("fuse", "--head", "logreg", "--json").json
    assert (metrics["protocol"], metrics["n"], metrics["valid"]["n"]) == ("train-test", 8, 8)


def hub_cache(root: Path, bert: Path) -> dict[str, str]:
    """Default models where the libraries look for them: a hub cache and a torch hub folder."""
    import torch
    from torchvision.models import ResNet50_Weights, resnet50

    repository = root / "hf" / "hub" / "models--bert-base-uncased"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(bert, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    checkpoints = root / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(resnet50().state_dict(), checkpoints / Path(ResNet50_Weights.DEFAULT.url).name)
    return {"HF_HOME": str(root / "hf"), "TORCH_HOME": str(root / "torch")}


@pytest.mark.slow
def test_every_default_works_as_written(run_process: Run, bert: Path, tmp_path: Path) -> None:
    write_posts(tmp_path / "work" / "data", n=20, unlabelled=1)
    env = hub_cache(tmp_path, bert)
    done = run_process("extract", cwd=tmp_path / "work", env=env)
    assert done.code == 0, done.err
    with h5py.File(tmp_path / "work" / "features" / "data.view.h5") as view:
        assert {name: block.attrs["dim"] for name, block in view["blocks"].items()} == {"text": 32, "image": 2048}
    done = run_process("fuse", "--head", "mlp", cwd=tmp_path / "work", env=env)
    assert done.code == 0, done.err
    assert "run: runs/data-mlp-1" in done.out
    again = run_process("extract", "--json", cwd=tmp_path / "work", env=env)
    assert again.json["encoded"] == 0


def test_posts_in_data_itself_with_their_lists_beside_it(run: Run, posts: Path, models: list[str]) -> None:
    done = run("extract", *models, "--json", cwd=posts)
    assert done.code == 0, done.err
    assert (done.json["name"], done.json["samples"]) == ("data", 44)


@pytest.mark.slow
def test_the_demonstration_shows_fusion_ahead_within_its_time(run_process: Run, tmp_path: Path) -> None:
    started = time.perf_counter()
    done = run_process("demo", "--json")
    seconds = time.perf_counter() - started
    assert done.code == 0, done.err
    accuracy = done.json["accuracy"]
    best = max(accuracy["mlp on text+image"], accuracy["logreg on text+image"])
    assert best >= max(accuracy["logreg on text"], accuracy["logreg on image"]) + 0.2
    assert (tmp_path / done.json["run"] / "report.html").exists()
    labels = {row["label"] for row in rows_of(tmp_path / "demo" / "predictions.csv")}
    assert len(labels) >= 3
    assert seconds < 180, "the target is 90 s on two idle cores; twice that is broken"


@pytest.mark.slow
def test_an_installation_brings_the_console_script(tmp_path: Path) -> None:
    # A copy, for building leaves files beside the sources.
    modules = sorted(path.name for path in ROOT.glob("*.py"))
    for part in (*modules, "pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, tmp_path)
    for package in ("cache", "extract", "fuse"):
        shutil.copytree(ROOT / package, tmp_path / package)
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(tmp_path)]
    subprocess.run(pip, check=True)
    assert (site / "bin" / "encode-once").exists()
    assert (site / "fuse" / "report" / "templates" / "report.html").exists()
    assert sorted(one.name for one in site.glob("*.py")) == modules
    for path in (path for package in ("cache", "extract", "fuse") for path in (ROOT / package).rglob("*.py")):
        assert (site / path.relative_to(ROOT)).is_file(), path


def test_bench_measures_the_first_samples_and_leaves_nothing(run: Run, posts: Path, models: list[str]) -> None:
    before = sorted(posts.parent.rglob("*"))
    done = run("bench", posts, "--samples", 6, "--precision", "fp32", "--json", *models)
    assert done.code == 0, done.err
    assert (done.json["samples"], list(done.json["modalities"])) == (6, ["text", "image"])
    assert {one["precision"] for one in done.json["modalities"].values()} == {"fp32"}
    assert sorted(posts.parent.rglob("*")) == before


def test_precision_and_decoder_stand_in_the_key_and_in_the_json(run: Run, posts: Path, models: list[str]) -> None:
    keys = set()
    for options in ([], ["--precision", "fp32"], ["--decoder", "draft"], ["--precision", "bf16"]):
        done = run("extract", posts, "--name", "posts", "--json", *models, *options)
        assert done.code == 0, done.err
        keys.add(done.json["encoders"]["image"])
        assert done.json["precision"]["image"] == ("bf16" if "bf16" in options else "fp32")
        assert done.json["stage_seconds"]["read and hash"] >= 0
    assert len(keys) == 3
    assert run("extract", posts, "--name", "posts", "--compile", *models).code == 1


def test_numbers_as_labels_are_regressed_to_the_end(run: Run, tmp_path: Path, models: list[str]) -> None:
    words = {"love": 2.5, "great": 1.25, "hate": -2.75, "awful": -1.5}
    lines = [
        json.dumps({"id": f"{word} {n}", "text": f"{word} the day" + " so my a"[: n // 4], "label": value + n % 3 / 10})
        for n, (word, value) in enumerate(list(words.items()) * 8)
    ]
    (tmp_path / "reviews.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert run("extract", "reviews.jsonl", *models[:2], "--random-init", "text=0").code == 0
    judged = run("fuse", "--head", "ridge", "--set", "alpha=0.001", "--json")
    assert judged.code == 0, judged.err
    assert (judged.json["task"], judged.json["n"]) == ("regression", 32)
    assert judged.json["mae"] < judged.json["mean_mae"]
    assert "MAE" in judged.err
    (tmp_path / "new.jsonl").write_text('{"id": "x", "text": "love the day"}\n{"id": "y", "text": "hate the day"}\n')
    predicted = run("predict", "--run", judged.json["out"], "new.jsonl")
    assert predicted.code == 0, predicted.err
    assert predicted.out.startswith("2 rows labelled (mean ")
    assert "new.jsonl: 2 samples, layout table (id=id, text=text)" in predicted.out
    rows = rows_of(tmp_path / "predictions.csv")
    assert [list(row) for row in rows] == [["id", "label"]] * 2
    assert float(rows[0]["label"]) > float(rows[1]["label"])
    refused = run("fuse", "--head", "logreg")
    assert refused.code == 1
    assert "predicts classes only" in refused.err


def test_heads_are_listed_with_formula_and_parameters(run: Run) -> None:
    shown = run("fuse", "--head", "list", "--json")
    assert shown.code == 0
    assert shown.json["tensor"]["formula"] in shown.err
    assert shown.json["logreg"]["tasks"] == ["classification"]
    assert shown.json["mlp-aux"]["params"]["auxiliary"] == 1.0
    assert shown.json["cmbert"]["tokens"] is True
