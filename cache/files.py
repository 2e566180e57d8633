"""How files of the store are made durable, and how damage is seen before HDF5 meets it.

A sealed file is an ordinary HDF5 file whose first 4096 bytes, which HDF5 leaves to its user
(the user block), hold a header: a digest, then JSON with the file's kind, schema, size and
CRC-32, and where its arrays lie. Readers check the header by plain input and output. libhdf5
itself may crash or hang on a flipped byte; it is only ever given bytes that were checked.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import mmap
import os
import secrets
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache import copies
from cache.errors import PipelineError, StoreDamaged, StoreError
from cache.key import canonical_json
from cache.remote import RemotePath, elsewhere
from cache.schema import READABLE, SCHEMA

if TYPE_CHECKING:
    import h5py

TEMPORARY_PREFIX = ".tmp-"
HEADER_BYTES = 4096
_MAGIC = b"encode-once\0"
_DIGEST_BYTES = 16
_AGAIN = "run extract again to replace it"


def fsync_folder(folder: Path) -> None:
    """Makes a rename inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, option: str = "--out") -> None:
    """Makes a folder and those above it; harmless when it is there.

    Raises:
        StoreError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"cannot make {folder}: {error.strerror}; choose another {option}") from error


@contextlib.contextmanager
def replacing(target: Path, first: bool = False) -> Iterator[Path]:
    """Yields a new path beside `target`; on success what was written there durably takes target's place.

    Readers see the old file or the whole new one, whatever happens in between. Of a target that lies elsewhere the
    new path is a local one, which is sent as a whole.

    Args:
        target: the file to write.
        first: do not replace a file; of several processes at once only one succeeds.

    Raises:
        FileExistsError: `first` was asked for, and another was.
        StoreError: the folder is gone, read-only or full.
    """
    if (remote := elsewhere(target)) is not None:
        with tempfile.TemporaryDirectory(prefix="encode-once-") as folder:
            temporary = Path(folder) / target.name
            yield temporary
            remote.write(temporary.read_bytes(), first)
        return
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{target.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        _name(temporary, target, first)
        fsync_folder(target.parent)
    except PipelineError:
        raise
    except OSError as error:
        if first and isinstance(error, FileExistsError):
            raise
        if isinstance(error, FileNotFoundError) and not target.parent.is_dir():
            raise StoreError(f"cannot write {target}: there is no folder {target.parent}; make it first") from error
        raise StoreError(
            f"cannot write {target}: {error.strerror or error}. What was written before is good; "
            "make room or give the folder back its rights, then run the same command again"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # gone after os.replace; the first error is the one to show
            temporary.unlink()


def remove(path: Path) -> None:
    """Removes a file or a folder; harmless when it is gone. A folder that is not empty stays.

    Raises:
        StoreError: it cannot be removed.
    """
    try:
        if (remote := elsewhere(path)) is not None:
            _remove_elsewhere(remote)
        elif path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:  # another process has begun to write there
            return
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"cannot remove {path}: {error.strerror or error}; give the folder back its rights") from error


def _remove_elsewhere(path: RemotePath) -> None:
    copies.forget(path)
    if path.has_folders and path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _name(temporary: Path, target: Path, first: bool) -> None:
    if first:
        try:
            os.link(temporary, target)
            return
        except FileExistsError:
            raise
        except OSError:  # a file system without links: then the last one wins
            pass
    os.replace(temporary, target)


def write_json(target: Path, value: Any) -> None:
    """Writes `value` as readable JSON, durably and at once."""
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    if (remote := elsewhere(target)) is not None:
        remote.write(text.encode())
        return
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def with_seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-able content with a checksum, as `check_seal` wants it."""
    return {**content, "crc32": _crc_of(content)}


