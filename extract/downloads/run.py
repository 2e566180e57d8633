"""Fetches what a data set names by address and is not there yet."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator

from cache import Progress, silent
from extract.downloads.address import Download
from extract.downloads.manners import Manners
from extract.downloads.record import read_failures
from extract.downloads.result import Downloads
from extract.manifest import Aligned, Manifest


def download(
    manifest: Manifest,
    modalities: Collection[str] | None,
    manners: Manners | None,
    retry_failed: bool = False,
    progress: Progress = silent,
) -> Downloads:
    """Fetches the files that a data set names by address and that are not there yet.

    Stop it at any moment: files that are there are whole, and the next run fetches the others. Of several
    processes one fetches, the others wait and find all there.

    Args:
        manifest: the data set.
        modalities: whose files; None for all.
        manners: towards the servers; None fetches nothing, and only looks what is there.
        retry_failed: also try again what failed for good before.
        progress: told of files that are done.

    Raises:
        DataError: the folder beside the data cannot be made or written to.
        StoreError: the disk is full, or what is recorded there cannot be read.
    """
    started = time.monotonic()
    found = files_of(manifest, modalities)
    folders = tuple(dict.fromkeys(one.path.parent for one in found))
    kinds = frozenset(one.kind for one in found)
    if manners is None:
        lacking = {one.url for one in found if not one.path.exists()}
        known = [one for folder in folders for one in read_failures(folder).values()] if lacking else []
        given_up = sum(one.final and one.url in lacking for one in known)
        return Downloads(False, folders, kinds, len(found), len(found) - len(lacking), given_up=given_up)
    from extract.downloads.folder import fill  # with it comes the network's library, of which others have no need

    parts = [[one for one in found if one.path.parent == folder] for folder in folders]
    filled = [
        fill(folder, files, manners, retry_failed, progress) for folder, files in zip(folders, parts, strict=True)
    ]
    failed = tuple(one for done in filled for one in done.failed)
    fetched = sum(done.fetched for done in filled)
    return Downloads(
        asked=True,
        folders=folders,
        kinds=kinds,
        addresses=len(found),
        present=len(found) - fetched - len(failed),
        fetched=fetched,
        bytes=sum(done.bytes for done in filled),
        seconds=time.monotonic() - started,
        failed=failed,
        ids=_ids(manifest, {one.url for one in failed}),
    )


def files_of(manifest: Manifest, modalities: Collection[str] | None = None) -> list[Download]:
    """The files of a data set that are named by address, each once."""
    found = {one.path: one for _, one in _named(manifest, modalities)}
    return list(found.values())


def _named(manifest: Manifest, modalities: Collection[str] | None = None) -> Iterator[tuple[str, Download]]:
    """The id of each sample, and a file of it that is named by address."""
    for sample in manifest.samples:
        for modality, content in sample.inputs.items():
            file = content.array if isinstance(content, Aligned) else content
            if isinstance(file, Download) and (modalities is None or modality in modalities):
                yield sample.id, file


def _ids(manifest: Manifest, urls: Collection[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for id_, file in _named(manifest):
        if file.url in urls:
            found.setdefault(file.url, []).append(id_)
    return {url: tuple(ids) for url, ids in found.items()}
