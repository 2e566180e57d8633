"""Rows that hold the same, or nearly the same: how many, with which labels, and on which sides of a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cache import NO_ITEM, REGRESSION, SPLITS
from extract.check.near import Near, near_pictures, near_texts, normalised
from extract.manifest import Sample

EXAMPLES, MEMBERS = 6, 4
"""Groups that are shown of each kind, and rows of each group."""


@dataclass(frozen=True)
class Rows:
    """What a report says of `n` rows: `split` is train, valid or test, or as the data calls it; empty where none."""

    ids: list[str]
    labels: list[str]
    split: list[str]
    task: str

    @staticmethod
    def of(samples: Sequence[Sample], task: str) -> Rows:
        """Those of a data set."""
        names = [sample.split.strip().lower() for sample in samples]
        split = [SPLITS.get(name, name) for name in names]
        return Rows([sample.id for sample in samples], [sample.label for sample in samples], split, task)


def sets_of(values: Sequence[Hashable | None]) -> list[list[int]]:
    """Numbers of the rows that share a value, two or more, by first row; None is shared with nothing."""
    found: dict[Hashable, list[int]] = {}
    for row, value in enumerate(values):
        if value is not None:
            found.setdefault(value, []).append(row)
    return [rows for rows in found.values() if len(rows) > 1]


def distinct_first(group: Sequence[int], items: Sequence[bytes]) -> list[int]:
    """The rows of a group, one of each content first, so that examples show what differs."""
    first = {items[row]: row for row in reversed(group)}
    return [*sorted(first.values()), *sorted(set(group) - set(first.values()))]


def whole_samples(items: Mapping[str, Sequence[bytes]]) -> list[Hashable | None]:
    """Of each row the item keys of all its modalities; None where it has none."""
    return [held if any(item != NO_ITEM for item in held) else None for held in zip(*items.values(), strict=True)]


def describe_sets(found: Sequence[Sequence[int]], rows: Rows) -> dict[str, Any]:
    """Groups of rows as JSON.

    Returns:
        `groups`, `rows` and `largest`; `conflicts`: `groups` with several labels, their `rows`, and `wrong`, the
        rows on which every rule that goes by this content alone is wrong; `across`: groups on several sides of
        the data's splits, and how many rows of valid and test stand in train too; `examples`, those with several
        labels first, then those across splits, then the largest.
    """
    several = [one for one in found if len(_labels(one, rows)) > 1]
    parted = [one for one in found if len({rows.split[row] for row in one} - {""}) > 1]
    leaked = Counter(
        rows.split[row]
        for one in parted
        if any(rows.split[row] == "train" for row in one)
        for row in one
        if rows.split[row] not in ("", "train")
    )
    conflicts: dict[str, Any] = {"groups": len(several), "rows": sum(map(len, several))}
    if rows.task == REGRESSION:
        known = [[float(str(label)) for label in _labels(one, rows)] for one in several]
        conflicts["largest_difference"] = round(max((max(one) - min(one) for one in known), default=0.0), 4)
    else:
        conflicts["wrong"] = sum(_wrong(one, rows) for one in several)
    first, second = set(map(id, several)), set(map(id, parted))
    order = sorted(found, key=lambda one: (id(one) not in first, id(one) not in second, -len(one)))
    return {
        "groups": len(found),
        "rows": sum(map(len, found)),
        "largest": max(map(len, found), default=0),
        "conflicts": conflicts,
        "across": {"groups": len(parted), "rows": dict(leaked)},
        "examples": [_example(one, rows) for one in order[:EXAMPLES]],
    }


def _labels(one: Sequence[int], rows: Rows) -> set[Hashable]:
    known = {rows.labels[row] for row in one} - {""}
    return {float(label) for label in known} if rows.task == REGRESSION else set(known)


def _wrong(one: Sequence[int], rows: Rows) -> int:
    counts = Counter(rows.labels[row] for row in one if rows.labels[row])
    return counts.total() - max(counts.values())


def _example(one: Sequence[int], rows: Rows) -> dict[str, Any]:
    """A group of which a few rows are named, among them one of each label as far as there is room."""
    labelled = {rows.labels[row]: row for row in reversed(one)}
    first = list(dict.fromkeys([*sorted(labelled.values()), *one]))[:MEMBERS]
    shown = [{"id": rows.ids[row], "label": rows.labels[row], "split": rows.split[row]} for row in sorted(first)]
    return {"size": len(one), "labels": len(_labels(one, rows)), "rows": shown}


def near_of(
    places: Mapping[bytes, Any], items: Sequence[bytes], near: Near, of: Mapping[bytes, int]
) -> list[int | None]:
    """The group that each row is in, None where its content is near to no other.

    Args:
        places: contents by item key, in the order of the data.
        items: item key of each row.
        near: of what was compared.
        of: by item key, its number among what was compared; some are not compared.
    """
    held = Counter(int(near.leader[of[item]]) for item in places if item in of)
    leader = {item: int(near.leader[number]) for item, number in of.items()}
    return [leader[item] if item in leader and held[leader[item]] > 1 else None for item in items]


def text_twins(texts: Mapping[bytes, str]) -> tuple[Near, dict[bytes, int], int]:
    """Near texts, by item key the number of each among those compared, and how many are another's but for their form.

    Texts of which nothing is left without links and signs are compared with nothing.
    """
    plain = {item: normalised(text) for item, text in texts.items()}
    numbers: dict[str, int] = {}
    of = {item: numbers.setdefault(text, len(numbers)) for item, text in plain.items() if text}
    return near_texts(list(numbers)), of, len(of) - len(numbers)


def picture_twins(places: Mapping[bytes, Any], rows: Mapping[bytes, int], facts: Any) -> tuple[Near, dict[bytes, int]]:
    """Near pictures, and by item key the number of each among those compared; pictures of one colour are not."""
    compared = [item for item in places if item in rows and not facts["one_colour"][rows[item]]]
    chosen = [rows[item] for item in compared]
    near = near_pictures(facts["hash"][chosen], facts["small"][chosen])
    return near, {item: number for number, item in enumerate(compared)}