def check_seal(content: Any, names: AbstractSet[str]) -> None:
    """Raises ValueError unless JSON holds just these names and its checksum fits; the first version had none."""
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    rest = {name: value for name, value in content.items() if name != "crc32"}
    if set(rest) != names or ("crc32" in content and content["crc32"] != _crc_of(rest)):
        raise ValueError("its checksum does not fit")


def _crc_of(content: Mapping[str, Any]) -> int:
    """As `canonical_json`, but heads may have learnt infinite numbers."""
    return zlib.crc32(json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii"))


def write_sealed(target: Path, kind: str, fill: Callable[[h5py.File], Mapping[str, Any]], first: bool = False) -> None:
    """Writes a sealed file durably.

    It is built in memory and written by plain output: on a full disk HDF5 would lose its way.

    Args:
        target: the file; one of the same name is replaced as a whole.
        kind: `segment`, `view` or `plan`.
        fill: writes into the file and returns what the header is to hold besides, JSON-able.
        first: as for `replacing`.

    Raises:
        FileExistsError: `first` was asked for, and another was.
        StoreError: the folder is gone, read-only or full.
    """
    import h5py  # takes longer to import than a view takes to open

    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=HEADER_BYTES) as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["kind"] = kind
        about = fill(file)
    with buffer.getbuffer() as content:
        body = content[HEADER_BYTES:]
        header = {**about, "kind": kind, "schema": SCHEMA, "size": len(content), "crc32": zlib.crc32(body)}
        content[:HEADER_BYTES] = _packed(header)
        body.release()
    if (remote := elsewhere(target)) is not None:
        remote.write(buffer.getvalue(), first)
        return
    with replacing(target, first) as temporary, temporary.open("wb") as out:
        out.write(buffer.getbuffer())


def _packed(header: Mapping[str, Any]) -> bytes:
    text = canonical_json(header)
    packed = _MAGIC + _digest(text) + text
    if len(packed) > HEADER_BYTES:
        raise StoreError(f"a header of {len(packed)} bytes does not fit into {HEADER_BYTES}")
    return packed.ljust(HEADER_BYTES, b"\0")


def read_header(path: Path, kind: str) -> dict[str, Any]:
    """The checked header of a sealed file; its body is not read.

    Raises:
        FileNotFoundError: there is no such file.
        StoreDamaged: it is no such file, or header or length are not what was written.
        StoreError: it cannot be read at this moment, or was written by a newer version.
    """
    raw, size = read_at(path, 0, HEADER_BYTES)
    return _checked(path, raw, size, kind)


def _checked(path: Path | RemotePath, raw: bytes, size: int, kind: str) -> dict[str, Any]:
    start = len(_MAGIC) + _DIGEST_BYTES
    text = raw[start:].rstrip(b"\0")
    if raw[: len(_MAGIC)] != _MAGIC or raw[len(_MAGIC) : start] != _digest(text):
        raise StoreDamaged(f"{path} is damaged or no {kind} of encode-once (its header does not fit); {_AGAIN}")
    header: dict[str, Any] = json.loads(text)
    if header["kind"] != kind:
        raise StoreDamaged(f"{path} is a {header['kind']}, expected a {kind}; move it out of the store")
    if header["schema"] not in READABLE:
        raise StoreError(
            f"{path} was written by a newer version: it has schema {header['schema']}, this version reads "
            f"{' and '.join(map(str, READABLE))}; use the version that wrote it, or a newer one"
        )
    if header["size"] != size:
        raise StoreDamaged(f"{path} is damaged ({size} bytes, written were {header['size']}); {_AGAIN}")
    return header


def hold(path: Path, kind: str) -> tuple[dict[str, Any], mmap.mmap]:
    """The checked header of a sealed file, and the whole file mapped but not yet read.

    The map stays what it is when the file is replaced or removed. Of a file that lies elsewhere its local copy is
    mapped, which was checked as a whole.

    Raises:
        FileNotFoundError, StoreDamaged, StoreError: as `read_header`.
    """
    remote = elsewhere(path)
    if remote is not None and remote.afresh:
        content = remote.read_bytes()
        held = mmap.mmap(-1, max(1, len(content)))
        held[: len(content)] = content
        return _checked(path, content[:HEADER_BYTES], len(content), kind), held
    while remote is not None:
        copy = _copied(remote, kind, check=True)
        with contextlib.suppress(FileNotFoundError):  # only the copy: who takes a view for gone may collect its items
            return _held(copy, kind)
    return _held(path, kind)


