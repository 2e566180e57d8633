"""One modality of a data set, and where its vectors lie in the segments of the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cache.errors import CacheIncomplete, StoreDamaged, listing
from cache.find import find_rows
from cache.schema import PRESENT
from cache.segment import Segment, read_segment
from cache.store import EncoderStore, FeatureStore


@dataclass(frozen=True)
class Block:
    """One modality of a view of `n` samples.

    Attributes:
        modality: its name, such as `text`.
        encoder: digest of the encoder key.
        output: which of the encoder's outputs is taken, such as `mean`.
        dim: columns D of the output.
        arrays: `items`, `uint8 (n, 16)`: item keys, zeros where there is none; `state`, `uint8 (n,)`:
            PRESENT, MISSING or FAILED; `row`, `int64 (n,)`: row in the segments laid end to end,
            -1 unless PRESENT.
        segments: name of each of those segments and the checksum of its item keys, in that order.
        spec: the options from which the encoder was built, to build it again.
    """

    modality: str
    encoder: str
    output: str
    dim: int
    arrays: Mapping[str, np.ndarray]
    segments: tuple[tuple[str, int], ...] = ()
    spec: Mapping[str, Any] = field(default_factory=dict)

    @property
    def items(self) -> np.ndarray:
        """Item keys, `uint8 (n, 16)`; zeros where there is none."""
        return self.arrays["items"]

    @property
    def state(self) -> np.ndarray:
        """`uint8 (n,)`: PRESENT, MISSING or FAILED."""
        return self.arrays["state"]

    @property
    def row(self) -> np.ndarray:
        """`int64 (n,)`: row in the segments laid end to end; -1 unless PRESENT."""
        return self.arrays["row"]

    @property
    def present(self) -> np.ndarray:
        """`bool (n,)`: which samples have a vector."""
        return self.state == PRESENT


def locate(
    store: EncoderStore, items: np.ndarray, state: np.ndarray, modality: str
) -> tuple[np.ndarray, list[Segment]]:
    """Finds the row of every present item.

    Returns:
        `int64 (n,)`, rows in the returned segments laid end to end, and -1 where not present.

    Raises:
        CacheIncomplete: an item that the state calls present is not in the store.
    """
    segments, stored = store.contents()
    rows = np.where(state == PRESENT, find_rows(stored, items), -1)
    lost = np.flatnonzero((rows < 0) & (state == PRESENT))
    if len(lost):
        raise CacheIncomplete(
            f"{len(lost)} {modality} vectors of this data set are not in {store.folder} "
            f"(first samples: {listing(lost.tolist(), 5)}); run extract again to encode them"
        )
    return rows, segments


def placed(store: EncoderStore, block: Block) -> tuple[Block, list[Segment]]:
    """The block with the rows at which its items are now, and the segments that are counted by them.

    Raises:
        CacheIncomplete: an item that the block calls present is not in the store.
    """
    rows, segments = locate(store, block.items, block.state, block.modality)
    names = tuple((segment.path.name, segment.items_crc32) for segment in segments)
    arrays = {"items": block.items, "state": block.state, "row": rows}
    return replace(block, arrays=arrays, segments=names), segments


def refresh(store: FeatureStore, block: Block) -> tuple[Block, list[Segment]]:
    """The block with rows that are true of the segments there are now, and these segments.

    Rows written down earlier stand as long as the same segments are there with the same items;
    after a merge they are found anew by item key.
    """
    encoder = store.encoder(block.encoder)
    try:
        used = [read_segment(encoder.folder / name) for name, _ in block.segments]
    except (FileNotFoundError, StoreDamaged):  # merged, or set aside: what is there now decides
        return placed(encoder, block)
    same = [segment.items_crc32 for segment in used] == [crc for _, crc in block.segments]
    if same and block.row.min(initial=-1) >= -1 and block.row.max(initial=-1) < sum(map(len, used)):
        return block, used
    return placed(encoder, block)
