"""The page of bad input tells the truth: every test that it names is there."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.conftest import ROOT, Result

Run = Callable[..., Result]


def test_every_test_that_the_pages_name_exists() -> None:
    for page, least in (("bad-input.md", 60), ("security.md", 15)):
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / page).read_text(encoding="utf-8"))
        assert len(named) >= least, page
        for path, name in named:
            source = (ROOT / path).read_text(encoding="utf-8")
            assert re.search(rf"^def {name}\(", source, flags=re.MULTILINE), f"{page}: {path}::{name}"


def test_every_row_of_the_page_names_a_test() -> None:
    lines = (ROOT / "docs" / "bad-input.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| input |")]
    assert len(rows) > 50
    assert not [row for row in rows if "::test_" not in row.rsplit("|", 2)[-2]]


def test_rows_of_mosi_without_a_video_are_counted_in_the_summary(run: Run, tmp_path: Path, bert: Path) -> None:
    folder = tmp_path / "mosi"
    (folder / "audio").mkdir(parents=True)
    rows = []
    for number, video in enumerate(['"a"', '""', '"b"', '""']):
        np.save(folder / "audio" / f"x[{number}].npy", np.ones((2, 3), dtype=np.float32))
        rows.append(f'{{"id": "x[{number}]", "video": {video}, "words": ["so", "it"], "label": {number}.5}}')
    (folder / "mosi_dev.jsonl").write_text("\n".join(rows))
    done = run("extract", "mosi", "--modalities", "text", "--text-model", bert, "--json")
    assert done.code == 0, done.err
    told = "2 rows name no video: theirs is the part of the id before its number"
    assert done.json["remarks"] == [told]
    assert told in done.err


def test_folders_that_cannot_be_written_are_named(run: Run, extracted: Path, models: list[str]) -> None:
    """The kernel's own folders take no file from anyone, root included."""
    shutil.rmtree(extracted / "features" / "none", ignore_errors=True)
    for args in (
        ("extract", "posts", *models, "--store", "/proc/features"),
        ("fuse", "--head", "text", "--folds", 2, "--out", "/proc/run"),
        ("ablate", "--heads", "logreg", "--seeds", 1, "--out", "/proc/run"),
        ("cache", "export", "/proc/table.npz"),
        ("finetune", "posts", *models, "--tune", "text", "--epochs", 1, "--out", "/proc/run"),
        ("demo", "--out", "/proc/demo"),
    ):
        done = run(*args)
        assert done.code == 1, args
        assert done.err.startswith("error: cannot "), done.err
        assert "/proc/" in done.err
