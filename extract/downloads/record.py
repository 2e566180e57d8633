"""What was not fetched and why, in `failures.jsonl` among the downloads."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from cache import StoreError, remove, replacing

FAILURES_FILE = "failures.jsonl"


@dataclass(frozen=True)
class FailedDownload:
    """An address whose file was not fetched.

    `final` says that trying again is of no use, for all that the server said; `time` is when, in UTC.
    """

    url: str
    reason: str
    final: bool
    attempts: int
    time: str

    def __post_init__(self) -> None:
        """Raises TypeError where it was read from what we did not write."""
        strings = all(isinstance(one, str) for one in (self.url, self.reason, self.time))
        if not (strings and isinstance(self.final, bool) and isinstance(self.attempts, int)):
            raise TypeError("no record of a download")


def read_failures(folder: Path) -> dict[str, FailedDownload]:
    """What is recorded in a folder of downloads, by address.

    The folder lies in the data, which may be a stranger's: a link would lead to where we then write, and a pipe
    would be waited for.

    Raises:
        StoreError: it cannot be read, or is no plain file.
    """
    path = folder / FAILURES_FILE
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise StoreError(f"{path} is no plain file, but a link, pipe, folder or device; remove it")
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}; give it back its rights, or remove it") from error
    found: dict[str, FailedDownload] = {}
    for line in lines:
        try:
            one = FailedDownload(**json.loads(line))
        except (TypeError, ValueError, RecursionError):  # such as what a kill has cut off: that file is tried again
            continue
        found[one.url] = one
    return found


def add_failure(folder: Path, failed: FailedDownload) -> None:
    """Adds a line at once, so that a kill does not lose it. Raises StoreError."""
    path = folder / FAILURES_FILE
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(failed)) + "\n")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; make room, or give it back its rights") from error


def write_failures(folder: Path, failed: Iterable[FailedDownload]) -> None:
    """Replaces what is recorded; nothing failed, no file. Raises StoreError."""
    lines = [json.dumps(asdict(one)) + "\n" for one in failed]
    if not lines:
        remove(folder / FAILURES_FILE)
        return
    with replacing(folder / FAILURES_FILE) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
