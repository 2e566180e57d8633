"""Rows of any table, whatever it was read from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from cache import DataError


@dataclass
class Rows:
    """What was read of one table: column names, and rows with their line numbers."""

    columns: list[str] = field(default_factory=list)
    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    @property
    def numbered(self) -> bool:
        """Whether rows are known by the numbers of their lines."""
        return True

    def of(self, columns: Collection[str]) -> Iterable[tuple[int, Mapping[str, Any]]]:
        """The rows, each with at least these of the columns, and their numbers."""
        return self.rows

    def where(self, number: int) -> str:
        """What messages call a row by its number."""
        return f"line {number}"


def one_meaning(path: Path, columns: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """The columns of roles in some tables of a data set, and in more of them.

    Raises:
        DataError: a role is one column in some and another in others.
    """
    for role, column in more.items():
        if columns.get(role, column) != column:
            raise DataError(
                f"{path}: {role} is the column {columns[role]} in some files and {column} in others; name it by "
                f"--columns {role}=..., or call it the same in all"
            )
    return {**columns, **more}


Kind = TypeVar("Kind", bound=Rows, covariant=True)


@dataclass
class Part(Generic[Kind]):
    """One table of a data set.

    Attributes:
        path: of the table, for messages.
        rows: of it.
        root: where paths in its cells start, and what they may not leave.
        problems: what is wrong with rows; more may be found when they are read.
        name: what messages call it; empty where it is the only one.
        prefix: what the number of a row becomes its id by, where no column holds one; empty as well.
        split: of rows whose split no column says.
        roles: columns that are known without looking at their names.
        first: how many rows of the table come before these.
    """

    path: Path
    rows: Kind
    root: Path
    problems: list[str]
    name: str = ""
    prefix: str = ""
    split: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)
    first: int = 0
