"""Folders of results: a new one for each run, and none in which files of others would be written over."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cache.errors import StoreError, UsageError, listing


def new_folder(name: str, root: Path = Path("runs")) -> Path:
    """Makes the first free folder `runs/<name>-<number>`."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = root / f"{name}-{number}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
    except OSError as error:
        raise StoreError(f"cannot make a folder under {root}: {error.strerror}; choose one by --out") from error


def spare(folder: Path, mark: str, names: Iterable[str]) -> None:
    """Raises a UsageError where files of others would be written over.

    Args:
        folder: to be written to; it may not be there yet.
        mark: the file by which a folder that we wrote before is known.
        names: of files that will be written.
    """
    if not (folder / mark).exists():
        theirs = [name for name in names if (folder / name).exists()]
        if theirs:
            raise UsageError(f"{folder} holds {listing(theirs)} of something else; choose another --out")
