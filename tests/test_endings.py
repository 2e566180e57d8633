"""The last lines of a command: what failed, where it is listed, and the command that tries again."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from endings import Failures, retry_command, typed_command, visible
from tests.conftest import ROOT, Result

Run = Callable[..., Result]
ESCAPES = "\x1b[31mred\x1b]0;title\x07\r\x9b2J\u202eabc\ud800"


@pytest.fixture
def typed(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process with the arguments where a shell puts them."""

    def call(*args: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["pipeline.py", *map(str, args)])
        return run(*args)

    return call


def again(typed: Run, done: Result) -> Result:
    """What the command that the last line gives does."""
    line = done.out.splitlines()[-1] if "to try again" in done.out else done.err.splitlines()[-1]
    words = shlex.split(line)
    assert words[0] == "pipeline.py"
    return typed(*words[1:])


def test_extract_says_how_many_where_and_how_to_try_again(typed: Run, posts: Path, models: list[str]) -> None:
    good = (posts / "data" / "5.jpg").read_bytes()
    (posts / "data" / "5.jpg").write_bytes(b"no picture")
    (posts / "data" / "7.jpg").write_bytes(b"none either")
    done = typed("extract", "posts", *models)
    assert done.code == 3
    [listed] = (posts.parent / "features").glob("*/failures.jsonl")
    assert done.out.splitlines()[-3].startswith("failed: 7 (image): no picture")
    place = f"listed in features/{listed.parent.name}/failures.jsonl"
    assert done.out.splitlines()[-2].startswith(f"2 samples failed, {place}; correct them")
    command = shlex.join(["pipeline.py", "extract", "posts", *models, "--retry-failed"])
    assert done.out.splitlines()[-1].strip() == command
    (posts / "data" / "5.jpg").write_bytes(good)
    repeated = again(typed, done)
    assert "1 sample failed" in repeated.out
    assert repeated.out.splitlines()[-1].strip() == command  # not a second --retry-failed
    (posts / "data" / "7.jpg").write_bytes(good)
    assert again(typed, done).code == 0


def test_json_holds_the_same(typed: Run, posts: Path, models: list[str]) -> None:
    assert "failures" not in typed("extract", "posts", *models, "--json").json
    (posts / "data" / "5.jpg").write_bytes(b"no picture")
    failures = typed("extract", "posts", *models, "--json").json["failures"]
    assert (failures["count"], failures["what"]) == (1, "samples")
    assert [json.loads(Path(one).read_text())["id"] for one in failures["lists"]] == ["5"]
    assert failures["retry"].endswith("--json --retry-failed")


@pytest.mark.slow
def test_predict_and_finetune_tell_it_too(typed: Run, extracted: Path, bert: Path) -> None:
    models = ["--text-model", bert, "--image-model", "squeezenet1_1", "--random-init", "image=0"]
    for number in (3, 41):
        (extracted / "posts" / "data" / f"{number}.jpg").write_bytes(b"no picture")
    assert "failures" not in typed("fuse", "--head", "text", "--out", "r", "--json").json
    tuned = typed("finetune", "posts", *models, "--tune", "text", "--epochs", 1, "--out", "t", "--json")
    assert tuned.code == 3, tuned.err
    assert (tuned.json["failed"], tuned.json["failures"]["count"]) == (1, 1)
    assert "failed: 3 (image)" in tuned.err
    assert typed("fuse", "--head", "vote", "--out", "v").code == 0
    predicted = typed("predict", "--run", "v", "posts", "--json")
    assert predicted.code == 3
    assert predicted.json["failures"]["count"] == 1
    assert "failed: 41 (image)" in predicted.err
    assert again(typed, predicted).code == 3
    cached = typed("extract", "posts", *models[2:], "--finetuned", "t", "--name", "tuned", "--json")
    assert cached.code == 3
    assert cached.json["failures"]["count"] == 2
    assert again(typed, cached).json["failures"]["retry"].endswith("--name tuned --json --retry-failed")


