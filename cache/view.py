"""A view: one data set as rows of the store. It holds no vectors, only where they are.

`<name>.view.h5` keeps ids, labels, splits, groups and, for each modality, the item key, state
and row of every sample. It is all that stage two needs besides the segments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import h5py
import numpy as np

from cache.errors import CacheIncomplete, listing
from cache.files import open_sealed, write_sealed
from cache.key import canonical_json, digest, unpack_items
from cache.schema import PRESENT
from cache.segment import Segment
from cache.store import EncoderStore, FeatureStore

_TEXT = h5py.string_dtype("utf-8")


@dataclass(frozen=True)
class Block:
    """One modality of a view of `n` samples.

    Attributes:
        modality: its name, such as `text`.
        encoder: digest of the encoder key.
        output: which of the encoder's outputs is taken, such as `mean`.
        dim: columns D of the output.
        items: `uint8 (n, 16)`, item keys; zeros where there is none.
        state: `uint8 (n,)`, PRESENT, MISSING or FAILED.
        row: `int64 (n,)`, row in the segments laid end to end; -1 unless PRESENT.
        segments: names of those segments, in that order.
        spec: the options from which the encoder was built, to build it again.
    """

    modality: str
    encoder: str
    output: str
    dim: int
    items: np.ndarray
    state: np.ndarray
    row: np.ndarray
    segments: tuple[str, ...]
    spec: Mapping[str, Any] = field(default_factory=dict)

    @property
    def present(self) -> np.ndarray:
        """`bool (n,)`: which samples have a vector."""
        return self.state == PRESENT


@dataclass(frozen=True)
class View:
    """One data set: `n` samples in the order of the data.

    `ids`, `labels` and `split` are arrays of `n` strings (objects), empty where the data gives none.
    `groups` is `int64 (n,)`: samples that must not be parted by a split share a number.
    """

    name: str
    ids: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    groups: np.ndarray
    blocks: Mapping[str, Block]
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Digest of what the data set says: ids, labels, splits, groups and content."""
        texts = canonical_json([column.tolist() for column in (self.ids, self.labels, self.split)])
        parts = [block.modality.encode() + block.items.tobytes() for block in self.blocks.values()]
        return digest(texts, self.groups.tobytes(), *parts)


def locate(
    store: EncoderStore, items: np.ndarray, state: np.ndarray, modality: str
) -> tuple[np.ndarray, list[Segment]]:
    """Finds the row of every present item.

    Returns:
        `int64 (n,)`, rows in the returned segments laid end to end, and -1 where not present.

    Raises:
        CacheIncomplete: an item that the state calls present is not in the store.
    """
    segments = store.segments()
    places: dict[bytes, int] = {}
    start = 0
    for segment in segments:
        for place, item in enumerate(unpack_items(segment.items), start):
            places.setdefault(item, place)
        start += len(segment)
    keys = unpack_items(items)
    rows = np.full(len(keys), -1, dtype=np.int64)
    lost = []
    for sample in np.flatnonzero(state == PRESENT):
        if keys[sample] in places:
            rows[sample] = places[keys[sample]]
        else:
            lost.append(int(sample))
    if lost:
        raise CacheIncomplete(
            f"{len(lost)} {modality} vectors of this data set are not in {store.folder} "
            f"(first samples: {listing(lost, 5)}); run extract again to encode them"
        )
    return rows, segments


def refresh(store: FeatureStore, block: Block) -> tuple[Block, list[Segment]]:
    """The block with rows that are true of the segments there are now, and these segments.

    Rows written down earlier stand as long as the same segments are there and hold the same
    items at these rows; after a merge they are found anew by item key.
    """
    encoder = store.encoder(block.encoder)
    segments = encoder.segments()
    by_name = {segment.path.name: segment for segment in segments}
    if all(name in by_name for name in block.segments):
        used = [by_name[name] for name in block.segments]
        if _rows_hold(block, used):
            return block, used
    rows, segments = locate(encoder, block.items, block.state, block.modality)
    return replace(block, row=rows, segments=tuple(segment.path.name for segment in segments)), segments


def _rows_hold(block: Block, segments: Sequence[Segment]) -> bool:
    rows = block.row[block.present]
    if not len(rows):
        return True
    if not segments or rows.min() < 0 or rows.max() >= sum(len(segment) for segment in segments):
        return False
    items = np.concatenate([segment.items for segment in segments])
    return np.array_equal(items[rows], block.items[block.present])


def write_view(store: FeatureStore, view: View) -> None:
    """Writes a view durably; it replaces the one of the same name."""

    def fill(file: h5py.File) -> dict[str, Any]:
        """Puts the view into an open file; its header needs nothing besides."""
        file.attrs["name"] = view.name
        file.attrs["digest"] = view.digest
        file.attrs["source"] = json.dumps(dict(view.source), sort_keys=True)
        file.attrs["blocks"] = json.dumps(list(view.blocks))
        for name in ("ids", "labels", "split"):
            file.create_dataset(name, data=getattr(view, name), dtype=_TEXT)
        file.create_dataset("groups", data=view.groups)
        for modality, block in view.blocks.items():
            _write_block(file.create_group(f"blocks/{modality}"), block)
        return {}

    write_sealed(store.view_path(view.name), "view", fill)


def _write_block(group: h5py.Group, block: Block) -> None:
    for name in ("encoder", "output", "dim"):
        group.attrs[name] = getattr(block, name)
    group.attrs["spec"] = json.dumps(dict(block.spec), sort_keys=True)
    group.attrs["segments"] = json.dumps(block.segments)
    for name in ("items", "state", "row"):
        group.create_dataset(name, data=getattr(block, name))


def read_view(store: FeatureStore, name: str) -> View:
    """Reads a view; its rows may be outdated, see `refresh`.

    Raises:
        StoreDamaged: the file is not what was written.
    """
    with open_sealed(store.view_path(name), "view") as file:
        texts = {key: file[key].asstr()[...] for key in ("ids", "labels", "split")}
        blocks = {key: _read_block(key, file[f"blocks/{key}"]) for key in json.loads(file.attrs["blocks"])}
        source = json.loads(file.attrs["source"])
        return View(name=name, groups=file["groups"][...], blocks=blocks, source=source, **texts)


def _read_block(modality: str, group: h5py.Group) -> Block:
    arrays = {name: group[name][...] for name in ("items", "state", "row")}
    return Block(
        modality=modality,
        encoder=str(group.attrs["encoder"]),
        output=str(group.attrs["output"]),
        dim=int(group.attrs["dim"]),
        segments=tuple(json.loads(group.attrs["segments"])),
        spec=json.loads(group.attrs["spec"]),
        **arrays,
    )
