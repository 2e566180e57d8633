"""Many small arrays as one, for the way to another process: one by one, pickling takes as long as encoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from extract.engine import Broken


@dataclass(frozen=True)
class Packed:
    """Inputs of a batch: arrays of one type end to end, each of its own shape, and what is broken by its place."""

    values: np.ndarray
    shapes: list[tuple[int, ...]]
    broken: dict[int, Broken] = field(default_factory=dict)

    @staticmethod
    def of(inputs: Sequence[np.ndarray | Broken]) -> Packed:
        """Inputs of one type."""
        broken = {place: one for place, one in enumerate(inputs) if isinstance(one, Broken)}
        arrays = [one for one in inputs if isinstance(one, np.ndarray)]
        flat = [one.reshape(-1) for one in arrays]
        values = np.concatenate(flat) if flat else np.empty(0, dtype=np.uint8)
        return Packed(values, [one.shape for one in arrays], broken)

    def inputs(self) -> list[np.ndarray | Broken]:
        """The inputs again, as views."""
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        stops = np.cumsum(sizes).tolist()
        arrays = (
            self.values[stop - size : stop].reshape(shape)
            for stop, size, shape in zip(stops, sizes, self.shapes, strict=True)
        )
        count = len(self.shapes) + len(self.broken)
        return [self.broken[place] if place in self.broken else next(arrays) for place in range(count)]
