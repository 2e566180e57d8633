"""Tables: CSV, TSV, JSON Lines or Parquet, one row a sample, pictures by path relative to the table or by http address.

    posts.csv:   id,text,image,label,split
                 1,what a day,pictures/1.jpg,positive,train

DATA is the table or a folder with one table; a folder with several named after splits
(`train.csv`, `valid.csv`, `test.csv`) is one data set with these splits, each in parts perhaps
(`train-00000-of-00002.parquet`). One whose tables are called as parts of one is it, too: `part-00000-9f2c.parquet`
as of Spark, `part.0.parquet`, `posts-00000-of-00003.parquet`, `00000.parquet`. All but Parquet may be packed
(`posts.csv.gz`).

Several columns make one text by `text=title+body`: a line each, empty ones left out. A cell may hold a list of
pictures (in CSV as JSON): the first is `image`, the next ones are `image_2`, `image_3`, ...; in Parquet, pictures may
lie in the cells themselves.

Further modalities are named by `--columns`: `image_2=photo2` and `text_body=body` are images and texts of
their own; `tabular=price+brand` are numbers and categories; `audio=clip` are audio files by path where its cells end
in `.wav`, `.flac`, `.mp3` or `.ogg`; it and any other name, such as `vision=face`, mean `.npy` files by path
otherwise, or lists of numbers in JSON Lines and Parquet. With `words=words`, a list of words or a text with
spaces between them, row w of every array belongs to word w, and the text is made of the words.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cache import DataError, UsageError, listing
from extract.datasets.cells import ABOUT_ROWS, columns_of, inputs_of, mixed_audio, text_of
from extract.datasets.lines import csv_rows
from extract.datasets.parquet import parquet_groups, parquet_rows
from extract.datasets.rows import Part, Rows, one_meaning
from extract.decode import DecodeError, decode_text
from extract.manifest import Manifest, Sample, checked_manifest

PARQUET = ".parquet"
TEXTS = (".csv", ".tsv", ".jsonl")
SUFFIXES = (*TEXTS, *(f"{suffix}.gz" for suffix in TEXTS), PARQUET)
SPLIT_FILES = ("train", "valid", "val", "dev", "validation", "test")
EXPECTS = "a CSV, TSV, JSONL or Parquet table with the columns text and/or image and label, or a folder that holds one"
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

MOST_UNPACKED = 4 * 2**30
"""Bytes of a packed table, unpacked."""
SURELY_UNPACKED, MOST_TIMES = 256 * 2**20, 100
"""Above so many bytes, a table that is so many times as large as it was packed is taken for a bomb."""
_AT_ONCE = 2**24
_SHARD = re.compile(r"(.+)-(\d{1,6})-of-(\d{1,6})")
_PART = re.compile(r"part[-._]?(?P<part>\d{1,9})(\D.*)?|(?P<digits>\d{3,9})|(?P<name>.+)-(?P<shard>\d{1,6})-of-\d{1,6}")


def recognise(path: Path) -> bool:
    """Whether the path is a table or a folder that directly holds tables."""
    return is_table(path) if path.is_file() else any(is_table(child) for child in path.iterdir())


def is_table(path: Path) -> bool:
    """Whether a file is called as a table is."""
    return path.name.lower().endswith(SUFFIXES)


def _stem(path: Path) -> str:
    """The name without `.csv` or `.csv.gz`."""
    suffix = max((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), key=len, default="")
    return path.name[: len(path.name) - len(suffix)]


def read(path: Path, columns: Mapping[str, str]) -> Manifest:
    """Reads the table or tables.

    Raises:
        DataError: several tables to choose from, no column of any modality, a column that was
            named but is not there, or bad rows (all are listed).
        UsageError: a role in `columns` that cannot be one; pyarrow, which reads Parquet, is not installed.
    """
    found = tables(path)
    parts = (_part(table, alone=len(found) == 1) for table in found)
    return manifest_of(path, "table", parts, columns, {"tables": [table.name for table in found]})


def read_groups(
    path: Path, alone: bool, rows: int, groups: range, first: int, columns: Mapping[str, str], table: Path
) -> Manifest:
    """Some groups of rows of one of the Parquet files of a data set, as `read` reads them among all.

    Args:
        path: of the data set.
        alone: the table is the only one.
        rows: that it had when it was parted.
        groups: of its rows.
        first: how many rows of it come before them.
        columns: as for `read`.
        table: one of `tables(path)`.

    Raises:
        DataError, UsageError: as `read`, or it has more or fewer rows by now.
    """
    if sum(parquet_groups(table)) != rows:
        raise DataError(f"{table} was replaced while the data set was read; run the same command again")
    part = _part(table, alone, groups, first)
    return manifest_of(path, "table", [part], columns, {"tables": [table.name]})


def _part(table: Path, alone: bool, groups: range | None = None, first: int = 0) -> Part[Rows]:
    problems: list[str] = []
    rows = read_rows(table, problems) if groups is None else parquet_rows(table, problems, groups, first)
    split = _split(table) if _split(table) in SPLIT_FILES else ""
    name, prefix = ("", "") if alone else (table.name, f"{_stem(table)}-")
    return Part(table, rows, table.parent, problems, name, prefix, split, first=first)


def manifest_of(
    path: Path,
    layout: str,
    parts: Iterable[Part[Rows]],
    columns: Mapping[str, str],
    notes: Mapping[str, Any],
) -> Manifest:
    """The manifest of a data set of one or more tables, of whatever kind.

    Args:
        path: of the data set.
        layout: how it was read.
        parts: its tables, one after another in memory.
        columns: column by role, as the user named them.
        notes: what else is to be written down; looked at when all was read.

    Raises:
        DataError: no column of any modality, a column that was named but is not there or is another in another table,
            or bad rows (all are listed).
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
    for part in parts:
        if part.rows.columns or not part.problems:  # else no row could be read
            own = _roles(part.path, part.rows.columns, {**part.roles, **columns})
            used = one_meaning(path, used, own)
            samples += _samples(part, own)
        problems += [f"{part.name} {problem}".lstrip() for problem in part.problems]
    problems += mixed_audio(samples)
    return checked_manifest(path, layout, samples, problems, {"columns": used, "named": dict(columns), **notes})


