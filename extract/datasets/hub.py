"""Hugging Face `datasets`: a folder that `save_to_disk` wrote, or a data set of the hub by its name.

    saved/                     dataset_dict.json, train/, test/; or state.json, data-00000-of-00001.arrow
    hub:owner/name             through the library's cache, which downloads it once; `hub:owner/name:config`
    hub-stream:owner/name#500  the first 500 rows of each split as they come over the network, nothing kept on disk

Columns are found by their usual names, as in tables, or by `--columns`; classes get their names; pictures stay where
they lie until they are wanted, but for those of a stream, which are held in memory. A saved folder takes pyarrow, a
name takes `datasets`. No code of the hub is ever run: from version 4 the library has no way to.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache import DataError, UsageError, listing
from extract.datasets.arrow import arrow_rows, class_name
from extract.datasets.pieces import Held
from extract.datasets.rows import Part, Rows
from extract.datasets.table import manifest_of
from extract.manifest import Manifest, inside

EXPECTS = "a folder that `save_to_disk` of Hugging Face datasets wrote (dataset_dict.json, or state.json)"
OLDEST = 4
"""Of `datasets`: earlier ones could run code of the hub."""
MOST_HELD = 4 * 2**30
"""Bytes of pictures of a stream, which are held in memory."""
_NAME = re.compile(r"(hub|hub-stream):(\w[\w.-]*/\w[\w.-]*)(?::([^#]+))?(?:#([1-9]\d{0,8}))?")
_TAKES = "hub:OWNER/NAME, hub:OWNER/NAME:CONFIG, or hub-stream:OWNER/NAME[:CONFIG][#ROWS]"


def recognise(path: Path) -> bool:
    """Whether the path is such a folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def read(path: Path, columns: Mapping[str, str]) -> Manifest:
    """Reads a saved folder, or what the name says.

    Raises:
        DataError: no such folder, the hub is out of reach or has no such data set, no column of any modality, or bad
            rows (all are listed).
        UsageError: a name that cannot be one; a library that is needed is not installed.
    """
    wanted = _NAME.fullmatch(str(path))
    if wanted is None and str(path).startswith(("hub:", "hub-stream:")):
        raise UsageError(f"{path} cannot be the name of a data set on the hub; give {_TAKES}")
    if wanted is None:
        found = _saved(path)
    else:
        kind, name, config, rows = wanted.groups()
        if rows and kind == "hub":
            raise UsageError(f"{path}: only a stream is cut; give hub-stream:{name}#{rows}")
        found = _streamed(path, name, config, int(rows or 0)) if kind == "hub-stream" else _cached(path, name, config)
    several = len(found) > 1
    for split, part in found.items():
        part.name, part.split, part.prefix = (split, split, f"{split}-") if several else ("", "", "")
    return manifest_of(path, "hub", found.values(), columns, {"splits": list(found)})


def _saved(folder: Path) -> dict[str, Part[Rows]]:
    """The splits of a folder; one without a name where there are none."""
    if not recognise(folder):
        raise DataError(f"{folder} is not laid out as hub; expected {EXPECTS}")
    if not (folder / "dataset_dict.json").is_file():
        return {"": _saved_split(folder)}
    splits = _json(folder / "dataset_dict.json").get("splits")
    if not isinstance(splits, list) or not splits or not all(isinstance(split, str) for split in splits):
        raise DataError(f"{folder / 'dataset_dict.json'} names no splits")
    return {split: _saved_split(_within(folder, split)) for split in splits}


def _saved_split(folder: Path) -> Part[Rows]:
    state = _json(folder / "state.json")
    try:
        files = [_within(folder, str(entry["filename"])) for entry in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder / 'state.json'} does not say which files hold the rows") from error
    if not files:
        raise DataError(f"{folder} holds no rows")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataError(f"{folder} was saved by an old version, with its rows in another order; load and save it again")
    return _part(folder, files, folder)


def _part(path: Path, files: Sequence[Path], root: Path) -> Part[Rows]:
    problems: list[str] = []
    return Part(path, arrow_rows(files, problems), root, problems)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object")
    return content


def _within(folder: Path, name: str) -> Path:
    path = inside(folder, name)
    if path is None:
        raise DataError(f"{folder} names {name!r}, which lies outside of it")
    return path


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UsageError("data sets of the hub need Hugging Face datasets: pip install datasets") from error
    if int(datasets.__version__.partition(".")[0]) < OLDEST:
        raise UsageError(
            f"data sets of the hub need datasets {OLDEST} or newer, which runs no code of theirs; found "
            f'{datasets.__version__}: pip install "datasets>={OLDEST}"'
        )
    return datasets


