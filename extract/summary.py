"""What an extraction did, in numbers for programs and in lines for people."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache import FAILURES_FILE
from extract.manifest import Manifest, label_counts
from extract.stage import Extraction

LABELS_SHOWN = 12
FAILURES_SHOWN = 5


def extraction_result(done: Extraction, store: Path, read_seconds: float, seconds: float) -> dict[str, Any]:
    """The JSON of `extract`.

    Args:
        read_seconds: what reading the manifest took; it counts as encoding, model loading does not.
        seconds: of everything.
    """
    return {
        "name": done.view.name,
        "store": str(store),
        "samples": done.samples,
        "encoded": done.encoded,
        "reused": done.reused,
        "failed": len(done.failed_ids),
        "missing": done.missing,
        "truncated": done.truncated,
        "seconds": round(seconds, 3),
        "encode_seconds": round(read_seconds + done.encode_seconds, 3),
        "device": done.device,
        "precision": {name: precision for name, (precision, _) in done.precision.items()},
        "stage_seconds": {name: round(one, 3) for name, one in sorted(done.stage_seconds.items())},
        "encoders": {name: block.encoder for name, block in done.view.blocks.items()},
        "remarks": list(done.view.source.get("remarks", ())),
    }


def data_lines(manifest: Manifest, samples: int) -> list[str]:
    """What was read, and how."""
    used = ", ".join(f"{role}={column}" for role, column in manifest.notes.get("columns", {}).items())
    first = f"{manifest.path}: {samples} samples, layout {manifest.layout}" + (f" ({used})" if used else "")
    return [first, *(f"  {remark}" for remark in manifest.notes.get("remarks", ()))]


def extraction_lines(
    manifest: Manifest, done: Extraction, store: Path, seconds: float, labels: Mapping[str, int] | None = None
) -> list[str]:
    """What was read, what each modality came to, and what to do next.

    Args:
        manifest: the data set.
        done: what was done.
        store: where.
        seconds: of everything.
        labels: how many rows have each, most frequent first; counted in the manifest by default.
    """
    lines = data_lines(manifest, done.samples)
    labels = label_counts(manifest) if labels is None else labels
    lines.append(f"  labels: {_labels(labels, done.samples)}{_no_column(manifest, labels)}")
    if left_out := manifest.notes.get("left_out"):
        lines.append(f"  left out: {', '.join(f'{count} {what}' for what, count in left_out.items())}")
    for name, block in done.view.blocks.items():
        state = f"{done.missing[name]} missing, {len(done.failures[name])} failed"
        precision, why = done.precision[name]
        lines.append(f"  {name}: {block.dim} columns ({block.output}), {done.reasons[name]}; {state}")
        if done.encoded and why:
            lines.append(f"    computed in {precision}: {why}")
    if done.truncated:
        lines.append(f"  {done.truncated} texts were cut to the model's longest input")
    lines += [f"warning: {warning}" for warning in (*done.warnings, *_empty(done))]
    where = f" on {done.device}" if done.encoded else ""
    lines.append(f"{done.encoded} encoded, {done.reused} reused{where}, {seconds:.1f} s")
    option = "" if store == Path("features") else f" --store {shlex.quote(str(store))}"
    if not labels:  # no head learns from them
        return [*lines, f"next: pipeline.py predict --run RUN{option} {shlex.quote(str(manifest.path))}"]
    return [*lines, f"next: pipeline.py fuse --head mlp{option} --name {shlex.quote(done.view.name)}"]


def failed_samples(done: Extraction, store: Path) -> tuple[list[str], list[Path]]:
    """The first failures of each modality with their reasons, and the files that hold all."""
    shown, lists = [], []
    for modality, failures in done.failures.items():
        shown += [f"{failure.id} ({modality}): {failure.reason}" for failure in failures[:FAILURES_SHOWN]]
        shown += [f"and {len(failures) - FAILURES_SHOWN} more ({modality})"] if len(failures) > FAILURES_SHOWN else []
        lists += [store / done.view.blocks[modality].encoder / FAILURES_FILE] if failures else []
    return shown, list(dict.fromkeys(lists))


def _no_column(manifest: Manifest, labels: Mapping[str, int]) -> str:
    """Why a table has no labels, where that may be a column of another name."""
    columns = manifest.notes.get("columns", {})
    lacks = not labels and columns and "label" not in columns
    return "; no column has a usual name for them: see --columns label=..." if lacks else ""


def _empty(done: Extraction) -> list[str]:
    """Of modalities that the data names and no row has: more often a wrong folder than what was meant."""
    return [
        f"no row has the modality {name}, which stays empty: its cells are empty, or the files are not where they "
        f"are looked for; see `pipeline.py check`, --columns and --modalities"
        for name, missing in done.missing.items()
        if missing == done.samples
    ]


def _labels(counts: Mapping[str, int], rows: int) -> str:
    shown = ", ".join(f"{label} {count}" for label, count in list(counts.items())[:LABELS_SHOWN])
    more = f", {len(counts) - LABELS_SHOWN} more labels" if len(counts) > LABELS_SHOWN else ""
    rest = rows - sum(counts.values())
    return f"{shown or 'none'}{more}" + (f"; {rest} rows without" if counts and rest else "")
