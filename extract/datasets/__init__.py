"""One reader a layout. A layout is recognised by looking at the files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cache import DataError, PipelineError, UsageError, listing
from extract.datasets import fakeddit, mosi, mvsa, table
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


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("mvsa", mvsa.EXPECTS, mvsa.recognise, mvsa.read),
        Layout("mosi", mosi.EXPECTS, mosi.recognise, mosi.read),
        Layout("fakeddit", fakeddit.EXPECTS, fakeddit.recognise, fakeddit.read),
        Layout("table", table.EXPECTS, table.recognise, table.read),
    )
}


def read_manifest(data: str | Path, layout: str | None = None, columns: Mapping[str, str] | None = None) -> Manifest:
    """Reads a data set.

    Args:
        data: a folder or a file.
        layout: a name of `LAYOUTS`; None recognises it.
        columns: which column of a table is meant by `id`, `text`, `image`, `label`, `split`,
            `group`, `words`, or by a modality beside them; an empty name leaves that one out. Others are
            found by their usual names.

    Raises:
        DataError: nothing there, no layout fits, missing columns, or bad rows (all of them).
        UsageError: unknown layout or column role.
    """
    path = Path(data)
    if layout is not None and layout not in LAYOUTS:
        raise UsageError(f"there is no layout {layout!r}; choose one of {listing(list(LAYOUTS))}")
    try:
        return _read(path, layout, dict(columns or {}))
    except PipelineError:
        raise
    except OSError as error:  # a folder that may not be looked into, a name that is too long
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _read(path: Path, layout: str | None, columns: Mapping[str, str]) -> Manifest:
    if not path.exists():
        raise DataError(f"there is no data at {path}; give the folder or table as DATA, or try `pipeline.py demo`")
    chosen = LAYOUTS[layout] if layout else next((one for one in LAYOUTS.values() if one.recognise(path)), None)
    if chosen is None:
        expected = "\n".join(f"  {one.name}: {one.expects}" for one in LAYOUTS.values())
        raise DataError(f"{path} {_held(path)}, which is no layout that is known:\n{expected}")
    return chosen.read(path, columns)


def _held(path: Path) -> str:
    if path.is_file():
        return "is a file"
    names = sorted(child.name + "/" * child.is_dir() for child in path.iterdir())
    return f"holds {listing(names, 8)}" if names else "is empty"
