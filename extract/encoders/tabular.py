"""Columns of a table as numbers: numbers as they are, categories one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cache import KEY_SCHEMA, EncoderKey, UsageError, Values
from extract.decode import DecodeError
from extract.encoders.spec import COMPUTE, TABULAR, EncoderSpec, storage
from extract.found import number_of, says_nothing
from extract.manifest import Content


class TabularEncoder:
    """One vector `row` a sample, from its cells as JSON.

    A number takes two columns: its value, 0 where it is missing, and 1 where it is missing. A category
    takes a column for each that the spec lists, 1 in its own; one that is not listed, as may be
    met when new data is labelled, and a missing one are all zeros. Nothing is scaled: heads do that on
    the rows that they train on.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        if not spec.columns:
            raise UsageError(f"nothing says what the columns of {spec.modality} are; give EncoderSpec(columns=...)")
        self._columns = spec.columns
        self._width = sum(2 if known is None else len(known) for _, known in spec.columns)
        self.truncated = 0
        self.files: tuple[Path, ...] = ()
        # A price may be too large for half precision, and there is one vector: no tokens.
        plain = replace(spec, tokens=False, dtype="float32")
        self.key = EncoderKey(
            {
                "schema": KEY_SCHEMA,
                "modality": spec.modality,
                "architecture": TABULAR,
                "columns": [[name, None if known is None else list(known)] for name, known in spec.columns],
                "layer": "value and whether it is missing; one column a category",
                "compute": COMPUTE["fp32"],
                **storage(plain, {"row": self._width}),
            },
            name=TABULAR,
        )

    def prepare(self, contents: Sequence[Content]) -> tuple[list[Any], list[int]]:
        """The JSON of each row as it is; each costs 1."""
        return list(contents), [1] * len(contents)

    def decode(self, light: Any) -> np.ndarray:
        """The row, `float32 (D,)`. Raises DecodeError for what is no number where numbers are expected."""
        cells = json.loads(light)
        row: list[float] = []
        for name, known in self._columns:
            cell = cells.get(name, "")
            if known is None:
                row += _number(name, cell)
            else:
                row += [float(cell == one) for one in known]
        return np.array(row, dtype=np.float32)

    def blank(self) -> np.ndarray:
        """A row of zeros."""
        return np.zeros(self._width, dtype=np.float32)

    def encode(self, batch: Sequence[np.ndarray]) -> dict[str, Values]:
        """`row` of each sample, float32 of shape `(len(batch), D)`."""
        return {"row": np.stack(batch)}


def _number(name: str, cell: str) -> list[float]:
    """Its value, and whether it is missing."""
    if says_nothing(cell):
        return [0.0, 1.0]
    value = number_of(cell)
    if value is None:
        raise DecodeError(f"{name} is {cell[:40]!r}, expected a number")
    if abs(value) > float(np.finfo(np.float32).max):
        raise DecodeError(f"{name} is {cell[:40]}, too large for float32")
    return [value, 0.0]
