"""Data sets in shards, of which each is read by itself: none of them need fit into memory as a whole."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cache import DataError, PipelineError, each, elsewhere, place
from extract.datasets import check_lists, read_manifest, recognised, table, webdataset
from extract.datasets.distant import Distant, files_at
from extract.datasets.parquet import parquet_groups
from extract.manifest import Manifest, at_address, is_remote
from extract.reading import reading

Read = Callable[[Path], Manifest]


class Shard(Protocol):
    """Some rows of a data set, read when they are wanted, wherever that is: it pickles."""

    def read(self) -> Manifest:
        """The rows. Raises DataError."""


@dataclass(frozen=True)
class Held:
    """Rows that were read already."""

    manifest: Manifest

    def read(self) -> Manifest:
        """The rows."""
        return self.manifest


@dataclass(frozen=True)
class Streamed:
    """Rows that are read when they are wanted.

    Args:
        how: gives the rows by the file.
        file: that holds them.
        allow_outside, encoding: as `read_manifest` takes them.
    """

    how: Read
    file: Path
    allow_outside: bool
    encoding: str | None

    def read(self) -> Manifest:
        """The rows. Raises DataError."""
        try:
            with reading(self.allow_outside, self.encoding) as said:
                manifest = self.how(self.file)
                check_lists(manifest.path, manifest)
            return replace(manifest, notes={**manifest.notes, **said.notes()})
        except OSError as error:
            raise DataError(f"a part of the data cannot be read: {error}") from error


def shards_of(
    data: str | Path,
    rows: int,
    layout: str | None = None,
    columns: Mapping[str, str] | None = None,
    allow_outside: bool = False,
    encoding: str | None = None,
) -> list[Shard]:
    """A data set in shards, in its order.

    Parquet is parted by its groups of rows and WebDataset by its tars, without reading them. Of other layouts the whole
    manifest is read here, and parted by rows.

    Args:
        data: as `read_manifest` takes it; workers on other machines must find it under the same absolute path. Or an
            address, such as `s3://bucket/posts`, of Parquet or WebDataset.
        rows: about how many a shard is to have.
        layout, columns, allow_outside, encoding: as `read_manifest` takes them.

    Raises:
        DataError, UsageError: as `read_manifest`, or an address of something else; what is wrong with rows comes to
            light when they are read.
        StoreError: an address cannot be asked.
    """
    if is_remote(data):
        return parted(read_manifest(data, layout, columns, allow_outside, encoding), rows)
    where = place(str(data)) if at_address(data) else Path(data).absolute()
    far = elsewhere(where)
    try:
        name, files = _files(where, layout) if far is None else files_at(far, layout)
        parts = list(_streamed(where, name, files, rows, dict(columns or {})))
    except PipelineError:
        raise
    except OSError as error:
        raise DataError(f"{data} cannot be read: {error.strerror or error}") from error
    if far is not None and not parts:
        raise DataError(f"{far} was read as {name} and holds no rows")
    if far is not None:
        return [Distant(how, elsewhere(file) or far, allow_outside, encoding) for how, file in parts]
    if parts:
        return [Streamed(how, file, allow_outside, encoding) for how, file in parts]
    return parted(read_manifest(where, layout, columns, allow_outside, encoding), rows)


def parted(manifest: Manifest, rows: int) -> list[Shard]:
    """A manifest that was read, in shards of so many rows."""
    starts = range(0, len(manifest.samples), rows)
    return [Held(replace(manifest, samples=manifest.samples[start : start + rows])) for start in starts]


def first_rows(shards: Sequence[Shard], modalities: Sequence[str] = ()) -> Manifest:
    """Rows by which encoders are chosen: of the first shard that holds some.

    Args:
        shards: the data set; at least one.
        modalities: that these rows are to have; others are added from further shards until they do.
    """
    found = shards[0].read()
    for shard in shards[1:]:
        if found.samples and set(modalities) <= set(found.modalities):
            break
        more = shard.read()
        if not found.samples or set(modalities) & (set(more.modalities) - set(found.modalities)):
            found = replace(more, samples=(*found.samples, *more.samples))
    return found


def _files(path: Path, layout: str | None) -> tuple[str, list[Path]]:
    """The layout of what can be read in parts, and its files; none of what cannot."""
    if not path.exists():
        return "", []
    name = layout or recognised(path).name
    files = webdataset.tars(path) if name == "webdataset" else table.tables(path) if name == "table" else []
    streamed = name == "webdataset" or all(one.name.lower().endswith(table.PARQUET) for one in files)
    return name, files if streamed else []


def _streamed(
    path: Path, name: str, files: Sequence[Path], rows: int, columns: Mapping[str, str]
) -> Iterator[tuple[Read, Path]]:
    """What reads each shard, and the file that it is in."""
    if name == "webdataset":
        how = webdataset.each_by_itself(path, files, columns)
        yield from ((how, file) for file in files)
        return
    for file, sizes in zip(files, each(parquet_groups, files, path), strict=True):
        how = functools.partial(table.read_groups, path, len(files) == 1, sum(sizes))
        for groups, first in _chunks(sizes, rows):
            yield functools.partial(how, groups, first, columns), file


def _chunks(sizes: Sequence[int], rows: int) -> Iterator[tuple[range, int]]:
    """Consecutive groups of about so many rows, and how many rows come before each."""
    start = first = held = 0
    for number, size in enumerate(itertools.chain(sizes, [0])):
        if held and (held + size > rows or number == len(sizes)):
            yield range(start, number), first
            start, first, held = number, first + held, 0
        held += size
