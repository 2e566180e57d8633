"""Tables: CSV, TSV or JSON Lines, one row a sample, pictures by path relative to the table, or by http address.

    posts.csv:   id,text,image,label,split
                 1,what a day,pictures/1.jpg,positive,train

DATA is the table or a folder with one table; a folder with several named after splits
(`train.csv`, `valid.csv`, `test.csv`) is one data set with these splits.

Further modalities are named by `--columns`: `image_2=photo2` and `text_body=body` are images and texts of
their own; `tabular=price+brand` are numbers and categories; `audio=clip` are audio files by path where its cells end
in `.wav`, `.flac`, `.mp3` or `.ogg`; it and any other name, such as `vision=face`, mean `.npy` files by path
otherwise, or lists of numbers in JSON Lines. With `words=words`, a list of words or a text with
spaces between them, row w of every array belongs to word w, and the text is made of the words.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cache import DataError, UsageError, listing
from extract.datasets.cells import ABOUT_ROWS, inputs_of, mixed_audio, text_of
from extract.decode import DecodeError, decode_text
from extract.encoders.spec import TABULAR, kind_of
from extract.manifest import Manifest, Sample, checked_manifest

SUFFIXES = (".csv", ".tsv", ".jsonl")
SPLIT_FILES = ("train", "valid", "val", "dev", "validation", "test")
EXPECTS = "a CSV, TSV or JSONL table with the columns text and/or image and label, or a folder that holds one"
ROLES: dict[str, tuple[str, ...]] = {
    "id": ("id", "guid", "uid", "post_id", "tweet_id", "sample_id"),
    "text": ("text", "title", "caption", "clean_title", "sentence", "tweet", "content", "review"),
    "image": ("image", "img", "path", "filename", "image_path", "img_path", "file_name", "image_file", "picture"),
    "label": ("label", "tag", "category", "class", "target", "sentiment"),
    "split": ("split", "subset", "partition", "fold"),
    "group": ("group", "user", "user_id", "author", "video"),
    "words": (),
}
"""Usual names of each column, the preferred first; case does not matter. Words are only taken where they are named."""

FIELD_LIMIT = 64 * 2**20
_END = "\0the end of the table\0"
"""Is read after the last row, unless that left a quote open."""


@dataclass
class Rows:
    """What was read of one table: column names, and rows with their line numbers."""

    columns: list[str] = field(default_factory=list)
    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)


def recognise(path: Path) -> bool:
    """Whether the path is a table or a folder that directly holds tables."""
    if path.is_file():
        return path.suffix.lower() in SUFFIXES
    return any(child.suffix.lower() in SUFFIXES for child in path.iterdir())


def read(path: Path, columns: Mapping[str, str]) -> Manifest:
    """Reads the table or tables.

    Raises:
        DataError: several tables to choose from, no column of any modality, a column that was
            named but is not there, or bad rows (all are listed).
        UsageError: a role in `columns` that cannot be one.
    """
    wrong = [role for role in columns if not re.fullmatch(r"[a-z][a-z0-9_]*", role)]
    if wrong:
        raise UsageError(
            f"--columns: {listing(wrong)} can be no role; use {listing(list(ROLES))}, or small letters for a modality"
        )
    samples: list[Sample] = []
    problems: list[str] = []
    used: dict[str, str] = {}
    tables = _tables(path)
    for table in tables:
        before = len(problems)
        content = read_rows(table, problems)
        used = _roles(table, content.columns, columns)
        prefix = f"{table.name} " if len(tables) > 1 else ""
        for number, (line, row) in enumerate(content.rows, 1):
            sample = _sample(table, row, used, f"{table.stem}-{number}" if len(tables) > 1 else str(number), line)
            if isinstance(sample, str):
                problems.append(f"line {line}: {sample}")
            else:
                samples.append(replace(sample, file=table.name) if len(tables) > 1 else sample)
        problems[before:] = [prefix + problem for problem in problems[before:]]
    problems += mixed_audio(samples)
    return checked_manifest(path, "table", samples, problems, {"columns": used, "tables": [t.name for t in tables]})


def _tables(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(child for child in path.iterdir() if child.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f"{path} holds no table; expected {EXPECTS}")
    if len(found) > 1 and not all(table.stem.lower() in SPLIT_FILES for table in found):
        names = listing([table.name for table in found])
        raise DataError(f"{path} holds several tables ({names}); give one of them as DATA")
    return sorted(found, key=lambda table: SPLIT_FILES.index(table.stem.lower()) if len(found) > 1 else 0)


def read_rows(path: Path, problems: list[str]) -> Rows:
    """The rows of one table; what is wrong with lines is added to the problems. Raises DataError."""
    try:
        text = decode_text(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if path.suffix.lower() == ".jsonl":
        return _read_jsonl(text, problems)
    return _read_delimited(path, text, problems)


def _read_jsonl(text: str, problems: list[str]) -> Rows:
    found = Rows()
    columns: dict[str, None] = {}
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except ValueError as error:
            problems.append(f"line {line}: not JSON ({error})")
            continue
        except RecursionError:
            problems.append(f"line {line}: lists or objects within each other, too deep to be read")
            continue
        if not isinstance(row, dict):
            problems.append(f"line {line}: expected a JSON object, found {type(row).__name__}")
            continue
        columns.update(dict.fromkeys(row))
        found.rows.append((line, row))
    found.columns = list(columns)
    return found


def _read_delimited(path: Path, text: str, problems: list[str]) -> Rows:
    header = re.split("[\r\n]", text, maxsplit=1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    if delimiter not in header:
        delimiter = next((sign for sign in ("\t", ";", ",") if sign in header), delimiter)
    rows = csv_rows(path, text, delimiter)
    found = Rows([name.strip() for name in next(rows, (1, []))[1]])
    repeated = sorted({name for name in found.columns if found.columns.count(name) > 1})
    if repeated:
        raise DataError(f"{path} names a column twice: {listing(repeated)}")
    for line, cells in rows:
        if len(cells) == len(found.columns):
            found.rows.append((line, dict(zip(found.columns, cells, strict=True))))
        elif cells:
            problems.append(f"line {line}: {len(cells)} cells under {len(found.columns)} columns")
    return found


def csv_rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row of a table, and the line on which it starts.

    Raises:
        DataError: a cell is too large, or a quote is never closed, which would swallow the rows that follow.
    """
    csv.field_size_limit(FIELD_LIMIT)  # the default refuses texts above 128 KiB
    reader = csv.reader(io.StringIO(f"{text}\n{_END}", newline=""), delimiter=delimiter)
    line = 1
    try:
        for cells in reader:
            if cells == [_END]:
                return
            if cells and _END in cells[-1]:
                raise DataError(f"{path}: a quote opens in the row of line {line} and is never closed")
            yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: {error}") from error


