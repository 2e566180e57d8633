"""A summary brought into the order in which the page shows it: looked up, ordered, cut to a sensible length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fuse.report import plots
from fuse.report.measures import (
    MAIN,
    MISSING,
    Measure,
    best,
    dicts,
    is_regression,
    listed,
    mapping,
    measures,
    number,
    p_text,
    primary,
    ranked,
    same_config,
    seconds_text,
    several_runs,
    short,
    stat,
    subset_text,
)

MOST = 12
"""Rows of a plot or of a secondary table."""
MOST_CLASSES = 20
MOST_PANELS = 4
MOST_MATRIX = 12
"""Classes of a confusion matrix; with more, the pairs confused most are listed."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        title: what stands in its head.
        hint: said on hover.
        kind: `text` or `number`.
        first: the order of the first click on it.
        sorted: the order it is in already, or nothing.
    """

    title: str
    hint: str = ""
    kind: str = "number"
    first: str = "descending"
    sorted: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell: its text, the number it is sorted by, and what stands beside it.

    Args:
        text: as it is read.
        value: sorted by; None comes last.
        sub: smaller, below.
        best: the best of its column.
        bar: left end, width and mean of an interval in percent of the cell's scale.
        mark: a word in a frame behind the text.
    """

    text: str
    value: float | None = None
    sub: str = ""
    best: bool = False
    bar: tuple[float, float, float] | None = None
    mark: str = ""


@dataclass(frozen=True)
class Scale:
    """The common axis of the small bars, a little wider than what it shows."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Where a value lies, in percent."""
        span = self.high - self.low
        return round(min(100.0, max(0.0, 100 * (value - self.low) / span)), 1) if span > 0 else 50.0


