"""Cells of a table as what encoders take: texts, paths of files, arrays, rows of columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache import canonical_json
from extract.arrays import written_array
from extract.downloads.address import Download, bare, download_of, is_address
from extract.encoders.spec import AUDIO, TABULAR, kind_of
from extract.manifest import Aligned, Content, Sample, inside
from extract.sound import AUDIO_SUFFIXES, is_clip

ABOUT_ROWS = ("id", "label", "split", "group", "words")
"""Roles that are no modalities."""


def text_of(row: Mapping[str, Any], column: str) -> str:
    """A cell as stripped text, empty for null and NaN. Raises ValueError for lists and objects."""
    value = row.get(column)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str | int | float):
        raise ValueError(f"{column} must be text or a number, found {type(value).__name__}")
    return str(value).strip()


def inputs_of(row: Mapping[str, Any], used: Mapping[str, str], root: Path) -> dict[str, Content]:
    """What the row has of each modality.

    Args:
        row: cells by column.
        used: column by role.
        root: the table's folder.

    Raises:
        ValueError: what is wrong with the row.
    """
    found: dict[str, Content] = {}
    for role, column in used.items():
        content = None if role in ABOUT_ROWS else _content(row, role, column, root)
        if content is not None:
            found[role] = content
    return with_words(found, words_of(row, used["words"])) if "words" in used else found


def words_of(row: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """The words of a row, a list or a text with spaces between them. Raises ValueError."""
    value = row.get(column)
    words = value if isinstance(value, list) else text_of(row, column).split()
    if not all(isinstance(word, str | int | float) and str(word).strip() for word in words):
        raise ValueError(f"{column} must be a list of words, none of them empty")
    return tuple(" ".join(str(word).split()) for word in words)


def with_words(found: Mapping[str, Content], words: tuple[str, ...]) -> dict[str, Content]:
    """The same where arrays belong to words; the text is these words. Raises ValueError for another text."""
    text = " ".join(words)
    if "text" in found and " ".join(str(found["text"]).split()) != text:
        raise ValueError(
            "the text is not its words with a space between, so that no array can be aligned with it; "
            "leave the text out of --columns, and it is made of the words"
        )
    inputs: dict[str, Content] = {"text": text} if text else {}
    for role, content in found.items():
        if kind_of(role, "") not in ("text", "image", TABULAR) and not isinstance(content, str | Aligned):
            # Nothing says which part of a clip belongs to which word.
            content = content if kind_of(role, "") == AUDIO and is_clip(content) else Aligned(content, words)
        inputs.setdefault(role, content)
    return inputs


def array_of(row: Mapping[str, Any], role: str, column: str, root: Path) -> Path | Download | bytes | None:
    """The path of a `.npy` file, or the bytes of one with the numbers that the row lists. Raises ValueError.

    Where the role is `audio` or such as `audio_2`, it may be the path or the address of an audio file.
    """
    value = row.get(column)
    if isinstance(value, list):
        try:
            return written_array(np.asarray(value, dtype=np.float64))
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{column} must be a list of numbers, or of equally long lists of numbers") from error
    name = text_of(row, column)
    sound = kind_of(role, "") == AUDIO
    if sound and bare(name).lower().endswith(AUDIO_SUFFIXES):
        return _file(name, root, "audio file")
    if name and not name.lower().endswith(".npy"):
        taken = f".npy files, or of audio files ({', '.join(AUDIO_SUFFIXES)})" if sound else ".npy files"
        raise ValueError(
            f"{column} is taken for the modality {role!r}, whose cells are paths of {taken}; found {name[:80]!r}"
        )
    return _file(name, root, "array")


def mixed_audio(samples: Sequence[Sample]) -> list[str]:
    """What is wrong with rows whose sound is of another kind than that of the first row, audio files or arrays."""
    first: dict[str, bool] = {}
    problems = []
    kinds = {True: "an audio file", False: "an array"}
    for sample in samples:
        for role, content in sample.inputs.items():
            if kind_of(role, "") == AUDIO and first.setdefault(role, is_clip(content)) != is_clip(content):
                found = kinds[is_clip(content)]
                problems.append(f"{sample.where}: {role} is {found}, above it is {kinds[first[role]]}; a column is one")
    return problems


def _content(row: Mapping[str, Any], role: str, column: str, root: Path) -> Content | None:
    kind = kind_of(role, "")
    if kind == TABULAR:
        cells = {name: text_of(row, name) for name in column.split("+")}
        return canonical_json(cells).decode("ascii") if any(cells.values()) else None
    if kind == "text":
        return text_of(row, column) or None
    return _file(text_of(row, column), root, "image") if kind == "image" else array_of(row, role, column, root)


def _file(name: str, root: Path, what: str) -> Path | Download | None:
    if is_address(name) and what != "array":
        return download_of(name, root, "image" if what == "image" else "audio")
    path = inside(root, name) if name else None
    if name and path is None:
        files = "pictures" if what == "image" else f"{what}s"
        raise ValueError(
            f"the {what} {name!r} lies outside {root}; {files} must lie under the table's folder, or give "
            "--allow-outside"
        )
    return path
