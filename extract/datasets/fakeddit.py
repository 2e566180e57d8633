"""The layout of Fakeddit (Nakamura et al. 2020): lists of posts, pictures in a folder by the ids of the posts.

    fakeddit/
      multimodal_train.tsv          clean_title  id  image_url  2_way_label  3_way_label  6_way_label ...
      multimodal_validate.tsv
      multimodal_test_public.tsv
      images/<id>.jpg               or public_image_set/<id>.jpg, or beside the lists; .jpeg and .png too

Lists are the tables with the columns `clean_title` and `image_url`; several, with train, validate and test
in their names, are splits. The label is the finest of the three that there is, or `--columns
label=2_way_label`. A picture that is not there is what `--download` fetches from its address. DATA is the
folder or one of the lists.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache import DataError, UsageError, listing
from extract.datasets.cells import text_of
from extract.datasets.rows import Rows
from extract.datasets.table import read_rows
from extract.downloads.address import Download, download_of, is_address
from extract.manifest import Content, Manifest, Sample, checked_manifest, inside

EXPECTS = "a folder with *.tsv (clean_title, image_url, id, 6_way_label) and images/<id>.jpg"
MARKS = ("clean_title", "image_url")
SPLITS = {"train": "train", "valid": "valid", "test": "test"}
"""Part of a list's name, and the split that it is."""
FOLDERS = ("images", "public_image_set", "")
PICTURES = (".jpg", ".jpeg", ".png")
LABELS = ("6_way_label", "3_way_label", "2_way_label")
ROLES = {"id": ("id",), "text": ("clean_title",), "label": LABELS, "group": ()}
"""Columns of each role, the preferred first."""


def recognise(path: Path) -> bool:
    """Whether the path is such a list or a folder that directly holds some."""
    return bool(_lists(path))


def _lists(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if _is_list(path) else []
    return sorted((one for one in path.glob("*.tsv") if _is_list(one)), key=lambda one: (_order(one), one.name))


def _is_list(path: Path) -> bool:
    if path.suffix.lower() not in (".tsv", ".csv"):
        return False
    try:
        with path.open("rb") as file:
            header = file.readline(2**16).decode("utf-8-sig", errors="replace").strip().split("\r")[0]
    except OSError:
        return False
    names = next(csv.reader([header], delimiter="\t" if "\t" in header else ","), [])
    return set(MARKS) <= {name.strip() for name in names}


def _split(path: Path) -> str:
    return next((split for part, split in SPLITS.items() if part in path.stem.lower()), "")


def _order(path: Path) -> int:
    return [*SPLITS.values(), ""].index(_split(path))


def read(path: Path, columns: Mapping[str, str]) -> Manifest:
    """Reads the data set; rows keep the order of the lists: train, validate, test.

    Args:
        path: the folder, or one of its lists.
        columns: `id`, `text`, `label` or `group`, and the column that it is in; an empty label leaves all rows
            unlabelled.

    Raises:
        DataError: it is no such folder, lists that are no splits, a column that is not there, or bad rows (all
            are listed).
        UsageError: a role that this layout does not have.
    """
    wrong = [role for role in columns if role not in ROLES]
    if wrong:
        raise UsageError(
            f"--columns: the layout fakeddit has {listing(list(ROLES))}, not {listing(wrong)} "
            "(--layout table reads it as a table, with pictures by path)"
        )
    lists = _lists(path)
    if not lists:
        raise DataError(f"{path} is not laid out as fakeddit; expected {EXPECTS}")
    splits = [_split(one) if len(lists) > 1 else "" for one in lists]
    if len(lists) > 1 and (not all(splits) or len(set(splits)) < len(splits)):
        names = listing([one.name for one in lists])
        raise DataError(f"{path} holds lists that are not one each of train, validate and test ({names}); give one")
    samples: list[Sample] = []
    problems: list[str] = []
    used: dict[str, str] = {}
    for listed, split in zip(lists, splits, strict=True):
        before = len(problems)
        content = read_rows(listed, problems)
        has_labels = bool(set(LABELS) & set(content.columns))
        first = {"label": used["label"]} if "label" in used and has_labels else {}  # one meaning in all lists
        own = _used(listed, content.columns, {**first, **columns})
        used |= own
        pictures = Pictures.beside(listed)
        samples += _samples(listed, content, own, pictures, split, problems)
        problems[before:] = [f"{listed.name} {problem}" for problem in problems[before:]]
    notes = {"columns": used, "named": dict(columns), "lists": [one.name for one in lists]}
    return checked_manifest(path, "fakeddit", samples, problems, notes)


def _used(listed: Path, found: Sequence[str], named: Mapping[str, str]) -> dict[str, str]:
    """The column of each role; none for a label or group that the list does not have."""
    used = {}
    for role, usual in ROLES.items():
        column = named.get(role, next((name for name in usual if name in found), ""))
        if (column and column not in found) or (not column and role in ("id", "text")):
            raise DataError(f"{listed} has no column {column or usual[0]!r} for {role}; it has {listing(found)}")
        if column:
            used[role] = column
    return used


@dataclass(frozen=True)
class Pictures:
    """The pictures of a list: where one is expected, and where each lies, by its name without the suffix.

    What lies in none of the folders may be downloaded, into a folder under `root`.
    """

    root: Path
    expected: Path
    found: Mapping[str, Path]

    @classmethod
    def beside(cls, listed: Path) -> Pictures:
        """Looks through each folder once: there are some hundred thousand pictures."""
        folders = [listed.parent / name for name in FOLDERS if (listed.parent / name).is_dir()]
        found: dict[str, Path] = {}
        for one in sorted((one for folder in folders for one in folder.iterdir()), key=lambda one: one.name):
            if one.suffix.lower() in PICTURES:
                found.setdefault(one.stem, one)
        return cls(listed.parent, folders[0], found)

    def of(self, name: str, address: str) -> Path | Download:
        """Where the picture of this id lies, is to be had, or was expected.

        Raises ValueError for an id that is no file's name.
        """
        path = self.found.get(name, self.expected / f"{name}{PICTURES[0]}")
        if "/" in name or inside(path.parent, path.name) is None:
            raise ValueError(f"the id {name[:80]!r} is not the name of a file in {path.parent}")
        return download_of(address, self.root, "image") if name not in self.found and is_address(address) else path


def _samples(
    listed: Path, content: Rows, used: Mapping[str, str], pictures: Pictures, split: str, problems: list[str]
) -> Iterator[Sample]:
    for line, row in content.rows:
        cells = {role: text_of(row, column) for role, column in used.items()}
        inputs: dict[str, Content] = {"text": cells["text"]} if cells["text"] else {}
        try:
            inputs["image"] = pictures.of(cells["id"], text_of(row, MARKS[1]))
        except ValueError as error:
            problems.append(f"line {line}: {error}")
            continue
        yield Sample(cells["id"], inputs, cells.get("label", ""), split, cells.get("group", ""), line, listed.name)
