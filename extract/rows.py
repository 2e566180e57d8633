"""What is known of all rows of a data set in shards at once: keys and states, and no text, path or label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

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

    Attributes:
        items, state: by modality, `uint8 (n, 16)` and `uint8 (n,)`; the states may be changed.
        labels: how many rows have each.
        modalities: that any row has.
    """

    def __init__(self, store: FeatureStore, name: str, keyed: Sequence[Keyed]) -> None:
        self._store, self._name = store, name
        self.keyed = keyed
        self._starts = np.cumsum([0, *map(len, keyed)])
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
        return sum(one.judging for one in self.keyed) == len(judged)  # ids stand once, see `check_ids`

    def check_ids(self) -> None:
        """Raises DataError where two rows have the same id, or one has none."""
        keys = np.concatenate([one.ids for one in self.keyed])
        first = KeyIndex(keys).find(keys)
        again = np.flatnonzero(first != np.arange(len(keys)))
        if len(again):
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
        links = [key_links([np.concatenate([one.groups for one in self.keyed])])]
        links += [key_links([self.items[name] for name in lane]) for lane in lanes]
        return linked_groups(len(self), links)


class Demand:
    """What a data set asks of one encoder.

    Args:
        rows: of the data set.
        modalities: that the encoder makes.
        stored: item keys that the store has, `uint8 (m, 16)`.
        known: items that are known to be broken.

    Attributes:
        failed: what is wrong with items, to be added to.
        reused: how many items are stored already.
        missing: how many are to be encoded.
        items: how many different ones there are.
    """

    def __init__(
        self, rows: Rows, modalities: Sequence[str], stored: np.ndarray, known: Mapping[bytes, Broken]
    ) -> None:
        self._rows = rows
        self.modalities = tuple(modalities)
        stacked = np.stack([rows.items[name] for name in modalities], axis=1).reshape(-1, len(NO_ITEM))
        present = np.flatnonzero(stacked.any(axis=1))
        keys = stacked[present]
        self._index = KeyIndex(keys)
        # Of equal items the first is encoded, and with the shard that it stands in.
        own = np.flatnonzero(self._index.find(keys) == np.arange(len(keys)))
        self._keys, self._shard = keys[own], rows.shards(present[own] // len(modalities))
        self._stored = KeyIndex(stored).find(self._keys) >= 0
        self._refused = ~self._stored & (KeyIndex(pack_items(known)).find(self._keys) >= 0)
        self.failed = {item: known[item] for item in _unpacked(self._keys[self._refused])}
        self.items = len(self._keys)
        self.reused = int(self._stored.sum())
        self.missing = int((~self._stored & ~self._refused).sum())

    @property
    def name(self) -> str:
        """The modality by which the encoder is known."""
        return self.modalities[0]

    def __contains__(self, item: bytes) -> bool:
        return bool((self._index.find(pack_items([item])) >= 0).all())

    def jobs(self, shards: Sequence[Shard]) -> list[Job]:
        """What is to be done, a job for each shard that holds some of it."""
        missing = ~self._stored & ~self._refused
        order = np.argsort(self._shard, kind="stable")
        cuts = np.searchsorted(self._shard[order], np.arange(len(self._rows.keyed) + 1))
        found = []
        for place, one in enumerate(self._rows.keyed):
            own = order[cuts[place] : cuts[place + 1]]
            if missing[own].any():
                wanted, refused = (_sorted(self._keys[own[mask[own]]]) for mask in (missing, self._refused))
                # By all that it holds, stored or not: a later run finds the plan of an earlier one.
                plan = digest(_sorted(self._keys[own]).tobytes())
                found.append(
                    Job(one.number, shards[one.number], one.part, self.name, self.modalities, wanted, refused, plan)
                )
        return found


def _sorted(keys: np.ndarray) -> np.ndarray:
    """Item keys in the order of their bytes."""
    halves = np.ascontiguousarray(keys).view(">u8").reshape(-1, 2)
    return keys[np.lexsort((halves[:, 1], halves[:, 0]))]


def _unpacked(keys: np.ndarray) -> list[bytes]:
    return [key.tobytes() for key in keys]
