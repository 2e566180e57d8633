"""The samples of a data set, checked as a whole before anything is encoded."""

from __future__ import annotations

import errno
import functools
import io
import os
import stat
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from cache import DataError, canonical_json, item_key, listing
from extract.reading import now


class Piece(ABC):
    """A file within a larger one, such as a picture in a tar, which is read when it is wanted. Compares and pickles."""

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called there: its suffix says what it is."""

    @abstractmethod
    def read(self) -> bytes:
        """Its bytes. Raises OSError."""


REMOTE = ("hub:", "hub-stream:")
"""What names of data sets that are no paths begin with; see `extract.datasets.hub`."""

File = Path | Piece | bytes
"""The path of a file, or where else it lies, or what would be in it."""


@dataclass(frozen=True, slots=True)
class Aligned:
    """An array with a row for each word, and the words themselves, which stand in the text with a space between."""

    array: File
    words: tuple[str, ...]


Content = str | File | Aligned
"""A text or a row of numbers and categories as JSON; a file; an aligned array."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a data set.

    `inputs` holds the modalities that it has: a text; a file's bytes, or its path, which may yet
    turn out to be missing; such a file with the words that its rows
    belong to. `label`, `split` and `group` are empty where the data gives none.
    `file` and `line` tell where it stands, for messages; `file` is empty where there is only one, and says all
    where `line` is 0.
    """

    id: str
    inputs: Mapping[str, Content]
    label: str = ""
    split: str = ""
    group: str = ""
    line: int = 0
    file: str = ""

    @property
    def where(self) -> str:
        """Such as `train.csv line 3`."""
        return f"{self.file} line {self.line}".lstrip() if self.line else self.file or repr(self.id)


@dataclass(frozen=True)
class Manifest:
    """Rows in the order of the data, and how they were read.

    `declared` names modalities that the data has even where no row does.
    """

    path: Path
    layout: str
    samples: tuple[Sample, ...]
    notes: Mapping[str, Any] = field(default_factory=dict)
    declared: tuple[str, ...] = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that are declared or that at least one sample has: texts, images, others."""
        held = {*self.declared, *(modality for sample in self.samples for modality in sample.inputs)}
        order = {"text": 0, "image": 1}
        return tuple(sorted(held, key=lambda name: (order.get(name.partition("_")[0], 2), name)))

    def unlabelled(self) -> Manifest:
        """The rows without a label."""
        return replace(self, samples=tuple(s for s in self.samples if not s.label))


def checked_manifest(
    path: Path,
    layout: str,
    samples: Sequence[Sample],
    problems: Iterable[str] = (),
    notes: Mapping[str, Any] | None = None,
) -> Manifest:
    """Builds a manifest, or reports everything that is wrong with the rows at once.

    Args:
        path: the data set, for messages.
        layout: how it was read.
        samples: all rows that could be read.
        problems: one phrase with its line number for each row that could not.
        notes: what else is worth recording of how it was read, such as the columns used.

    Raises:
        DataError: unreadable rows, no rows, empty ids or duplicate ids.
    """
    found = list(problems)
    places: dict[str, list[str]] = {}
    for sample in samples:
        places.setdefault(sample.id, []).append(sample.where)
        if not sample.id:
            found.append(f"{sample.where}: the id is empty")
        if not _storable(sample.id + sample.label + sample.split):
            found.append(f"{sample.where}: id, label or split holds a NUL or half a surrogate pair")
        if any(sign in part for part in (sample.id, sample.label, sample.split) for sign in "\r\n"):
            found.append(f"{sample.where}: id, label or split holds a line break; is a quote left open before it?")
    for name, where in places.items():
        if len(where) > 1 and name:
            found.append(f"id {name!r} stands {len(where)} times ({listing(where, 5)})")
    if found:
        shown = "\n  ".join(found[:20])
        more = f"\n  and {len(found) - 20} more" if len(found) > 20 else ""
        raise DataError(f"{path} has {len(found)} bad rows; correct or remove them:\n  {shown}{more}")
    if not samples:
        raise DataError(f"{path} was read as {layout} and holds no rows")
    return Manifest(path, layout, tuple(samples), dict(notes or {}))


