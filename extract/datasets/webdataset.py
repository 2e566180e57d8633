"""WebDataset: tars whose members belong together by name.

    shards/train-000.tar    cat/1.jpg  cat/1.txt  cat/1.json  cat/1.cls  cat/2.jpg ...
    shards/test-000.tar

A sample is what has the same path up to the first dot of its name, which is its id. Members by what follows: `jpg`,
`png`, `webp`, ... a picture, `txt` the text, `cls` the label, `json` an object whose keys are columns as in a table
(label, split, id, ... by their usual names or by `--columns`), `wav`, `flac`, `mp3`, `ogg` sound, `npy` an array.
`left.jpg` is the modality `image_left`, `face.npy` is `face`, and a bare `npy` is `array`.

Nothing is unpacked: what is not text is read from its place in the tar when it is wanted. Other suffixes, links
and devices are left out, and counted. DATA is a folder of tars, or one; where all are named after
splits, they are these.
"""

from __future__ import annotations

import functools
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache import DataError
from extract.datasets.cells import PICTURES
from extract.datasets.pieces import Slice
from extract.datasets.rows import Part, Rows, one_meaning
from extract.datasets.table import ROLES, SPLIT_FILES, each_once, manifest_of, usual_column
from extract.decode import decode_text
from extract.encoders.spec import DEFAULT_MODELS, TABULAR, kind_of
from extract.manifest import Manifest, checked_manifest
from extract.sound import AUDIO_SUFFIXES

EXPECTS = "a tar of members such as 1.jpg, 1.txt, 1.json, or a folder of such (*.tar)"
TAR = ".tar"
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
MOST_BYTES = 2**30
"""Of a member; a text may have less."""
MOST_TEXT = 64 * 2**20
MOST_HEADER = 2**20
"""Of a member's long name and other headers: nothing larger is read on a tar's word."""
BLOCK = 512
KEY = "__key__"
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_MODALITY = re.compile(r"[a-z][a-z0-9_]*|[0-9]+")


def recognise(path: Path) -> bool:
    """Whether the path is a tar, or a folder that directly holds some."""
    names = [path.name] if path.is_file() else [child.name for child in path.iterdir()]
    return any(name.lower().endswith((TAR, *PACKED)) for name in names)


def read(path: Path, columns: Mapping[str, str]) -> Manifest:
    """Reads the tars, in the order of their names; rows keep the order of their first members.

    Raises:
        DataError: no tar, packed ones, no column of any modality, or bad members (all are listed).
        UsageError: a role in `columns` that cannot be one.
    """
    shards = tars(path)
    return _read(path, len(shards) == 1, all(map(_split, shards)), columns, *shards)


def each_by_itself(path: Path, shards: Sequence[Path], columns: Mapping[str, str]) -> Callable[[Path], Manifest]:
    """What reads one of the tars of a data set, as `read` reads it among all; one of several may hold no rows.

    Args:
        path: of the data set.
        shards: all of its tars, of which only the names are looked at.
        columns: as for `read`.
    """
    return functools.partial(_read, path, len(shards) == 1, all(map(_split, shards)), columns)


def _read(path: Path, alone: bool, splits: bool, columns: Mapping[str, str], *shards: Path) -> Manifest:
    left_out: Counter[str] = Counter()
    parts: list[Part[_ShardRows]] = []
    for shard in shards:
        name = "" if alone else shard.name
        part = Part(shard, _ShardRows(), shard.parent, [], name, split=_split(shard) if splits else "")
        _fill(part, f"{shard.stem}/" if name else "", left_out)
        parts.append(part)
    notes = {"shards": [shard.name for shard in shards], "left_out": left_out}
    if not any(part.rows.rows for part in parts):
        problems = [f"{part.name} {one}".lstrip() for part in parts for one in part.problems]
        if not problems and not alone and len(parts) == 1:  # others have rows, or whoever reads them all will tell
            return Manifest(path, "webdataset", (), notes)
        return checked_manifest(path, "webdataset", (), problems)
    _check_meaning(path, parts, columns)
    known = list(dict.fromkeys(column for part in parts for column in part.rows.columns))
    own = {column for part in parts for column in part.rows.own}
    for part in parts:  # one meaning in all, whatever each has
        part.rows.columns, part.roles = known, _roles_of(own, known)
    return manifest_of(path, "webdataset", parts, columns, notes)


