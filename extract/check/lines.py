"""A check for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cache import listing
from extract.check.findings import LEVELS, many, worst

CLASSES_SHOWN = 12


def check_lines(summary: Mapping[str, Any]) -> list[str]:
    """What is there, and what was found, the worst first."""
    columns = ", ".join(f"{role}={column}" for role, column in summary["columns"].items())
    lines = [f"{summary['data']}: {summary['rows']} rows, layout {summary['layout']}" + f" ({columns})" * bool(columns)]
    lines.append(f"  labels: {labels_text(summary)}")
    if summary["splits"]["of"]:
        lines.append("  splits: " + ", ".join(f"{name} {one['rows']}" for name, one in summary["splits"]["of"].items()))
    for name, one in summary["modalities"].items():
        state = f"{one['present']} rows, {one['distinct']} different, {one['missing']} missing, {one['failed']} broken"
        lines.append(f"  {name}: {state}")
        lines += [f"    {text}" for text in modality_texts(one)]
    lines += [f"{one['level']}: {one['text']}\n  {one['advice']}" for one in summary["findings"]]
    counts = worst(summary["findings"])
    lines.append(", ".join(many(counts[level], level) for level in LEVELS) + f"; {summary['seconds']:.1f} s")
    return lines


def labels_text(summary: Mapping[str, Any]) -> str:
    """Classes with their rows, or the spread of numbers."""
    labels = summary["labels"]
    if labels is None:
        return "none"
    without = summary["rows"] - summary["labelled"]
    rest = f"; {many(without, 'row')} without" if without else ""
    if labels["numbers"] is not None:
        least, most, mean = (labels["numbers"][part] for part in ("min", "max", "mean"))
        return f"numbers from {least:g} to {most:g}, mean {mean:g}{rest}"
    shown = [f"{label} {count}" for label, count in sorted(labels["classes"].items(), key=lambda one: -one[1])]
    more = labels["distinct"] - min(len(shown), CLASSES_SHOWN)
    return ", ".join(shown[:CLASSES_SHOWN]) + (f" and {many(more, 'more class')}" if more else "") + rest


def modality_texts(one: Mapping[str, Any]) -> list[str]:
    """Lengths and sizes in words."""
    found = [
        f"{what}: {_spread(one[what])}"
        for what in ("tokens", "words", "characters", "width", "height", "seconds", "lengths", "bytes")
        if one.get(what)
    ]
    for what in ("formats", "modes", "widths"):
        if one.get(what):
            found.append(f"{what}: " + ", ".join(f"{name} {count}" for name, count in one[what].items()))
    if "columns" in one:
        about = [f"{name} ({column['kind']}, {column['missing']} missing)" for name, column in one["columns"].items()]
        found.append(f"columns: {listing(about)}")
    return found


def _spread(of: Mapping[str, float]) -> str:
    return f"{of['min']:g} to {of['max']:g}, median {of['median']:g}, 95 % up to {of['p95']:g}"
