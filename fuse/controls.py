"""Negative controls: inputs in which a modality says nothing about the label any more.

A head that scores as well on them as on the true inputs does not use the modality. Training rows and test rows
are treated apart, with seeds of their own, so that nothing crosses from one to the other.
"""

from __future__ import annotations

import numpy as np

from cache import Ragged
from fuse.inputs import Inputs, require_modalities

ROWS_AT_ONCE = 4096


def shuffled(inputs: Inputs, modality: str, seed: int) -> Inputs:
    """The rows with the vectors, or tokens, of one modality dealt out anew, and its mask with them.

    What the modality looks like as a whole stays the same; its link to the label and to other modalities is
    cut. No row gets what another row of its group has, for rows of equal content mostly have equal labels: they
    would keep them. Without groups, equal content of this modality makes one. Only where a group holds more
    than half of the rows do some of its rows have to keep their own group's (and a single row its own vector).

    Args:
        inputs: training rows or test rows, not both.
        modality: which one.
        seed: not negative; two modalities are dealt differently by the same seed.

    Raises:
        UsageError: there is no such modality.
    """
    require_modalities(inputs, [modality])
    source = _dealt(_groups(inputs, modality), _generator("shuffled", modality, seed))
    return _with(
        inputs,
        modality,
        inputs.masks[modality][source],
        inputs.tokens[modality].take(source) if modality in inputs.tokens else inputs.values[modality][source],
    )


def noise(inputs: Inputs, modality: str, seed: int) -> Inputs:
    """The rows with normal noise in place of one modality.

    Each column has the mean and the standard deviation of its column among the rows that have the modality;
    columns and rows are independent, also rows of equal content. What stays is which rows have the modality, and
    how many tokens. Rows that lack it get zeros.

    Args:
        inputs: training rows or test rows, not both.
        modality: which one.
        seed: not negative; two modalities get different noise by the same seed.

    Raises:
        UsageError: there is no such modality.
    """
    require_modalities(inputs, [modality])
    mask, generator = inputs.masks[modality].copy(), _generator("noise", modality, seed)
    if modality in inputs.tokens:
        tokens = inputs.tokens[modality]
        drawn = _drawn(tokens.values, np.repeat(mask, tokens.lengths), generator)
        return _with(inputs, modality, mask, Ragged(drawn, tokens.offsets.copy()))
    return _with(inputs, modality, mask, _drawn(inputs.values[modality], mask, generator))


def _generator(control: str, modality: str, seed: int) -> np.random.Generator:
    """By the modality too: two that are dealt alike would still belong to each other."""
    return np.random.default_rng([seed, *f"{control} {modality}".encode()])


def _with(inputs: Inputs, modality: str, mask: np.ndarray, content: np.ndarray | Ragged) -> Inputs:
    """The inputs with another content of one modality; names keep their order, for it is that of the columns."""
    values, tokens = dict(inputs.values), dict(inputs.tokens)
    if isinstance(content, Ragged):
        tokens[modality] = content
    else:
        values[modality] = content
    # By name and not by `replace`: whatever else the inputs hold may have been computed from the true content.
    return Inputs(values=values, masks={**inputs.masks, modality: mask}, tokens=tokens, groups=inputs.groups)


def _groups(inputs: Inputs, modality: str) -> np.ndarray:
    """Groups within which content must not be dealt, numbered from 0, `(n,)`."""
    found = np.unique(inputs.only([modality]).row_groups(), return_inverse=True)[1]
    if inputs.groups is None:  # rows that lack the modality have the same filler, but are not each other's copies
        absent = np.flatnonzero(~inputs.masks[modality])
        found[absent] = len(found) + np.arange(len(absent))
    return found


def _dealt(groups: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """For each row the row whose content it gets, a permutation `(n,)`.

    Rows stand in random order but group by group, and each gets the content of the one `step` places on. A step
    of at least the largest group leads out of every group, on either side.
    """
    n = len(groups)
    if n < 2:
        return np.arange(n)
    largest = int(np.bincount(groups).max())
    order = np.lexsort((generator.permutation(n), generator.permutation(groups.max() + 1)[groups]))
    if largest == n:
        step = int(generator.integers(1, n))
    elif largest > n - largest:
        step = largest  # as few rows as can be keep their group's
    else:
        step = int(generator.integers(largest, n - largest + 1))
    source = np.empty(n, dtype=np.int64)
    source[order] = np.roll(order, -step)
    return source


def _drawn(values: np.ndarray, shown: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Noise with the moments of the shown rows, in the shape and type of `values`; zeros in other rows."""
    out = np.zeros(values.shape, dtype=values.dtype)
    rows = np.flatnonzero(shown)
    if not len(rows):
        return out
    parts = [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
    mean = np.sum([values[part].sum(axis=0, dtype=np.float64) for part in parts], axis=0) / len(rows)
    squares = np.sum([((values[part] - mean) ** 2).sum(axis=0) for part in parts], axis=0)
    deviation = np.sqrt(squares / len(rows))
    for part in parts:
        out[part] = mean + deviation * generator.standard_normal((len(part), values.shape[1]))
    return out
