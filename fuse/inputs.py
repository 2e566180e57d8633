"""What a head is given: one matrix a modality, and which rows have it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import assert_all_finite, check_consistent_length, column_or_1d, validate_data

from cache import DataError, FeatureTable, Ragged, UsageError, digest, listing
from fuse.memo import Memo
from fuse.moments import Moments

T = TypeVar("T")

ANONYMOUS = "all"
"""Name of the only block of an array that is given without `blocks`."""

ROWS_AT_ONCE = 4096

PART_BYTES = 2**22
"""Rows that stay on disk are read so much at a time: what is computed from a part finds it in the processor's cache."""


@dataclass(frozen=True)
class Inputs:
    """Rows of all modalities.

    `values[m]` has shape `(n, D_m)`; `masks[m]`, `bool (n,)`, tells which rows have modality m.
    Rows without it hold numbers that no head may use. `tokens[m]` holds the vectors of a modality
    that is read token by token, in place of `values[m]`. `groups`, `int64 (n,)`, numbers rows that
    must not be parted when a head holds rows out; None parts all but rows of equal content. `memo`
    keeps what several heads compute from these rows; None computes all anew. `table` holds the vectors of
    all modalities on disk, in place of `values`, for heads that work out of core.
    """

    values: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray]
    tokens: Mapping[str, Ragged] = field(default_factory=dict)
    groups: np.ndarray | None = None
    memo: Memo | None = field(default=None, repr=False, compare=False)
    table: FeatureTable | None = None

    def __len__(self) -> int:
        return len(next(iter(self.masks.values())))

    def __getitem__(self, rows: np.ndarray) -> Inputs:
        return self.keep(rows)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names in the order of the columns."""
        return tuple(self.masks)

    @property
    def some(self) -> np.ndarray:
        """`bool (n,)`: which rows have any modality."""
        return np.any(list(self.masks.values()), axis=0)

    @property
    def widths(self) -> dict[str, int]:
        """Number of columns of each modality of vectors."""
        if self.table is not None:
            return {name: part.stop - part.start for name, part in self.table.blocks.items()}
        return {name: values.shape[1] for name, values in self.values.items()}

    def columns(self) -> dict[str, slice]:
        """Columns of each modality of vectors once all stand side by side in this order."""
        stops = np.cumsum(list(self.widths.values())).tolist()
        return {name: slice(start, stop) for name, start, stop in zip(self.widths, [0, *stops], stops, strict=False)}

    @property
    def row_bytes(self) -> int:
        """Bytes of the vectors of a row as heads take them."""
        if self.table is not None:
            return self.table.shape[1] * float_of(self.table.dtype).itemsize
        return sum(values.shape[1] * values.itemsize for values in self.values.values())

    def load(self, rows: np.ndarray | slice) -> Inputs:
        """The chosen rows of vectors that stay on disk, in memory; without groups."""
        if self.table is None:
            raise TypeError("these rows are in memory already")
        part = self.table[rows]
        values = {name: part.block(name).astype(float_of(self.table.dtype), copy=False) for name in part.modalities}
        return Inputs(values, {name: mask[rows] for name, mask in self.masks.items()})

    def parts(self) -> Iterator[tuple[slice, Inputs]]:
        """All rows in memory, part by part where they stay on disk, and which they are."""
        if self.table is None:
            yield slice(0, len(self)), self
            return
        step = max(1, PART_BYTES // self.row_bytes)
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            yield rows, self.load(rows)

    def once(self, key: tuple[Hashable, ...], arrays: Sequence[np.ndarray], make: Callable[[], T]) -> T:
        """What `make` computes from these rows, the parameters in `key` and the content of `arrays`.

        With a memo it is computed once; the result must not be changed.
        """
        if self.memo is None:
            return make()
        return self.memo.get((*key, *(digest(np.ascontiguousarray(one).tobytes()) for one in arrays)), make)

    def _part(self, key: Hashable) -> Memo | None:
        return None if self.memo is None else self.memo.part(key)

    def keep(self, rows: np.ndarray) -> Inputs:
        """The chosen rows of every modality."""
        if rows.dtype == bool and rows.all():
            return self
        return Inputs(
            {name: values[rows] for name, values in self.values.items()},
            {name: mask[rows] for name, mask in self.masks.items()},
            {name: tokens.take(rows) for name, tokens in self.tokens.items()},
            None if self.groups is None else self.groups[rows],
            self._part((rows.dtype.kind, digest(rows.tobytes()))),
            None if self.table is None else self.table[rows],
        )

    def only(self, names: Sequence[str]) -> Inputs:
        """These modalities, in this order."""
        return Inputs(
            {name: self.values[name] for name in names if name in self.values},
            {name: self.masks[name] for name in names},
            {name: self.tokens[name] for name in names if name in self.tokens},
            self.groups,
            self.memo,
            None if self.table is None else self.table.select(names),
        )

    def without(self, hidden: Sequence[str]) -> Inputs:
        """The same rows as if they lacked these modalities."""
        masks = {name: mask & (name not in hidden) for name, mask in self.masks.items()}
        none = np.zeros(len(self) + 1, dtype=np.int64)
        tokens = {name: Ragged(one.values[:0], none) if name in hidden else one for name, one in self.tokens.items()}
        return Inputs(self.values, masks, tokens, self.groups, self._part(("without", *sorted(hidden))), self.table)

    def row_groups(self) -> np.ndarray:
        """`groups`, or numbers that rows of equal content share, `int64 (n,)`."""
        if self.groups is not None:
            return self.groups
        matrices = [np.ascontiguousarray(values) for values in self.values.values()]
        found = np.empty(len(self), dtype=np.int64)
        for row in range(len(self)):
            content = hashlib.blake2b(digest_size=8)
            for matrix in matrices:
                content.update(matrix[row].data)
            for tokens in self.tokens.values():
                content.update(np.ascontiguousarray(tokens[row]).data)
            found[row] = int.from_bytes(content.digest(), "little", signed=True)
        return found


def read_inputs(
    estimator: Any, X: Any, y: Any = None, *, groups: Any = None, reset: bool, numeric: bool = False
) -> tuple[Inputs, Any]:
    """Checks `X` (and `y`) the way sklearn does and parts it into modalities.

    Args:
        estimator: a head; gets `n_features_in_`, `feature_names_in_` and `blocks_` when `reset`.
            Its `blocks` name columns of an array; None takes all columns as one block.
        X: a `FeatureTable`, anything that becomes a 2-D array, or `Inputs` that were checked before.
        y: labels, only while fitting.
        groups: `n` labels of rows that must not be parted; None takes those of a table.
        reset: True in `fit`.
        numeric: whether `y` must be numbers.

    Raises:
        ValueError: as sklearn raises it for NaN, wrong shapes, wrong types.
        UsageError: `blocks` do not fit the columns.
    """
    if isinstance(X, Inputs):
        return _given(estimator, X, reset), None if y is None else _labels(X, y, numeric)
    table = X if isinstance(X, FeatureTable) else None
    blocks = estimator.blocks if reset else estimator.blocks_
    if table is not None:
        if not reset:
            _check_widths(table.blocks, blocks)
        blocks, X = table.blocks, table.to_numpy()
        groups = table.groups if groups is None else groups
    options: dict[str, Any] = {"dtype": [np.float64, np.float32], "reset": reset}
    if reset:
        X, y = validate_data(estimator, X, y, y_numeric=numeric, **options)
    else:
        X = validate_data(estimator, X, **options)
    blocks = {ANONYMOUS: slice(0, X.shape[1])} if blocks is None else blocks
    _check_blocks(blocks, X.shape[1])
    if reset:
        estimator.blocks_ = dict(blocks)
    if groups is not None:
        check_consistent_length(X, groups)
        groups = _numbered(np.asarray(groups))
    values = {name: X[:, columns] for name, columns in blocks.items()}
    masks = {name: np.ones(len(X), dtype=bool) for name in blocks} if table is None else table.masks
    return Inputs(values, masks, groups=groups), y


def _given(estimator: Any, inputs: Inputs, reset: bool) -> Inputs:
    if not reset:
        inputs = inputs.only(list(estimator.blocks_))
        _check_widths(inputs.columns(), estimator.blocks_)
        return inputs
    estimator.blocks_ = inputs.columns()
    estimator.n_features_in_ = sum(inputs.widths.values())
    return inputs


def _labels(inputs: Inputs, y: Any, numeric: bool) -> np.ndarray:
    """Labels of rows that were checked before; those of rows on disk are looked at as sklearn does for arrays."""
    if inputs.table is None:
        return np.asarray(y)
    check_consistent_length(inputs, y)
    y = column_or_1d(y, warn=True)
    y = y.astype(np.float64) if numeric else y
    assert_all_finite(y, input_name="y")
    return y


def out_of_core(table: FeatureTable) -> Inputs:
    """The rows of a table as `fit` and `predict` take them where the vectors are to stay on disk.

    Heads whose `out_of_core` is True read them part by part, for which they need no more memory for a million
    rows than for some thousand; see docs/large.md.
    """
    groups = _numbered(table.groups)
    return Inputs({}, table.masks, groups=groups, table=table)


def float_of(dtype: np.dtype) -> np.dtype:
    """The type in which heads take vectors: what is neither float32 nor float64 becomes float64."""
    return dtype if dtype in (np.float32, np.float64) else np.dtype(np.float64)


def _numbered(groups: np.ndarray) -> np.ndarray:
    """Labels of groups as `int64`, each by itself: leaving rows out renames no group."""
    if groups.dtype.kind in "iu":
        return groups.astype(np.int64)
    labels, member = np.unique(groups.astype(str), return_inverse=True)
    digests = [hashlib.blake2b(label.encode(), digest_size=8).digest() for label in labels.tolist()]
    return np.array([int.from_bytes(one, "little", signed=True) for one in digests], dtype=np.int64)[member]


def with_tokens(inputs: Inputs, tokens: Mapping[str, Ragged]) -> Inputs:
    """The same rows with these modalities read token by token; a row without tokens lacks the modality."""
    for name, ragged in tokens.items():
        for start in range(0, len(ragged.values), ROWS_AT_ONCE):
            if not np.isfinite(ragged.values[start : start + ROWS_AT_ONCE]).all():
                raise UsageError(f"the {name} tokens hold NaN or infinity; `cache verify` finds what is damaged")
    values = {name: matrix for name, matrix in inputs.values.items() if name not in tokens}
    masks = {name: mask & (tokens[name].lengths > 0) if name in tokens else mask for name, mask in inputs.masks.items()}
    return Inputs(values, masks, tokens, inputs.groups, inputs._part(("tokens", *tokens)))


def unpadded(values: np.ndarray, width: int, lengths: np.ndarray | None = None) -> Ragged:
    """Rows of `T * width` columns as up to T vectors each.

    Args:
        values: shape `(n, T * width)`.
        width: columns of a vector.
        lengths: how many vectors each row has; None takes vectors of zeros at the end for padding.
    """
    steps = values.reshape(len(values), -1, width)
    if lengths is None:
        filled = (steps != 0).any(axis=2)
        lengths = np.where(filled.any(axis=1), filled.shape[1] - filled[:, ::-1].argmax(axis=1), 0)
    lengths = np.minimum(lengths, steps.shape[1])
    kept = np.arange(steps.shape[1]) < lengths[:, None]
    return Ragged(steps[kept], np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def _check_widths(found: Mapping[str, slice], fitted: Mapping[str, slice]) -> None:
    """A table whose modalities have other widths may still have as many columns in all."""
    for name, part in found.items():
        expected = fitted[name].stop - (fitted[name].start or 0)
        if part.stop - part.start != expected:
            raise UsageError(f"block {name!r} has {part.stop - part.start} columns, the head was fitted on {expected}")


def _check_blocks(blocks: Mapping[str, slice], columns: int) -> None:
    if not isinstance(blocks, Mapping) or not blocks:
        raise UsageError(f"blocks must map each modality to its columns, or be None for one block; got {blocks!r}")
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
    its mean. Tokens become `(t - mean) / std`, by the mean and deviation of all tokens.

    Learned: `mean_` and `scale_` of shape `(sum D_m,)`; `token_mean_` and `token_scale_` by modality.
    """

    def fit(self, inputs: Inputs, weight: np.ndarray) -> BlockScaler:
        """Learns means and scales. `weight` has shape `(n,)`."""
        moments = [] if inputs.table is None else _of_disk(inputs, weight)
        for name, values in inputs.values.items():
            mask = inputs.masks[name] & (weight > 0)
            moments.append(inputs.once(("moments", name), [weight], partial(_of_shown, values, mask, weight)))
        self.mean_ = np.concatenate([mean for mean, _ in moments]) if moments else np.empty(0)
        self.scale_ = np.concatenate([scale for _, scale in moments]) if moments else np.empty(0)
        tokens = {
            name: _moments(ragged.values, np.repeat(weight, ragged.lengths)) for name, ragged in inputs.tokens.items()
        }
        self.token_mean_ = {name: mean for name, (mean, _) in tokens.items()}
        self.token_scale_ = {name: scale / np.sqrt(len(scale)) for name, (_, scale) in tokens.items()}
        return self

    def transform(self, inputs: Inputs) -> np.ndarray:
        """Scaled columns of all modalities of vectors side by side, shape `(n, sum D_m)`, in the dtype of the input."""
        dtype = np.result_type(*(values.dtype for values in inputs.values.values()))
        out = np.empty((len(inputs), len(self.mean_)), dtype=dtype)
        for name, columns in inputs.columns().items():
            mean, scale = (part[columns].astype(dtype) for part in (self.mean_, self.scale_))
            np.subtract(inputs.values[name], mean, out=out[:, columns])
            out[:, columns] /= scale
            out[~inputs.masks[name], columns] = 0.0
        return out


