"""Further modalities from the command line: arrays, two images a row, columns of a table, audio files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache import load
from tests.conftest import WORDS, Result
from tests.extract.audio_data import RATE, speech_model, tone, wav

Run = Callable[..., Result]
COLUMNS = "audio=sound,words=words,tabular=views+channel,image=still,image_2=face,label=label,id=id"


def write_talks(folder: Path, count: int = 24, unlabelled: int = 2) -> Path:
    draw = np.random.default_rng(0)
    for name in ("sound", "stills"):
        (folder / name).mkdir(parents=True)
    rows = []
    for number in range(count + unlabelled):
        mood = "good" if number % 2 else "bad"
        words = [str(word) for word in draw.choice(WORDS[mood], 3 + number % 3)]
        np.save(folder / "sound" / f"{number}.npy", draw.normal(size=(len(words), 6)))
        for kind in ("still", "face")[: 1 + number % 2]:
            colour = tuple(int(part) for part in draw.integers(0, 256, 3))
            Image.new("RGB", (32, 32), colour).save(folder / "stills" / f"{kind}{number}.png")
        rows.append(
            {
                "id": number,
                "words": words,
                "sound": f"sound/{number}.npy",
                "views": number * 10,
                "channel": "ab"[number % 3 == 0],
                "still": f"stills/still{number}.png",
                "face": f"stills/face{number}.png" if number % 2 else None,
                "label": mood if number < count else None,
            }
        )
    (folder / "talks.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_from_columns_to_heads_and_new_labels(run: Run, tmp_path: Path, models: list[str]) -> None:
    talks = write_talks(tmp_path / "talks")
    done = run("extract", talks, *models, "--columns", COLUMNS, "--tokens", "--json")
    assert done.code == 0, done.err
    assert done.json["missing"] == {"text": 0, "image": 0, "image_2": 13, "audio": 0, "tabular": 0}
    table = load(tmp_path / "features")
    assert {name: part.stop - part.start for name, part in table.blocks.items()}["tabular"] == 4
    assert table.tokens("audio").lengths.tolist() == table.tokens("text").lengths.tolist()
    again = run("extract", talks, *models, "--columns", COLUMNS, "--tokens", "--json")
    assert again.json["encoded"] == 0
    for head, modalities in (("cmbert", "text,audio"), ("mlp", "all")):
        options = ["--set", "epochs=2", "--folds", "2", "--out", head]
        fused = run("fuse", "--head", head, "--modalities", modalities, *options)
        assert fused.code == 0, fused.err
        found = run("predict", "--run", head, talks, "--columns", COLUMNS, "-o", f"{head}.csv", "--json")
        assert found.code == 0, found.err
        assert (found.json["encoded"], found.json["rows"]) == (0, 2)


def test_data_in_shards_gets_the_columns_of_all_rows(run: Run, tmp_path: Path, models: list[str]) -> None:
    talks = write_talks(tmp_path / "talks", 11, 0)
    rows = [json.loads(line) for line in (talks / "talks.jsonl").read_text().splitlines()]
    rows[10]["channel"] = "only in the last shard"
    (talks / "talks.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    encode = ("extract", talks, *models, "--columns", COLUMNS, "--modalities", "tabular", "--json")
    whole = run(*encode)
    assert whole.code == 0, whole.err
    parts = run(*encode, "--name", "parts", "--shard-rows", "3")
    assert parts.code == 0, parts.err
    assert (whole.json["encoded"], parts.json["encoded"], parts.json["shards"]) == (11, 0, 4)
    tables = [load(tmp_path / "features", name) for name in ("talks", "parts")]
    np.testing.assert_array_equal(np.array(tables[0].block("tabular")), np.array(tables[1].block("tabular")))
    assert tables[1].block("tabular").shape == (11, 5)


def test_a_modality_that_only_later_shards_have_is_not_left_out(run: Run, tmp_path: Path, models: list[str]) -> None:
    rows = [{"id": str(n), "text": f"day {n}", "sound": [1.0, float(n)] if n > 3 else None} for n in range(8)]
    table = tmp_path / "talks.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    encode = ("extract", table, *models, "--columns", "sound=sound", "--json")
    assert set(run(*encode, "--name", "whole").json["encoders"]) == {"text", "sound"}
    refused = run(*encode, "--shard-rows", "2")
    assert refused.code == 1
    assert "also has sound" in refused.err
    assert "--modalities text,sound" in refused.err
    done = run(*encode, "--shard-rows", "2", "--modalities", "text,sound")
    assert (done.code, done.json["missing"]) == (0, {"text": 0, "sound": 4}), done.err
    tables = [load(tmp_path / "features", name) for name in ("whole", "talks")]
    np.testing.assert_array_equal(tables[0].block("sound"), tables[1].block("sound"))
    assert run(*encode, "--shard-rows", "2", "--modalities", "text").code == 0


def test_the_mosi_layout_needs_no_columns(run: Run, tmp_path: Path, models: list[str]) -> None:
    talks = write_talks(tmp_path / "talks")
    (talks / "sound").rename(talks / "audio")
    (talks / "talks.jsonl").rename(talks / "mosi_dev.jsonl")
    done = run("extract", talks, *models, "--tokens", "--json")
    assert done.code == 0, done.err
    assert list(done.json["encoders"]) == ["text", "audio"]


def test_what_a_run_needs_and_the_data_lacks_is_said(run: Run, tmp_path: Path, models: list[str]) -> None:
    talks = write_talks(tmp_path / "talks")
    assert run("extract", talks, *models, "--columns", COLUMNS, "--modalities", "text,audio").code == 0
    assert run("fuse", "--head", "logreg", "--out", "r").code == 0
    lacking = run("predict", "--run", "r", talks, "--columns", "words=words")
    assert lacking.code == 1
    assert "has no audio; it has text: see --modalities and --columns" in lacking.err
    unknown = run("extract", talks, *models, "--columns", COLUMNS, "--modalities", "text,smell")
    assert unknown.code == 1
    assert "has no smell; it has text, image, image_2, audio, tabular: see --modalities and --columns" in unknown.err


def write_clips(folder: Path, count: int = 16) -> Path:
    """Clips of two pitches with words that do not tell which; the last two have no label, and one is broken."""
    folder.mkdir()
    rows = ["id,text,clip,label"]
    for number in range(count + 2):
        sound = tone(0.1 + number % 3 / 10, seed=number) * 0.2
        at = np.arange(len(sound))[:, None] / RATE
        (folder / f"{number}.wav").write_bytes(wav(sound + 0.5 * np.sin(2 * np.pi * (200 + 1800 * (number % 2)) * at)))
        label = ("low", "high")[number % 2] if number < count else ""
        rows.append(f"{number},the day {('my', 'a', 'so')[number % 3]},{number}.wav,{label}")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def test_audio_files_from_the_table_to_labels(run: Run, tmp_path: Path, models: list[str]) -> None:
    clips, speech = write_clips(tmp_path / "clips"), speech_model(tmp_path / "tiny-hubert", "hubert")
    columns = ["--columns", "audio=clip"]
    lacking = run("extract", clips, *models, *columns)
    assert lacking.code == 1
    assert "audio holds audio files, for which there is no default model; give one by --audio-model" in lacking.err
    options = [*models, *columns, "--audio-model", "tiny-hubert", "--max-seconds", "2", "--tokens", "--json"]
    done = run("extract", clips, *options)
    assert done.code == 0, done.err
    assert (list(done.json["encoders"]), done.json["truncated"]) == (["text", "audio"], 0)
    assert run("extract", clips, *options).json["encoded"] == 0
    fused = run("fuse", "--head", "logreg", "--folds", "2", "--out", "r", "--json")
    assert fused.code == 0, fused.err
    assert fused.json["accuracy"] > 0.8
    (clips / "17.wav").write_bytes(b"RIFF")
    found = run("predict", "--run", "r", clips, *columns, "-o", "new.csv", "--json")
    assert (found.code, found.json["rows"], found.json["failed"]) == (3, 2, 1), found.err
    assert "failed: 17 (audio): no audio file that is known" in found.err
    checked = run("cache", "verify", "--deep", "3", "--json")
    assert checked.code == 0, checked.err
    speech.rename(tmp_path / "moved")
    moved = run("predict", "--run", "r", clips, *columns, "--audio-model", "moved", "--all", "--json")
    assert moved.json["encoded"] == 0, moved.err


def test_tuning_a_text_model_beside_audio(run: Run, tmp_path: Path, models: list[str]) -> None:
    clips = write_clips(tmp_path / "clips")
    speech_model(tmp_path / "tiny", "group")
    options = [*models, "--columns", "audio=clip", "--audio-model", "tiny"]
    wrong = run("finetune", clips, *options, "--tune", "audio")
    assert (wrong.code, "encoders that can be tuned: text" in wrong.err) == (2, True)
    done = run("finetune", clips, *options, "--epochs", "1", "--folds", "2", "--out", "t", "--json")
    assert done.code == 0, done.err
    assert done.json["modalities"] == ["text", "audio"]
    found = run("predict", "--run", "t", clips, "--columns", "audio=clip", "--json")
    assert (found.code, found.json["rows"]) == (0, 2), found.err
