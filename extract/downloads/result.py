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
        given_up: where nothing was asked for, how many of those that are lacking failed for good before.
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
    given_up: int = 0
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
        what = ("pictures" if self.kinds == {"image"} else "files") + " that are named by address"
        if not self.asked:
            return self._not_asked(f"{self._lacking} of {self.addresses} {what}") if self._lacking else []
        first = f"{self.addresses - self._lacking} of {self.addresses} {what} are in {listing(self.folders, 3)}"
        if self.fetched:
            first += f", {self.fetched} of them downloaded now ({self.bytes / 1e6:.1f} MB, {self.seconds:.0f} s)"
        lines = [first]
        for one in self.failed[:FAILURES_SHOWN]:
            rows = listing(self.ids.get(one.url, ()), 3)
            lines.append(printable(f"not downloaded: {rows} ({one.url[:LONGEST]}): {one.reason[:LONGEST]}"))
        if self.failed:
            lines.append(f"{len(self.failed)} of them were not downloaded, listed in {self._lists}; {self._again()}")
        return lines

    @property
    def _lacking(self) -> int:
        return self.addresses - self.present - self.fetched

    @property
    def _lists(self) -> str:
        return listing([one / FAILURES_FILE for one in self.folders], 3)

    def _not_asked(self, which: str) -> list[str]:
        if not self.given_up:
            return [f"{which} are not here; --download fetches them"]
        before = f"{self.given_up} of them could not be had before, see {self._lists}; --retry-failed tries these too"
        return [f"{which} are not here; --download fetches them ({before})"]

    def _again(self) -> str:
        rest = sum(not one.final for one in self.failed)
        if rest == len(self.failed):
            return "the same command tries them again"
        return (
            f"the same command tries {rest} of them again, --retry-failed all"
            if rest
            else ("--retry-failed tries them again")
        )


def printable(text: str) -> str:
    """Text of strangers without signs that could steer a terminal."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
