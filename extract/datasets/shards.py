"""Data sets in shards, of which each is read by itself: none of them need fit into memory as a whole."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cache import DataError, PipelineError
from extract.datasets import check_lists, read_manifest, recognised, table, webdataset
from extract.datasets.parquet import parquet_groups
from extract.manifest import Manifest, is_remote
from extract.reading import reading

Read = Callable[[], Manifest]


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
        how: gives the rows.
        allow_outside, encoding: as `read_manifest` takes them.
    """

    how: Read
    allow_outside: bool
    encoding: str | None

    def read(self) -> Manifest:
        """The rows. Raises DataError."""
        try:
            with reading(self.allow_outside, self.encoding) as said:
                manifest = self.how()
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
        data: as `read_manifest` takes it; workers on other machines must find it under the same absolute path.
        rows: about how many a shard is to have.
        layout, columns, allow_outside, encoding: as `read_manifest` takes them.

    Raises:
        DataError, UsageError: as `read_manifest`; what is wrong with rows comes to light when they are read.
    """
    where = data if is_remote(data) else Path(data).absolute()
    try:
        hows = list(_streamed(where, rows, layout, dict(columns or {}))) if isinstance(where, Path) else []
    except PipelineError:
        raise
    except OSError as error:
        raise DataError(f"{data} cannot be read: {error.strerror or error}") from error
    if hows:
        return [Streamed(how, allow_outside, encoding) for how in hows]
    return parted(read_manifest(where, layout, columns, allow_outside, encoding), rows)


def parted(manifest: Manifest, rows: int) -> list[Shard]:
    """A manifest that was read, in shards of so many rows."""
    starts = range(0, len(manifest.samples), rows)
    return [Held(replace(manifest, samples=manifest.samples[start : start + rows])) for start in starts]


def _streamed(path: Path, rows: int, layout: str | None, columns: Mapping[str, str]) -> Iterator[Read]:
    """Shards of what can be read in parts; none of what cannot."""
    if not path.exists():
        return
    name = layout or recognised(path).name
    if name == "webdataset":
        yield from webdataset.tars(path, columns)
    elif name == "table":
        tables = table.tables(path)
        if all(one.name.lower().endswith(table.PARQUET) for one in tables):
            for one in tables:
                for groups, first in _chunks(parquet_groups(one), rows):
                    yield functools.partial(table.read_groups, path, one, groups, first, columns)


def _chunks(sizes: Sequence[int], rows: int) -> Iterator[tuple[range, int]]:
    """Consecutive groups of about so many rows, and how many rows come before each."""
    start = first = held = 0
    for number, size in enumerate(itertools.chain(sizes, [0])):
        if held and (held + size > rows or number == len(sizes)):
            yield range(start, number), first
            start, first, held = number, first + held, 0
        held += size
