"""`pipeline.py cache ...` as a user types it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Result, write_posts

Run = Callable[..., Result]


def segment_of(extracted: Path, modality: str) -> Path:
    keys = [
        path
        for path in extracted.glob("features/*/key.json")
        if json.loads(path.read_text())["fields"]["modality"] == modality
    ]
    return next(keys[0].parent.glob("*.h5"))


def flip_a_vector(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 1  # the last output's last vector but one value
    path.write_bytes(raw)


def test_damage_is_named_stops_a_head_and_is_healed_by_the_next_extract(
    run: Run, extracted: Path, models: list[str]
) -> None:
    clean = run("cache", "verify", "--json")
    assert (clean.code, clean.json["findings"]) == (0, [])
    assert clean.json["files"] == len([path for path in extracted.glob("features/**/*") if path.is_file()]) - 1
    from cache import load

    before = load(extracted / "features").to_numpy()
    path = segment_of(extracted, "text")
    flip_a_vector(path)
    found = run("cache", "verify", "--json")
    assert found.code == 1
    assert [one["file"] for one in found.json["findings"]] == [str(path.relative_to(extracted))]
    assert path.name in run("cache", "verify").out
    fused = run("fuse", "--head", "logreg")
    assert fused.code == 1
    assert path.name in fused.err
    assert "run extract again" in fused.err
    healed = run("extract", "posts", *models, "--json")
    assert healed.code == 0
    assert healed.json["encoded"] > 0
    assert f"{path.stem}.damaged was damaged and set aside" in healed.err
    assert run("cache", "verify").code == 0
    np.testing.assert_array_equal(load(extracted / "features").to_numpy(), before)
    collected = run("cache", "gc", "--json")
    assert [Path(name).suffix for name in collected.json["files"]] == [".damaged"]


def test_status_tells_what_is_done_of_a_finished_and_of_a_stopped_extraction(
    run: Run, extracted: Path, models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = run("cache", "status", "--json").json["data_sets"]
    assert (one["name"], one["finished"], one["rows"]) == ("posts", True, 44)
    assert {name: found["done"] for name, found in one["modalities"].items()} == {"text": 1.0, "image": 1.0}
    write_posts(extracted / "more")
    (extracted / "more" / "data" / "3.txt").write_text("something new\n")
    from extract.encoders.text import TextEncoder

    def stopped(self: TextEncoder, batch: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TextEncoder, "encode", stopped)
        interrupted = run("extract", "more", *models)
    assert interrupted.code == 1
    assert "the same command goes on from there" in interrupted.err
    found = run("cache", "status", "--name", "more", "--json").json["data_sets"][0]
    assert not found["finished"]
    assert found["modalities"]["text"]["lacking"] == 1
    assert found["modalities"]["text"]["done"] == pytest.approx(43 / 44)
    assert "was stopped" in run("cache", "status").out
    assert run("extract", "more", *models, "--json").json["encoded"] == 1
    assert run("cache", "status", "--name", "more", "--json").json["data_sets"][0]["finished"]


def test_deep_verification_encodes_rows_again(run: Run, extracted: Path, models: list[str]) -> None:
    again = run("extract", "posts", *models, "--json")
    assert (again.code, again.json["encoded"]) == (0, 0)
    assert f"is {extracted / 'posts'} now; give another --name" in again.err  # it was of the folder that was copied
    done = run("cache", "verify", "--deep", 5, "--json")
    assert done.code == 0, done.err
    assert done.json["deep"]["rows"] == 10
    assert done.json["deep"]["largest_difference"] < 1e-5
    assert "10 rows encoded again" in done.err
    shutil.move(extracted / "posts", extracted / "moved")
    lost = run("cache", "verify", "--deep", 5)
    assert lost.code == 1
    assert "there is no data at" in lost.err
    assert run("cache", "verify", "--deep", 5, "--data", "moved").code == 0
    assert "--name and --data go with --deep N" in run("cache", "verify", "--data", "moved").err


def test_gc_says_first_and_removes_then(run: Run, extracted: Path) -> None:
    (extracted / "features" / "posts.view.h5").unlink()
    said = run("cache", "gc", "--dry-run", "--json").json
    assert said["items"] > 0
    assert len(list(extracted.glob("features/*/*.h5"))) == 2
    young = run("cache", "gc", "--older-than", "7d", "--json").json
    assert (young["items"], young["young"]) == (0, said["items"])
    done = run("cache", "gc", "--json").json
    assert (done["items"], done["bytes"]) == (said["items"], said["bytes"])
    assert [path.name for path in extracted.glob("features/*")] == ["encoders.json"]
    assert run("cache", "gc", "--older-than", "soon").code == 2


def test_a_merged_store_serves_another_folder(run: Run, extracted: Path, models: list[str]) -> None:
    done = run("cache", "merge", "features", "--store", "shared", "--json")
    assert done.code == 0, done.err
    assert done.json["data_sets"] == ["posts"]
    assert run("cache", "merge", "features", "--store", "shared", "--json").json["items"] == 0
    assert run("cache", "verify", "--store", "shared").code == 0
    assert run("extract", "posts", *models, "--store", "shared", "--json").json["encoded"] == 0
    for command in (["merge", "nowhere"], ["merge", "features"]):
        assert run("cache", *command).code == 1


def test_compact_leaves_a_segment_an_encoder(run: Run, extracted: Path) -> None:
    done = run("cache", "compact", "--json")
    assert done.code == 0
    assert (done.json["segments"], done.json["damaged"]) == (2, [])
    assert "2 segments" in done.err


@pytest.mark.parametrize("suffix", ["npz", "h5", "parquet"])
def test_an_export_holds_every_row(run: Run, extracted: Path, suffix: str) -> None:
    done = run("cache", "export", f"posts.{suffix}", "--json")
    assert done.code == 0, done.err
    assert done.json["rows"] == 44
    assert done.json["bytes"] == (extracted / f"posts.{suffix}").stat().st_size
    wrong = run("cache", "export", "posts.xlsx")
    assert wrong.code == 1
    assert ".npz, .h5, .parquet" in wrong.err


def test_half_precision_and_tokens_are_kept_beside_the_rest(run: Run, extracted: Path, models: list[str]) -> None:
    from cache import load

    plain = load(extracted / "features").to_numpy()
    done = run("extract", "posts", *models, "--dtype", "float16", "--tokens", "--name", "half", "--json")
    assert done.code == 0, done.err
    half = load(extracted / "features", "half")
    assert half.to_numpy().dtype == np.float16
    np.testing.assert_allclose(half.to_numpy(), plain, rtol=2e-3, atol=2e-3)
    tokens = half.tokens("text")
    assert len(tokens) == 44
    assert tokens.dtype == np.float16
    np.testing.assert_allclose(tokens[0].astype(np.float32).mean(axis=0), half.block("text")[0], atol=5e-3)
    assert half.tokens("image")[0].shape == (13 * 13, 512)
    fused = run("fuse", "--head", "logreg", "--name", "half", "--json")
    assert fused.code == 0, fused.err
    predicted = run("predict", "--run", fused.json["out"], "posts", "--json")
    assert (predicted.code, predicted.json["encoded"]) == (0, 0), predicted.err
    assert run("cache", "verify").code == 0


def test_a_store_that_is_not_there_is_named_by_every_command(run: Run) -> None:
    for command in (["list"], ["status"], ["verify"], ["compact"], ["gc"], ["export", "a.npz"]):
        done = run("cache", *command, "--store", "nowhere")
        assert done.code == 1, command
        assert "nowhere" in done.err
        assert "run extract first" in done.err


def test_names_that_no_terminal_can_show_are_no_traceback(run_process: Run, extracted: Path) -> None:
    (extracted / "features").rename(extracted / os.fsdecode(b"caf\xe9"))
    done = run_process("cache", "list", "--store", os.fsdecode(b"caf\xe9"), cwd=extracted, env={"LC_ALL": "C.UTF-8"})
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("store caf\\udce9: data sets 1, encoders 2")