@pytest.mark.slow
def test_fits_that_failed_are_listed_and_fitted_by_the_command_that_is_given(
    typed: Run, extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cache import UsageError
    from fuse.heads.vote import LateVotingClassifier

    def fail(self: object, *args: object, **kwargs: object) -> None:
        raise UsageError("votes are off today")

    quick = ("ablate", "--heads", "logreg,vote", "--seeds", "1", "--folds", "2", "--controls", "none", "--jobs", "1")
    with monkeypatch.context() as patched:
        patched.setattr(LateVotingClassifier, "fit", fail)
        done = typed(*quick)
    assert done.code == 3
    listed = [json.loads(line) for line in Path("runs/posts-ablation-1/failures.jsonl").read_text().splitlines()]
    assert {one["reason"] for one in listed} == {"votes are off today"}
    assert f"{len(listed)} fits failed, listed in runs/posts-ablation-1/failures.jsonl" in done.out
    repeated = again(typed, done)
    assert repeated.code == 0, repeated.err
    assert not Path("runs/posts-ablation-1/failures.jsonl").exists()


def test_damage_in_the_store_ends_with_what_to_do(typed: Run, extracted: Path) -> None:
    [segment, *_] = (extracted / "features").glob("*/*.h5")
    raw = bytearray(segment.read_bytes())
    raw[-1] ^= 1
    segment.write_bytes(raw)
    done = typed("cache", "verify", "--json")
    assert done.code == 1
    assert str(segment.name) in done.err
    assert "1 file failed; run the extract of each data set" in done.err
    assert done.json["failures"]["retry"] == "pipeline.py cache verify --json"
    assert typed("cache", "compact").code in (0, 3)


def test_what_was_typed_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x/pipeline.py", "extract", "my posts", "--finetune"])
    assert retry_command("--retry-failed") == "pipeline.py extract 'my posts' --finetune --retry-failed"
    assert retry_command(without=["--finetune"]) == "pipeline.py extract 'my posts'"
    assert typed_command() == "pipeline.py extract 'my posts' --finetune"
    monkeypatch.setattr(sys, "argv", ["pipeline.py", "extract", "--store", "s", "--", "-posts"])
    assert retry_command("--retry-failed") == "pipeline.py extract --store s --retry-failed -- -posts"
    monkeypatch.setattr(sys, "orig_argv", ["my python", "-P", "pipeline.py", *sys.argv[1:]])
    assert retry_command() == "'my python' -P pipeline.py extract --store s -- -posts"
    assert typed_command().startswith("pipeline.py extract")


@pytest.mark.slow
def test_what_is_printed_is_a_command_of_the_shell(extracted: Path) -> None:
    store = (extracted / "features").rename(extracted / "its 'own' store")
    [segment, *_] = store.glob("*/*.h5")
    segment.write_bytes(segment.read_bytes()[:-1])
    ways = {"cwd": extracted, "capture_output": True, "text": True, "check": False, "timeout": 60}
    done = subprocess.run([sys.executable, ROOT / "pipeline.py", "cache", "verify", "--store", store.name], **ways)
    again = subprocess.run(["sh", "-c", done.stdout.splitlines()[-1]], **ways)
    assert (again.returncode, again.stdout) == (done.returncode, done.stdout) == (1, done.stdout)
    assert "1 file failed" in again.stdout


def test_no_control_character_reaches_a_terminal() -> None:
    shown = visible(ESCAPES + "\tkept\n今天 🙂 עברית")
    assert shown.isprintable() or not set(shown) - set("\t\n") & set(ESCAPES) - set("redtitlabc[]0;2J31m")
    assert not any(ord(sign) < 32 and sign not in "\t\n" for sign in shown)
    assert shown.endswith("\tkept\n今天 🙂 עברית")
    assert shown.encode("utf-8")
    assert json.loads(visible(json.dumps({"id": "\x9b\x7f\u202e\ud800"}, ensure_ascii=False))) == {
        "id": "\x9b\x7f\u202e\ud800"
    }


def test_ids_labels_and_errors_are_printed_without_escapes(run: Run, tmp_path: Path, bert: Path) -> None:
    hostile = "a\x1b[2J\x1b]0;owned\x07"
    folder = tmp_path / "posts"
    folder.mkdir()
    (folder / "p.jpg").write_bytes(b"no picture")
    rows = [{"id": hostile + str(n), "text": "the day", "image": "p.jpg", "label": hostile} for n in range(2)]
    (folder / "posts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ("--text-model", bert, "--image-model", "squeezenet1_1", "--random-init", "image=0")
    done = run("extract", "posts", *options)
    assert done.code == 3, done.err
    assert r"failed: a\u001b[2J\u001b]0;owned\u00070 (image)" in done.out
    assert r"labels: a\u001b[2J" in done.out
    (folder / "posts.jsonl").write_text('{"te\\ud800xt\\u001b[2J": "a"}\n')
    refused = run("extract", "posts", *options)
    assert refused.code == 1
    assert r"it has te\ud800xt\u001b[2J" in refused.err
    for told in (done.out, done.err, refused.out, refused.err):
        assert not {"\x1b", "\x07", "\x9b"} & set(told)


def test_failures_without_a_list_are_lines_all_the_same() -> None:
    assert Failures(1, "files", ["a: b"], [], "pipeline.py cache verify").lines() == [
        "failed: a: b",
        "1 file failed; to try again:",
        "  pipeline.py cache verify",
    ]
