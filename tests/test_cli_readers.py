"""A tar goes through all commands as a folder of files does: pictures in the report, fine-tuning, new data."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Result


def tar_of(posts: Path, target: Path) -> Path:
    """The posts of a folder as a WebDataset."""
    labels = dict(line.split(",") for line in (posts / "train.txt").read_text().splitlines()[1:])
    with tarfile.open(target, "w") as tar:
        for path in sorted((posts / "data").iterdir()):
            tar.add(path, f"posts/{path.name}")
            if path.suffix == ".txt" and path.stem in labels:
                raw = labels[path.stem].encode()
                (member := tarfile.TarInfo(f"posts/{path.stem}.cls")).size = len(raw)
                tar.addfile(member, io.BytesIO(raw))
    return target


@pytest.mark.slow
def test_a_tar_goes_through_all_commands(
    posts: Path, models: list[str], run: Callable[..., Result], tmp_path: Path
) -> None:
    shard = tar_of(posts, tmp_path / "shard.tar")
    files = run("extract", posts, *models, "--json")
    tars = run("extract", shard, *models, "--json")
    assert (tars.json["encoded"], tars.json["reused"]) == (0, files.json["encoded"])
    assert tars.json["encoders"] == files.json["encoders"]
    done = run("ablate", "--name", "shard", "--heads", "logreg", "--folds", "2", "--seeds", "1", "--out", "runs/a")
    assert done.code == 0, done.err
    assert "data:image/jpeg;base64" in (tmp_path / "runs" / "a" / "report.html").read_text()
    assert run("cache", "verify", "--deep", "5", "--name", "shard").code == 0
    tuned = run("finetune", shard, *models, "--modalities", "image", "--epochs", "1", "--folds", "2", "--out", "runs/t")
    assert tuned.code == 0, tuned.err
    for folder in ("a", "t"):
        out = tmp_path / f"{folder}.csv"
        labelled = run("predict", "--run", f"runs/{folder}", shard, "-o", out)
        assert labelled.code == 0, labelled.err
        with out.open(newline="") as file:
            assert sorted(row["id"] for row in csv.DictReader(file)) == [f"posts/{n}" for n in (40, 41, 42, 43)]
