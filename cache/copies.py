"""The read cache: local copies of files of stores that lie elsewhere, and notes of what was found damaged from here.

A copy is called by a digest of the file's header, which holds the size and the checksum of the rest: equal names are
equal content, in whatever store. A copy gets its name once every byte was checked.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
import time
import zlib
from pathlib import Path

from cache.errors import StoreDamaged, StoreError
from cache.remote import RemotePath

FOLDER_VARIABLE = "ENCODE_ONCE_CACHE"
KEPT_SECONDS = 30 * 86400.0
"""Copies that were not opened for so long are removed when another one is fetched."""

_COPY, _MARK, _TEMPORARY = ".h5", ".damaged", ".tmp-"
_OURS = re.compile(r"[0-9a-f]{32}\.h5|\.tmp-[0-9a-f]{16}")
_known: dict[RemotePath, Path] = {}
"""Copies of segments that this process has opened: a segment never changes, so none is asked for twice."""


def cache_folder() -> Path:
    """Where copies lie: ENCODE_ONCE_CACHE, else `encode-once` in the user's cache folder."""
    named = os.environ.get(FOLDER_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(base) / "encode-once"


def known_copy(path: RemotePath) -> Path | None:
    """The copy that this process has opened before, if it is still there."""
    copy = _known.get(path)
    return copy if copy is not None and copy.is_file() else None


def keep_in_mind(path: RemotePath, copy: Path) -> None:
    """Says that `copy` is that of a file which never changes."""
    _known[path] = copy


def forget(path: RemotePath) -> None:
    """Removes the copy that this process has opened, for its file is gone. Whoever has mapped it keeps it."""
    copy = _known.pop(path, None)
    if copy is not None:
        copy.unlink(missing_ok=True)


def copy_of(path: RemotePath, raw: bytes, size: int, crc32: int, check: bool = False) -> Path | None:
    """The local copy of a file, fetched if there is none.

    Args:
        path: the file.
        raw: the file's first bytes; size and checksum are in them.
        size: of the whole file.
        crc32: of what follows the first bytes.
        check: read every byte of a copy that is there; one that is damaged is fetched again.

    Returns:
        None if the file was replaced or removed in this moment, or the folder of copies was: it is to be asked again.

    Raises:
        StoreDamaged: it is not what was written.
        StoreError: it cannot be fetched, or the folder of copies cannot be written.
    """
    copy = cache_folder() / f"{_name(raw)}{_COPY}"
    try:
        if _is_whole(copy, raw, size, crc32 if check else None):
            os.utime(copy)
            return copy
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StoreError(f"{copy} cannot be read: {error.strerror}; {_elsewhere()}") from error
    return _fetch(path, copy, raw, size, crc32)


def _fetch(path: RemotePath, copy: Path, raw: bytes, size: int, crc32: int) -> Path | None:
    temporary = copy.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()  # a full or foreign folder is told apart from a server's refusal
        _tidy(copy.parent)
        path.download(temporary)
        if not _is_whole(temporary, raw, size, crc32):
            if path.read_bytes(0, len(raw)) != raw:
                return None
            mark(path)
            raise StoreDamaged(f"{path} is damaged (its checksum does not fit); run extract again to replace it")
        os.replace(temporary, copy)
        return copy
    except FileNotFoundError:
        return None
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{copy.parent} cannot keep local copies: {error.strerror}; {_elsewhere()}") from error
    finally:
        with contextlib.suppress(OSError):  # gone after os.replace; the first error is the one to show
            temporary.unlink()


def _elsewhere() -> str:
    return f"make room, or name another folder by {FOLDER_VARIABLE}"


def _is_whole(file: Path, raw: bytes, size: int, crc32: int | None) -> bool:
    with file.open("rb") as opened:
        if os.fstat(opened.fileno()).st_size != size or opened.read(len(raw)) != raw:
            return False
        if crc32 is None:
            return True
        crc = 0
        while chunk := opened.read(1 << 22):
            crc = zlib.crc32(chunk, crc)
        return crc == crc32


@functools.cache
def _tidy(folder: Path) -> None:
    """Removes what was not used for long, once a process. Whoever has mapped such a file keeps it."""
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process tidies, too
            if _OURS.fullmatch(file.name) and time.time() - file.stat().st_mtime > KEPT_SECONDS:
                file.unlink()


def mark(path: Path | RemotePath) -> None:
    """Notes that a file was found damaged: an extraction from here reads all of it and sets it aside."""
    try:
        note = _note(path)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
    except (OSError, RuntimeError) as error:  # the latter: there is no home
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"no note of damage can be written: {reason}; {_elsewhere()}") from error


def is_marked(path: Path | RemotePath) -> bool:
    """Whether it was found damaged from here."""
    return _noted(path) is not None


def unmark(path: Path | RemotePath) -> None:
    """Takes the note back, if there is one."""
    note = _noted(path)
    if note is not None:
        note.unlink(missing_ok=True)


def _noted(path: Path | RemotePath) -> Path | None:
    """The note, if there is one: where none can be looked for, none was written."""
    try:
        note = _note(path)
    except RuntimeError:
        return None
    return note if os.path.exists(note) else None


def _note(path: Path | RemotePath) -> Path:
    place = path.address if isinstance(path, RemotePath) else os.path.realpath(path)
    return cache_folder() / f"{_name(os.fsencode(place))}{_MARK}"


def _name(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()
