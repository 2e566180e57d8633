"""What became of the addresses of a data set, in numbers for programs and in lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache import listing
from extract.downloads.record import FAILURES_FILE, FailedDownload

FAILURES_SHOWN = 5
LONGEST = 200


@dataclass(frozen=True)
class Downloads:
    """The files that a data set names by address.

    Attributes:
        asked: whether those that were not there were to be fetched.
        folders: where they lie; one, unless the data set's tables lie in several.
        kinds: `image`, `audio`.
        addresses: how many different ones there are.
        present: how many lay there before.
        fetched: how many were fetched now.
        bytes: the size of these.
        seconds: that this took.
        failed: what is recorded of those that were asked for and are not there; earlier failures that were not
            tried again among them.
        ids: of each of these, the samples that lack it.
    """

    asked: bool
    folders: tuple[Path, ...]
    kinds: frozenset[str]
    addresses: int
    present: int
    fetched: int = 0
    bytes: int = 0
    seconds: float = 0.0
    failed: tuple[FailedDownload, ...] = ()
    ids: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What `--json` says of it."""
        return {
            "addresses": self.addresses,
            "present": self.present,
            "fetched": self.fetched,
            "failed": len(self.failed),
            "failed_for_good": sum(one.final for one in self.failed),
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "folders": [str(one) for one in self.folders],
        }

    def lines(self) -> list[str]:
        """What there is, what failed, where that is listed, and how to try again."""
        if not self.addresses:
            return []
        what = "pictures" if self.kinds == {"image"} else "files"
        there = self.present + self.fetched
        if not self.asked:
            lacking = self.addresses - there
            said = (
                f"{lacking} of {self.addresses} {what} that are named by address are not here; --download fetches them"
            )
            return [said] if lacking else []
        place = listing(self.folders, 3)
        lines = [f"{there} of {self.addresses} {what} that are named by address are in {place}"]
        if self.fetched:
            lines[0] += f", {self.fetched} of them downloaded now ({self.bytes / 1e6:.1f} MB, {self.seconds:.0f} s)"
        for one in self.failed[:FAILURES_SHOWN]:
            rows = listing(self.ids.get(one.url, ()), 3)
            lines.append(printable(f"not downloaded: {rows} ({one.url[:LONGEST]}): {one.reason[:LONGEST]}"))
        if self.failed:
            final = sum(one.final for one in self.failed)
            again = "--retry-failed tries all of them again"
            if final < len(self.failed):
                rest = len(self.failed) - final
                again = (
                    f"the same command tries {rest} of them again, --retry-failed all"
                    if final
                    else ("the same command tries them again")
                )
            lists = listing([one / FAILURES_FILE for one in self.folders], 3)
            lines.append(f"{len(self.failed)} {what} were not downloaded, listed in {lists}; {again}")
        return lines


def printable(text: str) -> str:
    """Text of strangers without signs that could steer a terminal."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
