"""What else is known of each row, and whether it alone gives the label away."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from cache import label_numbers
from extract.datasets.cells import text_of
from extract.datasets.table import read_rows
from extract.manifest import Manifest, Sample

OF_TABLES = {"table": "tables", "fakeddit": "lists", "mosi": "lists"}
"""Layouts whose rows have further columns, and the note that names their files."""
OF_MOSI = ("id", "words", "text", "label", "video", "audio", "vision")


def further_columns(manifest: Manifest, chosen: Sequence[int]) -> tuple[dict[str, list[str]], list[str]]:
    """Cells of the columns that are neither inputs nor labels, as the files hold them.

    The files are read once more, for no extraction needs these columns.

    Args:
        manifest: the data set.
        chosen: numbers of the rows.

    Returns:
        By column, the cell of each chosen row, empty where it has none; and the names of columns that cannot be
        looked at, for they hold lists or objects.
    """
    listed = manifest.notes.get(OF_TABLES.get(manifest.layout, ""), ())
    used = {part for column in manifest.notes.get("columns", {}).values() for part in str(column).split("+")}
    used |= set(OF_MOSI) if manifest.layout == "mosi" else set()
    root = manifest.path if manifest.path.is_dir() else manifest.path.parent
    by_file: dict[str, dict[int, int]] = {}
    for place, row in enumerate(chosen):
        sample = manifest.samples[row]
        by_file.setdefault(sample.file or next(iter(listed), ""), {})[sample.line] = place
    cells: dict[str, list[str]] = {}
    odd: dict[str, None] = {}
    for name in listed:
        for line, content in read_rows(root / name, []).rows:
            place = by_file.get(name, {}).get(line, -1)
            for column in (column for column in content if column not in used and place >= 0):
                try:
                    cell = text_of(content, column)
                except ValueError:
                    odd[column] = None
                    continue
                cells.setdefault(column, [""] * len(chosen))[place] = cell
    return {name: column for name, column in cells.items() if name not in odd}, list(odd)


def tabular_columns(samples: Sequence[Sample], modality: str) -> dict[str, list[str]]:
    """Cells of the columns of a tabular modality, one a sample."""
    found: dict[str, list[str]] = {}
    for number, sample in enumerate(samples):
        for name, cell in json.loads(str(sample.inputs.get(modality, "{}"))).items():
            found.setdefault(name, [""] * len(samples))[number] = cell
    return found


def column_facts(cells: Sequence[str]) -> dict[str, Any]:
    """Whether a column holds numbers or categories, how many are missing, and how many differ."""
    counts = Counter(cell for cell in cells if cell)
    numbers = label_numbers(list(counts))
    kind = "numbers" if len(counts) and np.isfinite(numbers).all() else "categories"
    return {"kind": kind, "missing": len(cells) - counts.total(), "distinct": len(counts)}
