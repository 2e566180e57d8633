"""The check itself: reads a data set once, and says what an extraction and the heads after it will meet."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cache import (
    CLASSIFICATION,
    FAILED,
    MISSING,
    NO_ITEM,
    PRESENT,
    REGRESSION,
    DataError,
    Failure,
    Progress,
    label_numbers,
    listing,
    silent,
    task_of,
)
from extract.check.columns import column_facts, further_columns, tabular_columns
from extract.check.duplicates import (
    Rows,
    describe_sets,
    distinct_first,
    near_of,
    picture_twins,
    sets_of,
    text_twins,
    whole_samples,
)
from extract.check.findings import findings_of
from extract.check.labels import label_facts, split_facts
from extract.check.leaks import Column, candidates, columns_of, sampled
from extract.check.measure import OTHER, PICTURE, facts_of, measure_all, picture_facts
from extract.check.modalities import describe_modality
from extract.check.near import ALIKE, DISTANCE, SHARED
from extract.check.texts import counter_for, text_facts
from extract.contents import Contents, read_contents
from extract.encoders.spec import TABULAR, kind_of
from extract.manifest import Content, Manifest, default_name
from extract.wanted import kept_together

FAILURES_LISTED = 50


@dataclass(frozen=True)
class CheckSettings:
    """What a check is asked for.

    Attributes:
        modalities: to look at; None for all that the data has.
        text_model: whose tokens are counted; None takes the default model, if it lies in the local hub cache.
        max_length: longest text in tokens; None takes what the model was made for.
        task: classification or regression; None goes by the labels.
    """

    modalities: tuple[str, ...] | None = None
    text_model: str | None = None
    max_length: int | None = None
    task: str | None = None


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        manifest: the data set.
        summary: all of it, as JSON.
        groups: by kind (`equal`, `near` or `sample`) and modality, the numbers of the rows of each group.
        failures: by modality, what cannot be decoded.
        missing: by modality, the numbers of the rows that lack it.
    """

    manifest: Manifest
    summary: dict[str, Any]
    groups: dict[tuple[str, str], list[list[int]]]
    failures: dict[str, list[Failure]]
    missing: dict[str, list[int]]


@dataclass
class Part:
    """One modality: its contents, and what was measured of those that are whole.

    `rows` is by item key the row in `facts`; modalities of one kind share both. `columns` are those of a
    tabular modality.
    """

    modality: str
    kind: str
    contents: Contents
    rows: Mapping[bytes, int] = field(default_factory=dict)
    facts: np.ndarray = field(default_factory=lambda: np.zeros(0))
    failures: list[Failure] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def items(self) -> list[bytes]:
        """Item key of each sample; NO_ITEM where it is missing or broken."""
        pairs = zip(self.contents.items, self.contents.state.tolist(), strict=True)
        return [item if state == PRESENT else NO_ITEM for item, state in pairs]

    @property
    def places(self) -> dict[bytes, Content]:
        """By item key, the contents that are whole."""
        return {item: place for item, place in self.contents.places.items() if item in self.rows}