def _check_meaning(path: Path, parts: Sequence[Part[_ShardRows]], columns: Mapping[str, str]) -> None:
    """Raises DataError where one tar has its texts, ids, ... under another name than the next.

    By the columns of all together, one of them would have none.
    """
    used: dict[str, str] = {}
    for part in parts:
        own = _roles_of(part.rows.own, part.rows.columns)
        found = {role: own.get(role, usual_column(role, part.rows.columns)) for role in ROLES if role not in columns}
        used = one_meaning(path, used, {role: column for role, column in found.items() if column})


@dataclass
class _ShardRows(Rows):
    """Rows that are known by their keys; `own` are the columns that come from members of their own."""

    own: set[str] = field(default_factory=set)

    @property
    def numbered(self) -> bool:
        """There are no lines."""
        return False

    def where(self, number: int) -> str:
        """The key of the sample."""
        return str(self.rows[number][1][KEY])


def tars(path: Path) -> list[Path]:
    """The tars of a data set, in their order. Raises DataError."""
    return tars_of(path, [path] if path.is_file() else sorted(path.iterdir()))


def tars_of(path: Path, found: Sequence[Path]) -> list[Path]:
    """Those of the files of a data set that are tars. Raises DataError: there are none, or packed ones."""
    found = [one for one in found if not one.name.startswith(".")]  # such as ._train-000.tar of macOS
    packed = [one.name for one in found if one.name.lower().endswith(PACKED)]
    if packed:
        raise DataError(
            f"{packed[0]} is packed as a whole, so that no picture in it can be read by itself; unpack it to a plain "
            f"tar first, such as by gunzip ({len(packed)} of {len(found)} files of {path})"
        )
    shards = [one for one in found if one.name.lower().endswith(TAR)]
    if not shards:
        raise DataError(f"{path} is not laid out as webdataset; expected {EXPECTS}")
    return shards


def _split(shard: Path) -> str:
    name = re.match(r"[a-z]*", shard.stem.lower())
    return name[0] if name and name[0] in SPLIT_FILES else ""


def _roles_of(own: Collection[str], known: Sequence[str]) -> dict[str, str]:
    """What members are, by how they are called; what the keys of a `json` are is looked for by their usual names."""
    roles = {name: name for name in sorted(own)}
    if not {name.lower() for name in known} & set(ROLES["id"]):
        roles["id"] = KEY
    return {"image": "", **roles}  # a key such as `path` or `filename` says where the picture once was


def _fill(part: Part[_ShardRows], prefix: str, left_out: Counter[str]) -> None:
    """Reads which members a tar has, and its texts."""
    samples: dict[str, dict[str, Slice]] = {}
    for name, piece in _members(part.path, part.problems, left_out):
        match = _NAME.fullmatch(name)
        if match is None:
            left_out["members without a key or a suffix"] += 1
            continue
        members = samples.setdefault(match[1], {})
        if match[2].lower() in members:
            part.problems.append(f"{match[1]} has two members .{match[2]}")
        members[match[2].lower()] = piece
    columns: dict[str, None] = {}
    for key, members in samples.items():
        try:
            keys, row = _keys(members), _row(members, left_out)
        except (ValueError, OSError, RecursionError) as error:
            part.problems.append(f"{key}: {error}")
            continue
        part.rows.own.update(row)
        row = {**keys, **row, KEY: prefix + key}
        columns.update(dict.fromkeys(row))
        part.rows.rows.append((len(part.rows.rows), row))
    part.rows.columns = list(columns)


