"""pipeline.py check: a look at data before anything is encoded."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Result
from tests.extract.check_data import write_bad_posts

Run = Callable[..., Result]


def test_a_clean_data_set(run: Run, posts: Path, bert: Path) -> None:
    done = run("check", posts, "--text-model", bert)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == f"{posts}: 44 rows, layout mvsa"
    assert lines[-1] == "report: runs/posts-check-1/check.html"
    assert "    tokens: 8 to 8, median 8, 95 % up to 8" in lines
    folder = posts.parent / "runs" / "posts-check-1"
    assert {path.name for path in folder.iterdir()} == {"check.html", "check.json", "rows.csv"}
    assert not (posts.parent / "features").exists()
    assert run("check", posts).out.splitlines()[-1] == "report: runs/posts-check-2/check.html"


def test_broken_rows_end_with_3(run: Run, tmp_path: Path) -> None:
    write_bad_posts(tmp_path / "data")
    done = run("check", "--out", "report", "--json")
    assert done.code == 3, done.err
    assert done.json["failed"] == 2
    assert done.json["out"] == "report"
    assert {"image-broken", "leak", "text-equal-conflicts"} <= {one["key"] for one in done.json["findings"]}
    assert "warning: 2 rows whose image cannot be decoded" in done.err
    done = run("check", "--modalities", "text", "--columns", "label=noise,split=")
    assert done.code == 0, "what is not looked at is not broken"
    assert "  labels: " in done.out
    assert "splits:" not in done.out


def test_what_the_user_can_mend_ends_with_1(run: Run, posts: Path) -> None:
    for args, message in (
        (("nowhere",), "there is no data at nowhere"),
        ((posts, "--modalities", "sound"), "has no sound; it has text, image"),
        ((posts, "--text-model", "./none"), "there is no such folder"),
        ((posts, "--layout", "zip"), "there is no layout 'zip'"),
    ):
        done = run("check", *args)
        assert done.code == 1
        assert message in done.err
    assert not (posts.parent / "runs").exists(), "nothing is left of what was refused"


@pytest.mark.slow
def test_nothing_is_asked_of_the_hub(run_process: Callable[..., Result], posts: Path) -> None:
    """A report on data downloads no tokenizer that nobody named, and waits for no hub."""
    with socket.create_server(("127.0.0.1", 0)) as hub:
        address = f"http://127.0.0.1:{hub.getsockname()[1]}"
        env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address, "HF_HOME": str(posts.parent / "hub")}
        done = run_process("check", posts, env=env)
        hub.settimeout(0.1)
        with pytest.raises(TimeoutError):
            hub.accept()
    assert done.code == 0, done.err
    assert "bert-base-uncased is not in the local hub cache" in done.out