def _of_shown(values: np.ndarray, mask: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _moments(values if mask.all() else values[mask], weight[mask])


def _moments(rows: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean, and deviation times the root of the number of columns, both `(D,)`, in float64."""
    columns = rows.shape[1]
    if not len(rows):
        return np.zeros(columns), np.full(columns, np.sqrt(columns))
    share = weight / weight.sum()
    parts = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(rows), ROWS_AT_ONCE)]
    mean = np.sum([share[part] @ rows[part].astype(np.float64) for part in parts], axis=0)
    variance = np.sum([share[part] @ (rows[part].astype(np.float64) - mean) ** 2 for part in parts], axis=0)
    return mean, _scale(mean, variance)


def _of_disk(inputs: Inputs, weight: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """What `_of_shown` finds for each modality of rows that stay on disk, in one pass over them."""
    found = {name: Moments(width) for name, width in inputs.widths.items()}
    for rows, part in inputs.parts():
        for name, values in part.values.items():
            shown = part.masks[name] & (weight[rows] > 0)
            kept = values if shown.all() else values[shown]
            if not np.isfinite(kept).all():
                raise DataError(f"the {name} vectors hold NaN or infinity; `cache verify` finds what is damaged")
            found[name].add(kept, weight[rows][shown])
    return [
        (one.mean, _scale(one.mean, one.variance))
        if one.mass
        else (one.mean, np.full(len(one.mean), np.sqrt(len(one.mean))))
        for one in found.values()
    ]


def _scale(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Deviation times the root of the number of columns, `(D,)`."""
    deviation = np.sqrt(variance)
    # A constant column has a deviation of rounding noise; it carries nothing, leave it near 0.
    deviation[deviation <= 1e-7 * np.abs(mean)] = 1.0
    scaled: np.ndarray = deviation * np.sqrt(len(mean))
    return scaled


def require_modalities(inputs: Inputs, wanted: Sequence[str]) -> None:
    """Raises a UsageError when a modality is not there."""
    lost = [name for name in wanted if name not in inputs.masks]
    if lost:
        raise UsageError(f"the head needs the modality {listing(lost)}; the features hold {listing(inputs.modalities)}")
