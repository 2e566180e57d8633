"""What the data itself decides of the encoders of modalities that are neither texts nor images."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache import DataError, UsageError, label_numbers, listing
from extract.arrays import array_width
from extract.decode import DecodeError
from extract.encoders.spec import ARRAY, AUDIO, DEFAULT_MODELS, TABULAR, kind_of
from extract.manifest import Aligned, Content, Manifest, file_name
from extract.sound import COMPRESSED, have_soundfile, is_clip

LOOKED_AT = 64
"""Arrays whose width is asked for; most of them are taken to be right."""
CATEGORIES = 1000
"""Most categories of a column: each becomes a column of its own."""
NOTHING = frozenset({"", "nan", "na", "n/a", "#n/a", "<na>", "null", "none"})
"""What stands in a column of numbers where there is none, in small letters, as R, pandas and spreadsheets write it."""


def found_in(manifest: Manifest, modalities: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
    """By modality the fields of its `EncoderSpec`, and `aligned` where its arrays belong to words.

    Args:
        manifest: the data set; of arrays the first files are opened.
        modalities: which to look at; all by default.

    Raises:
        DataError: the data lacks a modality, no array of one can be read, or a column is no category.
        UsageError: there are compressed audio files, and no library that reads them.
    """
    lacking = [name for name in modalities or () if name not in manifest.modalities and name not in DEFAULT_MODELS]
    if lacking:
        raise DataError(
            f"{manifest.path} has no {listing(lacking)}; it has {listing(manifest.modalities)}: "
            "see --modalities and --columns"
        )
    found: dict[str, dict[str, Any]] = {}
    for modality in manifest.modalities:
        if kind_of(modality, "") in DEFAULT_MODELS or (modalities is not None and modality not in modalities):
            continue
        contents = [sample.inputs[modality] for sample in manifest.samples if modality in sample.inputs]
        if kind_of(modality, "") == TABULAR:
            columns = settled_columns([columns_in(map(str, contents))])
            found[modality] = {"model": TABULAR, "precision": "fp32", "columns": columns}
            continue
        if kind_of(modality, "") == AUDIO and any(is_clip(content) for content in contents):
            _require_soundfile(modality, contents)
            found[modality] = {"model": "", "precision": "fp32"}  # which model, the user says
            continue
        aligned = any(isinstance(content, Aligned) for content in contents)
        width = _width(modality, contents)
        found[modality] = {"model": ARRAY, "precision": "fp32", "width": width, "aligned": aligned}
    return found


def _require_soundfile(modality: str, contents: Sequence[Content]) -> None:
    """Before anything is encoded, rather than a failure a row."""
    files = [name for name in map(file_name, contents) if name.lower().endswith(COMPRESSED)]
    if files and not have_soundfile():
        raise UsageError(
            f"{len(files)} of the {len(contents)} files of {modality} are no WAV, such as {Path(files[0]).name}, and "
            "soundfile, which reads them, cannot be imported: pip install soundfile"
        )


def _width(modality: str, contents: Sequence[Content]) -> int:
    """Columns of most of the first arrays."""
    widths: Counter[int] = Counter()
    problem = "no row has one"
    for content in contents:
        array = content.array if isinstance(content, Aligned) else content
        if isinstance(array, str) or widths.total() == LOOKED_AT:
            break
        try:
            widths[array_width(array)] += 1
        except (DecodeError, OSError) as error:
            place = f"{file_name(array)}: " if file_name(array) else ""
            problem = place + (error.strerror if isinstance(error, OSError) and error.strerror else str(error))
    if not widths:
        raise DataError(f"none of the {len(contents)} arrays of {modality} can be read ({problem}); see --modalities")
    return widths.most_common(1)[0][0]


@dataclass
class Column:
    """What decides how a column of a table is encoded.

    Attributes:
        numbers: whether all its cells hold numbers, or say that there is none.
        values: its different cells as they appear; one more than CATEGORIES at most.
    """

    numbers: bool = True
    values: dict[str, None] = field(default_factory=dict)

    def add(self, cell: str) -> None:
        """Looks at one more cell; an empty one says nothing."""
        if cell and cell not in self.values:
            # An infinite one is no category either: its row will fail.
            self.numbers = self.numbers and (says_nothing(cell) or not math.isnan(label_numbers([cell])[0]))
            if len(self.values) <= CATEGORIES:
                self.values[cell] = None

    @property
    def categories(self) -> tuple[str, ...] | None:
        """Its values in order; None where it holds numbers, and not only words for none."""
        numbers = self.numbers and (not self.values or not all(map(says_nothing, self.values)))
        return None if numbers else tuple(sorted(self.values))


def columns_in(rows: Iterable[str]) -> dict[str, Column]:
    """The columns of some rows, each of which is JSON."""
    found: dict[str, Column] = {}
    for row in rows:
        for name, cell in json.loads(row).items():
            found.setdefault(name, Column()).add(cell)
    return found


def settled_columns(parts: Iterable[Mapping[str, Column]]) -> tuple[tuple[str, tuple[str, ...] | None], ...]:
    """Name and categories of each column of all parts of a data set; None for one that holds numbers alone.

    Raises:
        DataError: a column is neither: it holds too many values.
    """
    joined: dict[str, Column] = {}
    for name, column in (item for part in parts for item in part.items()):
        into = joined.setdefault(name, Column())
        for cell in column.values:
            into.add(cell)
        into.numbers = into.numbers and column.numbers  # also by cells that were not kept
    for name, column in joined.items():
        if column.categories is not None and len(column.values) > CATEGORIES:
            raise DataError(
                f"the column {name} holds more than {CATEGORIES} different values, such as "
                f"{listing(list(column.values), 3)}: too many for categories; leave it out of --columns tabular=..."
            )
    return tuple((name, one.categories) for name, one in joined.items())


def number_of(cell: str) -> float | None:
    """The finite number that a cell holds, else None."""
    value = float(label_numbers([cell])[0])
    return value if math.isfinite(value) else None


def says_nothing(cell: str) -> bool:
    """Whether a cell among numbers holds none."""
    return cell.lower() in NOTHING
