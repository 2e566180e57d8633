"""Stores that lie elsewhere, such as in a bucket: what the store asks of a path, answered through fsspec.

An object store has no folders, no rename and no file that is half there: an object appears under its name once it was
sent as a whole. So a file is written once, under its final name; segments and plans have names of their own and never
change; the view that names them is written last, and publishes them.

fsspec and the packages of the file systems are imported when a place is first asked for something.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import functools
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from cache.errors import PipelineError, StoreError, UsageError

_LOCAL = ("file", "local")
_WITHOUT_FOLDERS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "memory", "http", "https"}
"""Where a folder is but the common beginning of names; elsewhere it must be made."""
_TIMES = ("LastModified", "last_modified", "mtime", "modified", "updated", "created")
_AT_ONCE = 16
_CHUNK = 1 << 26
_WAY_OUT = "check the address, the credentials, the endpoint and the network (docs/objects.md tells how they are given)"
_SQUEEZED = re.compile("(s3a?|gs|gcs|az|abfss?|memory):/[^/]")

One = TypeVar("One")
Other = TypeVar("Other")


@dataclass(frozen=True)
class Found:
    """What is known of a file elsewhere, under the names of `os.stat`. `st_mtime` is NaN where it is not told."""

    folder: bool
    st_size: int
    st_mtime: float
    st_ino: int  # of what its server calls its version: times are often told to a second only

    @property
    def st_mtime_ns(self) -> int:
        """The time in nanoseconds; 0 where it is not told."""
        return int(self.st_mtime * 1e9) if self.st_mtime == self.st_mtime else 0


@dataclass(frozen=True, order=True)
class RemotePath:
    """A name in a file system of fsspec, with those methods of `pathlib.Path` that the store uses.

    It holds no connection: it is cheap to make, and pickles.

    Attributes:
        address: such as `s3://bucket/prefix/name`.
        found: what a listing told of it, which saves a request; None asks.
        afresh: read past the local copies, as `cache verify` must.

    Every method raises StoreError where the file system cannot be asked, and UsageError where its package is missing.
    """

    address: str
    found: Found | None = field(default=None, compare=False)
    afresh: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return self.address

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.address}/{name}", afresh=self.afresh)

    @property
    def scheme(self) -> str:
        """What stands before `://`."""
        return self.address.partition("://")[0]

    @property
    def has_folders(self) -> bool:
        """Whether a folder is more than the common beginning of names, and stays when it is empty."""
        return self.scheme == "memory" or self.scheme not in _WITHOUT_FOLDERS

    @property
    def name(self) -> str:
        """What stands behind the last slash."""
        return self.address.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return Path(self.name).stem

    @property
    def suffix(self) -> str:
        """The name's last dot and what follows; empty where there is none."""
        return Path(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """What stands before the last slash."""
        return RemotePath(self.address.rpartition("/")[0], afresh=self.afresh)

    def with_name(self, name: str) -> RemotePath:
        """Another name beside this one."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> RemotePath:
        """The same name with another suffix."""
        return self.with_name(self.stem + suffix)

    def resolve(self) -> RemotePath:
        """The one address of several that mean the same."""
        with _asking(self, "resolved") as system:
            return RemotePath(str(system.unstrip_protocol(system._strip_protocol(self.address))).rstrip("/"))

    def stat(self) -> Found:
        """What is known of it. Raises FileNotFoundError where there is no such file."""
        if self.found is not None:
            return self.found
        with _asking(self, "read") as system:
            return _found(system.info(self.address))

    def exists(self) -> bool:
        """Whether there is such a file or folder."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_file(self) -> bool:
        """Whether there is such a file."""
        return self.exists() and not self.stat().folder

    def is_dir(self) -> bool:
        """Whether there is such a folder: names that begin so, or an empty one where there are real folders."""
        if self.found is not None:
            return self.found.folder
        try:
            told, children = self._listed()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return bool(children) or not told

    def iterdir(self) -> Iterator[RemotePath]:
        """What lies in this folder now. Raises FileNotFoundError where there is no such folder."""
        return iter(self._listed()[1])

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """What lies in this folder under names of a pattern; nothing where there is no such folder."""
        with contextlib.suppress(FileNotFoundError):
            return (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))
        return iter(())

    def _listed(self) -> tuple[list[Any], list[RemotePath]]:
        """What the file system tells, which of a file is the file itself, and the paths in this folder."""
        with _asking(self, "listed") as system:
            told = system.ls(self.address, detail=True)
            start = system._strip_protocol(self.address).rstrip("/") + "/"
        paths = []
        for one in told:
            name = one["name"].rstrip("/")
            if name.startswith(start) and "/" not in name[len(start) :]:
                paths.append(replace(self / name[len(start) :], found=_found(one)))
        return told, paths

    def read_bytes(self, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes from `start` to before `stop`, in one request. Raises FileNotFoundError where there is no such file."""
        try:
            with _asking(self, "read") as system:
                return bytes(system.cat_file(self.address, start=start, end=stop))
        except StoreError:
            if start == 0 and self.stat().st_size == 0:  # of an empty object not even the first byte may be asked for
                return b""
            raise

    def read_at(self, offset: int, length: int) -> tuple[bytes, int]:
        """Bytes from `offset` on, at most `length` of them, and the size of the file."""
        size = self.stat().st_size
        stop = min(offset + length, size)
        return (self.read_bytes(offset, stop) if offset < stop else b""), size

    def chunks(self, start: int) -> Iterator[bytes]:
        """All bytes from `start` on, piece by piece."""
        size = self.stat().st_size
        for place in range(start, size, _CHUNK):
            yield self.read_bytes(place, min(place + _CHUNK, size))

    def read_text(self, encoding: str = "utf-8") -> str:
        """The whole file as text."""
        return self.read_bytes().decode(encoding)

    def write(self, content: bytes, first: bool = False) -> None:
        """Writes the file as a whole: readers see the old one or the new one.

        Raises:
            FileExistsError: `first` was asked for, and another was.
        """
        try:
            with _asking(self, "written") as system:
                if not first:
                    system.pipe_file(self.address, content)
                    return
                try:
                    system.pipe_file(self.address, content, mode="create")
                except (NotImplementedError, ValueError, OSError) as error:
                    if isinstance(error, OSError) and error.errno != errno.ENOSYS:
                        raise
                    if self.exists():  # a server that knows no exclusive creation: then the last one wins
                        raise FileExistsError(errno.EEXIST, "it is there", self.address) from error
                    system.pipe_file(self.address, content)
        except FileNotFoundError as error:
            raise StoreError(
                f"{self} cannot be written: there is no such bucket or folder; make it, or correct the address"
            ) from error
        except StoreError as error:  # servers tell in several ways that another was first
            if first and self.exists():
                raise FileExistsError(errno.EEXIST, "it is there", self.address) from error
            raise

    def download(self, target: Path) -> None:
        """Copies the file to a local path. Raises FileNotFoundError where there is no such file."""
        with _asking(self, "read") as system:
            system.get_file(self.address, str(target))

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Makes a folder where there is such a thing. No bucket is ever made: its name may be misspelt."""
        if self.scheme not in _WITHOUT_FOLDERS:
            with _asking(self, "made") as system:
                system.makedirs(self.address, exist_ok=exist_ok)

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes a file; of an object store it cannot be told whether it was there."""
        try:
            with _asking(self, "removed") as system:
                system.rm_file(self.address)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmdir(self) -> None:
        """Removes an empty folder where there is such a thing; harmless where there is none. A full one stays."""
        if not self.has_folders:
            return
        try:
            with contextlib.suppress(FileNotFoundError), _asking(self, "removed") as system:
                system.rmdir(self.address)
        except StoreError:
            if not any(self.iterdir()):
                raise

    def rename(self, target: RemotePath) -> RemotePath:
        """Copies the file to another name and removes this one. Stopped in between, it has two names."""
        with _asking(self, "renamed") as system:
            system.cp_file(self.address, target.address)
            system.rm_file(self.address)
        return target


def place(name: str | Path) -> Path:
    """Where a store lies: a folder's path, or for an address such as `s3://bucket/prefix` a RemotePath.

    A RemotePath passes as a Path here, for it does all that the store asks of one. Nothing is connected to.

    Raises:
        UsageError: it is no address of a place.
    """
    if not isinstance(name, str):
        if _SQUEEZED.match(str(name)) and isinstance(name, Path):
            raise UsageError(f"{name} was an address before pathlib made a path of it; give it as text")
        return name
    scheme, sign, rest = name.partition("://")
    if not sign:
        return Path(name)
    if scheme in _LOCAL:
        return Path(rest)  # with all that a local folder can do
    rest = rest.rstrip("/")
    if not re.fullmatch("[A-Za-z][A-Za-z0-9+.-]*", scheme) or not rest:
        raise UsageError(f"{name} is no address; expected such as s3://bucket/prefix")
    if re.match("[^/@]*:[^/@]*@", rest):
        raise UsageError(
            f"the address {scheme}://...@{rest.partition('@')[2]} holds a password, and addresses are written into "
            "runs; give it by the environment or by fsspec's configuration (docs/objects.md)"
        )
    return cast(Path, RemotePath(f"{scheme}://{rest}"))


def elsewhere(path: Path) -> RemotePath | None:
    """The same path as what it is, if it is not one of this machine's own."""
    what = cast(object, path)
    return what if isinstance(what, RemotePath) else None


def afresh(path: Path) -> Path:
    """The same path, read past the local copies if it lies elsewhere."""
    remote = elsewhere(path)
    return path if remote is None else cast(Path, replace(remote, afresh=True))


def sized(path: Path) -> Path:
    """The same path, of which the size is known from now on if it lies elsewhere; for files that never change.

    Raises:
        FileNotFoundError: there is no such file.
    """
    remote = elsewhere(path)
    return path if remote is None else cast(Path, replace(remote, found=remote.stat()))


def each(work: Callable[[One], Other], things: Iterable[One], at: Path) -> list[Other]:
    """`work` of every thing in order: several at once where each waits for a server.

    Args:
        at: the folder that it is about.
    """
    things = list(things)
    if len(things) < 2 or elsewhere(at) is None or not _system(*_server(at)).async_impl:
        return [work(thing) for thing in things]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(work, things))