def _keys(members: Mapping[str, Slice]) -> dict[str, Any]:
    """What the `json` says. Raises ValueError."""
    if "json" not in members:
        return {}
    try:
        found = json.loads(_text(members["json"]), object_pairs_hook=each_once)
    except ValueError as error:
        raise ValueError(f"its json cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"its json must be an object, found {type(found).__name__}")
    return found


def _row(members: Mapping[str, Slice], left_out: Counter[str]) -> dict[str, Any]:
    """The other members by column. Raises ValueError, OSError."""
    row: dict[str, Any] = {}
    for suffix, piece in members.items():
        name, _, kind = suffix.rpartition(".")
        column = "" if suffix == "json" else _column(name, f".{kind}")
        if suffix != "json" and not column:
            left_out[f"members .{suffix}"] += 1
        if column in row:
            raise ValueError(f"two members are its {column}: {piece.name} and another")
        if column:
            row[column] = _text(piece) if kind in ("txt", "cls") else piece
    return row


def _column(name: str, kind: str) -> str:
    """Such as `image` for `.jpg`, `image_left` for `.left.jpg`; empty for what is nothing that is known."""
    if name and not _MODALITY.fullmatch(name):
        return ""
    for column, kinds in (("image", PICTURES), ("text", (".txt",)), ("audio", AUDIO_SUFFIXES)):
        if kind in kinds:
            return f"{column}_{name}" if name else column
    if kind == ".npy":
        own = name and not name.isdigit() and name not in ROLES and kind_of(name, "") not in (*DEFAULT_MODELS, TABULAR)
        return name if own else f"array_{name}" if name else "array"
    return "label" if kind == ".cls" and not name else ""


def _text(piece: Slice) -> str:
    if piece.size > MOST_TEXT:
        raise ValueError(f"{piece.name} is a text of {piece.size} bytes; up to {MOST_TEXT} are read")
    return decode_text(piece.read())


class _Tar(io.FileIO):
    """A tar whose headers are not believed when they promise too much."""

    def read(self, size: int | None = -1, /) -> bytes:
        """As any file, but not everything. Raises tarfile.ReadError."""
        if size is None or not 0 <= size <= MOST_HEADER:
            raise tarfile.ReadError(f"a header says that {size} bytes belong to it")
        return super().read(size) or b""


def _members(shard: Path, problems: list[str], left_out: Counter[str]) -> Iterator[tuple[str, Slice]]:
    """Name and place of each ordinary file; what is wrong with the tar is added to the problems."""
    name, at = "its beginning", -1
    try:
        size = shard.stat().st_size
        with _Tar(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.offset <= at or member.size < 0:
                    raise tarfile.ReadError("a header leads back")
                name, at = member.name, member.offset
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    left_out["links" if member.issym() or member.islnk() else "devices and the like"] += 1
                elif member.size > MOST_BYTES:
                    problems.append(f"{name} has {member.size} bytes; up to {MOST_BYTES} are taken")
                elif member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{name} is cut off")
                else:
                    yield name, Slice(str(shard), member.offset_data, member.size, f"{shard.name}/{name}")
            problems += _after(shard, tar.offset)
    except Exception as error:  # on broken headers tarfile raises almost anything
        problems.append(f"after {name}: the tar cannot be read on ({error}); fetch or pack it again")


def _after(shard: Path, end: int) -> list[str]:
    """What is wrong with the end, where tarfile stops without a word at a broken header, a cut, or another tar."""
    with shard.open("rb") as file:
        file.seek(end)
        mark = file.read(BLOCK)
        if len(mark) < BLOCK:
            return [f"the tar ends at byte {end} without its end mark: it was cut off; fetch or pack it again"]
        if mark.strip(b"\0"):
            return [f"a broken header at byte {end}; what follows cannot be read: fetch or pack the tar again"]
        while rest := file.read(MOST_HEADER):
            if rest.strip(b"\0"):
                return [
                    f"there is more behind the tar's end mark at byte {end}, perhaps of tars that were joined: split it"
                ]
    return []
