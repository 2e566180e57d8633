"""What a layout is: how one kind of data set is recognised and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from extract.manifest import Manifest


@dataclass(frozen=True)
class Layout:
    """How one kind of data set is recognised and read.

    `recognise` answers whether a path looks like it; `read` takes the path and the columns
    that the user named. `expects` is what a message says of it.
    """

    name: str
    expects: str
    recognise: Callable[[Path], bool]
    read: Callable[[Path, Mapping[str, str]], Manifest]
