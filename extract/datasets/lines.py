"""Lines with delimiters as rows, where a quote may make one row of several lines."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from cache import DataError

FIELD_LIMIT = 64 * 2**20
_END = "\0the end of the table\0"
"""Is read after the last row, unless that left a quote open."""


def csv_rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row of a table, and the line on which it starts.

    Raises:
        DataError: a cell is too large, or a quote swallows rows that follow.
    """
    csv.field_size_limit(FIELD_LIMIT)  # the default refuses texts above 128 KiB
    lines: list[str] = []  # of the row that is being read

    def noted() -> Iterator[str]:
        for one in io.StringIO(f"{text}\n{_END}", newline=""):
            lines.append(one)
            yield one

    reader = csv.reader(noted(), delimiter=delimiter)
    line = 1
    try:
        for cells in reader:
            if cells == [_END]:
                return
            if cells and _END in cells[-1]:
                raise DataError(f"{path}: a quote opens in the row of line {line} and is never closed")
            if len(lines) > 1:
                _check_quotes(path, line, lines, delimiter, len(cells))
            yield line, cells
            lines.clear()
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: {error}") from error


def _check_quotes(path: Path, line: int, lines: Sequence[str], delimiter: str, cells: int) -> None:
    """Whether a row on several lines is one, or a text that begins with a quote swallows the rows up to another quote.

    Raises:
        DataError: a quote closes within a cell; or each line has all its cells by itself, between tabs, which texts
            hardly hold.
    """
    whole = delimiter != "\t" or cells == 1 or any(one.count(delimiter) != cells - 1 for one in lines)
    with contextlib.suppress(csv.Error):
        if whole and list(csv.reader(lines, delimiter=delimiter, strict=True)):
            return
    raise DataError(
        f"{path}: a quote makes one row of the lines {line} to {line + len(lines) - 1}, which hardly are one; a cell "
        "with quotes is to stand in quotes itself, with each of its own doubled"
    )