def _held(path: Path, kind: str) -> tuple[dict[str, Any], mmap.mmap]:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            raw = file.read(HEADER_BYTES)
            header = _checked(path, raw, size, kind)
            return header, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, StoreError):
        raise
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error


def read_at(path: Path, offset: int, length: int) -> tuple[bytes, int]:
    """Bytes from `offset` on, at most `length` of them, and the size of the file.

    Raises:
        FileNotFoundError: there is no such file.
        StoreError: it cannot be read at this moment; that says nothing about what it holds.
    """
    if (remote := elsewhere(path)) is not None:
        return remote.read_at(offset, length)
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest()


def readable(path: Path, kind: str = "segment") -> Path:
    """A segment's own file, or the checked local copy of one that lies elsewhere.

    Raises:
        FileNotFoundError, StoreDamaged, StoreError: as `read_header`; StoreDamaged for any byte of one elsewhere.
    """
    if (remote := elsewhere(path)) is None:
        return path
    copy = copies.known_copy(remote) or _copied(remote, kind)
    copies.keep_in_mind(remote, copy)
    return copy


def _copied(path: RemotePath, kind: str, check: bool = False) -> Path:
    while True:
        raw, size = path.read_at(0, HEADER_BYTES)
        header = _checked(path, raw, size, kind)
        copy = copies.copy_of(path, raw, size, header["crc32"], check)
        if copy is not None:
            return copy


def check_file(path: Path, kind: str) -> None:
    """Reads a sealed file as a whole and raises as `read_header` unless every byte is as written.

    Of a file that lies elsewhere its local copy is read, for that is what is used; one of `afresh` itself.
    """
    remote = elsewhere(path)
    if remote is None or remote.afresh:
        check_body(path, read_header(path, kind))
        return
    copy = readable(path, kind)
    try:
        check_body(copy, read_header(copy, kind))
    except StoreDamaged as error:
        copy.unlink(missing_ok=True)
        raise StoreDamaged(
            f"the local copy {copy} of {path} was damaged, and is removed; run the same command again to fetch it"
        ) from error


def check_body(path: Path, header: Mapping[str, Any]) -> None:
    """Reads a sealed file as a whole and raises StoreDamaged unless every byte is as written."""
    crc = 0
    try:
        for chunk in _chunks(path):
            crc = zlib.crc32(chunk, crc)
    except (FileNotFoundError, StoreError):
        raise
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error
    if crc == header["crc32"]:
        copies.unmark(path)
        return
    problem = f"{path} is damaged (its checksum does not fit); {_AGAIN}"
    try:
        copies.mark(path)
    except StoreError as error:
        raise StoreDamaged(f"{problem}; it could not be noted for an extraction in shards: {error}") from error
    raise StoreDamaged(problem)


def _chunks(path: Path) -> Iterator[bytes]:
    """What follows the header."""
    if (remote := elsewhere(path)) is not None:
        yield from remote.chunks(HEADER_BYTES)
        return
    with path.open("rb") as file:
        file.seek(HEADER_BYTES)
        while chunk := file.read(1 << 22):
            yield chunk


def check_held(path: Path, header: Mapping[str, Any], held: mmap.mmap) -> None:
    """Raises StoreDamaged unless every byte of a held file is as written."""
    if zlib.crc32(memoryview(held)[HEADER_BYTES:]) != header["crc32"]:
        raise StoreDamaged(f"{path} is damaged (its checksum does not fit); {_AGAIN}")
