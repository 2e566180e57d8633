"""What else is known of each row, and whether it alone gives the label away."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from extract.datasets.cells import text_of
from extract.datasets.table import read_rows
from extract.found import Column, says_nothing
from extract.manifest import Manifest, Sample
from extract.reading import reading

OF_TABLES = {"table": "tables", "fakeddit": "lists", "mosi": "lists"}
"""Layouts whose rows have further columns, and the note that names their files."""
WITHOUT = ("mvsa", "folders", "memory")
"""Layouts whose rows have none."""
OF_MOSI = ("id", "words", "text", "label", "video", "audio", "vision")


def further_columns(manifest: Manifest, chosen: Sequence[int]) -> tuple[dict[str, list[str]], list[str]]:
    """Cells of the columns that are neither inputs nor labels, as the files hold them.

    The files are read once more, for no extraction needs these columns.

    Args:
        manifest: the data set.
        chosen: numbers of the rows.

    Returns:
        By column, the cell of each chosen row, empty where it has none; and what cannot be looked at, such as
        columns that hold lists or objects.
    """
    if manifest.layout not in (*OF_TABLES, *WITHOUT):
        return {}, [f"all that the layout {manifest.layout} may have beside its inputs"]
    listed = manifest.notes.get(OF_TABLES.get(manifest.layout, ""), ()) if chosen else ()
    used = {part for column in manifest.notes.get("columns", {}).values() for part in str(column).split("+")}
    used |= set(OF_MOSI) if manifest.layout == "mosi" else set()
    root = manifest.path if manifest.path.is_dir() else manifest.path.parent
    places = {manifest.samples[row].where: place for place, row in enumerate(chosen)}
    cells: dict[str, list[str]] = {}
    seen: dict[str, None] = {}
    lost: set[str] = set()
    for name in listed:
        with reading(bool(manifest.notes.get("outside")), manifest.notes.get("encoding")):
            content = read_rows(root / name, [])
        others = [column for column in content.columns if column not in used]
        seen |= dict.fromkeys(others)
        for number, held in content.of(others):
            where = content.where(number)  # after the name of the file, unless it is the only one
            place = places.get(f"{name} {where}", places.get(where))
            if place is None:
                continue
            for column in others:
                try:
                    cells.setdefault(column, [""] * len(chosen))[place] = text_of(held, column)
                except ValueError:
                    lost.add(column)
    looked_at = {column: cells[column] for column in seen if column in cells and column not in lost}
    return looked_at, [column for column in seen if column not in looked_at]


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
    column = Column()
    for cell in counts:
        column.add(cell)
    if column.categories is None:
        counts = Counter({cell: count for cell, count in counts.items() if not says_nothing(cell)})
    kind = "numbers" if column.categories is None else "categories"
    return {"kind": kind, "missing": len(cells) - counts.total(), "distinct": len(counts)}
