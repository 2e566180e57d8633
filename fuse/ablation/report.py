"""The report of an ablation, written, rebuilt, or joined with others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache import PipelineError, UsageError, from_json, make_folder, replacing, spare
from fuse.ablation.conclusions import conclusions
from fuse.ablation.engine import FITS, STATE_FILE, WRITTEN
from fuse.ablation.results import joined, read_results
from fuse.ablation.summary import Comparison, control_rows, majority_row, named, table_rows
from fuse.report.page import Shown, page
from fuse.report.tables import csv_table, latex_table, markdown_table
from fuse.runs import RUN_FILE

SUMMARY, REPORT = "summary.json", "report.html"
UNSEEN = "pictures and texts of the mistakes"
SCHEMA = 1

Show = Callable[[Sequence[str]], Mapping[str, Shown]]
"""Gives texts and pictures of samples by id; raises a PipelineError where the data is gone."""


@dataclass(frozen=True)
class Ablated:
    """A finished ablation; `summary` is what `summary.json` holds."""

    folder: Path
    summary: Mapping[str, Any]
    failed: Sequence[str]
    fitted: int
    reused: int


def compared(comparison: Comparison) -> dict[str, Any]:
    """The parts of a summary that compare."""
    return {
        "baseline": named(comparison.baseline),
        "unimodal": named(comparison.unimodal),
        "rows": table_rows(comparison),
        "majority": majority_row(comparison.rows),
        "controls": control_rows(comparison),
    }


def shown(summary: dict[str, Any], show: Show | None) -> Mapping[str, Shown]:
    """Texts and pictures of what the page names; why there are none stands in the summary."""
    summary["left_out"] = [one for one in summary["left_out"] if not one.startswith(UNSEEN)]
    closer = summary.get("closer") or {}
    ids = list(dict.fromkeys(one["id"] for one in (*closer.get("mistakes", ()), *closer.get("attention", ()))))
    if show is None or not ids:
        return {}
    try:
        return show(ids)
    except PipelineError as error:
        summary["left_out"].append(f"{UNSEEN}: {error}")
        return {}


def write_report(folder: Path, summary: Mapping[str, Any], samples: Mapping[str, Shown]) -> None:
    """Writes `summary.json`, `report.html`, `table.csv`, `table.md` and `table.tex`."""
    make_folder(folder)
    for name, text in (
        # In the order of the modalities, not of the alphabet: a report that is built again must say the same.
        (SUMMARY, json.dumps(summary, indent=2) + "\n"),
        (REPORT, page(summary, samples)),
        ("table.csv", csv_table(summary)),
        ("table.md", markdown_table(summary)),
        ("table.tex", latex_table(summary)),
    ):
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def report(folders: Sequence[Path], out: Path | None, show: Show | None = None) -> Ablated:
    """Rebuilds the report of an ablation, or joins several of the same rows in one.

    Args:
        folders: of finished ablations.
        out: where the report goes; None is the folder of the only one.
        show: as for `ablate`.

    Raises:
        UsageError: a folder holds no finished ablation; several and no `out`, or one that holds files of others.
        DataError: they do not judge the same rows.
    """
    summaries = [read_summary(folder) for folder in folders]
    if out is not None:
        spare(out, SUMMARY, WRITTEN)
    if len(folders) == 1:
        summary = {**summaries[0], "conclusions": conclusions(summaries[0])}
        write_report(out or folders[0], summary, shown(summary, show))
        return Ablated(out or folders[0], summary, (), 0, 0)
    if out is None or (out / STATE_FILE).exists() or (out / RUN_FILE).exists():
        raise UsageError("a report of several runs needs a folder of its own: give --out")
    names = _names(folders)
    parts = [read_results(folder, _state(folder), FITS, name) for folder, name in zip(folders, names, strict=True)]
    comparison = Comparison(joined(parts))
    first = summaries[0]
    summary = {
        **{key: first[key] for key in ("schema", "task", "primary")},
        "protocol": {**first["protocol"], "seeds": comparison.rows.seeds.tolist()},
        "data": {**first["data"], "rows": len(comparison.rows), "modalities": list(comparison.modalities)},
        **compared(comparison),
        "closer": None,
        "near_duplicates": first["near_duplicates"],
        "left_out": [f"{name}: {one}" for name, own in zip(names, summaries, strict=True) for one in own["left_out"]],
        "provenance": {
            **first["provenance"],
            "command": "\n".join(own["provenance"]["command"] for own in summaries),
            "encoders": {
                f"{name}: {modality}": encoder
                for name, own in zip(names, summaries, strict=True)
                for modality, encoder in own["provenance"]["encoders"].items()
            },
        },
    }
    summary["conclusions"] = conclusions(summary)
    write_report(out, summary, {})
    return Ablated(out, summary, (), 0, 0)


def _names(folders: Sequence[Path]) -> list[str]:
    """What the runs are called: their folders' names, or paths where these are equal."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("a run is named twice; give each once")
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return names


def read_summary(folder: Path) -> dict[str, Any]:
    """What `summary.json` of a finished ablation holds.

    Raises:
        UsageError: there is none, or it is damaged or of another version.
    """
    try:
        content = from_json((folder / SUMMARY).read_text(encoding="utf-8"))
        finished = (folder / RUN_FILE).exists()
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder} holds no ablation (looked for {SUMMARY}); give a folder that ablate wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / SUMMARY} cannot be read: {error}; run ablate again with --out {folder}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UsageError(f"{folder / SUMMARY} is of another version; run ablate again with --out {folder}")
    if not finished:
        raise UsageError(f"{folder} holds an unfinished ablation; go on by ablate --out {folder}")
    return content


def _state(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = from_json((folder / STATE_FILE).read_text(encoding="utf-8"))
    return content
