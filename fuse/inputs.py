"""What a head is given: one matrix a modality, and which rows have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from cache import FeatureTable, UsageError, listing

ANONYMOUS = "all"
"""Name of the only block of an array that is given without `blocks`."""


@dataclass(frozen=True)
class Inputs:
    """Rows of all modalities.

    `values[m]` has shape `(n, D_m)`; `masks[m]`, `bool (n,)`, tells which rows have modality m.
    Rows without it hold numbers that no head may use.
    """

    values: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.masks.values())))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names in the order of the columns."""
        return tuple(self.values)

    def columns(self) -> dict[str, slice]:
        """Columns of each modality once all stand side by side in this order."""
        stops = np.cumsum([values.shape[1] for values in self.values.values()]).tolist()
        return {name: slice(start, stop) for name, start, stop in zip(self.values, [0, *stops], stops, strict=False)}

    def keep(self, rows: np.ndarray) -> Inputs:
        """The chosen rows of every modality."""
        return Inputs(
            {name: values[rows] for name, values in self.values.items()},
            {name: mask[rows] for name, mask in self.masks.items()},
        )


def read_inputs(
    estimator: BaseEstimator, X: Any, y: Any = None, *, blocks: Mapping[str, slice] | None, reset: bool
) -> tuple[Inputs, np.ndarray | None]:
    """Checks `X` (and `y`) the way sklearn does and parts it into modalities.

    Args:
        estimator: gets `n_features_in_`, `feature_names_in_` and `blocks_` when `reset`.
        X: a `FeatureTable`, or anything that becomes a 2-D array.
        y: labels, only while fitting.
        blocks: columns of each modality of an array; None takes all columns as one block.
        reset: True in `fit`.

    Raises:
        ValueError: as sklearn raises it for NaN, wrong shapes, wrong types.
        UsageError: `blocks` do not fit the columns.
    """
    masks: Mapping[str, np.ndarray] | None = None
    if isinstance(X, FeatureTable):
        if not reset:
            _check_widths(X.blocks, blocks or {})
        blocks, masks, X = X.blocks, X.masks, X.to_numpy()
    options: dict[str, Any] = {"dtype": [np.float64, np.float32], "reset": reset}
    if y is None:
        X = validate_data(estimator, X, **options)
    else:
        X, y = validate_data(estimator, X, y, **options)
    blocks = {ANONYMOUS: slice(0, X.shape[1])} if blocks is None else blocks
    _check_blocks(blocks, X.shape[1])
    if reset:
        estimator.blocks_ = dict(blocks)
    values = {name: X[:, columns] for name, columns in blocks.items()}
    if masks is None:
        masks = {name: np.ones(len(X), dtype=bool) for name in blocks}
    return Inputs(values, masks), y


def _check_widths(found: Mapping[str, slice], fitted: Mapping[str, slice]) -> None:
    """A table whose modalities have other widths may still have as many columns in all."""
    for name, part in found.items():
        expected = fitted[name].stop - (fitted[name].start or 0)
        if part.stop - part.start != expected:
            raise UsageError(f"block {name!r} has {part.stop - part.start} columns, the head was fitted on {expected}")


def _check_blocks(blocks: Mapping[str, slice], columns: int) -> None:
    if not blocks:
        raise UsageError("blocks is empty; give each modality its columns, or None for one block of all")
    used = np.zeros(columns, dtype=int)
    for name, part in blocks.items():
        fits = isinstance(part, slice) and isinstance(part.stop, int | np.integer) and part.step in (None, 1)
        if not fits or not 0 <= (part.start or 0) < part.stop <= columns:
            raise UsageError(f"block {name!r} is {part}; expected slice(a, b) with 0 <= a < b <= {columns} columns")
        used[part] += 1
    if (used > 1).any():
        raise UsageError(f"blocks overlap at column {int(np.argmax(used > 1))}; give each column to one modality")


class BlockScaler(BaseEstimator):
    """Standardises columns and balances modalities: `z = (x - mean) / (std * sqrt(D_m))`.

    Means and deviations are those of the training rows that have the modality, weighted. The
    factor `1 / sqrt(D_m)` gives each modality a total variance of 1, so that a penalty or a
    learning rate means the same for 384 columns as for 2048. Rows without a modality get 0,
    its mean.
    """

    def fit(self, inputs: Inputs, weight: np.ndarray) -> BlockScaler:
        """Learns means and scales. `weight` has shape `(n,)`."""
        means, scales = [], []
        for name, values in inputs.values.items():
            mask = inputs.masks[name] & (weight > 0)
            rows, w = values[mask].astype(np.float64), weight[mask]
            mean = np.average(rows, axis=0, weights=w) if len(rows) else np.zeros(values.shape[1])
            deviation = np.sqrt(np.average((rows - mean) ** 2, axis=0, weights=w)) if len(rows) else np.ones_like(mean)
            # A constant column has a deviation of rounding noise; it carries nothing, leave it near 0.
            deviation[deviation <= 1e-7 * np.abs(mean)] = 1.0
            means.append(mean)
            scales.append(deviation * np.sqrt(values.shape[1]))
        self.mean_ = np.concatenate(means)
        self.scale_ = np.concatenate(scales)
        return self

    def transform(self, inputs: Inputs) -> np.ndarray:
        """Scaled columns of all modalities side by side, shape `(n, sum D_m)`, in the dtype of the input."""
        parts = []
        for name, columns in inputs.columns().items():
            values = inputs.values[name]
            mean, scale = (part[columns].astype(values.dtype) for part in (self.mean_, self.scale_))
            scaled = (values - mean) / scale
            scaled[~inputs.masks[name]] = 0.0
            parts.append(scaled)
        return np.concatenate(parts, axis=1)


def require_modalities(inputs: Inputs, wanted: Sequence[str]) -> None:
    """Raises a UsageError when a modality is not there."""
    lost = [name for name in wanted if name not in inputs.values]
    if lost:
        raise UsageError(f"the head needs the modality {listing(lost)}; the features hold {listing(inputs.modalities)}")
