"""Layouts of other packages, by the entry point group `encode_once.layouts`.

[project.entry-points."encode_once.layouts"]
memes = "my_memes.reader:LAYOUT"        # an extract.Layout whose name is memes
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from cache import DataError, PipelineError, UsageError
from extract.datasets.layout import Layout
from extract.manifest import Manifest

GROUP = "encode_once.layouts"


def installed(taken: Collection[str]) -> dict[str, EntryPoint]:
    """The layouts of other packages by name; none is imported yet.

    Args:
        taken: names that they may not have.

    Raises:
        UsageError: two are called the same, or one as one of ours.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in taken or point.name in found:
            other = _package(found[point.name]) if point.name in found else "encode-once itself"
            raise UsageError(
                f"the layout {point.name!r} of the package {_package(point)} has the name of one of {other}; "
                "uninstall one of the two"
            )
        found[point.name] = point
    return found


def loaded(point: EntryPoint) -> Layout:
    """The layout, whose failures name it. Raises UsageError where it cannot be imported or is no Layout."""
    try:
        layout = point.load()
    except Exception as error:  # whatever a module raises when it is imported
        raise UsageError(f"{_called(point)} cannot be imported: {type(error).__name__}: {error}{_WAY_OUT}") from error
    if not isinstance(layout, Layout) or layout.name != point.name:
        found = f"a Layout called {layout.name!r}" if isinstance(layout, Layout) else f"a {type(layout).__name__}"
        raise UsageError(f"{_called(point)} must be an extract.Layout of that name, found {found}{_WAY_OUT}")

    def recognise(path: Path) -> bool:
        """As the package does it."""
        try:
            return bool(layout.recognise(path))
        except Exception as error:  # theirs
            raise _failed(point, path, error) from error

    def read(path: Path, columns: Mapping[str, str]) -> Manifest:
        """As the package does it."""
        try:
            manifest = layout.read(path, columns)
        except PipelineError:
            raise
        except Exception as error:  # theirs
            raise _failed(point, path, error) from error
        if not isinstance(manifest, Manifest):
            raise DataError(
                f"{_called(point)} gave a {type(manifest).__name__} for {path}, expected a Manifest{_WAY_OUT}"
            )
        return manifest

    return replace(layout, recognise=recognise, read=read)


_WAY_OUT = "; tell its authors, or uninstall it"


def _failed(point: EntryPoint, path: Path, error: Exception) -> DataError:
    return DataError(f"{_called(point)} failed on {path}: {type(error).__name__}: {error}{_WAY_OUT}")


def _called(point: EntryPoint) -> str:
    return f"the layout {point.name!r} of the package {_package(point)} ({point.value})"


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "that is not known"
