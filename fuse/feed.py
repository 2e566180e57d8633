"""Rows of all modalities as a network takes them: scaled tensors, tokens padded a batch at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cache import Ragged
from fuse.inputs import BlockScaler, Inputs


@dataclass(frozen=True)
class Part:
    """One modality as a network sees it: `columns` of a vector, or of each of up to `steps` tokens."""

    name: str
    columns: int
    steps: int | None = None


def parts_of(inputs: Inputs) -> tuple[Part, ...]:
    """The parts of training rows, in the order of the modalities."""
    return tuple(
        Part(name, inputs.tokens[name].shape[1], int(inputs.tokens[name].lengths.max(initial=1)))
        if name in inputs.tokens
        else Part(name, inputs.widths[name])
        for name in inputs.modalities
    )


class Feed:
    """`n` rows of which any may be taken as a batch.

    A batch is two lists, one entry a modality: values of shape `(b, D)` or `(b, T, D)`, and what is
    there, `bool (b,)` or `(b, T)`. What is not there holds zeros.
    """

    def __init__(
        self, inputs: Inputs, scaler: BlockScaler, parts: Sequence[Part], dtype: torch.dtype, device: str = "cpu"
    ) -> None:
        self._rows = len(inputs)
        self._device = torch.device(device)
        self._vectors = _vectors(inputs, scaler, dtype, self._device)
        self._masks = {name: torch.as_tensor(mask).to(self._device) for name, mask in inputs.masks.items()}
        self._tokens = {
            part.name: _Tokens(inputs.tokens[part.name], part, scaler, dtype) for part in parts if part.steps
        }
        self._parts = parts

    def __len__(self) -> int:
        return self._rows

    def take(
        self, rows: torch.Tensor | slice, names: Collection[str] | None = None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The batch of these rows; of these modalities, if they are named."""
        values, present = [], []
        for part in self._parts:
            if names is not None and part.name not in names:
                continue
            mask = self._masks[part.name][rows]
            if part.name in self._tokens:
                chosen = np.arange(self._rows)[rows if isinstance(rows, slice) else rows.cpu().numpy()]
                steps, there = self._tokens[part.name].padded(chosen)
                values.append(steps.to(self._device))
                present.append(there.to(self._device) & mask[:, None])
            else:
                values.append(self._vectors[part.name][rows])
                present.append(mask)
        return values, present


class MappedFeed(Feed):
    """A feed of rows whose vectors stay on disk: each batch is read when it is taken."""

    def __init__(
        self, inputs: Inputs, scaler: BlockScaler, parts: Sequence[Part], dtype: torch.dtype, device: str = "cpu"
    ) -> None:
        self._inputs, self._how = inputs, (scaler, parts, dtype, device)

    def __len__(self) -> int:
        return len(self._inputs)

    @property
    def row_bytes(self) -> int:
        """Bytes of the vectors of a row."""
        return self._inputs.row_bytes

    def take(
        self, rows: torch.Tensor | slice, names: Collection[str] | None = None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The batch of these rows, as of any feed."""
        return self.window(rows).take(slice(None), names)

    def window(self, rows: torch.Tensor | slice) -> Feed:
        """Some of the rows in memory."""
        return Feed(self._inputs.load(rows if isinstance(rows, slice) else rows.cpu().numpy()), *self._how)


def feed_of(
    inputs: Inputs, scaler: BlockScaler, parts: Sequence[Part], dtype: torch.dtype, device: str = "cpu"
) -> Feed:
    """The feed of rows in memory, or of rows whose vectors stay on disk; arguments as `Feed`."""
    return (Feed if inputs.table is None else MappedFeed)(inputs, scaler, parts, dtype, device)


def _vectors(inputs: Inputs, scaler: BlockScaler, dtype: torch.dtype, device: torch.device) -> dict[str, torch.Tensor]:
    if not inputs.values:
        return {}
    together = torch.as_tensor(scaler.transform(inputs), dtype=dtype).to(device)
    return {name: together[:, columns] for name, columns in inputs.columns().items()}


class _Tokens:
    """Token vectors of one modality, scaled when they are taken: they are stored small."""

    def __init__(self, ragged: Ragged, part: Part, scaler: BlockScaler, dtype: torch.dtype) -> None:
        self._ragged, self._most, self._columns = ragged, part.steps or 1, part.columns
        self._mean, self._scale = (
            torch.as_tensor(one[part.name], dtype=dtype) for one in (scaler.token_mean_, scaler.token_scale_)
        )
        lengths = ragged.lengths
        self._even = int(lengths[0]) if len(lengths) and (lengths == lengths[0]).all() else 0

    def padded(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors `(b, T, D)`, T the longest of these rows, and which are there, `bool (b, T)`."""
        if 0 < self._even <= self._most:  # the grids of images, or texts of one length: nothing to pad
            whole = self._ragged.values.reshape(len(self._ragged), self._even, -1)
            return self._scaled(whole[rows]), torch.ones(len(rows), self._even, dtype=torch.bool)
        taken = self._ragged.take(rows)
        lengths = np.minimum(taken.lengths, self._most)
        there = np.arange(max(int(lengths.max(initial=1)), 1)) < lengths[:, None]
        kept = taken.values
        if (taken.lengths > lengths).any():  # longer than any row of training: the network has no place for more
            within = np.arange(len(kept)) - np.repeat(taken.offsets[:-1], taken.lengths)
            kept = kept[within < np.repeat(lengths, taken.lengths)]
        shown = torch.as_tensor(there)
        out = torch.zeros((*there.shape, self._columns), dtype=self._mean.dtype)
        if len(kept):
            out[shown] = self._scaled(kept)
        return out, shown

    def _scaled(self, values: np.ndarray) -> torch.Tensor:
        copy = torch.tensor(values, dtype=self._mean.dtype)
        return copy.sub_(self._mean).div_(self._scale)


def as_arrays(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Parameters and buffers as arrays, to be pickled or saved without torch."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in state.items()}
