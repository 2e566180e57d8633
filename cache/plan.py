"""What an extraction has to do, decided before anything is touched."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

Action = Literal["create", "resume", "reuse"]


@dataclass(frozen=True)
class Plan:
    """The decision for one encoder: what to do, why, and the items to encode, sorted and unique.

    `refused` are items that failed before and would fail again.
    """

    action: Action
    reason: str
    missing: tuple[bytes, ...]
    reused: int
    refused: tuple[bytes, ...] = ()


def plan_extraction(wanted: Iterable[bytes], stored: Collection[bytes], known_bad: Collection[bytes] = ()) -> Plan:
    """Compares the items of a data set with those stored. Pure: equal input, equal plan.

    Args:
        wanted: item keys of the data set, in any order, with repeats.
        stored: item keys that the encoder's store already holds.
        known_bad: item keys whose content is known to be broken.
    """
    unique = set(wanted)
    absent = unique.difference(stored)
    refused = tuple(sorted(absent.intersection(known_bad)))
    missing = tuple(sorted(absent.difference(refused)))
    reused = len(unique) - len(absent)
    return Plan(*action_for(len(missing), reused, len(unique)), missing, reused, refused)


def action_for(missing: int, reused: int, items: int) -> tuple[Action, str]:
    """What to do, and why, where so many of a data set's different items are to be encoded and so many are stored."""
    if not items:
        return "reuse", "nothing to encode"
    if not missing:
        return "reuse", f"all {reused} items were stored already"
    if not reused:
        return "create", f"none of the {items} items was stored"
    return "resume", f"{missing} of {items} items were not stored yet"