def check_data(manifest: Manifest, settings: CheckSettings | None = None, progress: Progress = silent) -> Checked:
    """Reads all of a data set and reports on it; nothing is encoded, and nothing is written.

    No more than a few pictures lie in memory at a time; of each a hash and a grey copy of 16 x 16 stay.

    Raises:
        DataError: the data lacks a modality that was asked for.
        ModelError: the text model that was named cannot be found.
        UsageError: no such task, or a longest text that the model does not take.
    """
    settings, started = settings or CheckSettings(), time.perf_counter()
    samples = manifest.samples
    modalities = settings.modalities or manifest.modalities
    lacking = [name for name in modalities if name not in manifest.modalities]
    if lacking:
        raise DataError(f"{manifest.path} has no {listing(lacking)}; it has {listing(manifest.modalities)}")
    labels = [sample.label for sample in samples if sample.label]
    task, refused = _task(labels, settings.task)
    spoilt = task == REGRESSION and not np.isfinite(label_numbers(labels)).all()
    rows = Rows.of(samples, CLASSIFICATION if spoilt else task)
    with_texts = any(kind_of(name, "") == "text" for name in modalities)
    counts, counted = counter_for(settings.text_model, settings.max_length) if with_texts else (None, "")
    parts = _parts(manifest, modalities, counts, progress)
    together, equal = _together(manifest, parts)
    groups: dict[tuple[str, str], list[list[int]]] = {}
    duplicates = _duplicates(parts, rows, groups, progress)
    summary: dict[str, Any] = {
        "name": default_name(manifest.path),
        "data": str(manifest.path),
        "layout": manifest.layout,
        "columns": dict(manifest.notes.get("columns", {})),
        "remarks": list(manifest.notes.get("remarks", ())),
        "rows": len(samples),
        "labelled": len(labels),
        "task": task if labels else None,
        "labels": {**label_facts(rows, together), "spoilt": spoilt, "refused": refused} if labels else None,
        "splits": split_facts(samples, rows),
        "groups": len({sample.group for sample in samples if sample.group}),
        "kept_together": len(samples) - len(np.unique(together)),
        "text_model": counted,
        "modalities": {part.modality: describe_modality(part, counts) for part in parts},
        "empty_rows": int(np.all([part.contents.state != PRESENT for part in parts], axis=0).sum()) if parts else 0,
        "failed": len({failure.id for part in parts for failure in part.failures}),
        "failures": [_failure(part, one) for part in parts for one in part.failures][:FAILURES_LISTED],
        "duplicates": duplicates,
        "leaks": _leaks(manifest, parts, rows, together, equal, progress),
        "seconds": 0.0,
    }
    summary["findings"] = findings_of(summary)
    summary["seconds"] = round(time.perf_counter() - started, 2)
    missing = {part.modality: np.flatnonzero(part.contents.state == MISSING).tolist() for part in parts}
    return Checked(manifest, summary, groups, {part.modality: part.failures for part in parts}, missing)


def _task(labels: Sequence[str], asked: str | None) -> tuple[str, str]:
    """What the labels are for, and why `fuse` will refuse them as they are, if it will."""
    try:
        return task_of(labels, asked), ""
    except DataError as error:
        return CLASSIFICATION, str(error)


def _failure(part: Part, one: Failure) -> dict[str, str]:
    return {"id": one.id, "modality": part.modality, "reason": one.reason}


def _parts(manifest: Manifest, modalities: Sequence[str], counts: Any, progress: Progress) -> list[Part]:
    """Every modality, read and measured; each content once, also where two columns hold it."""
    contents = read_contents(manifest.samples, modalities, progress)
    parts = [Part(name, kind_of(name, ""), contents[name]) for name in modalities]
    for kind in dict.fromkeys(part.kind for part in parts):
        alike = [part for part in parts if part.kind == kind]
        places = {item: place for part in alike for item, place in part.contents.places.items()}
        broken: dict[bytes, str] = {}
        if kind == "text":
            rows, facts = text_facts({item: str(place) for item, place in places.items()}, counts)
        elif kind == "image":
            rows, facts, broken = measure_all(places, picture_facts, PICTURE, progress, "look at pictures")
        elif kind == TABULAR:
            rows, facts = {item: number for number, item in enumerate(places)}, np.zeros((len(places), 0))
            for part in alike:
                cells = tabular_columns(manifest.samples, part.modality)
                part.columns = {name: column_facts(column) for name, column in cells.items()}
        else:
            measure = facts_of(next(iter(places.values()), b""))
            rows, facts, broken = measure_all(places, measure, OTHER, progress, f"look at {kind}")
        for part in alike:
            part.rows, part.facts, part.failures = rows, facts, [*part.contents.unreadable]
            for number, (sample, item) in enumerate(zip(manifest.samples, part.contents.items, strict=True)):
                if item in broken:
                    part.contents.state[number] = FAILED
                    part.failures.append(Failure(sample.id, broken[item], item.hex()))
    return parts


