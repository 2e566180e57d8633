"""The view that an extraction works towards, written down before the first item is encoded."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from cache import (
    NO_ITEM,
    Block,
    FeatureStore,
    StoreDamaged,
    View,
    is_written,
    joined_groups,
    read_view,
    remove,
    unpack_items,
    write_view,
)
from extract.encoders.spec import TABULAR, kind_of
from extract.manifest import Manifest, absolute

_TEXTS = {"ids": "id", "labels": "label", "split": "split"}


def wanted_view(name: str, manifest: Manifest, blocks: Sequence[Block]) -> View:
    """The view of a data set as it will be, but for the blocks' rows."""
    samples = manifest.samples
    texts = {
        column: np.array([getattr(sample, attribute) for sample in samples], dtype=object)
        for column, attribute in _TEXTS.items()
    }
    groups = kept_together([sample.group for sample in samples], _alike(blocks))
    source = {"data": absolute(manifest.path), "layout": manifest.layout, **manifest.notes}
    return View(name, {**texts, "groups": groups}, {block.modality: block for block in blocks}, source)


def kept_together(groups: Sequence[str], alike: Iterable[Sequence[Sequence[bytes]]]) -> np.ndarray:
    """Which of `n` samples folds never part: those of one group and those of equal content, however long the chain.

    Args:
        groups: of each sample, empty where it has none.
        alike: for each encoder its columns, and of each column the item keys of the samples; NO_ITEM joins with
            nothing.

    Returns:
        `int64 (n,)`, the number of the sample's group.
    """
    return joined_groups(len(groups), [[group or None for group in groups], *map(_joining, alike)])


def _alike(blocks: Sequence[Block]) -> list[list[list[bytes]]]:
    """The columns of each encoder; rows of a table with the same numbers are not the same thing twice."""
    by_encoder: dict[str, list[list[bytes]]] = {}
    for block in blocks:
        if kind_of(block.modality, block.spec.get("model", "")) != TABULAR:
            by_encoder.setdefault(block.encoder, []).append(unpack_items(block.items))
    return list(by_encoder.values())


def _joining(columns: Sequence[Sequence[bytes]]) -> Sequence[Hashable | None]:
    """What joins samples into groups: equal content, be it in one column or in two that one encoder reads."""
    items = [item if item != NO_ITEM else None for column in columns for item in column]
    n = len(columns[0])
    if len(columns) == 1:
        return items
    # Every column's content as a sample of its own, held together by the number of the row.
    joined: list[int] = joined_groups(len(items), [list(range(n)) * len(columns), items])[:n].tolist()
    return joined


def announce(store: FeatureStore, view: View) -> list[str]:
    """Writes down what is wanted, unless the view that is there wants the same; returns warnings.

    `cache gc` keeps what is announced, and `cache status` counts how much of it is done.
    """
    warnings = []
    try:
        before = read_view(store, view.name)
        if _data(before) != _data(view):
            warnings.append(renamed(view.name, _data(before), _data(view)))
        if all(name in before.blocks and _same(before.blocks[name], one) for name, one in view.blocks.items()):
            return warnings
    except FileNotFoundError:
        pass  # a new data set
    except StoreDamaged as error:
        warnings.append(str(error).replace("run extract again to replace it", "it is written anew"))
    store.create()
    write_view(store, view, pending=True)
    return warnings


def renamed(name: str, before: str, now: str) -> str:
    """The warning that a data set takes the place of another of the same name."""
    return (
        f"the data set {name} was {before} before, and is {now} now; give another --name to keep both (no vector is "
        "lost)"
    )


def publish(store: FeatureStore, view: View) -> None:
    """Writes the view, unless the very same is there, and takes back the announcement."""
    if not is_written(store, view):
        write_view(store, view)
    remove(store.pending_path(view.name))


def _data(view: View) -> str:
    return absolute(view.source["data"])


def _same(before: Block, now: Block) -> bool:
    return before.encoder == now.encoder and np.array_equal(before.items, now.items)
