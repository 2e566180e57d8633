"""Local copies of the files of data sets that lie elsewhere: each is fetched once a machine, when it is first wanted.

    CACHE/data/DIGEST/train-000.tar

The digest is of address, size and version, so that a file that was replaced is another copy. A copy has the name of its
file, for readers make ids and splits of it. Whoever fetches it holds a lock, and the others wait; it gets its name once
all of it is on the disk. The time of the folder says when it was last used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from cache import TEMPORARY_PREFIX, DataError, PipelineError, RemotePath, StoreError, cache_folder

MOST_BYTES = 20 * 2**30
"""Of all copies: where another one is fetched, those go that were not used for longest."""
BUSY_SECONDS = 600.0
"""What was used so lately stays, however much there is: it may be in use, and would only be fetched again."""
KEPT_SECONDS = 30 * 86400.0
"""What was not used for so long goes, however little there is."""
TOUCH_SECONDS = 60.0
TRIES = 5
_FOLDER = "data"
_OURS = re.compile("[0-9a-f]{32}")

One = TypeVar("One")


def with_copy(path: RemotePath, work: Callable[[Path], One]) -> One:
    """What `work` makes of the local copy; where that goes meanwhile, it is fetched anew and asked again.

    Args:
        path: of the file, as a listing told of it.
        work: may raise anything; FileNotFoundError is taken for a copy that is gone.

    Raises:
        DataError: the file was removed or replaced since it was listed.
        StoreError: it cannot be fetched, or no copy can be kept here.
    """
    for _ in range(TRIES):
        copy = fetched(path)
        try:
            return work(copy)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, PipelineError):
            if _is_whole(copy, path):
                raise
    raise StoreError(f"{path} is fetched again and again, for its local copy is removed while it is read; {_way_out()}")


def fetched(path: RemotePath) -> Path:
    """The local copy of a file, fetched if there is none. Raises as `with_copy`."""
    copy = cache_folder() / _FOLDER / _digest(path) / path.name
    for _ in range(TRIES):
        try:
            if not _is_whole(copy, path):
                _fetch(path, copy)
            _touch(copy.parent)
            return copy
        except FileNotFoundError:  # the file is gone, or the folder of copies was removed in this moment
            _check(path)
        except PipelineError:
            raise
        except (OSError, NotImplementedError) as error:  # the latter where a file system knows no locks
            raise StoreError(f"{copy.parent} cannot keep a local copy of {path}: {error}; {_way_out()}") from error
    raise StoreError(f"{copy.parent} is removed again and again while {path} is fetched; {_way_out()}")


def _fetch(path: RemotePath, copy: Path) -> None:
    folder = copy.parent
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if _is_whole(copy, path):  # by another process, for which this one has waited
            return
        for left in folder.glob(f"{TEMPORARY_PREFIX}*"):  # of a process that was killed
            left.unlink(missing_ok=True)
        _make_room(folder.parent, path.stat().st_size)
        temporary = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        temporary.touch()  # a full or foreign disk is told apart from a server's refusal
        try:
            path.download(temporary)
            _check(path)
            if not _is_whole(temporary, path):
                raise StoreError(f"{path} did not come as a whole; run the same command again")
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # zeros that a crash leaves would look like the end of a tar
            os.replace(temporary, copy)
        finally:
            temporary.unlink(missing_ok=True)


def _check(path: RemotePath) -> None:
    """Raises DataError where the file is not the one that was listed."""
    try:
        same = _version(RemotePath(path.address)) == _version(path)
    except FileNotFoundError:
        same = False
    if not same:
        raise DataError(f"{path} was replaced or removed since the data set was looked at; run the same command again")


def _version(path: RemotePath) -> tuple[int, int]:
    """What becomes another where a file is replaced. Raises DataError where the server tells nothing of the kind."""
    found = path.stat()
    version = found.st_ino or found.st_mtime_ns  # times are told to the second by some requests, and finer by others
    if not version:
        raise DataError(
            f"of {path} neither a version nor a time is told, so that a local copy cannot be known for an old one; "
            "copy the data to where it is, or to a disk"
        )
    return found.st_size, version


def _digest(path: RemotePath) -> str:
    return hashlib.blake2b(repr((path.address, *_version(path))).encode(), digest_size=16).hexdigest()


def _is_whole(copy: Path, path: RemotePath) -> bool:
    try:
        return copy.stat().st_size == path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return False


def _touch(folder: Path) -> None:
    with contextlib.suppress(PermissionError):  # of someone else, who lets others read
        if time.time() - folder.stat().st_mtime > TOUCH_SECONDS:
            os.utime(folder)


def _make_room(root: Path, needed: int) -> None:
    """Removes copies that were not used for longest, where there are too many, and those that nobody wants."""
    found = []
    for folder in root.iterdir():
        with contextlib.suppress(OSError):  # another process makes room, too
            if _OURS.fullmatch(folder.name):
                files = [file.stat() for file in folder.iterdir()]
                used = max(folder.stat().st_mtime, *(one.st_mtime for one in files), 0.0)
                found.append((used, sum(one.st_size for one in files), folder))
    held = needed + sum(size for _, size, _ in found)
    for used, size, folder in sorted(found):
        idle = time.time() - used
        if idle < BUSY_SECONDS or (held <= MOST_BYTES and idle < KEPT_SECONDS):
            return
        shutil.rmtree(folder, ignore_errors=True)
        held -= size


def _way_out() -> str:
    return "make room, or name another folder by ENCODE_ONCE_CACHE"
