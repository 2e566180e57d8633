"""One reader a layout. A layout is recognised by looking at the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cache import DataError, PipelineError, StoreDamaged, UsageError, elsewhere, listing, place
from extract.datasets import fakeddit, folders, hub, mosi, mvsa, plugins, table, webdataset
from extract.datasets.layout import Layout
from extract.manifest import Manifest, at_address, inside, is_remote
from extract.reading import reading

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("mvsa", mvsa.EXPECTS, mvsa.recognise, mvsa.read),
        Layout("mosi", mosi.EXPECTS, mosi.recognise, mosi.read),
        Layout("fakeddit", fakeddit.EXPECTS, fakeddit.recognise, fakeddit.read),
        Layout("table", table.EXPECTS, table.recognise, table.read),
        Layout("hub", hub.EXPECTS, hub.recognise, hub.read),
        Layout("webdataset", webdataset.EXPECTS, webdataset.recognise, webdataset.read),
        Layout("folders", folders.EXPECTS, folders.recognise, folders.read),
    )
}
"""Those of this package, in the order in which they are asked; for others see `extract.datasets.plugins`."""


def read_manifest(
    data: str | Path,
    layout: str | None = None,
    columns: Mapping[str, str] | None = None,
    allow_outside: bool = False,
    encoding: str | None = None,
) -> Manifest:
    """Reads a data set.

    Args:
        data: a folder or a file, or the name of a data set on the hub such as `hub:owner/name`.
        layout: a name of `LAYOUTS`, or of one that is installed; None recognises it.
        columns: which column of a table is meant by `id`, `text`, `image`, `label`, `split`,
            `group`, `words`, or by a modality beside them; an empty name leaves that one out. Others are
            found by their usual names.
        allow_outside: files that the data names may lie outside of its folder.
        encoding: of texts and tables that are not UTF-8; None finds it out where that is sure.

    Raises:
        DataError: nothing there, no layout fits, missing columns, or bad rows (all of them).
        UsageError: unknown layout, column role or encoding, a library that is needed is not installed, or a layout
            of another package is broken.
    """
    try:
        with reading(allow_outside, encoding) as how:
            manifest = _read(data, layout, dict(columns or {}))
        return replace(manifest, notes={**manifest.notes, **how.notes()})
    except PipelineError:
        raise
    except OSError as error:  # a folder that may not be looked into, a name that is too long
        where = f": {error.filename}" if error.filename and str(error.filename) != str(data) else ""
        raise DataError(f"{data} cannot be read: {error.strerror or error}{where}") from error


def _read(data: str | Path, layout: str | None, columns: Mapping[str, str]) -> Manifest:
    path = place(str(data)) if at_address(data) else Path(data)
    if elsewhere(path):
        raise DataError(
            f"{data} is an address, and data at an address is read in shards, by `extract` with --shard-rows 50000 or "
            "--engine ray; for anything else copy it to a disk and give that folder"
        )
    chosen = _named(layout) if layout is not None else LAYOUTS["hub"] if is_remote(data) else None
    if is_remote(data) and chosen is not LAYOUTS["hub"]:
        raise UsageError(f"{data} is a data set of the hub, which the layout {layout} cannot read; leave --layout out")
    if not is_remote(data) and not path.exists():
        raise DataError(f"there is no data at {path}; give the folder or table as DATA, or try `pipeline.py demo`")
    manifest = (chosen or recognised(path)).read(path, columns)
    check_lists(path, manifest)
    return manifest


def check_lists(path: Path, manifest: Manifest) -> None:
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
    # As the user named them: a table may lack a column that was found in another one.
    columns, encoding = source.get("named", source.get("columns")) or {}, source.get("encoding")
    names = [place, layout, encoding, *(columns.items() if isinstance(columns, Mapping) else [columns])]
    plain = all(one is None or isinstance(one, str | tuple) for one in names)
    if not plain or not all(isinstance(part, str) for part in (*columns, *columns.values())):
        raise StoreDamaged(f"the view says {dict(source)} of its data, which is no way to read it; run extract again")
    if place is None:
        raise DataError("the view does not say where its data lies; give --data")
    return read_manifest(place, layout, columns, source.get("outside") is True, encoding)


def _named(layout: str) -> Layout:
    if layout in LAYOUTS:
        return LAYOUTS[layout]
    others = plugins.installed(LAYOUTS)
    if layout not in others:
        raise UsageError(f"there is no layout {layout!r}; choose one of {listing([*LAYOUTS, *others])}")
    return plugins.loaded(others[layout])


def recognised(path: Path) -> Layout:
    """The first layout that knows the data; other packages are asked where none of ours does. Raises DataError."""
    asked = list(LAYOUTS.values())
    chosen = next((one for one in asked if one.recognise(path)), None)
    if chosen is None:
        others = [plugins.loaded(point) for point in plugins.installed(LAYOUTS).values()]
        chosen = next((one for one in others if one.recognise(path)), None)
        asked += others
    if chosen is None:
        expected = "\n".join(f"  {one.name}: {one.expects}" for one in asked)
        raise DataError(f"{path} {_held(path)}, which is no layout that is known:\n{expected}")
    return chosen


def _held(path: Path) -> str:
    if path.is_file():
        return "is a file"
    names = sorted(child.name + "/" * child.is_dir() for child in path.iterdir())
    return f"holds {listing(names, 8)}" if names else "is empty"