def tables(path: Path) -> list[Path]:
    """The tables of a data set, in the order of their splits and numbers. Raises DataError."""
    return [path] if path.is_file() else tables_of(path, path.iterdir())


def tables_of(path: Path, children: Iterable[Path]) -> list[Path]:
    """The tables among what lies in a folder, in the order of their splits and numbers. Raises DataError."""
    children = [child for child in children if not child.name.startswith(".")]  # such as ._posts.csv of macOS
    found = sorted(child for child in children if is_table(child))
    if not found:
        raise DataError(f"{path} holds no table; expected {EXPECTS}")
    if len(found) == 1:
        return found
    shards = [_SHARD.fullmatch(_stem(table)) for table in found]
    splits = all(_split(table) in SPLIT_FILES for table in found)
    called: dict[str, set[tuple[str, str]]] = {}  # as a whole, in 2 parts, in 3: they may hold the same rows
    for table, shard in zip(found, shards, strict=True):
        kind = table.name[len(_stem(table)) :]
        called.setdefault(_split(table), set()).add((shard[3], kind) if shard else (_stem(table), kind))
    twice = any(len(ways) > 1 for ways in called.values())
    tars = any(child.name.lower().endswith(".tar") for child in children)
    if twice or not (splits or _are_parts(found, tars)):
        names = listing([table.name for table in found])
        raise DataError(
            f"{path} holds several tables ({names}); give one of them as DATA"
            + (", or --layout webdataset for the tars" if tars else "")
        )
    held = Counter((shard[1], int(shard[3])) for shard in shards if shard)
    for (name, count), there in held.items():
        if there != count:
            raise DataError(f"{path} holds {there} of the {count} tables {name}-...; fetch the others too")
    if not splits:
        return sorted(found, key=lambda table: (_number(table), table.name))
    return sorted(found, key=lambda table: (SPLIT_FILES.index(_split(table)), table.name))


def _are_parts(found: Sequence[Path], tars: bool) -> bool:
    """Whether tables are called as the parts of one.

    As Spark, Dask and Arrow call them (`part-00000-9f2c.snappy.parquet`, `part.0.parquet`), by numbers alone
    (`00000.parquet`, unless there are tars, which such tables tell of), or `posts-00000-of-00003.parquet`.
    """
    named = [_PART.fullmatch(_stem(table).lower()) for table in found]
    suffixes = {table.name[len(_stem(table)) :].lower() for table in found}
    if len(suffixes) > 1 or not all(named):
        return False
    called = {(one["part"] is not None, one["name"]) for one in named if one}
    return len(called) == 1 and not (tars and called == {(False, None)})


def _number(part: Path) -> int:
    named = _PART.fullmatch(_stem(part).lower())
    return int(named["part"] or named["digits"] or named["shard"]) if named else 0


def _split(table: Path) -> str:
    """What the table is called, without the number of a part."""
    stem = _stem(table).lower()
    shard = _SHARD.fullmatch(stem)
    return shard[1] if shard else stem


