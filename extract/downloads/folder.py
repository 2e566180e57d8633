"""A folder of downloads: what it lacks is fetched, what cannot be had is recorded in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from cache import TEMPORARY_PREFIX, DataError, Progress, remove
from extract.downloads.address import Download
from extract.downloads.crew import Crew
from extract.downloads.guard import FetchError
from extract.downloads.manners import Manners
from extract.downloads.record import FailedDownload, add_failure, read_failures, write_failures
from extract.downloads.turns import Job

LOCK_FILE = ".lock"


@dataclass
class Filled:
    """What was fetched, and what is recorded of the files that are lacking still."""

    fetched: int
    bytes: int
    failed: list[FailedDownload]


def fill(folder: Path, files: Sequence[Download], manners: Manners, retry_failed: bool, progress: Progress) -> Filled:
    """Fetches what is lacking, and records what cannot be had; see `download`."""
    if all(one.path.exists() for one in files):
        return Filled(0, 0, [])  # the folder may be read-only by now
    try:
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / LOCK_FILE)
        lock.acquire()
    except OSError as error:
        raise DataError(
            f"nothing can be downloaded into {folder}: {error.strerror}; pictures are kept beside the data, "
            "so give that folder rights, or copy the table to where you have them"
        ) from error
    try:
        for left in folder.glob(f"{TEMPORARY_PREFIX}*"):  # of a run that was killed
            remove(left)
        return _filled(folder, files, manners, retry_failed, progress)
    finally:
        lock.release()


def _filled(
    folder: Path, files: Sequence[Download], manners: Manners, retry_failed: bool, progress: Progress
) -> Filled:
    lacking = [one for one in files if not one.path.exists()]
    before = read_failures(folder)
    given_up = {url for url, one in before.items() if one.final and not retry_failed}
    jobs = [Job(one) for one in lacking if one.url not in given_up]
    filled = Filled(0, 0, [before[one.url] for one in lacking if one.url in given_up])
    there = {one.url for one in files} - {one.url for one in lacking}  # a kill may have kept that from the record
    after = {url: one for url, one in before.items() if url not in there}
    for number, ended in enumerate(Crew(jobs, manners).run(), 1):
        url = ended.job.file.url
        after.pop(url, None)
        if ended.failed is None:
            filled.fetched, filled.bytes = filled.fetched + 1, filled.bytes + ended.size
        else:
            after[url] = _recorded(ended.job, ended.failed)
            filled.failed.append(after[url])
            add_failure(folder, after[url])
        progress("download", number, len(jobs))
    if after != before:
        write_failures(folder, after.values())
    return filled


def _recorded(job: Job, failed: FetchError) -> FailedDownload:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return FailedDownload(job.file.url, failed.reason, failed.final, job.attempts, now)