@contextlib.contextmanager
def _asking(name: str) -> Iterator[None]:
    """Whatever the library raises becomes a DataError that says what to do."""
    try:
        yield
    except (DataError, UsageError):
        raise
    except Exception as error:  # it and the libraries below raise almost anything
        raise DataError(
            f"{name} cannot be had from the hub: {type(error).__name__}: {str(error).strip()[:500]}\n"
            "  looked for it there and in the cache of the library (HF_DATASETS_CACHE). Check name, network and "
            "`hf auth login` if it is private; or save it where there is a network by load_dataset(...)"
            ".save_to_disk(FOLDER), and give that folder as DATA"
        ) from error


def _loaded(name: str, config: str | None, **options: Any) -> dict[str, Any]:
    """By name of each split, what the library gives."""
    datasets = _library()
    if os.path.exists(name):
        raise UsageError(f"there is a folder {name} here, which the library would take; give it as DATA, or rename it")
    return dict(datasets.load_dataset(name, config, **options))


def _cached(path: Path, name: str, config: str | None) -> dict[str, Part[Rows]]:
    """The splits as they lie in the library's cache."""
    with _asking(name):
        found = _loaded(name, config, keep_in_memory=False)
        files = {split: [Path(one["filename"]) for one in rows.cache_files] for split, rows in found.items()}
        root = _cache_root()
    empty = [split for split, paths in files.items() if not paths]
    if empty:
        raise DataError(f"{name} has no rows in {listing(empty)}")
    return {split: _part(path, paths, root) for split, paths in files.items()}


def _cache_root() -> Path:
    """Under which the library keeps both its tables and the files that they name."""
    import datasets
    import huggingface_hub

    tables = os.path.realpath(datasets.config.HF_DATASETS_CACHE)
    both = os.path.commonpath([tables, os.path.realpath(huggingface_hub.constants.HF_HUB_CACHE)])
    return Path(both if len(Path(both).parts) > 2 else tables)  # not the root, where they lie far apart


def _streamed(path: Path, name: str, config: str | None, most: int) -> dict[str, Part[Rows]]:
    """The splits as they come, up to `most` rows of each; 0 for all."""
    with _asking(name):
        found = _loaded(name, config, streaming=True)
    held = _Held(str(path))
    parts: dict[str, Part[Rows]] = {}
    for split, rows in found.items():
        problems: list[str] = []
        parts[split] = Part(path, _StreamRows(name, rows, most, held, problems), Path(), problems)
    return parts


@dataclass
class _Held:
    """How much is in memory, and of what."""

    name: str
    size: int = 0

    def file(self, content: bytes, called: str) -> Held:
        """The file, counted. Raises DataError where it is too much."""
        self.size += len(content)
        if self.size > MOST_HELD:
            raise DataError(
                f"{self.name}: the pictures of a stream are held in memory, up to {MOST_HELD} bytes; take its first "
                "rows by #ROWS, or all by hub:, which keeps them on disk"
            )
        return Held(content, called)


class _StreamRows(Rows):
    """Rows that are fetched one after another, once."""

    def __init__(self, name: str, rows: Any, most: int, held: _Held, problems: list[str]) -> None:
        with _asking(name):
            if rows.features is None:
                rows = rows._resolve_features()  # by the first rows; there is no public way
            self._rows = rows.decode(False)
            features = dict(rows.features)
        super().__init__(columns=list(features))
        self._names = {column: one.names for column, one in features.items() if type(one).__name__ == "ClassLabel"}
        self._name, self._most, self._held, self._problems = name, most, held, problems

    @property
    def numbered(self) -> bool:
        """There are no lines."""
        return False

    def where(self, number: int) -> str:
        """The number of the row, from 1."""
        return f"row {number}"

    def of(self, columns: Collection[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """The rows, with these columns. Raises DataError where the network fails, or too much is held in memory."""
        with _asking(self._name), contextlib.closing(iter(self._rows)) as rows:
            for number, row in enumerate(itertools.islice(rows, self._most or None), 1):
                try:
                    cells = {column: self._cell(column, row[column]) for column in columns}
                except DataError:
                    raise
                except ValueError as error:
                    self._problems.append(f"{self.where(number)}: {error}")
                    continue
                yield number, cells

    def _cell(self, column: str, value: Any) -> Any:
        if column in self._names:
            return class_name(column, self._names[column], value)
        if isinstance(value, list):
            return [self._cell(column, one) for one in value]
        if isinstance(value, bytes):
            return self._held.file(value, column)
        if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
            name = os.path.basename(value["path"] or "")
            if value["bytes"] is not None:
                return self._held.file(value["bytes"], name)
            if value["path"] is not None:
                raise ValueError(
                    f"{column} names the file {name!r} without its bytes; give hub: instead of hub-stream:"
                )
            return None
        return value if value is None or isinstance(value, str | int | float | list) else str(value)
