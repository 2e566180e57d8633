"""The layout of CMU-MOSI with features for each word: a list of utterances, and arrays in folders.

    mosi-dev/
      mosi_dev.jsonl        {"id": "a[0]", "video": "a", "words": ["so", "i", ...], "label": 1.8}
      audio/a[0].npy        (words, D)
      vision/a[0].npy       (words, D)

Lists are called `mosi*.jsonl`; with several, `mosi_train.jsonl`, `mosi_dev.jsonl` and `mosi_test.jsonl`, they are
splits. The text is the words with a space between. The group is the video, by its own name or by that in
the id. `audio` and `vision` in a row say where its arrays lie, if it is not under its id. DATA is the folder or
one of the lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cache import DataError, UsageError
from extract.datasets.cells import array_of, text_of, with_words, words_of
from extract.datasets.table import read_rows
from extract.manifest import Content, Manifest, Sample, checked_manifest
from extract.reading import now

FOLDERS = ("audio", "vision")
EXPECTS = "a folder with mosi*.jsonl (id, video, words, label) and audio/<id>.npy, vision/<id>.npy"


def recognise(path: Path) -> bool:
    """Whether the path is such a folder or one of its lists."""
    return bool(_lists(path))


def _lists(path: Path) -> list[Path]:
    folder = path if path.is_dir() else path.parent
    listed = [path] if path.is_file() else sorted(path.glob("mosi*.jsonl"))
    named = all(one.name.startswith("mosi") and one.suffix == ".jsonl" for one in listed)
    return listed if named and any((folder / name).is_dir() for name in FOLDERS) else []


def read(path: Path, columns: Mapping[str, str]) -> Manifest:
    """Reads the data set; rows keep the order of the lists.

    Raises:
        DataError: it is no such folder, or rows are bad (all are listed).
        UsageError: columns were named, of which this layout has none.
    """
    if columns:
        raise UsageError("--columns is for tables; the layout mosi has none (--layout table reads it as one)")
    lists = _lists(path)
    if not lists:
        raise DataError(f"{path} is not laid out as mosi; expected {EXPECTS}")
    samples: list[Sample] = []
    problems: list[str] = []
    unnamed = 0
    for listed in lists:
        before = len(problems)
        content = read_rows(listed, problems)
        problems[before:] = [f"{listed.name} {problem}" for problem in problems[before:]]
        split = listed.stem.removeprefix("mosi").strip("_-") if len(lists) > 1 else ""
        for line, row in content.rows:
            try:
                sample = _sample(listed.parent, row)
                unnamed += not text_of(row, "video")
                samples.append(replace(sample, split=split, line=line, file=listed.name))
            except ValueError as error:
                problems.append(f"{listed.name} line {line}: {error}")
    if unnamed:
        now().remarks.append(f"{unnamed} rows name no video: theirs is the part of the id before its number")
    return checked_manifest(path, "mosi", samples, problems, {"lists": [listed.name for listed in lists]})


def _sample(root: Path, row: Mapping[str, Any]) -> Sample:
    """One utterance. Raises ValueError for what is wrong with it."""
    name = text_of(row, "id")
    words = words_of(row, "words")
    arrays: dict[str, Content] = {}
    for folder in FOLDERS:
        place = row if folder in row else {folder: f"{folder}/{name}.npy"}
        array = array_of(place, folder, folder, root) if (root / folder).is_dir() else None
        if isinstance(array, Path) and not array.name.lower().endswith(".npy"):  # elsewhere `audio` may be sound itself
            raise ValueError(f"{folder} must hold paths of .npy files, found {array.name}")
        if array is not None:
            arrays[folder] = array
    # Ids are <video>[<number>]; a copy of the data that is about has lost the name of one video.
    video = text_of(row, "video") or name.rpartition("[")[0]
    return Sample(name, with_words(arrays, words), text_of(row, "label"), group=video)
