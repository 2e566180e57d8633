"""Data sets at an address, such as `s3://bucket/posts`: a folder of tars or of Parquet files, or one of these.

The names are listed once. A shard fetches the file that it needs (`extract.datasets.fetched`), and the local reader
reads the copy; whatever is told of it names the address.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from cache import DataError, RemotePath, StoreError, UsageError, listing
from extract.datasets import table, webdataset
from extract.datasets.fetched import with_copy
from extract.downloads.address import Download
from extract.manifest import Aligned, Content, File, Manifest, Piece
from extract.reading import reading

READ = "a folder of tars (*.tar) or of Parquet files (*.parquet), or one of these"


def files_at(where: RemotePath, layout: str | None) -> tuple[str, list[Path]]:
    """The layout of a data set at an address, and its files in their order, as in a folder on a disk.

    Args:
        where: the address.
        layout: as `read_manifest` takes it.

    Raises:
        DataError: nothing is there, or what is read only from a disk.
        UsageError: a layout that is read only from a disk.
        StoreError: it cannot be listed.
    """
    if layout not in (None, "table", "webdataset"):
        raise UsageError(f"--layout {layout}: {where} is an address, of which only table and webdataset are read")
    try:
        what = where.stat()
        children = list(where.iterdir()) if what.folder else [replace(where, found=what)]
    except FileNotFoundError as error:
        raise DataError(f"there is no data at {where}; expected {READ}") from error
    found = sorted(cast("list[Path]", children))
    name = layout or _recognised(where, found)
    if name == "webdataset":
        files = webdataset.tars_of(cast(Path, where), found)
    else:
        files = table.tables_of(cast(Path, where), found) if what.folder else found
    others = [one.name for one in files if name == "table" and not one.name.lower().endswith(table.PARQUET)]
    others += [one.name for one in files if one.is_dir()]
    if others:
        raise _not_read(where, others)
    return name, files


def _recognised(where: RemotePath, found: Sequence[Path]) -> str:
    if any(table.is_table(one) for one in found):
        return "table"
    if any(one.name.lower().endswith((webdataset.TAR, *webdataset.PACKED)) for one in found):
        return "webdataset"
    raise _not_read(where, [one.name for one in found] or ["nothing"])


def _not_read(where: RemotePath, names: Sequence[str]) -> DataError:
    return DataError(
        f"{where} holds {listing(names, 8)}, and of data at an address {READ} is read; write it so, or copy it to a "
        "disk and give that folder"
    )


@dataclass(frozen=True)
class Distant:
    """Rows of a file that lies elsewhere, read when they are wanted.

    Args:
        how: gives the rows by a local copy of the file.
        file: as a listing told of it.
        allow_outside, encoding: as `read_manifest` takes them.
    """

    how: Callable[[Path], Manifest]
    file: RemotePath
    allow_outside: bool
    encoding: str | None

    def read(self) -> Manifest:
        """The rows.

        Raises:
            DataError: what is wrong with them, or the file was replaced.
            StoreError: it cannot be fetched.
        """
        return with_copy(self.file, self._read)

    def _read(self, copy: Path) -> Manifest:
        try:
            # Paths in cells lead nowhere from here, and are refused where they are wanted.
            with reading(True, self.encoding) as said:
                manifest = self.how(copy)
            said.outside = self.allow_outside
        except DataError as error:
            raise DataError(_told(str(error), copy, self.file)) from error
        samples = [
            replace(one, inputs={name: self._far(name, content, copy) for name, content in one.inputs.items()})
            for one in manifest.samples
        ]
        return replace(manifest, samples=tuple(samples), notes={**manifest.notes, **said.notes()})

    def _far(self, modality: str, content: Content, copy: Path) -> Content:
        """The same where it does not rely on a copy that may go, nor on files beside it."""
        if isinstance(content, Aligned):
            return Aligned(cast(File, self._far(modality, content.array, copy)), content.words)
        if isinstance(content, Path):
            return Named(str(content).removeprefix(f"{copy.parent}/"), modality, str(self.file))
        if isinstance(content, Download):
            return Named(content.url, modality, str(self.file))
        return Copied(content, self.file) if isinstance(content, Piece) else content


@dataclass(frozen=True, slots=True)
class Copied(Piece):
    """A piece of a local copy, which is fetched again where it is gone: it is never taken for missing."""

    piece: Piece
    file: RemotePath

    @property
    def name(self) -> str:
        """What it is called in the larger file."""
        return self.piece.name

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            OSError: the copy cannot be read, or is not what was fetched.
            DataError: there is no copy, and none can be had; no OSError, which would count as a broken sample.
        """
        try:
            return with_copy(self.file, functools.partial(_bytes, self.piece, self.file))
        except StoreError as error:
            raise DataError(str(error)) from error


def _bytes(piece: Piece, file: RemotePath, copy: Path) -> bytes:
    try:
        return piece.read()
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        why = _told(error.strerror or str(error), copy, file)
        raise OSError(error.errno or errno.EIO, why, str(file)) from error


@dataclass(frozen=True, slots=True)
class Named(Piece):
    """A file that lies beside its table or on the web, and not in it."""

    called: str
    modality: str
    file: str

    @property
    def name(self) -> str:
        """Its path or address."""
        return self.called

    def read(self) -> bytes:
        """Raises DataError."""
        raise DataError(
            f"{self.file} names the {self.modality} {self.called[:80]!r}, and of data at an address only what lies in "
            "the Parquet files or tars themselves is read: write it into them, leave it out by --columns "
            f"{self.modality}= or --modalities, or copy the data to a disk"
        )


def _told(message: str, copy: Path, file: RemotePath) -> str:
    """A message that names the file, and not its copy."""
    return message.replace(str(copy), str(file)).replace(str(copy.parent), str(file.parent))
