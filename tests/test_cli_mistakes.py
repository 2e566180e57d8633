"""What newcomers get wrong: it is said, it is said truly, and nothing of theirs is lost."""

from __future__ import annotations

import errno
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from cache import StoreError
from endings import say
from tests.conftest import Result, write_posts

Run = Callable[..., Result]


@pytest.mark.parametrize(
    "typed",
    [
        ["fuse", "--head", "text", "--seed", "-1"],
        ["ablate", "--split-seed", "-1"],
        ["ablate", "--seeds", "7,4294967296"],
        ["finetune", "posts", "--seed", "4294967296"],
        ["demo", "--seed", "-1"],
        ["cache", "verify", "--seed", "-1"],
        ["extract", "posts", "--random-init", "99999999999999999999"],
        ["extract", "posts", "--max-failures", "-1"],
    ],
    ids=" ".join,
)
def test_seeds_and_counts_that_nothing_takes_are_wrong_usage(run: Run, posts: Path, typed: list[str]) -> None:
    done = run(*typed, cwd=posts.parent)
    assert done.code == 2
    assert typed[-2] in done.err


def test_pictures_that_lie_elsewhere_are_told_of(run: Run, tmp_path: Path, models: list[str]) -> None:
    (tmp_path / "posts.csv").write_text("text,image,label\nso sad,no/1.jpg,bad\nmy love,no/2.jpg,good\n")
    done = run("extract", "posts.csv", *models)
    assert "warning: no row has the modality image, which stays empty" in done.out
    assert "the modality text" not in done.out
    assert "image: 512 columns (pool), nothing to encode; 2 missing" in done.out


def test_a_misspelt_column_of_labels_is_told_of_and_no_head_is_proposed(
    run: Run, tmp_path: Path, models: list[str]
) -> None:
    (tmp_path / "posts.csv").write_text("text,lable\nso sad,bad\nmy love,good\n")
    done = run("extract", "posts.csv", *models)
    assert "labels: none; no column has a usual name for them: see --columns label=..." in done.out
    assert done.out.splitlines()[-1] == "next: pipeline.py predict --run RUN posts.csv"
    refused = run("fuse", "--head", "text")
    assert (refused.code, refused.err) == (1, "error: posts has no labelled rows: see --columns label=...\n")


def test_the_next_command_can_be_copied_into_a_shell(run: Run, tmp_path: Path, models: list[str]) -> None:
    write_posts(tmp_path / "Fotos für Ömer & Co", n=4)
    done = run("extract", "Fotos für Ömer & Co", *models, "--store", "my store")
    told = shlex.split(done.out.splitlines()[-1].removeprefix("next: "), comments=True)
    assert told[-4:] == ["--store", "my store", "--name", "Fotos für Ömer & Co"]


def test_predictions_never_take_the_place_of_the_data(run: Run, extracted: Path) -> None:
    assert run("fuse", "--head", "text", "--modalities", "text", "--out", "run").code == 0
    content = "text\nso sad\nmy love\n"
    (extracted / "new").mkdir()
    (extracted / "new" / "new.csv").write_text(content)
    for data in ("new", "new/new.csv"):
        done = run("predict", "--run", "run", data, "-o", "new/new.csv")
        assert done.code == 1
        assert "new/new.csv is the data itself" in done.err
        assert (extracted / "new" / "new.csv").read_text() == content
    lost = run("predict", "--run", "run", "new", "-o", "none/such.csv")
    assert lost.err.endswith("cannot write none/such.csv: there is no folder none; make it first\n")


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        (["fuse", "--head", "text"], "predictions.csv"),
        (["ablate", "--heads", "text", "--folds", "2", "--seeds", "1"], "table.csv"),
        (["check", "posts"], "rows.csv"),
    ],
    ids=lambda one: str(one[0]),
)
def test_results_take_the_place_of_no_other_files(run: Run, extracted: Path, typed: list[str], name: str) -> None:
    (extracted / "mine").mkdir()
    (extracted / "mine" / name).write_text("mine")
    done = run(*typed, "--out", "mine")
    assert done.code == 1
    assert f"mine holds {name} of something else; choose another --out" in done.err
    assert (extracted / "mine" / name).read_text() == "mine"
    assert run(*typed, "--out", "other").code == 0
    if typed[0] != "fuse":  # a run is never written twice
        assert run(*typed, "--out", "other").code == 0


def test_a_folder_that_is_no_store_is_not_merged(run: Run, extracted: Path) -> None:
    done = run("cache", "merge", "posts")
    assert (done.code, done.err[:34]) == (1, "error: there is no store at posts;")
    shutil.copytree(extracted / "features", extracted / "other")
    assert run("cache", "merge", "other").out.endswith("new data sets: none\n")
    assert run("cache", "merge", "other", "--store", "fresh").out.endswith("new data sets: posts\n")


def test_a_file_that_is_no_weights_is_called_so(run: Run, posts: Path, bert: Path) -> None:
    wrong = ["--image-model", "squeezenet1_1", "--image-weights", posts / "train.txt"]
    done = run("extract", posts, "--text-model", bert, *wrong)
    assert done.code == 1
    assert "it holds more than tensors, or something else" in done.err
    assert "weights_only" not in done.err


def test_a_result_that_cannot_be_printed_is_one_line(
    run: Run, extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = click.echo

    def full(message: str, err: bool = False) -> None:
        if not err:
            raise OSError(errno.ENOSPC, "No space left on device")
        echo(message, err=err)

    monkeypatch.setattr(click, "echo", full)
    with pytest.raises(StoreError, match="the result cannot be printed: No space left on device"):
        say("a line")
    done = run("cache", "list", "--store", extracted / "features")
    assert (done.code, done.err.count("\n")) == (1, 1)


def test_new_data_is_read_by_the_columns_of_the_training(run: Run, tmp_path: Path, models: list[str]) -> None:
    words = ["great day", "awful rain", "lovely city", "bad coffee", "good home", "sad street"]
    rows = [f"RAW {number},{text},{'ab'[number % 2]}" for number, text in enumerate(words)]
    (tmp_path / "posts.csv").write_text("\n".join(["text,clean,label", *rows]) + "\n", encoding="utf-8")
    new = [f"RAW {number},{text}" for number, text in enumerate(words)]
    (tmp_path / "new.csv").write_text("\n".join(["text,clean", *new]) + "\n", encoding="utf-8")
    (tmp_path / "bare.csv").write_text("text\nhello\n", encoding="utf-8")
    assert run("extract", "posts.csv", *models, "--columns", "text=clean").code == 0
    assert run("fuse", "--head", "logreg", "--folds", "2", "--out", "one").code == 0
    found = run("predict", "--run", "one", "new.csv", "--json")
    assert (found.json["encoded"], found.json["rows"]) == (0, 6), found.err
    assert "text=clean" in run("predict", "--run", "one", "new.csv", "-o", "again.csv").out
    raw = run("predict", "--run", "one", "new.csv", "-o", "raw.csv", "--columns", "text=text", "--json")
    assert raw.json["encoded"] == 6
    refused = run("predict", "--run", "one", "bare.csv", "-o", "bare-out.csv")
    assert refused.code == 1
    assert "has no column 'clean' for text" in refused.err
    assert "one was trained on --columns text=clean, and so new data is read" in refused.err
    usual = run("predict", "--run", "one", "bare.csv", "-o", "bare-out.csv", "--columns", "", "--json")
    assert usual.json["rows"] == 1, usual.err
