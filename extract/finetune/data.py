"""Rows of a data set as batches for encoders that learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from cache import DataError
from extract.decode import DecodeError
from extract.finetune.networks import Tunable
from extract.manifest import Sample

Place = tuple[int, int]
"""An epoch and a row: what chance does to a row depends on both, and on nothing else."""


class Order(Sampler[Place]):
    """Rows in the order of an epoch: the n-th permutation that a generator of this seed draws, for the n-th epoch."""

    def __init__(self, rows: Sequence[int], seed: int) -> None:
        self._rows, self._seed, self._epoch = torch.as_tensor(np.asarray(rows)), seed, 0

    def __len__(self) -> int:
        return len(self._rows)

    def set_epoch(self, epoch: int) -> None:
        """Which pass is next; the trainer calls it."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Place]:
        draw = torch.Generator().manual_seed(self._seed)
        for _ in range(self._epoch):
            torch.randperm(len(self._rows), generator=draw)
        order = self._rows[torch.randperm(len(self._rows), generator=draw)]
        return iter([(self._epoch, row) for row in order.tolist()])


@dataclass(frozen=True)
class Raw:
    """What encoders that learn are given: by modality the light form of each row, None where it lacks the modality."""

    lights: Mapping[str, Sequence[Any]]
    names: Sequence[str]


def raw_rows(encoders: Mapping[str, Tunable], samples: Sequence[Sample], masks: Mapping[str, np.ndarray]) -> Raw:
    """Light forms of `n` samples; `masks[m]`, `bool (n,)`, tells which of them have modality m."""
    lights = {}
    for name, encoder in encoders.items():
        places = np.flatnonzero(masks[name]).tolist()
        made = encoder.prepare([samples[place].inputs[name] for place in places])
        own: list[Any] = [None] * len(samples)
        for place, light in zip(places, made, strict=True):
            own[place] = light
        lights[name] = own
    return Raw(lights, [sample.id for sample in samples])


class RawRows(Dataset[dict[str, Any]]):
    """Inputs of one row by modality, and the row's number.

    Args:
        encoders: read the inputs.
        raw: of all rows.
        seed: of what augmentation draws; None reads every picture as the encoder takes it.
        chosen: which rows are meant; only their number matters here, `Order` names them.
    """

    def __init__(
        self, encoders: Mapping[str, Tunable], raw: Raw, seed: int | None, chosen: Sequence[int] | None = None
    ) -> None:
        self._encoders, self._raw, self._seed = encoders, raw, seed
        self._rows = len(raw.names) if chosen is None else len(chosen)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, place: Place) -> dict[str, Any]:
        epoch, row = place
        found: dict[str, Any] = {"row": row}
        for number, (name, encoder) in enumerate(self._encoders.items()):
            light = self._raw.lights[name][row]
            if light is None:
                continue
            draw = None if self._seed is None else np.random.default_rng((self._seed, epoch, row, number))
            try:
                found[name] = encoder.read(light, draw)
            except (DecodeError, OSError) as error:
                raise DataError(
                    f"the {name} of {self._raw.names[row]} could be read before and cannot now: {error}; "
                    "leave the data as it is while encoders are tuned"
                ) from error
        return found


class Collate:
    """Rows as a batch: `rows (b,)`; by modality the encoder's inputs, and the places in the batch that have it."""

    def __init__(self, encoders: Mapping[str, Tunable]) -> None:
        self._encoders = encoders

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of these rows."""
        inputs: dict[str, dict[str, Tensor]] = {}
        places: dict[str, Tensor] = {}
        for name, encoder in self._encoders.items():
            shown = [place for place, row in enumerate(rows) if name in row]
            if shown:
                inputs[name] = encoder.collate([rows[place][name] for place in shown])
                places[name] = torch.tensor(shown)
        return {"rows": torch.tensor([row["row"] for row in rows]), "inputs": inputs, "places": places}
