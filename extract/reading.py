"""What holds while one data set is read, whichever reader reads it: what the user allows, and what is to be told.

It is asked for where it matters (`inside`, `decode_text`), so that no reader, of ours or of others, can forget it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from cache import UsageError


@dataclass
class Reading:
    """One reading of a data set.

    Attributes:
        outside: files may lie outside of the data's folder.
        encoding: of texts that are not UTF-8; None finds it out where that is sure.
        encodings: how many texts or tables were read in which encoding.
        remarks: what the user should know of how it was read.
    """

    outside: bool = False
    encoding: str | None = None
    encodings: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)

    def notes(self) -> dict[str, Any]:
        """What goes into the notes of the manifest, so that the data can be read again in the same way."""
        said = [*self.remarks]
        if set(self.encodings) - {"utf-8"}:
            counts = ", ".join(f"{count} in {name}" for name, count in self.encodings.most_common())
            said.append(f"texts or tables were read {counts}")
        if self.outside:
            said.append("files outside of the data's folder were allowed")
        kept = {"outside": self.outside, "encoding": self.encoding, "remarks": said}
        return {name: value for name, value in kept.items() if value}


_NOW: ContextVar[Reading] = ContextVar("reading")


def now() -> Reading:
    """The reading that is going on; one that allows nothing where there is none."""
    return _NOW.get(None) or Reading()


@contextlib.contextmanager
def reading(outside: bool = False, encoding: str | None = None) -> Iterator[Reading]:
    """Everything within is read in this way.

    Raises:
        UsageError: there is no such encoding of texts.
    """
    if encoding is not None:
        try:
            with contextlib.suppress(UnicodeDecodeError):
                b"a".decode(encoding)
        except (LookupError, UnicodeError) as error:  # also of codecs that make no text
            raise UsageError(f"--encoding: Python knows no encoding {encoding!r}; such as cp1252 or gb18030") from error
    this = Reading(outside, encoding)
    token = _NOW.set(this)
    try:
        yield this
    finally:
        _NOW.reset(token)
