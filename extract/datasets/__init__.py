"""One reader a layout. A layout is recognised by looking at the files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cache import DataError, UsageError, listing
from extract.datasets import fakeddit, folders, hub, mosi, mvsa, plugins, table, webdataset
from extract.datasets.layout import Layout
from extract.manifest import Manifest, is_remote

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


def read_manifest(data: str | Path, layout: str | None = None, columns: Mapping[str, str] | None = None) -> Manifest:
    """Reads a data set.

    Args:
        data: a folder or a file, or the name of a data set on the hub such as `hub:owner/name`.
        layout: a name of `LAYOUTS`, or of one that is installed; None recognises it.
        columns: which column of a table is meant by `id`, `text`, `image`, `label`, `split`,
            `group`, `words`, or by a modality beside them; an empty name leaves that one out. Others are
            found by their usual names.

    Raises:
        DataError: nothing there, no layout fits, missing columns, or bad rows (all of them).
        UsageError: unknown layout or column role, a library that is needed is not installed, or a layout of another
            package is broken.
    """
    path = Path(data)
    chosen = _named(layout) if layout is not None else LAYOUTS["hub"] if is_remote(data) else None
    if is_remote(data) and chosen is not LAYOUTS["hub"]:
        raise UsageError(f"{data} is a data set of the hub, which the layout {layout} cannot read; leave --layout out")
    if not is_remote(data) and not path.exists():
        raise DataError(f"there is no data at {path}; give the folder or table as DATA, or try `pipeline.py demo`")
    try:
        chosen = chosen or _recognised(path)
        return chosen.read(path, dict(columns or {}))
    except OSError as error:  # of folders: what is wrong with single files, each layout says itself
        raise DataError(f"{path} cannot be read: {error}") from error


def _named(layout: str) -> Layout:
    if layout in LAYOUTS:
        return LAYOUTS[layout]
    others = plugins.installed(LAYOUTS)
    if layout not in others:
        raise UsageError(f"there is no layout {layout!r}; choose one of {listing([*LAYOUTS, *others])}")
    return plugins.loaded(others[layout])


def _recognised(path: Path) -> Layout:
    """The first that knows the data; other packages are asked where none of ours does."""
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