def default_name(data: str | Path) -> str:
    """What a data set is called unless the user names it: its folder's name, or its file's without the suffix."""
    if is_remote(data):
        name, _, config = str(data).partition(":")[2].partition("#")[0].rpartition("/")[2].partition(":")
        return f"{name}-{config}" if config else name
    if at_address(data):
        return str(data).rstrip("/").rpartition("/")[2].removesuffix(".parquet").removesuffix(".tar")
    path = Path(data).resolve()
    return Path(path.name.removesuffix(".gz")).stem if path.is_file() else path.name


def is_remote(data: str | Path) -> bool:
    """Whether it names a data set on a hub, and no path."""
    return str(data).startswith(REMOTE)


def at_address(data: str | Path) -> bool:
    """Whether it is an address, such as `s3://bucket/posts`, and no path."""
    return "://" in str(data)


def absolute(data: str | Path) -> str:
    """The same from any working folder."""
    return str(data) if is_remote(data) or at_address(data) else str(Path(data).absolute())


def _storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= sign <= "\udfff" for sign in text)


def inside(root: Path, name: str) -> Path | None:
    """The path `name` under `root`, or None where it leads out of it and that is not allowed, or is none."""
    try:
        if b"\0" in os.fsencode(name):
            return None
    except UnicodeEncodeError:  # half a surrogate pair, which is no file's name
        return None
    path = root / name
    if now().outside:
        return path
    # realpath, for Path.resolve raises on a loop of links; opening it will tell what is wrong.
    within = os.path.realpath(path)
    base = _real(os.getcwd(), root)
    return path if within == base or within.startswith(base.rstrip(os.sep) + os.sep) else None


@functools.lru_cache(maxsize=16)
def _real(working_folder: str, root: Path) -> str:
    """Asked for once a row, and the same for all."""
    return os.path.realpath(os.path.join(working_folder, root))


def label_counts(manifest: Manifest) -> dict[str, int]:
    """How many rows each label has, most frequent first; rows without one are left out."""
    counts = Counter(sample.label for sample in manifest.samples if sample.label)
    return dict(counts.most_common())


def on_disk(content: Content | None) -> bool:
    """Whether a file has to be read to have it."""
    return isinstance(content.array if isinstance(content, Aligned) else content, Path | Piece)


def file_name(content: Content) -> str:
    """The path of its file, or its name in a larger one, for messages; empty for what lies in no file."""
    return str(content) if isinstance(content, Path) else content.name if isinstance(content, Piece) else ""


def bytes_of(file: File) -> bytes:
    """What is in a file. Raises OSError."""
    if isinstance(file, Path):
        with _plain(file) as opened_file:
            return opened_file.read()
    return file if isinstance(file, bytes) else file.read()


def _plain(path: Path) -> IO[bytes]:
    """The file, opened. Raises OSError for a pipe, which would be waited for, and a device, which may have no end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no regular file")
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def opened(file: File) -> IO[bytes]:
    """A file to read the start of. Raises OSError."""
    return _plain(file) if isinstance(file, Path) else io.BytesIO(bytes_of(file))


def read_content(content: Content) -> str | bytes | Aligned:
    """The same with what is in its file in the place of the path. Raises OSError."""
    if isinstance(content, Aligned):
        return Aligned(bytes_of(content.array), content.words)
    return content if isinstance(content, str) else bytes_of(content)


def content_key(content: Content) -> bytes:
    """The item key: a digest of all that makes the vectors, never of a path. Raises OSError where a file is read."""
    found = read_content(content)
    if isinstance(found, Aligned):
        return item_key(canonical_json([content_key(found.array).hex(), found.words]))
    return item_key(found)
