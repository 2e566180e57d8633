"""Names and versions of what the store's files hold, and how files are made durable."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from cache.errors import PipelineError, StoreDamaged, StoreError

SCHEMA = 1
"""Version of segments, views and keys. It is a field of every encoder key."""

SEGMENT_SUFFIX = ".h5"
VIEW_SUFFIX = ".view.h5"
TEMPORARY_PREFIX = ".tmp-"
KEY_FILE = "key.json"
FAILURES_FILE = "failures.jsonl"

PRESENT, MISSING, FAILED = 1, 0, 2
"""States of one modality of one sample in a view."""


def fsync_folder(folder: Path) -> None:
    """Makes a rename inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yields a new path beside `target`; on success what was written there durably takes target's place.

    Readers see the old file or the whole new one, whatever happens in between.

    Raises:
        StoreError: the folder is gone, read-only or full.
    """
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{target.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
        fsync_folder(target.parent)
    except PipelineError:
        raise
    except OSError as error:
        raise StoreError(
            f"cannot write {target}: {error.strerror or error}. What was written before is good; "
            "make room or give the folder back its rights, then run the same command again"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # gone after os.replace; the first error is the one to show
            temporary.unlink()


def write_json(target: Path, value: Any) -> None:
    """Writes `value` as readable JSON, durably and at once."""
    with replacing(target) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def open_h5(path: Path, kind: str) -> h5py.File:
    """Opens a finished file of the store for reading, without locks, and checks its schema.

    Raises:
        StoreDamaged: HDF5 cannot read it, or it is not of this `kind`.
        StoreError: it was written by a newer version of encode-once.
    """
    try:
        file = h5py.File(path, "r", locking=False)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreDamaged(f"{path} cannot be read as HDF5 ({error}); delete it and run extract again") from error
    found = file.attrs.get("schema")
    if file.attrs.get("kind") != kind or found is None:
        file.close()
        raise StoreDamaged(f"{path} is not a {kind} of encode-once; move it out of the store")
    if int(found) != SCHEMA:
        file.close()
        raise StoreError(f"{path} has schema {int(found)}, this version reads {SCHEMA}; use the version that wrote it")
    return file
