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


def test_a_run_takes_the_place_of_no_other_files(run: Run, extracted: Path) -> None:
    (extracted / "mine").mkdir()
    (extracted / "mine" / "predictions.csv").write_text("mine")
    done = run("fuse", "--head", "text", "--out", "mine")
    assert done.code == 1
    assert "mine holds predictions.csv of something else than a run; choose another --out" in done.err
    assert (extracted / "mine" / "predictions.csv").read_text() == "mine"


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
