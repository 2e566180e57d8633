"""What makes a score too good: nearly equal rows on both sides of a split, encoders that were tuned on test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cache import NO_ITEM, Block, DataError, DataSet, FeatureTable, listing, tables_of, unpack_items
from fuse.splits import Fold, Protocol

TUNED_ON = "tuned_on"
"""Field of a block's spec that a fine-tuned encoder carries, None or absent for any other:
`{"data": name, "items": [32 hex digits, ...]}`, and what else is worth knowing. `items` are the item keys of
the training content of this modality. They alone decide: a key is the content's digest, so that neither
another name, nor another order, nor a part of the data hides it."""

ROWS_AT_ONCE = 4096
EXAMPLES = 10
ROUNDING = 1e-6
"""By which the cosine of equal vectors may miss 1 in float32."""
NOTHING = 1e-9
"""A row nearer to the mean than this share of its length differs from it by the rounding of sums alone."""


@dataclass(frozen=True)
class NearDuplicates:
    """Rows of one modality and the nearest row of another group, where that is near.

    Attributes:
        threshold: the least cosine.
        rows: how many rows have the modality.
        checked: of how many of them the nearest row was looked for.
        pairs: `int64 (P, 2)`, a checked row and its nearest row, highest cosine first. Two checked rows that
            are each other's nearest stand here once.
        cosine: `float64 (P,)`.
    """

    threshold: float
    rows: int
    checked: int
    pairs: np.ndarray
    cosine: np.ndarray


def near_duplicates(
    values: np.ndarray,
    present: np.ndarray,
    groups: np.ndarray,
    threshold: float = 0.95,
    most: int = 20_000,
    seed: int = 0,
) -> NearDuplicates:
    """Pairs of nearly equal rows that no group keeps together.

    The cosine is that of vectors from which the mean of all present rows was taken: vectors of BERT all point
    about the same way, and would all be alike without. Rows that are the mean are like each other and like no
    other row. It takes `4 D (checked + 2 * 4096)` bytes beside `values`, and `2 n D checked` operations.

    Args:
        values: shape `(n, D)`, finite where present.
        present: `bool (n,)`, which rows have the modality.
        groups: `int64 (n,)`; rows of one group are never a pair.
        threshold: least cosine of a pair.
        most: of more rows than these, so many random ones are compared with all.
        seed: of their choice.
    """
    rows = np.flatnonzero(present)
    checked = rows
    if len(rows) > most:
        checked = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    nearest, cosine = _nearest(values, rows, checked, groups)
    near = cosine >= threshold - ROUNDING
    pairs, cosine = np.stack([checked[near], nearest[near]], axis=1), np.minimum(cosine[near], 1.0)
    _, first = np.unique(np.sort(pairs, axis=1), axis=0, return_index=True)
    first = first[np.argsort(-cosine[first], kind="stable")]
    return NearDuplicates(threshold, len(rows), len(checked), pairs[first], cosine[first])


def across(found: NearDuplicates, fold: np.ndarray) -> int:
    """How many of the pairs a split parts.

    Args:
        found: as `near_duplicates` gives them.
        fold: shape `(n,)`, the part each row is in, such as the number of the fold that tests it.
    """
    return int((fold[found.pairs[:, 0]] != fold[found.pairs[:, 1]]).sum())


def describe(found: NearDuplicates, ids: np.ndarray, fold: np.ndarray) -> dict[str, Any]:
    """What was found as JSON, with the most similar pairs as `[id, id, cosine]`.

    Args:
        found: as `near_duplicates` gives them.
        ids: strings of shape `(n,)`.
        fold: as `across` takes it.
    """
    best = zip(found.pairs[:EXAMPLES].tolist(), found.cosine[:EXAMPLES].tolist(), strict=True)
    return {
        "threshold": found.threshold,
        "rows": found.rows,
        "checked": found.checked,
        "pairs": len(found.pairs),
        "across": across(found, fold),
        "examples": [[str(ids[one]), str(ids[other]), round(cosine, 4)] for (one, other), cosine in best],
    }


def _nearest(
    values: np.ndarray, rows: np.ndarray, checked: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of each checked row the nearest row of another group and its cosine; -inf where there is no other group."""
    nearest, best = np.zeros(len(checked), dtype=np.int64), np.full(len(checked), -np.inf)
    if not len(rows):
        return nearest, best
    parts = [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
    mean = np.sum([values[part].sum(axis=0, dtype=np.float64) for part in parts], axis=0) / len(rows)
    asked = np.empty((len(checked), values.shape[1] + 1), dtype=np.float32)
    chunks = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(checked), ROWS_AT_ONCE)]
    for chunk in chunks:
        asked[chunk] = _directions(values[checked[chunk]], mean)
    for part in parts:
        others = _directions(values[part], mean)
        for chunk in chunks:
            cosine = asked[chunk] @ others.T
            cosine[groups[checked[chunk], None] == groups[part]] = -np.inf
            place = cosine.argmax(axis=1)
            highest = cosine[np.arange(len(place)), place]
            better = highest > best[chunk]
            nearest[chunk][better], best[chunk][better] = part[place[better]], highest[better]
    return nearest, best


