"""Folders of pictures by class, as torchvision and Kaggle have them.

    pets/cat/1.jpg  pets/cat/1.txt  pets/dog/7.png ...             the class is the label
    pets/train/cat/1.jpg  pets/test/dog/7.png  pets/test/9.jpg     splits; what lies in no class has no label

A text beside a picture, of the same stem, is its text; one that stands alone is a row without a picture. The id is the
path without the suffix. Two pictures of one stem, and pictures at any other depth, are refused: which
was meant is not guessed. Hidden files and those of other suffixes are left out, and counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cache import DataError, UsageError, listing
from extract.datasets.cells import PICTURES
from extract.datasets.table import SPLIT_FILES
from extract.decode import DecodeError, decode_text
from extract.manifest import Content, Manifest, Sample, checked_manifest, inside

EXPECTS = (
    "a folder with a folder of pictures for each class (cat/1.jpg, dog/7.jpg; cat/1.txt), or train/, test/ with such"
)
TEXT = ".txt"
FEWEST = 2
"""Classes by which such a folder is recognised: one may be anything."""


def recognise(path: Path) -> bool:
    """Whether the path is a folder of two or more folders that hold pictures, or of splits that hold such."""
    if not path.is_dir():
        return False
    tops = _folders(path)
    if tops and all(_is_split(top) for top in tops):
        return any(_holds_picture(one) for top in tops for one in _folders(top))
    found = 0
    for top in tops:
        found += _holds_picture(top)
        if found == FEWEST:
            return True
    return False


def _folders(path: Path) -> list[Path]:
    with os.scandir(path) as entries:
        return sorted(Path(entry.path) for entry in entries if not _hidden(entry.name) and _is_folder(entry))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links; reading it will say so
        return False


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _is_split(path: Path) -> bool:
    return path.name.lower() in SPLIT_FILES


def _holds_picture(path: Path) -> bool:
    with os.scandir(path) as entries:
        return any(entry.name.lower().endswith(PICTURES) for entry in entries)


@dataclass
class _Walk:
    """What was met so far."""

    root: Path
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def read(path: Path, columns: Mapping[str, str]) -> Manifest:
    """Reads the data set; rows are in the order of splits, classes and names.

    Raises:
        DataError: it is no such folder, folders of splits and others side by side, or bad files (all are listed).
        UsageError: columns were named, of which this layout has none.
    """
    if columns:
        raise UsageError("--columns is for tables; the layout folders has none")
    tops = _folders(path) if path.is_dir() else []
    splits = sorted((top for top in tops if _is_split(top)), key=lambda top: SPLIT_FILES.index(top.name.lower()))
    if not tops:
        raise DataError(f"{path} is not laid out as folders; expected {EXPECTS}")
    if splits and len(splits) < len(tops):
        others = listing([top.name for top in tops if top not in splits], 5)
        raise DataError(
            f"{path} holds folders of splits ({listing([top.name for top in splits])}) beside others ({others}); which "
            "are classes is not clear: move or rename some"
        )
    walk = _Walk(path)
    _read_files(walk, path, "", "", labelled=False)
    for top in splits or [path]:
        split = top.name.lower() if splits else ""
        if splits:
            _read_files(walk, top, "", split, labelled=True)
        for folder in _folders(top):
            _read_files(walk, folder, folder.name, split, labelled=True)
            walk.problems += [
                f"{_name(walk, one)}/ lies too deep; expected a class's files" for one in _folders(folder)
            ]
    return checked_manifest(path, "folders", walk.samples, walk.problems, {"left_out": dict(walk.left_out)})


def _read_files(walk: _Walk, folder: Path, label: str, split: str, labelled: bool) -> None:
    """The rows of one folder; pictures where no class is are refused unless they are `labelled` to have none."""
    held: dict[str, dict[str, Path]] = {}
    for path in _files(walk, folder):
        suffix = path.suffix.lower()
        kind = "image" if suffix in PICTURES else "text" if suffix == TEXT else ""
        if not kind or (kind == "text" and not labelled):
            walk.left_out[suffix or "without a suffix"] += 1
            continue
        if not labelled:
            walk.problems.append(f"{path.name} lies in no folder of a class")
            continue
        parts = held.setdefault(path.stem, {})
        if kind in parts:
            pair = f"{_name(walk, parts[kind])} and {_name(walk, path)}"
            walk.problems.append(f"{pair} have one stem; rename or remove one")
            continue
        parts[kind] = path
    for stem, parts in held.items():
        name = _name(walk, folder / stem)
        try:
            text = decode_text(parts["text"].read_bytes()).strip() if "text" in parts else ""
        except (DecodeError, OSError) as error:
            walk.problems.append(f"{_name(walk, parts['text'])}: {error}")
            continue
        inputs: dict[str, Content] = {"text": text} if text else {}
        if "image" in parts:
            inputs["image"] = parts["image"]
        walk.samples.append(Sample(name, inputs, label, split, file=name))


def _files(walk: _Walk, folder: Path) -> Iterator[Path]:
    """The files of a folder by name; links that lead out of the data are noted as problems."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    outer = folder.is_symlink() and inside(walk.root, _name(walk, folder)) is None
    if outer:
        walk.problems.append(f"{_name(walk, folder)}/ leads out of {walk.root}")
    for entry in () if outer else found:
        if _hidden(entry.name):
            walk.left_out["hidden"] += 1
        elif _is_folder(entry):
            continue
        elif entry.is_symlink() and inside(walk.root, _name(walk, Path(entry.path))) is None:
            walk.problems.append(f"{_name(walk, Path(entry.path))} leads out of {walk.root}")
        else:
            yield Path(entry.path)


def _name(walk: _Walk, path: Path) -> str:
    return path.relative_to(walk.root).as_posix()