def main_table(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The table of all rows: `columns`, `lines` of cells, `floor` (the majority row), `subsets` to choose from."""
    rows, shown = ranked(summary), measures(summary, MAIN)
    if not rows:
        return {}
    bests = {one.key: best([stat(row.get("metrics"), one.key) for row in rows], one.lower) for one in shown}
    scale = _scale(rows, primary(summary))
    subsets = sorted({subset_text(row.get("modalities")) for row in rows}, key=lambda one: (one.count(" + "), one))
    lines = []
    for row in rows:
        cells = _names(row, summary)
        cells += [_measured(row, one, bests[one.key], scale if one == primary(summary) else None) for one in shown]
        cells += [_difference(row, summary, "baseline")] if _compared(rows, "baseline") else []
        cells += _cost(row)
        lines.append({"cells": cells, "subset": subsets.index(subset_text(row.get("modalities")))})
    columns = _columns(summary, shown)
    base = _baseline_value(summary)
    return {
        "columns": columns,
        "lines": lines,
        "floor": _floor(summary, shown, len(columns)),
        "subsets": subsets,
        "base": None if base is None or scale is None else scale.place(base),
    }


def _names(row: Mapping[str, Any], summary: Mapping[str, Any]) -> list[Cell]:
    mark = "baseline" if same_config(row, summary.get("baseline")) else ""
    names = [Cell(short(row.get("head")), mark=mark), Cell(subset_text(row.get("modalities")))]
    return [*names, Cell(short(row.get("run")))] if several_runs(summary) else names


def _columns(summary: Mapping[str, Any], shown: Sequence[Measure]) -> list[Column]:
    columns = [Column("head", kind="text", first="ascending"), Column("modalities", kind="text", first="ascending")]
    if several_runs(summary):
        columns.append(Column("run", "the run that the row is of", kind="text", first="ascending"))
    for one in shown:
        order = "ascending" if one.lower else "descending"
        title = "ECE \N{RIGHTWARDS ARROW} calibr." if one.key == "ece" else one.title
        columns.append(Column(title, one.hint, first=order, sorted=order if one == primary(summary) else ""))
    rows = dicts(summary.get("rows"))
    if _compared(rows, "baseline"):
        against = config_text(summary.get("baseline")) or "the baseline"
        hint = f"difference in {primary(summary).title} to {against}; p after Holm's correction"
        order = "ascending" if primary(summary).lower else "descending"
        columns.append(Column("vs. baseline", hint, first=order))
    return [*columns, Column("fit\N{NO-BREAK SPACE}s", "seconds of one training", first="ascending")]


def _compared(rows: Sequence[Mapping[str, Any]], against: str) -> bool:
    return any(mapping(row.get("versus")).get(against) for row in rows)


def _measured(row: Mapping[str, Any], one: Measure, top: float | None, scale: Scale | None) -> Cell:
    metrics = row.get("metrics")
    value = stat(metrics, one.key)
    text = one.text(value)
    after = stat(metrics, "ece_calibrated")
    if one.key == "ece" and after is not None:
        text = f"{text} \N{RIGHTWARDS ARROW} {one.text(after)}"
    low, high = stat(metrics, one.key, "low"), stat(metrics, one.key, "high")
    spread = stat(metrics, one.key, "sd")
    sub = between(one, low, high) or ("" if spread is None else f"\N{PLUS-MINUS SIGN} {one.text(spread)}")
    return Cell(text, value, sub, best=value is not None and value == top, bar=_bar(value, low, high, scale))


def _bar(
    value: float | None, low: float | None, high: float | None, scale: Scale | None
) -> tuple[float, float, float] | None:
    if scale is None or value is None:
        return None
    start, end = scale.place(value if low is None else low), scale.place(value if high is None else high)
    return start, round(end - start, 1), scale.place(value)


def between(one: Measure, low: Any, high: Any) -> str:
    """`[70.1, 72.4]`, or nothing where an end is not known."""
    if number(low) is None or number(high) is None:
        return ""
    return f"[{one.text(low)}, {one.text(high)}]"


def _difference(row: Mapping[str, Any], summary: Mapping[str, Any], against: str) -> Cell:
    found = mapping(mapping(row.get("versus")).get(against))
    if not found:
        return Cell("" if same_config(row, summary.get(against)) else MISSING)
    difference = number(found.get("difference"))
    p = found.get("p_holm", found.get("p"))
    sub = "" if number(p) is None else f"p {p_text(p)}"
    return Cell(primary(summary).change(difference), difference, sub)


def _cost(row: Mapping[str, Any]) -> list[Cell]:
    cost = mapping(row.get("cost"))
    seconds = number(cost.get("fit_seconds"))
    return [Cell(seconds_text(seconds), seconds)]


def _floor(summary: Mapping[str, Any], shown: Sequence[Measure], width: int) -> list[Cell]:
    """The row of the majority class (or of the mean), which stays where it is when the table is sorted."""
    majority = mapping(summary.get("majority"))
    if not majority:
        return []
    always = f"always {short(majority['label'], 30)}" if majority.get("label") not in (None, "") else ""
    cells = [Cell("mean" if is_regression(summary) else "majority", sub=always), Cell("none")]
    cells += [Cell("")] if several_runs(summary) else []
    cells += [Cell(one.text(value), value) for one in shown for value in [stat(majority.get("metrics"), one.key)]]
    return [*cells, *[Cell("")] * (width - len(cells))]


def _scale(rows: Sequence[Mapping[str, Any]], one: Measure) -> Scale | None:
    ends = [stat(row.get("metrics"), one.key, part) for row in rows for part in ("mean", "low", "high")]
    known = [value for value in ends if value is not None]
    if not known:
        return None
    room = (max(known) - min(known)) * 0.04
    return Scale(min(known) - room, max(known) + room)


def _baseline_value(summary: Mapping[str, Any]) -> float | None:
    """None also where joined runs have a baseline each."""
    found = [row for row in ranked(summary) if same_config(row, summary.get("baseline"))]
    return stat(found[0].get("metrics"), primary(summary).key) if len(found) == 1 else None


def config_text(config: Any) -> str:
    """`mlp on text + image`, with the run where there is one."""
    wanted = mapping(config)
    if not wanted:
        return ""
    run = short(wanted.get("run"), 24)
    modalities = subset_text(wanted.get("modalities"))
    said = f"{short(wanted.get('head'), 32)}{f' on {modalities}' if modalities else ''}"
    return f"{said} ({run})" if run else said


def forests(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The intervals of the best as plots, `wide` and `narrow`, and how many rows there are beside them."""
    one, rows = primary(summary), ranked(summary)
    drawn = [row for row in rows if stat(row.get("metrics"), one.key) is not None]
    kept = drawn[:MOST]
    kept += [row for row in drawn[MOST:] if same_config(row, summary.get("baseline"))][:1]
    if not kept:
        return {}
    intervals = []
    for row in kept:
        mean, low, high = (one.scaled(stat(row["metrics"], one.key, part)) for part in ("mean", "low", "high"))
        strong = same_config(row, summary.get("baseline"))
        intervals.append(plots.Interval(config_text(row), mean or 0.0, low, high, strong))
    lines = _lines(summary, intervals)
    axis = f"{one.title}, percent" if one.percent else one.title
    return {
        "wide": plots.forest(intervals, lines, axis, "forest"),
        "narrow": plots.forest(intervals, lines, axis, "forest-narrow", narrow=True),
        "shown": len(kept),
        "of": len(rows),
    }


def _lines(summary: Mapping[str, Any], intervals: Sequence[plots.Interval]) -> list[plots.Line]:
    """The baseline, and the majority where it is near enough to leave the intervals room."""
    one, lines = primary(summary), []
    base = one.scaled(_baseline_value(summary))
    if base is not None:
        lines.append(plots.Line("baseline", base))
    floor = one.scaled(stat(mapping(summary.get("majority")).get("metrics"), one.key))
    ends = [end for line in intervals for end in (line.mean, line.low, line.high) if end is not None]
    if floor is not None and min(abs(floor - end) for end in ends) <= 0.8 * (max(ends) - min(ends)):
        lines.append(plots.Line("mean" if is_regression(summary) else "majority", floor))
    return lines


def panels(summary: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Small plots of the best rows that have `reliability` or `learning`: `plots` with a title each, `of` how many."""
    rows = [row for row in ranked(summary) if row.get(key)]
    drawn = []
    for place, row in enumerate(rows[:MOST_PANELS]):
        if key == "reliability":
            found = mapping(row[key])
            before, after = dicts(found.get("before")), dicts(found.get("after"))
            svg = plots.reliability(before, after, f"reliability-{place}") if before or after else ""
        else:
            epochs = [listed(epoch) for epoch in listed(row[key])]
            svg = plots.learning(epochs, f"learning-{place}") if any(epochs) else ""
        if svg:
            drawn.append({"title": config_text(row), "svg": svg})
    return {"plots": drawn, "of": len(rows)} if drawn else {}
