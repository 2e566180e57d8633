"""What data sets are called.

A cross-fitted data set lies in the store as one view a fold, `NAME.fold0`, `NAME.fold1`, ..., each an ordinary
data set of its own; together they go by NAME.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from cache.errors import CacheIncomplete, UsageError, listing
from cache.schema import VIEW_SUFFIX

_FOLD_VIEW = re.compile(r"(.+)\.fold(0|[1-9][0-9]*)")


def fold_view_name(name: str, fold: int) -> str:
    """The view of one fold of the cross-fitted data set `name`."""
    return f"{name}.fold{fold}"


def families_in(names: Iterable[str]) -> dict[str, list[int]]:
    """By name of each cross-fitted data set, the numbers of its views, ascending.

    A single view makes none: it is an ordinary data set that is called so.
    """
    found: dict[str, list[int]] = {}
    for name in names:
        if match := _FOLD_VIEW.fullmatch(name):
            found.setdefault(match[1], []).append(int(match[2]))
    return {name: sorted(folds) for name, folds in sorted(found.items()) if len(folds) > 1}


def shown_names(names: Iterable[str]) -> list[str]:
    """Names as a user chooses among them, sorted: the views of a cross-fitted data set as one."""
    names = set(names)
    families = families_in(names)
    views = {fold_view_name(name, fold) for name, folds in families.items() for fold in folds}
    return sorted((names - views) | set(families))


def choose_name(name: str | None, views: Iterable[str], root: Path) -> str:
    """The data set `name`, or the only one there is. It may be a cross-fitted one, which is no view itself.

    Args:
        name: None takes the only one.
        views: names of all views of the store.
        root: the store's folder, for messages.

    Raises:
        CacheIncomplete: there is none of that name, none at all, or several to choose from.
        UsageError: a view and a cross-fitted data set share the name.
    """
    views = set(views)
    shown = shown_names(views)
    if name is None and len(shown) == 1:
        name = shown[0]
    if name is None and shown:
        raise CacheIncomplete(f"{root} holds several data sets; choose one by --name: {listing(shown)}")
    if name is None or name not in {*views, *shown}:
        wanted = "a data set" if name is None else f"the data set {name!r}"
        held = f"holds {listing(shown)}" if shown else "holds none"
        raise CacheIncomplete(f"looked for {wanted} in the store {root}, which {held}; run extract first")
    folds = families_in(views).get(name)
    if folds and name in views:
        raise UsageError(
            f"{name} is ambiguous: {root} holds a view of that name and a cross-fitted data set of {len(folds)} views "
            f"({fold_view_name(name, folds[0])}, ...). Remove {root / f'{name}{VIEW_SUFFIX}'} (its vectors stay), or "
            "extract one of the two under another --name"
        )
    return name