def read_rows(path: Path, problems: list[str]) -> Rows:
    """The rows of one table; what is wrong with lines is added to the problems. Raises DataError, UsageError."""
    name = path.name.lower()
    if name.endswith(PARQUET):
        return parquet_rows(path, problems)
    try:
        text = decode_text(_unpacked(path) if name.endswith(".gz") else path.read_bytes())
    except (OSError, DecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    name = name.removesuffix(".gz")
    return _read_jsonl(text, problems) if name.endswith(".jsonl") else _read_delimited(path, text, problems)


def _unpacked(path: Path) -> bytes:
    """What is in a .gz. Raises DataError for a cut one and for a bomb, before it fills the memory."""
    parts: list[bytes] = []
    size, packed = 0, path.stat().st_size
    try:
        with gzip.open(path) as file:
            while part := file.read(_AT_ONCE):
                parts.append(part)
                size += len(part)
                if size > min(MOST_UNPACKED, max(SURELY_UNPACKED, MOST_TIMES * packed)):
                    raise DataError(
                        f"{path} is {packed} bytes and unpacks to more than {size}; packed tables are read up to "
                        f"{MOST_UNPACKED} bytes, and above {SURELY_UNPACKED} up to {MOST_TIMES} times their size: "
                        "gunzip it if it is what you think"
                    )
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is cut off, damaged or no gzip file ({error}); fetch or pack it again") from error
    return b"".join(parts)


def _read_jsonl(text: str, problems: list[str]) -> Rows:
    found = Rows()
    columns: dict[str, None] = {}
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content, object_pairs_hook=each_once)
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


def each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises ValueError where a key stands twice in it, of which one would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise ValueError(f"names a key twice: {listing(repeated)}")
    return found


def _read_delimited(path: Path, text: str, problems: list[str]) -> Rows:
    header = re.split("[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    delimiter = "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ","
    if delimiter not in header:
        delimiter = next((sign for sign in ("\t", ";", ",") if sign in header), delimiter)
    rows = csv_rows(path, text, delimiter)
    found = Rows([name.strip() for name in next((cells for _, cells in rows if cells), [])])
    repeated = sorted({name for name in found.columns if found.columns.count(name) > 1})
    if repeated:
        raise DataError(f"{path} names a column twice: {listing(repeated)}")
    for line, cells in rows:
        if len(cells) == len(found.columns):
            found.rows.append((line, dict(zip(found.columns, cells, strict=True))))
        elif cells:
            problems.append(f"line {line}: {len(cells)} cells under {len(found.columns)} columns")
    return found


def usual_column(role: str, found: Sequence[str]) -> str | None:
    """The column that has a usual name of the role; None where none has."""
    by_lower = {name.lower(): name for name in reversed(found)}
    return next((by_lower[name] for name in ROLES[role] if name in by_lower), None)


def _roles(path: Path, found: Sequence[str], named: Mapping[str, str]) -> dict[str, str]:
    """The column of each role; of texts and of `tabular` perhaps several, with a plus between."""
    # Words make the text; another column of text, found by its name, might differ from them.
    left_out = {"text"} if named.get("words") and "text" not in named else set()
    used: dict[str, str] = {}
    for role in (*ROLES, *(role for role in named if role not in ROLES)):
        if role in named:
            lacking = [name for name in columns_of(role, named[role], found) if named[role] and name not in found]
            if lacking:
                raise DataError(
                    f"{path} has no column {lacking[0]!r} for {role}; it has {listing(found) or 'none'}: see --columns"
                )
            column = named[role] or None
        else:
            column = None if role in left_out else usual_column(role, found)
        if column:
            used[role] = column
    if not found:
        raise DataError(f"{path} holds no rows, and no header that names columns")
    if "words" not in used and not set(used) - set(ABOUT_ROWS):
        raise DataError(
            f"{path} has neither a text nor an image column (looked for {listing(ROLES['text'] + ROLES['image'])}); "
            f"it has {listing(found)}: name them by --columns text=...,image=...,label=..."
        )
    return used


def _samples(part: Part[Rows], used: Mapping[str, str]) -> Iterator[Sample]:
    """The rows as samples; what is wrong with others is added to the part's problems."""
    columns = {role: columns_of(role, column, part.rows.columns) for role, column in used.items()}
    about = {role: used.get(role) for role in ("id", "label", "split", "group")}
    numbered = part.rows.numbered
    wanted = {name for names in columns.values() for name in names}
    for number, (line, row) in enumerate(part.rows.of(wanted), part.first + 1):
        try:
            cells = {role: text_of(row, column) if column else "" for role, column in about.items()}
            inputs = inputs_of(row, columns, part.root)
        except ValueError as error:
            part.problems.append(f"{part.rows.where(line)}: {error}")
            continue
        yield Sample(
            cells["id"] if "id" in used else f"{part.prefix}{number}",
            inputs,
            cells["label"],
            cells["split"] if "split" in used else part.split,
            cells["group"],
            line if numbered else 0,
            part.name if numbered else f"{part.name} {part.rows.where(line)}".lstrip(),
        )
