"""What is known of all rows of a data set in shards at once: keys and states, and no text, path or label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from cache import (
    NO_ITEM,
    DataError,
    FeatureStore,
    KeyIndex,
    digest,
    key_links,
    linked_groups,
    listing,
    pack_items,
    read_part,
)
from extract.datasets.shards import Shard
from extract.engine import Broken
from extract.keyed import Job, Keyed, plain_notes
from extract.manifest import Manifest

SHOWN = 20


class Rows:
    """The `n` rows of all shards, end to end.

    Args:
        store: where their files lie.
        name: of the data set.
        keyed: what is known of each shard, in order; at least one.

    Raises:
        DataError: two rows have the same id, or one has none.

    Attributes:
        keyed: of each shard, without what is known of each of its rows.
        items, state: by modality, `uint8 (n, 16)` and `uint8 (n,)`; the states may be changed.
        labels: how many rows have each.
        modalities: that any row has.
    """

    def __init__(self, store: FeatureStore, name: str, keyed: Sequence[Keyed]) -> None:
        self._store, self._name = store, name
        nothing = np.empty((0, len(NO_ITEM)), dtype=np.uint8)
        # Of 100 million rows every array that is kept twice is gigabytes.
        self.keyed = [replace(part, ids=nothing, groups=nothing, items={}, state={}) for part in keyed]
        self._starts = np.cumsum([0, *map(len, keyed)])
        self._check_ids(np.concatenate([part.ids for part in keyed]))
        self._groups = key_links([np.concatenate([part.groups for part in keyed])])
        self.items = {one: np.concatenate([part.items[one] for part in keyed]) for one in keyed[0].items}
        self.state = {one: np.concatenate([part.state[one] for part in keyed]) for one in keyed[0].items}
        self.labels = sum((Counter(part.labels) for part in keyed), Counter())
        self.modalities = tuple(dict.fromkeys(one for part in keyed for one in part.modalities))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def slices(self) -> list[slice]:
        """The rows of each shard."""
        return [slice(start, stop) for start, stop in zip(self._starts[:-1], self._starts[1:], strict=True)]

    def shards(self, rows: np.ndarray) -> np.ndarray:
        """The place of each row's shard, `int64`."""
        return np.searchsorted(self._starts, rows, side="right") - 1

    def manifest(self) -> Manifest:
        """How the data was read. Raises DataError where shards contradict each other."""
        first = self.keyed[0].manifest
        return Manifest(first.path, first.layout, (), plain_notes(self.keyed), self.modalities)

    def ids(self, rows: np.ndarray) -> list[str]:
        """Ids of rows in ascending order, from the files of their shards."""
        found: list[str] = []
        places = self.shards(rows)
        for place in np.unique(places).tolist():
            view = read_part(self._store, self._name, self.keyed[place].part)
            found += view.ids[rows[places == place] - self._starts[place]].tolist()
        return found

    def split_by_tuning(self, judged: frozenset[str] | None) -> bool:
        """Whether splits are those of the tuning: the data gives none and holds all rows that judged it, labelled."""
        if judged is None or any(one.splits for one in self.keyed):
            return False
        return sum(one.judging for one in self.keyed) == len(judged)  # ids stand once

    def _check_ids(self, keys: np.ndarray) -> None:
        first = KeyIndex(keys).first()
        if len(first) < len(keys):
            again = np.setdiff1d(np.arange(len(keys)), first, assume_unique=True)
            shown = again[:SHOWN]
            names = dict.fromkeys(self.ids(shown))
            more = f" and {len(again) - SHOWN} more" if len(again) > SHOWN else ""
            raise DataError(
                f"{self.keyed[0].manifest.path} has {len(again)} rows whose id stands before: "
                f"{listing(list(names), SHOWN)}{more}; correct or remove them"
            )

    def groups(self, lanes: Sequence[Sequence[str]]) -> np.ndarray:
        """Which rows folds never part, as `extract.wanted.kept_together` numbers them, `int64 (n,)`.

        Args:
            lanes: modalities that one encoder reads, together.
        """
        links = [key_links([self.items[name] for name in lane]) for lane in lanes]
        return linked_groups(len(self), [self._groups, *links])


class Demand:
    """What a data set asks of one encoder.

    Args:
        rows: of the data set.
        modalities: that the encoder makes.
        stored: item keys that the store has, `uint8 (m, 16)`.
        known: items that are known to be broken.
        shards: the data set.

    Attributes:
        jobs: what is to be done, a job for each shard that holds some of it.
        failed: what is wrong with items, to be added to.
        reused: how many items are stored already.
        missing: how many are to be encoded.
        items: how many different ones there are.
    """

    def __init__(
        self,
        rows: Rows,
        modalities: Sequence[str],
        stored: np.ndarray,
        known: Mapping[bytes, Broken],
        shards: Sequence[Shard],
    ) -> None:
        self._rows = rows
        self.modalities = tuple(modalities)
        keys, place = self._different()
        found = KeyIndex(stored).find(keys) >= 0
        refused = ~found & (KeyIndex(pack_items(known)).find(keys) >= 0)
        missing = ~found & ~refused
        self.failed = {key.tobytes(): known[key.tobytes()] for key in keys[refused]}
        self.items, self.reused, self.missing = len(keys), int(found.sum()), int(missing.sum())
        self.jobs = [*self._jobs(shards, keys, place, missing, refused)]

    @property
    def name(self) -> str:
        """The modality by which the encoder is known."""
        return self.modalities[0]

    def mended(self, before: Collection[bytes]) -> list[bytes]:
        """Which of the items that failed before the data set asks for, and did not fail again."""
        index, asked = KeyIndex(pack_items(before)), set()
        for name in self.modalities:
            asked.update(np.unique(index.find(self._rows.items[name])).tolist())
        return [item for number, item in enumerate(before) if number in asked and item not in self.failed]

    def _different(self) -> tuple[np.ndarray, np.ndarray]:
        """The different items, `uint8 (m, 16)`, and the place of each one's shard: of equal ones the first's."""
        stacked = np.stack([self._rows.items[name] for name in self.modalities], axis=1).reshape(-1, len(NO_ITEM))
        present = np.flatnonzero(stacked.any(axis=1))
        keys = stacked[present]
        del stacked
        own = KeyIndex(keys).first()
        return keys[own], self._rows.shards(present[own] // len(self.modalities))

    def _jobs(
        self, shards: Sequence[Shard], keys: np.ndarray, place: np.ndarray, missing: np.ndarray, refused: np.ndarray
    ) -> Iterator[Job]:
        cuts = np.searchsorted(place, np.arange(len(self._rows.keyed) + 1))  # first rows ascend, and so do places
        for one, start, stop in zip(self._rows.keyed, cuts[:-1], cuts[1:], strict=True):
            own = slice(start, stop)
            if missing[own].any():
                wanted, known = (_sorted(keys[own][mask[own]]) for mask in (missing, refused))
                # By all that it holds, stored or not: a later run finds the plan of an earlier one.
                plan = digest(_sorted(keys[own]).tobytes())
                yield Job(one.number, shards[one.number], one.part, self.name, self.modalities, wanted, known, plan)


def _sorted(keys: np.ndarray) -> np.ndarray:
    """Item keys in the order of their bytes."""
    halves = np.ascontiguousarray(keys).view(">u8").reshape(-1, 2)
    return keys[np.lexsort((halves[:, 1], halves[:, 0]))]