def _together(manifest: Manifest, parts: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    """Which rows folds keep together, and which of them for their contents alone."""
    by_kind: dict[str, list[Sequence[bytes]]] = {}
    for part in parts:
        if part.kind != TABULAR:
            by_kind.setdefault(part.kind, []).append(part.items)
    groups = [sample.group for sample in manifest.samples]
    return kept_together(groups, by_kind.values()), kept_together([""] * len(groups), by_kind.values())


def _duplicates(
    parts: Sequence[Part], rows: Rows, groups: dict[tuple[str, str], list[list[int]]], progress: Progress
) -> dict[str, Any]:
    """Equal and near contents by modality, and equal samples; the groups themselves are added to `groups`."""
    found: dict[str, Any] = {"equal": {}, "near": {}, "sample": None}

    def noted(kind: str, modality: str, values: Sequence[Hashable | None]) -> dict[str, Any]:
        groups[kind, modality] = sets_of(values)
        return describe_sets(groups[kind, modality], rows)

    for number, part in enumerate(parts):
        progress("look for duplicates", number, len(parts))
        if part.kind == TABULAR:
            continue
        items = part.items
        found["equal"][part.modality] = noted(
            "equal", part.modality, [one if one != NO_ITEM else None for one in items]
        )
        if part.kind == "text":
            near, of, formed = text_twins({item: str(place) for item, place in part.places.items()})
            about: dict[str, Any] = {"threshold": SHARED, "same_but_form": formed}
        elif part.kind == "image":
            near, of = picture_twins(part.places, part.rows, part.facts)
            about = {"threshold": DISTANCE, "correlation": ALIKE}
        else:
            continue
        about |= {"compared": len(near.leader), "checked": near.checked, "complete": near.complete}
        alike = sets_of(near_of(part.places, items, near, of))
        groups["near", part.modality] = alike
        about["contents"] = len({items[row] for group in alike for row in group})
        found["near"][part.modality] = describe_sets([distinct_first(one, items) for one in alike], rows) | about
    if len(parts) > 1:
        found["sample"] = noted("sample", "", whole_samples({part.modality: part.items for part in parts}))
    progress("look for duplicates", len(parts), len(parts))
    return found


def _leaks(
    manifest: Manifest, parts: Sequence[Part], rows: Rows, together: np.ndarray, equal: np.ndarray, progress: Progress
) -> dict[str, Any]:
    """Every single fact of the labelled rows, scored."""
    labelled = np.flatnonzero([bool(label) for label in rows.labels])
    chosen = sampled(labelled)
    columns, odd = further_columns(manifest, chosen.tolist())
    samples = [manifest.samples[row] for row in chosen.tolist()]
    facts = [
        *columns_of(columns),
        Column("id", [sample.id for sample in samples]),
        Column("place in the data", chosen.astype(np.float64)),
        *(column for part in parts for column in _facts(part, manifest, chosen)),
    ]
    if any(sample.group for sample in samples):
        facts.append(Column("group", [sample.group for sample in samples], is_group=True))
    progress("look for leaks", 0, 1)
    found = candidates(facts, [rows.labels[row] for row in chosen], together[chosen], equal[chosen], rows.task)
    progress("look for leaks", 1, 1)
    return found | {"of": len(labelled), "not_looked_at": odd}


def _facts(part: Part, manifest: Manifest, chosen: np.ndarray) -> Iterator[Column]:
    """What is known of a modality of each chosen row beside its content."""
    there = part.contents.state[chosen] == PRESENT
    yield Column(f"{part.modality}: is there", there.astype(np.float64))
    if part.kind == TABULAR:
        cells = tabular_columns([manifest.samples[row] for row in chosen.tolist()], part.modality)
        for name, column in cells.items():
            yield Column(f"{part.modality}: {name}", column, is_input=True)
        return
    items = part.items
    own = np.array([part.rows.get(items[row], -1) for row in chosen.tolist()], dtype=np.int64)

    def of(values: np.ndarray) -> np.ndarray:
        held = values[np.maximum(own, 0)].astype(np.float64) if len(values) else np.zeros(len(own))
        return np.where(own >= 0, held, np.nan)

    if part.kind == "text":
        for number, name in enumerate(("characters", "words")):
            yield Column(f"{part.modality}: {name}", of(part.facts[:, number]))
        return
    for name in part.facts.dtype.names or ():
        if part.facts.dtype[name].kind in "ufb" and part.facts.dtype[name].shape == ():
            yield Column(f"{part.modality}: {name.replace('_', ' ')}", of(part.facts[name]))
    if part.kind == "image":
        for name in ("format", "mode"):
            yield Column(f"{part.modality}: {name}", [str(part.facts[name][row]) if row >= 0 else "" for row in own])
