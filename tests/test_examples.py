"""The published systems: each script as a user runs it, on data in the system's own layout and tiny encoders."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import COLOURS, ROOT, WORDS

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.sh") if path.name != "common.sh")
QUICK = ("--epochs", "1", "--batch-size", "8", "--precision", "fp32")

Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def script(tmp_path: Path, models: list[str]) -> Script:
    """Runs a script from `tmp_path`, offline and without a GPU, by tiny encoders for one epoch."""

    def call(name: str, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
        own = {"PYTHON": sys.executable, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", **env}
        options = [*map(str, args), *models, *QUICK] if args else []
        return subprocess.run(
            [str(EXAMPLES / name), *options],
            cwd=tmp_path,
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            timeout=600,
        )

    return call


def metrics_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return found


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def settings_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())["settings"]
    return found


def picture(path: Path, mood: str, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (48, 40), tuple(max(0, part - shade) for part in COLOURS[mood])).save(path)


def sentence(draw: np.random.Generator, mood: str) -> str:
    return " ".join([*draw.choice(WORDS[mood], 3), *draw.choice(["the", "day", "my", "a", "so"], 2)])


@pytest.mark.parametrize("name", [*SCRIPTS, "common.sh"])
def test_scripts_are_read_by_bash_and_can_be_run(name: str) -> None:
    assert subprocess.run(["bash", "-n", str(EXAMPLES / name)], check=False).returncode == 0
    assert name == "common.sh" or os.access(EXAMPLES / name, os.X_OK)


@pytest.mark.parametrize("name", SCRIPTS)
def test_without_data_a_script_says_how_it_is_used(name: str, script: Script) -> None:
    done = script(name)
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_results_of_other_options_are_not_mixed(script: Script, tmp_path: Path) -> None:
    (tmp_path / "runs" / "ecnu").mkdir(parents=True)
    (tmp_path / "runs" / "ecnu" / "asked").write_text("other --epochs 9\n")
    done = script("ecnu.sh", "posts")
    assert done.returncode == 1
    assert "holds results of: other --epochs 9" in done.stderr


@pytest.mark.slow
def test_ecnu(script: Script, posts: Path, tmp_path: Path) -> None:
    done = script("ecnu.sh", posts, RATES="1e-5 1e-3", FROZEN="1")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "runs" / "ecnu"
    runs = {path.parent.name: metrics_of(path.parent) for path in out.glob("*/metrics.json")}
    fused = [name for name in runs if name.startswith("fused")]
    assert sorted(fused) == ["fused-lr-1e-3-frozen-1", "fused-lr-1e-5-frozen-1"]
    losses = {
        name: min(one["valid_loss"] for one in json.loads((out / name / "tuned.json").read_text())["history"])
        for name in fused
    }
    assert losses["fused-lr-1e-3-frozen-1"] != losses["fused-lr-1e-5-frozen-1"]
    best = min(losses, key=lambda name: losses[name])
    assert f"chosen: {best}" in done.stdout
    assert {(one["head"], tuple(one["modalities"])) for one in runs.values()} == {
        ("tokens-mlp", ("text", "image")),
        ("tokens-mlp", ("text",)),
        ("mlp", ("image",)),
    }
    assert {(one["protocol"], one["n"]) for one in runs.values()} == {("hold-out-1-of-5", 8)}
    assert settings_of(out / best)["tuning"]["freeze"] == {"text": 1}
    assert [row["id"] for row in rows_of(out / "predictions.csv")] == ["40", "41", "42", "43"]
    assert len((out / "results.md").read_text().splitlines()) == 2 + 4


def write_fakeddit(folder: Path) -> Path:
    draw = np.random.default_rng(0)
    for split, count in (("train", 24), ("validate", 6), ("test_public", 8)):
        lines = ["author\tclean_title\thasImage\tid\timage_url\t2_way_label\t3_way_label\t6_way_label"]
        for number in range(count):
            mood, id_ = "good" if number % 2 else "bad", f"{split[:2]}{number}"
            if number != 1:  # its picture is gone
                picture(folder / "images" / f"{id_}.jpg", mood, number)
            labels = f"{number % 2}\t{number % 3}\t{number % 6}"
            lines.append(f"u\t{sentence(draw, mood)}\tTrue\t{id_}\thttps://example.org/{id_}.jpg\t{labels}")
        (folder / f"multimodal_{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_fakeddit(script: Script, tmp_path: Path) -> None:
    data = write_fakeddit(tmp_path / "fakeddit")
    for label, classes in (("6_way_label", 6), ("2_way_label", 2)):
        done = script("fakeddit.sh", data, LABEL=label)
        assert done.returncode == 0, done.stderr
        run = tmp_path / "runs" / "fakeddit" / f"logit-max-{label}"
        metrics, settings = metrics_of(run), settings_of(run)
        assert (metrics["head"], metrics["protocol"], metrics["n"]) == ("logit-max", "train-test", 8)
        assert len(metrics["per_class"]) == classes
        assert metrics["weighted_recall"] == pytest.approx(metrics["accuracy"])
        assert 0 <= metrics["weighted_precision"] <= 1
        assert metrics["valid"]["n"] == 6
        assert settings["params"]["class_weight"] == "balanced"
        assert settings["params"]["learning_rate"] == 1e-5
        assert (settings["tuning"]["schedule"], settings["tuning"]["patience"]) == ("plateau", 5)
        encoders = json.loads((run / "run.json").read_text())["encoders"]
        assert encoders["text"]["output"] == "cls"
        assert len(rows_of(run / "predictions.csv")) == 14  # validation and test


def write_reviews(folder: Path, count: int = 30, unlabelled: int = 3) -> Path:
    draw = np.random.default_rng(0)
    rows = []
    for number in range(count + unlabelled):
        mood = "good" if number % 2 else "bad"
        photos = [f"photos/{number}-{place}.jpg" for place in range(1 + number % 2)]
        for photo in photos:
            picture(folder / photo, mood, number)
        row = {"id": str(number), "review": sentence(draw, mood), "photo1": photos[0], "photo2": "".join(photos[1:])}
        row |= {"price": str(number * 1.5) if number % 5 else "", "brand": "abc"[number % 3]}
        rows.append(row | {"rating": str(1 + 3 * (number % 2) + number % 3 / 2) if number < count else ""})
    with (folder / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_reviews(script: Script, tmp_path: Path, task: str) -> None:
    done = script("reviews.sh", write_reviews(tmp_path / "reviews"), TASK=task)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "runs" / "reviews"
    concat, bilinear = (metrics_of(out / f"{name}-{task}") for name in ("concat", "bilinear"))
    assert (concat["head"], concat["task"]) == ("mlp", task)
    assert concat["modalities"] == ["text", "image", "image_2", "tabular"]
    assert (bilinear["head"], bilinear["modalities"]) == ("bilinear", ["text", "image"])
    assert concat["n"] == bilinear["n"] > 0
    assert settings_of(out / f"concat-{task}")["finetuned"] == ["text", "image", "image_2"]
    predicted = rows_of(out / f"predictions-{task}.csv")
    assert [row["id"] for row in predicted] == ["30", "31", "32"]
    if task == "regression":
        assert np.isfinite([float(row["label"]) for row in predicted]).all()
        assert concat["mae"] > 0
    else:
        assert set(predicted[0]) == {"id", "label", *(f"p_{label}" for label in concat["per_class"])}


def write_mosi(folder: Path) -> Path:
    draw = np.random.default_rng(0)
    number = 0
    (folder / "audio").mkdir(parents=True)
    for split, count in (("train", 24), ("dev", 6), ("test", 8)):
        lines = []
        for _ in range(count):
            mood, id_ = "good" if number % 2 else "bad", f"v{number // 2}[{number}]"
            words = [*sentence(draw, mood).split(), "so"][: 4 + number % 3]
            np.save(folder / "audio" / f"{id_}.npy", draw.normal(size=(len(words), 6)).astype(np.float32))
            label = (1 if number % 2 else -1) * (0.4 + number % 5 / 2)
            lines.append(json.dumps({"id": id_, "video": f"v{number // 2}", "words": words, "label": label}))
            number += 1
        (folder / f"mosi_{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_mosi(script: Script, tmp_path: Path) -> None:
    done = script("mosi.sh", write_mosi(tmp_path / "mosi"))
    assert done.returncode == 0, done.stderr
    out = tmp_path / "runs" / "mosi"
    found = {name: metrics_of(out / name) for name in ("t-bert", "cm-bert-text", "cm-bert")}
    assert {name: (one["head"], one["modalities"]) for name, one in found.items()} == {
        "t-bert": ("linear", ["text"]),
        "cm-bert-text": ("cmbert", ["text"]),
        "cm-bert": ("cmbert", ["text", "audio"]),
    }
    for one in found.values():
        assert (one["protocol"], one["task"], one["n"]) == ("train-test", "regression", 8)
        assert {"acc7", "acc2_gt0", "f1_gt0", "acc2_non0", "mae", "corr"} <= set(one)
    assert len(rows_of(out / "cm-bert" / "predictions.csv")) == 14
    assert "5 utterances" in done.stdout
    with Image.open(out / "attention.png") as drawn:
        assert len(drawn.convert("L").getcolors(256) or []) > 2
    again = script("mosi.sh", tmp_path / "mosi")
    assert again.returncode == 0, again.stderr
    assert "cm-bert is finished" in again.stdout
