"""Cells of a table as what encoders take: texts, paths of files, arrays, rows of columns."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache import canonical_json
from extract.arrays import written_array
from extract.downloads.address import Download, bare, download_of, is_address
from extract.encoders.spec import AUDIO, TABULAR, kind_of
from extract.manifest import Aligned, Content, File, Piece, Sample, inside
from extract.sound import AUDIO_SUFFIXES, is_clip

ABOUT_ROWS = ("id", "label", "split", "group", "words")
"""Roles that are no modalities."""
JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
PICTURES = (*JPEG, ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".heic", ".heif")
"""Suffixes by which files are known as pictures; those that Pillow cannot read are recorded as failed."""
MOST_PICTURES = 32
"""Of a list in one cell: each becomes a modality."""


def text_of(row: Mapping[str, Any], column: str) -> str:
    """A cell as stripped text, empty for null and NaN. Raises ValueError for lists and objects."""
    value = row.get(column)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str | int | float):
        raise ValueError(f"{column} must be text or a number, found {type(value).__name__}")
    return str(value).strip()


def columns_of(role: str, column: str, found: Collection[str]) -> tuple[str, ...]:
    """The columns that are meant by `title+body`, of a text or a row of numbers; by itself where one is called so."""
    several = "+" in column and column not in found and kind_of(role, "") in ("text", TABULAR)
    return tuple(column.split("+")) if several else (column,)


def inputs_of(row: Mapping[str, Any], used: Mapping[str, Sequence[str]], root: Path) -> dict[str, Content]:
    """What the row has of each modality.

    Args:
        row: cells by column.
        used: columns by role.
        root: the table's folder.

    Raises:
        ValueError: what is wrong with the row.
    """
    found: dict[str, Content] = {}
    for role, columns in used.items():
        if role in ABOUT_ROWS:
            continue
        listed = _listed(row.get(columns[0]))
        if listed is not None and kind_of(role, "") == "image":
            found |= _pictures(listed, role, columns[0], used, root)
            continue
        content = _content(row, role, columns, root)
        if content is not None:
            found[role] = content
    return with_words(found, words_of(row, used["words"][0])) if "words" in used else found


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


def array_of(row: Mapping[str, Any], role: str, column: str, root: Path) -> File | None:
    """The path of a `.npy` file or where else it lies, or the bytes of one with the numbers that the row lists.

    Where the role is `audio` or such as `audio_2`, it may be the path or the address of an audio file. Raises
    ValueError.
    """
    value = row.get(column)
    if isinstance(value, list):
        try:
            return written_array(np.asarray(value, dtype=np.float64))
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{column} must be a list of numbers, or of equally long lists of numbers") from error
    name = value.name if isinstance(value, Piece) else text_of(row, column)
    sound = kind_of(role, "") == AUDIO
    what = "audio file" if sound and bare(name).lower().endswith(AUDIO_SUFFIXES) else "array"
    if name and what == "array" and not name.lower().endswith(".npy"):
        taken = f".npy files, or of audio files ({', '.join(AUDIO_SUFFIXES)})" if sound else ".npy files"
        raise ValueError(
            f"{column} is taken for the modality {role!r}, whose cells are paths of {taken}; found {name[:80]!r}"
        )
    return value if isinstance(value, Piece) else _file(name, root, what)


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


def _content(row: Mapping[str, Any], role: str, columns: Sequence[str], root: Path) -> Content | None:
    kind = kind_of(role, "")
    if kind == TABULAR:
        cells = {name: text_of(row, name) for name in columns}
        return canonical_json(cells).decode("ascii") if any(cells.values()) else None
    if kind == "text":
        return "\n".join(filter(None, (text_of(row, name) for name in columns))) or None
    (column,) = columns
    return _picture(row, column, root) if kind == "image" else array_of(row, role, column, root)


def _picture(row: Mapping[str, Any], column: str, root: Path) -> File | None:
    cell = row.get(column)
    return cell if isinstance(cell, Piece) else _file(text_of(row, column), root, "image")


def _listed(cell: Any) -> list[Any] | None:
    """A list, be it written as JSON into a cell of a CSV, such as `["a.jpg", "b.jpg"]`."""
    if isinstance(cell, str) and cell.startswith('["'):
        with contextlib.suppress(ValueError, RecursionError):  # then it is a name
            cell = json.loads(cell)
    return cell if isinstance(cell, list) else None


def _pictures(
    cells: Sequence[Any], role: str, column: str, used: Mapping[str, Sequence[str]], root: Path
) -> dict[str, Content]:
    """A list of pictures: the first is `image`, the second `image_2`; an empty place stays empty."""
    if len(cells) > MOST_PICTURES:
        raise ValueError(f"{column} lists {len(cells)} pictures; up to {MOST_PICTURES} a row are taken")
    found: dict[str, Content] = {}
    for number, cell in enumerate(cells, 1):
        name = role if number == 1 else f"{role}_{number}"
        if number > 1 and name in used:
            raise ValueError(f"{column} lists {len(cells)} pictures, and {name} is the column {used[name][0]} already")
        content = _picture({column: cell}, column, root)
        if content is not None:
            found[name] = content
    return found


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
