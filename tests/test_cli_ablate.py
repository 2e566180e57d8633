"""`ablate` and `report` as a user types them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, Result

Run = Callable[..., Result]
FILES = "results.csv summary.json report.html table.md table.tex metrics.json predictions.csv model run.json"
QUICK = ("--heads", "logreg,vote", "--seeds", "1", "--folds", "2", "--controls", "none", "--jobs", "1")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker processes, and nothing is waited for."""
    monkeypatch.setattr("joblib.cpu_count", lambda *_, **__: 1)
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("gc.collect", lambda *_: 0)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_ablate_writes_all_and_predict_takes_the_best(
    run: Run, extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["anything", "ablate", "--name", "two words"])
    done = run("ablate", *QUICK, "--json")
    assert done.code == 0, done.err
    assert len(done.out.strip().splitlines()) == 1
    found, folder = done.json, extracted / "runs" / "posts-ablation-1"
    assert found["out"] == "runs/posts-ablation-1"
    assert (found["configurations"], found["fitted"], found["reused"], found["failed"]) == (6, 12, 0, [])
    assert found["best"]["head"] in ("logreg", "vote")
    assert all((folder / name).exists() for name in FILES.split())
    assert len(rows_of(folder / "results.csv")) == 12
    assert "always" in done.err
    assert found["conclusions"][0] in (folder / "report.html").read_text(encoding="utf-8").replace("&#39;", "'")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["provenance"]["command"] == "pipeline.py ablate --name 'two words'"
    assert summary["provenance"]["store"] == "features"
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in html  # of the mistakes, from where the data lies
    predicted = run("predict", "--run", folder, "posts", "-o", "new.csv", "--json")
    assert predicted.code == 0, predicted.err
    assert predicted.json["encoded"] == 0
    assert [row["id"] for row in rows_of(extracted / "new.csv")] == ["40", "41", "42", "43"]
    again = run("ablate", *QUICK, "--json", "--out", folder)
    assert (again.json["fitted"], again.json["reused"]) == (0, 12)
    built = run("report", folder, "--json")
    assert built.code == 0, built.err
    assert built.json["best"] == found["best"]
    shown = run("ablate", *QUICK)
    assert shown.code == 0, shown.err
    assert shown.out.splitlines()[-1] == "run: runs/posts-ablation-2"
    assert "logreg" in shown.out


def test_where_the_data_is_gone_the_run_succeeds_and_says_so(run: Run, extracted: Path) -> None:
    done = run("ablate", *QUICK, "--out", "a", "--data", "moved")
    assert done.code == 0, done.err
    summary = json.loads((extracted / "a" / "summary.json").read_text(encoding="utf-8"))
    assert any("pictures and texts of the mistakes" in one and "--data" in one for one in summary["left_out"])
    assert "data:image/jpeg" not in (extracted / "a" / "report.html").read_text(encoding="utf-8")
    (extracted / "posts").rename(extracted / "moved")
    built = run("report", "a", "--data", "moved")
    assert built.code == 0, built.err
    assert built.out.splitlines()[-1] == "report: a/report.html"
    assert "data:image/jpeg;base64," in (extracted / "a" / "report.html").read_text(encoding="utf-8")


def test_options_reach_the_heads(run: Run, extracted: Path) -> None:
    done = run(
        *("ablate", "--heads", "logreg", "--modalities", "text", "--seeds", "7,8", "--split-seed", "3", "--folds", "2"),
        *("--set", "logreg.C=0.25", "--grid", "none", "--controls", "none", "--jobs", "1", "--out", "a", "--json"),
    )
    assert done.code == 0, done.err
    rows = rows_of(extracted / "a" / "results.csv")
    assert {(row["seed"], row["split_seed"], row["modalities"]) for row in rows} == {
        ("7", "3", "text"),
        ("8", "3", "text"),
    }
    settings = json.loads((extracted / "a" / "summary.json").read_text())["provenance"]["settings"]
    assert settings["params"] == {"logreg": {"C": 0.25}}
    assert settings["controls"] == []
    assert json.loads((extracted / "a" / "run.json").read_text())["settings"]["params"] == {"C": 0.25}