def _roles(path: Path, found: Sequence[str], named: Mapping[str, str]) -> dict[str, str]:
    """The column of each role; of `tabular` the columns, with a plus between."""
    by_lower = {name.lower(): name for name in reversed(found)}
    # Words make the text; another column of text, found by its name, might differ from them.
    left_out = {"text"} if named.get("words") and "text" not in named else set()
    used: dict[str, str] = {}
    for role in (*ROLES, *(role for role in named if role not in ROLES)):
        if role in named:
            parts = named[role].split("+") if kind_of(role, "") == TABULAR else [named[role]]
            lacking = [name for name in parts if named[role] and name not in found]
            if lacking:
                raise DataError(
                    f"{path} has no column {lacking[0]!r} for {role}; it has {listing(found)}: see --columns"
                )
            column = named[role] or None
        else:
            usual = () if role in left_out else ROLES[role]
            column = next((by_lower[name] for name in usual if name in by_lower), None)
        if column:
            used[role] = column
    if "words" not in used and not set(used) - set(ABOUT_ROWS):
        raise DataError(
            f"{path} has neither a text nor an image column (looked for {listing(ROLES['text'] + ROLES['image'])}); "
            f"it has {listing(found)}: name them by --columns text=...,image=...,label=..."
        )
    return used


def _sample(path: Path, row: Mapping[str, Any], used: Mapping[str, str], number: str, line: int) -> Sample | str:
    """The row as a sample, or what is wrong with it."""
    try:
        cells = {role: text_of(row, used[role]) if role in used else "" for role in ("id", "label", "split", "group")}
        inputs = inputs_of(row, used, path.parent)
    except ValueError as error:
        return str(error)
    split = cells["split"]
    if "split" not in used and path.stem.lower() in SPLIT_FILES:
        split = path.stem.lower()
    return Sample(cells["id"] if "id" in used else number, inputs, cells["label"], split, cells["group"], line)
