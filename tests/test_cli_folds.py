"""Cross-fitted data sets as a user types them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Result
from tests.fuse.families import Family

Run = Callable[..., Result]
IN_WORDS = "of fold 0 of a cross-fitted data set"


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
    """The only data set of `features/`."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("joblib.cpu_count", lambda *_, **__: 1)
    monkeypatch.setattr("gc.collect", lambda *_: 0)
    return Family(tmp_path / "features")


def test_fuse_and_ablate_take_a_family_by_its_one_name(run: Run, family: Family, tmp_path: Path) -> None:
    one = run("fuse", "--head", "logreg", "--out", "one")
    assert one.code == 0, one.err
    assert one.out.startswith("posts: cross-fitted 3-fold over 48 rows")
    assert IN_WORDS in one.out
    with (tmp_path / "one" / "predictions.csv").open(newline="") as file:
        assert {row["fold"] for row in csv.DictReader(file)} == {"0", "1", "2"}
    options = ("--heads", "logreg,vote", "--seeds", "1", "--controls", "none", "--jobs", "1")
    all_ = run("ablate", "--name", "posts", *options, "--out", "all", "--json")
    assert all_.code == 0, all_.err
    assert all_.json["fitted"] == 2 * 3 * 3
    assert IN_WORDS in all_.err
    accuracy = {
        row["head"]: row["metrics"]["accuracy"]["mean"]
        for row in json.loads((tmp_path / "all" / "summary.json").read_text())["rows"]
        if len(row["modalities"]) == 2
    }
    assert accuracy["logreg"] == pytest.approx(json.loads((tmp_path / "one" / "metrics.json").read_text())["accuracy"])
    rebuilt = run("report", "all")
    assert rebuilt.code == 0, rebuilt.err


def test_a_single_view_goes_by_its_full_name(run: Run, family: Family) -> None:
    done = run("fuse", "--head", "logreg", "--name", "posts.fold1", "--json")
    assert done.code == 0, done.err
    assert (done.json["protocol"], done.json["out"]) == ("train-test", "runs/posts.fold1-logreg-1")


def test_user_errors_are_one_message(run: Run, family: Family, tmp_path: Path) -> None:
    exported = run("cache", "export", "posts.npz")
    assert exported.code == 1
    assert "posts is a cross-fitted data set of 3 views" in exported.err
    assert "such as posts.fold0" in exported.err
    assert run("cache", "export", "posts.npz", "--name", "posts.fold0").code == 0
    status = run("cache", "status", "--name", "posts", "--json")
    assert [one["name"] for one in status.json["data_sets"]] == ["posts.fold0", "posts.fold1", "posts.fold2"]
    family.store.view_path("posts.fold1").rename(family.store.view_path("posts"))
    for command in (["fuse", "--head", "logreg"], ["ablate"]):
        done = run(*command, "--name", "posts")
        assert (done.code, "Traceback" in done.err) == (1, False)
        assert "posts is ambiguous" in done.err
    (tmp_path / "features" / "posts.view.h5").unlink()
    done = run("fuse", "--head", "logreg")
    assert done.code == 1
    assert "lacks posts.fold1" in done.err
