"""Samples that a caller holds in memory: lists of dicts, DataFrames, lists of texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache import DataError, UsageError, listing
from extract.manifest import Content, Manifest, Sample

EXPECTS = 'a list of dicts such as {"text": ..., "image": ...}, a DataFrame with such columns, or a list of texts'


@dataclass(frozen=True)
class Raw:
    """`n` samples by column.

    Attributes:
        names: of all columns; of dicts, the keys that at least one has.
        read: gives the `n` values of a column.
        sparse: whether a row may do without a column that others have: dicts and texts may.
    """

    n: int
    names: Sequence[Any]
    read: Callable[[Any], Iterable[Any]]
    sparse: bool


def read_raw(X: Any, text_column: Any) -> Raw:
    """Takes X apart.

    Args:
        X: what EXPECTS says, of `n` rows.
        text_column: what the column of a list of texts is to be called.

    Raises:
        UsageError: X is no such thing.
        DataError: it holds no rows, or rows of another kind.
    """
    framed = hasattr(X, "columns") and hasattr(X, "dtypes")  # of pandas or polars; neither is needed to run
    listed = hasattr(X, "__len__") and hasattr(X, "__getitem__") and getattr(X, "ndim", 1) == 1
    if not framed and (not listed or isinstance(X, str | bytes | Mapping)):
        raise UsageError(f"X is {EXPECTS}; found {_kind(X)}")
    if not len(X):
        raise DataError(f"X holds no rows; expected {EXPECTS}")
    if framed:
        return _frame(X)
    rows = list(X)
    if any(isinstance(row, Mapping) for row in rows):
        _require(rows, lambda row: isinstance(row, Mapping))
        names = list(dict.fromkeys(name for row in rows for name in row))
        return Raw(len(rows), names, lambda name: [row.get(name) for row in rows], sparse=True)
    _require(rows, lambda row: isinstance(row, str) or _is_missing(row))
    return Raw(len(rows), [text_column], lambda _: rows, sparse=True)


def raw_manifest(raw: Raw, columns: Mapping[str, Any], root: Path) -> Manifest:
    """The samples with what they have of each modality; each is called by its position in X, from 0.

    Args:
        raw: the samples.
        columns: by modality the column; one that `raw` lacks is missing in every row.
        root: where relative paths start.

    Raises:
        DataError: values that are no text and no picture; all of them are listed.
    """
    inputs: list[dict[str, Content]] = [{} for _ in range(raw.n)]
    problems = []
    for modality, column in columns.items():
        for number, value in enumerate(raw.read(column) if column in raw.names else ()):
            try:
                content = _text(value) if modality == "text" else _picture(value, root)
            except (TypeError, ValueError) as error:
                problems.append(f"row {number}, {column!r}: {error}")
                continue
            if content is not None:
                inputs[number][modality] = content
    if problems:
        shown = "\n  ".join([*problems[:20], *([f"and {len(problems) - 20} more"] if len(problems) > 20 else [])])
        raise DataError(f"X has {len(problems)} values that cannot be used; correct them, or give None:\n  {shown}")
    samples = tuple(Sample(str(number), one) for number, one in enumerate(inputs))
    # A path that no data set can have: a view of it is not taken for the same data as one that `extract` made.
    return Manifest(root / "<memory>", "memory", samples, declared=tuple(columns))


def _frame(X: Any) -> Raw:
    names = list(X.columns)
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"X has several columns of one name: {listing(twice)}; rename them")
    return Raw(len(X), names, lambda name: list(X[name]), sparse=False)


def _require(rows: Sequence[Any], fits: Callable[[Any], bool]) -> None:
    odd = next((number for number, row in enumerate(rows) if not fits(row)), None)
    if odd is not None:
        raise DataError(f"X is {EXPECTS}; row {odd} of {len(rows)} is {_kind(rows[odd])}")


def _text(value: Any) -> str | None:
    """Without the spaces around it, as `extract` reads it from a table; None where it is missing."""
    if _is_missing(value):
        return None
    if not isinstance(value, str):
        raise TypeError(f"expected a text, found {_kind(value)}")
    return str(value).strip() or None


def _picture(value: Any, root: Path) -> Path | bytes | None:
    if _is_missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if not isinstance(value, str | Path):
        raise TypeError(f"expected the path of a picture or its bytes, found {_kind(value)}")
    path = root / value
    if b"\0" in os.fsencode(path):  # which raises UnicodeEncodeError, a ValueError, for half a surrogate pair
        raise ValueError(f"{str(value)!r} cannot be a path, for it holds a NUL")
    return path


def _is_missing(value: Any) -> bool:
    """None, NaN, and what pandas calls NA and NaT."""
    nan = isinstance(value, float | np.floating) and bool(np.isnan(value))
    return value is None or nan or type(value).__name__ in ("NAType", "NaTType")


def _kind(value: Any) -> str:
    """Its type, and its shape if it has one."""
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (f" of shape {shape}" if isinstance(shape, tuple) and shape else "")
