"""What the rows of a shard hold, told by keys: small enough to be known of all shards at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cache import (
    NO_ITEM,
    Block,
    DataError,
    EncoderKey,
    Failure,
    FeatureStore,
    Part,
    View,
    item_key,
    pack_items,
    read_part,
    unpack_items,
    write_part,
)
from extract.contents import read_contents
from extract.datasets.rows import one_meaning
from extract.datasets.shards import Shard
from extract.encoders.spec import OUTPUTS, EncoderSpec, outputs_of
from extract.found import Column, columns_in
from extract.manifest import Content, Manifest, Sample, content_key, on_disk

_TEXTS = {"ids": "id", "labels": "label", "split": "split"}


@dataclass(frozen=True)
class Wanted:
    """What is made of a data set.

    Attributes:
        store: where it goes.
        name: what it is called.
        encoders: by which each modality goes.
        judged: ids of the rows that judge tuned encoders; None where none were tuned.
        run: hex digits that the names of this extraction's own files end with: another one that runs at the same
            time has files of its own.
    """

    store: str | Path
    name: str
    encoders: Mapping[str, tuple[EncoderSpec, EncoderKey]]
    judged: frozenset[str] | None = None
    run: str = ""

    def block(self, modality: str, arrays: Mapping[str, np.ndarray] | None = None) -> Block:
        """One modality of some rows; without arrays, of all."""
        spec, key = self.encoders[modality]
        output = spec.output or OUTPUTS[spec.kind][0]
        # What an encoder was tuned on is said once, and not by each part.
        said = (spec if arrays is None else replace(spec, tuned_on=None)).as_json()
        return Block(modality, key.digest, output, outputs_of(key.fields)[output], arrays or {}, spec=said)


@dataclass(frozen=True)
class Survey:
    """What is in the columns of one shard, by modality and column."""

    number: int
    columns: Mapping[str, Mapping[str, Column]]


@dataclass(frozen=True)
class Keyed:
    """What whoever has read a shard of `n` rows tells of it.

    Attributes:
        number: of the shard.
        manifest: how it was read, without the rows.
        part: the file with its ids, labels, splits and items.
        ids, groups: `uint8 (n, 16)`, digests of ids, and of the names of groups, zeros where there is none.
        items, state: by modality, `uint8 (n, 16)` and `uint8 (n,)`, as in a `Block`.
        unreadable: by modality, samples of which not even the bytes could be read.
        labels: how many rows have each.
        modalities: that the rows have.
        splits: whether any row has one.
        judging: how many labelled rows judge tuned encoders.
    """

    number: int
    manifest: Manifest
    part: Part
    ids: np.ndarray
    groups: np.ndarray
    items: Mapping[str, np.ndarray]
    state: Mapping[str, np.ndarray]
    unreadable: Mapping[str, list[Failure]] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    splits: bool = False
    judging: int = 0

    def __len__(self) -> int:
        return self.part.rows


def key_shard(number: int, shard: Shard, wanted: Wanted) -> Keyed | DataError:
    """Reads a shard, keys all its contents, and writes down what a view says of its rows; or what is wrong with it."""
    try:
        manifest = shard.read()
        samples = manifest.samples
        contents = read_contents(samples, list(wanted.encoders))
    except DataError as error:
        return error
    items = {name: pack_items(one.items) for name, one in contents.items()}
    states = {name: one.state for name, one in contents.items()}
    no_rows = np.full(len(samples), -1, dtype=np.int64)
    arrays = {name: {"items": items[name], "state": states[name], "row": no_rows} for name in items}
    blocks = {name: wanted.block(name, one) for name, one in arrays.items()}
    view = View(wanted.name, {**_texts(samples), "groups": np.arange(len(samples))}, blocks)
    return Keyed(
        number,
        Manifest(manifest.path, manifest.layout, (), manifest.notes, manifest.declared),
        write_part(FeatureStore(wanted.store), number, view, wanted.run),
        pack_items(item_key(sample.id) for sample in samples),
        pack_items(item_key(sample.group) if sample.group else NO_ITEM for sample in samples),
        items,
        states,
        {name: one.unreadable for name, one in contents.items()},
        Counter(sample.label for sample in samples if sample.label),
        manifest.modalities,
        any(sample.split for sample in samples),
        sum(sample.id in (wanted.judged or ()) for sample in samples if sample.label),
    )


def survey_shard(number: int, shard: Shard, modalities: Sequence[str]) -> Survey | DataError:
    """Looks at columns of tables, by modality; or what is wrong with the shard."""
    try:
        samples = shard.read().samples
    except DataError as error:
        return error
    rows = {name: (str(one.inputs[name]) for one in samples if name in one.inputs) for name in modalities}
    return Survey(number, {name: columns_in(own) for name, own in rows.items()})


def _texts(samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    return {
        column: np.array([getattr(sample, attribute) for sample in samples], dtype=object)
        for column, attribute in _TEXTS.items()
    }


@dataclass(frozen=True)
class Job:
    """What one encoder has to do of one shard.

    Attributes:
        number: of the shard.
        shard: to be read again.
        part: the file with its items.
        lane: the modality by which the encoder is known.
        modalities: that it encodes.
        missing, refused: item keys, `uint8 (m, 16)`, sorted; each stands in the job of one shard only.
        plan: what names of its plans begin with.
    """

    number: int
    shard: Shard
    part: Part
    lane: str
    modalities: tuple[str, ...]
    missing: np.ndarray
    refused: np.ndarray
    plan: str

    def contents(self, wanted: Wanted) -> dict[bytes, Content]:
        """By item key, a text or where a file lies, of all that the job may touch.

        Raises:
            DataError: the data changed since its items were keyed.
        """
        samples = self.shard.read().samples
        view = read_part(FeatureStore(wanted.store), wanted.name, self.part)
        touched = {*unpack_items(self.missing), *unpack_items(self.refused)}
        found: dict[bytes, Content] = {}
        same = len(samples) == len(view)
        for name in self.modalities:
            for sample, item in zip(samples, unpack_items(view.blocks[name].items), strict=same):
                if item in touched and item not in found:
                    content = sample.inputs.get(name)
                    same = same and content is not None and (on_disk(content) or content_key(content) == item)
                    found.update({item: content} if content is not None else {})
        if not same:
            raise DataError(f"the rows of {self._where(samples)} changed while they were encoded; run extract again")
        return found

    def _where(self, samples: Sequence[Sample]) -> str:
        return f"shard {self.number} (from {samples[0].where} on)" if samples else f"shard {self.number}"


def plain_notes(keyed: Sequence[Keyed]) -> dict[str, Any]:
    """What is to be recorded of how all shards were read.

    Raises:
        DataError: a column means one thing in one shard, and another in another.
    """
    columns: dict[str, str] = {}
    notes: dict[str, Any] = {}
    for one in keyed:
        said = one.manifest.notes
        columns = one_meaning(one.manifest.path, columns, said.get("columns", {}))
        for name, value in said.items():
            notes[name] = _together(notes.get(name), value)
    return {**notes, "columns": columns} if columns else notes


def _together(before: Any, now: Any) -> Any:
    """Counts are added up, lists are joined; of anything else the latest stands."""
    if isinstance(before, Mapping) and isinstance(now, Counter):
        return Counter(before) + now
    if isinstance(before, list | tuple) and isinstance(now, list | tuple):
        return list(dict.fromkeys([*before, *now]))
    return now