@contextlib.contextmanager
def _asking(path: RemotePath, done: str) -> Iterator[Any]:
    """The file system of a path, with its listings forgotten; what it raises becomes an error that tells a way out."""
    try:
        system = _system(*_server(path))
        system.invalidate_cache()  # another process may have written since
        yield system
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(path)) from error
    except (FileExistsError, NotADirectoryError, PipelineError):
        raise
    except Exception as error:  # of whatever kind: each file system has its own
        what = "it is not allowed" if isinstance(error, PermissionError) else type(error).__name__
        raise StoreError(f"{path} cannot be {done}: {what} ({str(error) or 'no more is told'}); {_WAY_OUT}") from error


def _server(path: Path | RemotePath) -> tuple[str, int]:
    scheme, _, rest = str(path).partition("://")
    return f"{scheme}://{rest.partition('/')[0]}", os.getpid()


@functools.lru_cache(maxsize=64)
def _system(server: str, _process: int) -> Any:
    """The file system of a server or bucket. All threads share it, for each of fsspec's own would connect anew."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise UsageError(f"{server} needs fsspec: pip install fsspec") from error
    try:
        return url_to_fs(f"{server}/store")[0]
    except ImportError as error:
        raise UsageError(
            f"{server} needs a package that is not installed ({error}): pip install -r requirements-s3.txt for s3://, "
            "else the package that fsspec names for it"
        ) from error
    except ValueError as error:
        raise UsageError(f"{server} is of no kind of file system that fsspec knows ({error})") from error


def _found(told: dict[str, Any]) -> Found:
    time = next((told[name] for name in _TIMES if isinstance(told.get(name), int | float | datetime)), float("nan"))
    if isinstance(time, datetime):
        time = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    version = zlib.crc32(str(told.get("ETag") or told.get("etag") or "").strip('"').encode())
    return Found(told["type"] == "directory", int(told.get("size") or 0), float(time), version)
