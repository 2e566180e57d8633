"""One reader a layout. A layout is recognised by looking at the files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cache import DataError, PipelineError, StoreDamaged, UsageError, listing
from extract.datasets import fakeddit, mosi, mvsa, table
from extract.manifest import Manifest, inside
from extract.reading import reading


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


def read_manifest(
    data: str | Path,
    layout: str | None = None,
    columns: Mapping[str, str] | None = None,
    allow_outside: bool = False,
    encoding: str | None = None,
) -> Manifest:
    """Reads a data set.

    Args:
        data: a folder or a file.
        layout: a name of `LAYOUTS`; None recognises it.
        columns: which column of a table is meant by `id`, `text`, `image`, `label`, `split`,
            `group`, `words`, or by a modality beside them; an empty name leaves that one out. Others are
            found by their usual names.
        allow_outside: files that the data names may lie outside of its folder.
        encoding: of texts and tables that are not UTF-8; None finds it out where that is sure.

    Raises:
        DataError: nothing there, no layout fits, missing columns, or bad rows (all of them).
        UsageError: unknown layout, column role or encoding.
    """
    path = Path(data)
    if layout is not None and layout not in LAYOUTS:
        raise UsageError(f"there is no layout {layout!r}; choose one of {listing(list(LAYOUTS))}")
    try:
        with reading(allow_outside, encoding) as how:
            manifest = _read(path, layout, dict(columns or {}))
        return replace(manifest, notes={**manifest.notes, **how.notes()})
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
    manifest = chosen.read(path, columns)
    _check_lists(path, manifest)
    return manifest


def _check_lists(path: Path, manifest: Manifest) -> None:
    """Raises DataError for a table that was found in the folder and is a link that leads out of it."""
    found = [str(name) for key in ("tables", "lists") for name in manifest.notes.get(key, ())]
    strays = [name for name in found if path.is_dir() and (path / name).is_symlink() and inside(path, name) is None]
    if strays:
        raise DataError(
            f"{listing(strays)} in {path} leads out of the folder; give the table itself as DATA, or --allow-outside"
        )


def read_again(source: Mapping[str, Any], data: str | None = None) -> Manifest:
    """Reads a data set as it was read when a view of it was written.

    Args:
        source: what the view says of it.
        data: where it lies now; where it was by default.

    Raises:
        StoreDamaged: the source does not say what it must.
        DataError, UsageError: as `read_manifest`.
    """
    place, layout = data or source.get("data"), source.get("layout")
    columns, encoding = source.get("columns") or {}, source.get("encoding")
    names = [place, layout, encoding, *(columns.items() if isinstance(columns, Mapping) else [columns])]
    plain = all(one is None or isinstance(one, str | tuple) for one in names)
    if not plain or not all(isinstance(part, str) for part in (*columns, *columns.values())):
        raise StoreDamaged(f"the view says {dict(source)} of its data, which is no way to read it; run extract again")
    if place is None:
        raise DataError("the view does not say where its data lies; give --data")
    return read_manifest(place, layout, columns, source.get("outside") is True, encoding)


def _held(path: Path) -> str:
    if path.is_file():
        return "is a file"
    names = sorted(child.name + "/" * child.is_dir() for child in path.iterdir())
    return f"holds {listing(names, 8)}" if names else "is empty"