def test_user_errors_are_one_message_without_a_traceback(run: Run, extracted: Path) -> None:
    cases = [
        (["--heads", "mpl"], 1, "did you mean 'mlp'"),
        (["--heads", "mlp,mlp"], 1, "names a head twice"),
        (["--seeds", "0"], 2, "--seeds takes how many, or seeds such as 7,8,9; got '0'"),
        (["--seeds", "x"], 2, "--seeds takes"),
        (["--seeds", "1,-2"], 2, "--seeds takes"),
        (["--seeds", "1,1"], 1, "each once; got 1, 1"),
        (["--set", "C=1"], 2, "--set takes HEAD.KEY=VALUE here, got C=1"),
        (["--set", "logreg.C"], 2, "--set takes KEY=VALUE"),
        (["--heads", "logreg", "--set", "logreg.D=1"], 1, "no parameter D"),
        (["--heads", "logreg", "--set", "mlp.dropout=1"], 1, "not among the heads"),
        (["--controls", "mpl"], 1, "did you mean 'mlp'"),
        (["--grid", "huge"], 2, "--grid"),
        (["--folds", "30"], 1, "lower --folds"),
        (["--modalities", "smell"], 1, "smell"),
        (["--store", "elsewhere"], 1, "elsewhere"),
        (["--gpu"], 1, "device"),
        (["--jobs", "0"], 2, "--jobs"),
    ]
    for args, code, text in cases:
        done = run("ablate", *args)
        assert (done.code, "Traceback" in done.err) == (code, False), (args, done.err)
        assert text in done.err, (args, done.err)
    for args, text in ((["gone"], "holds no ablation"), (["posts"], "holds no ablation")):
        done = run("report", *args)
        assert done.code == 1
        assert text in done.err
    assert run("report").code == 2


def test_out_with_something_else_is_left_alone(run: Run, extracted: Path) -> None:
    assert run("fuse", "--head", "text", "--folds", "2", "--out", "r").code == 0
    before = {path: path.read_bytes() for path in (extracted / "r").rglob("*") if path.is_file()}
    done = run("ablate", *QUICK, "--out", "r")
    assert done.code == 1
    assert "r holds the run of a head; choose another --out" in done.err
    assert {path: path.read_bytes() for path in (extracted / "r").rglob("*") if path.is_file()} == before


def test_reports_of_two_runs_are_joined(run: Run, extracted: Path) -> None:
    one = ("--heads", "logreg", "--seeds", "1", "--folds", "2", "--controls", "none", "--jobs", "1")
    assert run("ablate", *one, "--out", "a").code == 0
    assert run("ablate", *one, "--modalities", "text", "--out", "b").code == 0
    done = run("report", "a", "b", "--out", "c", "--json")
    assert done.code == 0, done.err
    assert done.json["out"] == "c"
    assert done.json["configurations"] == 4
    assert (extracted / "c" / "report.html").exists()
    cases = [
        (["a", "b"], "give --out"),
        (["a", "b", "--out", "a"], "give --out"),
        (["a", "a", "--out", "d"], "named twice"),
    ]
    for args, text in cases:
        refused = run("report", *args)
        assert refused.code == 1
        assert text in refused.err
    (extracted / "b" / "run.json").unlink()
    refused = run("report", "a", "b", "--out", "d")
    assert refused.code == 1
    assert "unfinished ablation; go on by ablate --out b" in refused.err


def test_a_head_that_fails_ends_in_exit_code_3(run: Run, extracted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cache import UsageError
    from fuse.heads.vote import LateVotingClassifier

    def fail(self: object, *args: object, **kwargs: object) -> None:
        raise UsageError("votes are off today")

    monkeypatch.setattr(LateVotingClassifier, "fit", fail)
    done = run("ablate", *QUICK, "--json")
    assert done.code == 3
    assert len(done.json["failed"]) == 6
    assert "failed: vote on text, seed 0, fold 0: votes are off today" in done.err
    assert done.json["best"]["head"] == "logreg"


@pytest.mark.slow
def test_a_killed_run_goes_on(extracted: Path, run_process: Run) -> None:
    heads = ("--heads", "logreg,mlp", "--seeds", "1", "--jobs", "2", "--controls", "none")
    command = [sys.executable, str(ROOT / "pipeline.py"), "ablate", *heads, "--json"]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(command, cwd=extracted, env=env, start_new_session=True, stderr=subprocess.DEVNULL)
    fits = extracted / "runs" / "posts-ablation-1" / "fits"
    deadline = time.monotonic() + 120
    while len(list(fits.glob("[!.]*.fit"))) < 6 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = len(list(fits.glob("[!.]*.fit")))
    assert kept >= 6
    assert not (fits.parent / "run.json").exists()
    done = run_process("ablate", *heads, "--json")
    assert done.code == 0, done.err
    assert done.json["out"] == "runs/posts-ablation-1"
    assert done.json["fitted"] + done.json["reused"] == 2 * 3 * 5
    assert kept - 2 <= done.json["reused"] < 30
    shutil.copytree(extracted / "features", extracted / "other" / "features")
    whole = run_process("ablate", *heads, "--json", "--store", "features", cwd=extracted / "other")
    assert whole.json["fitted"] == 30
    names = ("head", "modalities", "seed", "fold", "accuracy", "macro_f1", "nll", "temperature")
    tables = [
        [[row[name] for name in names] for row in rows_of(at / "runs" / "posts-ablation-1" / "results.csv")]
        for at in (extracted, extracted / "other")
    ]
    assert tables[0] == tables[1]
    assert done.json["best"] == whole.json["best"]
    assert done.json["conclusions"] == whole.json["conclusions"]
