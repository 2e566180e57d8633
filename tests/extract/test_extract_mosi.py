"""The layout of CMU-MOSI."""

import json
from pathlib import Path

import numpy as np
import pytest

from cache import DataError, UsageError
from extract import Manifest, read_manifest
from extract.manifest import Aligned


def write(folder: Path, name: str = "mosi_dev.jsonl", start: int = 0, **change: object) -> Path:
    rows = []
    for number in range(start, start + 4):
        words = ["so", "i", "don't"][: 1 + number % 3]
        for kind, width in (("audio", 4), ("vision", 2)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            np.save(folder / kind / f"v[{number}].npy", np.ones((len(words), width)))
        rows.append({"id": f"v[{number}]", "video": f"v{number // 2}", "words": words, "text": "other", "label": 1.5})
    rows[1].update(change)
    (folder / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def test_a_folder_is_recognised_and_read(tmp_path: Path):
    manifest = read_manifest(write(tmp_path))
    assert (manifest.layout, manifest.modalities) == ("mosi", ("text", "audio", "vision"))
    sample = manifest.samples[1]
    assert (sample.id, sample.group, sample.label, sample.split) == ("v[1]", "v0", "1.5", "")
    words = ("so", "i")
    expected = {name: Aligned(tmp_path / name / "v[1].npy", words) for name in ("audio", "vision")}
    assert sample.inputs == {"text": "so i", **expected}
    assert read_manifest(tmp_path / "mosi_dev.jsonl").samples == manifest.samples


def test_several_lists_are_splits(tmp_path: Path):
    write(write(tmp_path, "mosi_train.jsonl"), "mosi_test.jsonl", start=4)
    manifest = read_manifest(tmp_path)
    assert [sample.split for sample in manifest.samples] == ["test"] * 4 + ["train"] * 4


def test_other_folders_stay_tables(tmp_path: Path):
    (tmp_path / "mosi.jsonl").write_text('{"text": "a", "label": "x"}')
    assert read_manifest(tmp_path).layout == "table"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"words": ["a", ""]}, "words must be a list of words, none of them empty"),
        ({"audio": "../secret.npy"}, "lies outside"),
        ({"audio": "audio/1.wav"}, "paths of .npy files"),
        ({"id": ""}, "the id is empty"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, change: dict[str, object], problem: str):
    with pytest.raises(DataError, match=f"mosi_dev.jsonl line 2: .*{problem}"):
        read_manifest(write(tmp_path / "data", **change))


def test_it_has_no_columns(tmp_path: Path):
    with pytest.raises(UsageError, match="the layout mosi has none"):
        read_manifest(write(tmp_path), columns={"text": "text"})
    assert isinstance(read_manifest(write(tmp_path), "table"), Manifest)


def test_a_video_without_a_name_is_still_one_group(tmp_path: Path):
    manifest = read_manifest(write(tmp_path, video=""))
    assert [sample.group for sample in manifest.samples] == ["v0", "v", "v1", "v1"]