def _directions(rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Centred rows of length 1, `float32 (n, D + 1)`; a row that is the mean points along a column of its own."""
    out = np.zeros((len(rows), len(mean) + 1), dtype=np.float32)
    centred = rows - mean
    length = np.linalg.norm(centred, axis=1)
    some = length > NOTHING * np.linalg.norm(rows.astype(np.float64), axis=1)
    out[some, :-1] = centred[some] / length[some, None]
    out[~some, -1] = 1.0
    return out


def tuned_rows(table: FeatureTable, modality: str) -> np.ndarray:
    """`bool (n,)`: rows of the table whose content of this modality the modality's encoder was tuned on.

    Raises:
        DataError: the encoder was tuned, but it is not known on what.
    """
    block = table.view.blocks[modality]
    tuned = _tuned_items(table, block)
    if not tuned:
        return np.zeros(len(table), dtype=bool)
    # By id, for the view is the whole data set's even where the table holds a part of it.
    hit = {str(name) for name, item in zip(table.view.ids, unpack_items(block.items), strict=True) if item in tuned}
    return np.array([name in hit for name in table.ids.tolist()], dtype=bool)


def refuse_tuned(data: DataSet, folds: Sequence[Fold]) -> None:
    """Refuses folds whose test rows tuned an encoder: it has seen their labels, and so has each of its vectors.

    One modality is enough, whether the encoders were tuned one by one or jointly. Modalities that the table
    leaves out do not count. A fold of a cross-fitted data set answers for the encoders of its own table.

    Raises:
        DataError: names the modality, the rows, and the way out.
    """
    for number, table in enumerate(tables_of(data)):
        _refuse_tuned_of(table, [fold for fold in folds if fold.table == number])


def without_tuned(data: DataSet, protocol: Protocol) -> Protocol:
    """The protocol without rows beside the judged ones that an encoder was tuned on, such as those that it watched.

    They are no test rows, and a tuning that watches the validation split is as it should be; but a figure of
    rows that an encoder knows would say nothing, and so the description says why there is none.
    """
    tables = tables_of(data)
    known = [
        fold.name
        for fold in protocol.also
        if any(tuned_rows(tables[fold.table], name)[fold.test].any() for name in data.modalities)
    ]
    if not known:
        return protocol
    said = f"{protocol.description}; {listing(known)} rows are not reported: the tuning of an encoder has seen them"
    return replace(protocol, description=said, also=tuple(fold for fold in protocol.also if fold.name not in known))


def _refuse_tuned_of(table: FeatureTable, folds: Sequence[Fold]) -> None:
    tested = np.zeros(len(table), dtype=bool)
    for fold in folds:
        tested[fold.test] = True
    for modality in table.modalities:
        seen = tuned_rows(table, modality) & tested
        if seen.any():
            names = listing(list(dict.fromkeys(fold.name for fold in folds if seen[fold.test].any())))
            data = table.view.blocks[modality].spec[TUNED_ON].get("data", "unnamed data")
            raise DataError(
                f"{int(seen.sum())} of {int(tested.sum())} test rows of {table.name} (fold {names}) tuned the "
                f"{modality} encoder, which has seen their labels: {listing(table.ids[seen].tolist())}; it was tuned "
                f"on {data}. Judge on rows that did not tune it (by splits in the data: what tuned it is train), or "
                "tune it on the training split only and extract again"
            )


def _tuned_items(table: FeatureTable, block: Block) -> set[bytes]:
    """Item keys of the content on which the block's encoder was tuned."""
    tuned = block.spec.get(TUNED_ON)
    if tuned is None:
        return set()
    items = tuned.get("items") if isinstance(tuned, Mapping) else None
    try:
        found = {bytes.fromhex(item) for item in items or ()} - {NO_ITEM}
    except (TypeError, ValueError):
        found = set()
    if not found or {len(item) for item in found} != {len(NO_ITEM)}:
        raise DataError(
            f"the {block.modality} encoder of {table.name} was fine-tuned, but the store does not say on which "
            f"content (expected 32 hex digits an item under {TUNED_ON!r}), so that no row can be trusted as test "
            "row; extract again with the tuned encoder, or with another one"
        )
    return found
