"""The smaller tables of the page, and what it says of single samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fuse.report.measures import (
    best,
    count_text,
    decimals,
    dicts,
    is_regression,
    listed,
    mapping,
    number,
    p_text,
    plain,
    primary,
    ranked,
    same_config,
    seconds_text,
    short,
    stat,
    subset_text,
)
from fuse.report.view import MOST, MOST_CLASSES, MOST_MATRIX, Cell, Column, between, config_text

MOST_KNOCKOUTS = 6
MOST_PAIRS = 15
MOST_CARDS = 24
MOST_WEIGHTS = 128
"""Token weights of a sample that are drawn."""


def _name(title: str) -> Column:
    return Column(title, kind="text", first="ascending")


def knockouts(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What is left without a modality: trained anew, or hidden from the head fitted on all."""
    one, rows, lines = primary(summary), ranked(summary), []
    known = [row for row in rows if row.get("knockout")]
    for row in known[:MOST_KNOCKOUTS]:
        for hidden, metrics in mapping(row["knockout"]).items():
            rest = [name for name in listed(row.get("modalities")) if name != hidden]
            anew = [other for other in rows if _same_head(row, other) and other.get("modalities") == rest]
            values = [
                stat(row.get("metrics"), one.key),
                stat(anew[0].get("metrics"), one.key) if anew else None,
                stat(metrics, one.key),
            ]
            names = [Cell(config_text(row)), Cell(short(hidden))]
            lines.append({"cells": [*names, *(Cell(one.text(value), value) for value in values)]})
    first = "ascending" if one.lower else "descending"
    titles = (f"{one.title} with all", "trained anew", "hidden at test")
    columns = [_name("head"), _name("without"), *(Column(title, first=first) for title in titles)]
    return (
        {"columns": columns, "lines": lines, "shown": min(len(known), MOST_KNOCKOUTS), "of": len(known)}
        if lines
        else {}
    )


def _same_head(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(row.get(key) == other.get(key) for key in ("head", "run"))


def controls(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Heads trained on a modality that says nothing."""
    one, lines = primary(summary), []
    rows = ranked(summary)
    for control in dicts(summary.get("controls")):
        same = [row for row in rows if same_config(row, control)]
        real = stat(same[0].get("metrics"), one.key) if same else None
        value = stat(control.get("metrics"), one.key)
        versus = mapping(control.get("versus"))
        difference = number(versus.get("difference"))
        low, high = versus.get("low"), versus.get("high")
        lines.append(
            {
                "cells": [
                    Cell(config_text(control)),
                    Cell(short(control.get("control"), 60)),
                    Cell(one.text(real), real),
                    Cell(one.text(value), value),
                    Cell(one.change(difference), difference, between(one, low, high)),
                    Cell(p_text(versus.get("p")), number(versus.get("p"))),
                ]
            }
        )
    titles = {f"{one.title} as it is": "", "control": "", "difference": "as it is less the control", "p": ""}
    columns = [_name("head"), _name("what was done"), *(Column(title, hint) for title, hint in titles.items())]
    return {"columns": columns, "lines": lines} if lines else {}


def recalls(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Recall of each class, the best rows; of many classes the most frequent."""
    rows = [row for row in ranked(summary) if row.get("recall")]
    data = mapping(summary.get("data"))
    counts = mapping(data.get("counts"))
    classes = [plain(one) for one in listed(data.get("classes"))] or sorted(
        {plain(one) for row in rows for one in mapping(row["recall"])}
    )
    kept = sorted(classes, key=lambda name: -(number(counts.get(name)) or 0))[:MOST_CLASSES]
    kept = [name for name in classes if name in kept]
    found = [[number(mapping(row["recall"]).get(name)) for name in kept] for row in rows[:MOST]]
    tops = [best(column, lower=False) for column in zip(*found, strict=True)]
    lines = []
    for row, values in zip(rows, found, strict=False):
        cells = [Cell(config_text(row))]
        for value, top in zip(values, tops, strict=True):
            shown = decimals(None if value is None else 100 * value, 1)
            cells.append(Cell(shown, value, best=value is not None and value == top))
        lines.append({"cells": cells})
    columns = [_name("head"), *(Column(short(name, 24), f"{count_text(counts.get(name))} rows") for name in kept)]
    return {"columns": columns, "lines": lines, "classes": len(kept), "of": len(classes)} if lines else {}


def confusions(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A matrix for the best row of each modality subset; of many classes the pairs confused most."""
    classes = [plain(one) for one in listed(mapping(summary.get("data")).get("classes"))]
    seen, found = set(), []
    for row in ranked(summary):
        matrix = [[number(count) or 0.0 for count in listed(line)] for line in listed(row.get("confusion"))]
        subset = subset_text(row.get("modalities"))
        square = bool(matrix) and len(matrix) == len(classes) and all(len(line) == len(matrix) for line in matrix)
        if not square or subset in seen:
            continue
        seen.add(subset)
        found.append({"title": config_text(row), **_matrix(matrix, classes)})
    return found[:MOST]


def _matrix(matrix: Sequence[Sequence[float]], classes: Sequence[str]) -> dict[str, Any]:
    if len(classes) > MOST_MATRIX:
        pairs = [(n, t, p) for t, line in enumerate(matrix) for p, n in enumerate(line) if t != p and n > 0]
        top = sorted(pairs, key=lambda one: -one[0])[:MOST_PAIRS]
        said = [{"true": classes[t], "label": classes[p], "count": _mean_count(n)} for n, t, p in top]
        return {"pairs": said}
    lines = []
    for label, line in zip(classes, matrix, strict=True):
        total = sum(line)
        shares = [100 * count / total if total > 0 else 0.0 for count in line]
        cells = [{"count": _mean_count(n), "share": share} for n, share in zip(line, shares, strict=True)]
        lines.append({"label": label, "cells": cells})
    return {"lines": lines, "classes": list(classes)}


def _mean_count(value: float) -> str:
    return count_text(value) if value == round(value) else decimals(value, 1)


def costs(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds and weights of the best rows."""
    one, lines = primary(summary), []
    for row in [row for row in ranked(summary) if row.get("cost")][:MOST]:
        cost = mapping(row["cost"])
        value = stat(row.get("metrics"), one.key)
        fit, told, weights = (number(cost.get(key)) for key in ("fit_seconds", "predict_seconds", "weights"))
        cells = [Cell(config_text(row)), Cell(one.text(value), value), Cell(seconds_text(fit), fit)]
        lines.append({"cells": [*cells, Cell(seconds_text(told), told), Cell(count_text(weights), weights)]})
    rising = [
        Column(title, first="ascending")
        for title in ("fit\N{NO-BREAK SPACE}s", "predict\N{NO-BREAK SPACE}s", "weights")
    ]
    first = Column(one.title, one.hint, first="ascending" if one.lower else "descending")
    return {"columns": [_name("head"), first, *rising], "lines": lines} if lines else {}


def comparisons(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All tests against the baseline and against the best single modality, a table each."""
    found = []
    for against in ("baseline", "unimodal"):
        rows = [row for row in ranked(summary) if mapping(row.get("versus")).get(against)]
        if rows:
            lines = [{"cells": _compared(row, against, summary)} for row in rows]
            found.append({"title": config_text(summary.get(against)) or against, **_with_columns(lines, summary)})
    return found


def _compared(row: Mapping[str, Any], against: str, summary: Mapping[str, Any]) -> list[Cell]:
    one, versus = primary(summary), mapping(mapping(row["versus"]).get(against))
    difference, f1 = number(versus.get("difference")), number(versus.get("f1_difference"))
    cells = [
        Cell(config_text(row)),
        Cell(one.change(difference), difference, between(one, versus.get("low"), versus.get("high"))),
        *(Cell(p_text(versus.get(key)), number(versus.get(key))) for key in _tests(summary)),
    ]
    if not is_regression(summary):
        points = decimals(None if f1 is None else 100 * f1, 1)
        ends = [number(versus.get(key)) for key in ("f1_low", "f1_high")]
        known = [decimals(100 * end, 1) for end in ends if end is not None]
        cells.append(
            Cell(
                f"+{points}" if f1 is not None and f1 > 0 else points,
                f1,
                f"[{', '.join(known)}]" * bool(f1 is not None and len(known) == 2),
            )
        )
        discordant = number(versus.get("discordant"))
        cells.append(Cell(decimals(None if discordant is None else 100 * discordant, 1), discordant))
    detectable = number(versus.get("detectable"))
    return [*cells, Cell(one.text(detectable), detectable)]


def _tests(summary: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Key, title and hint of the p-values that at least one row has."""
    known = {
        "p": ("p", "corrected resampled t-test over folds" if by_folds(summary) else "paired test of the rows"),
        "p_holm": ("p Holm", "the same after Holm's correction"),
        "p_rows": ("p rows", "paired test of the rows; with one seed and no duplicates McNemar's"),
        "p_rows_holm": ("p rows Holm", "the same after Holm's correction"),
    }
    versus = [mapping(one) for row in ranked(summary) for one in mapping(row.get("versus")).values()]
    return {key: said for key, said in known.items() if any(number(one.get(key)) is not None for one in versus)}


def by_folds(summary: Mapping[str, Any]) -> bool:
    """Whether p is that of the test over folds; where the data has one split, it is that of the rows."""
    versus = [mapping(one) for row in ranked(summary) for one in mapping(row.get("versus")).values()]
    return any(one.get("test") == "folds" for one in versus)


def _with_columns(lines: list[dict[str, Any]], summary: Mapping[str, Any]) -> dict[str, Any]:
    one = primary(summary)
    tests = [Column(title, hint, first="ascending") for title, hint in _tests(summary).values()]
    columns = [_name("head"), Column("difference", f"in {one.unit}"), *tests]
    if not is_regression(summary):
        columns += [
            Column("macro-F1 difference", "in percentage points"),
            Column("discordant", "percent of the rows that only one of both has right"),
        ]
    return {"columns": [*columns, Column("detectable", "the smallest difference that would be found")], "lines": lines}


def settings(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Formula of each head, and what the search inside the folds chose."""
    found = []
    for row in ranked(summary):
        chosen = mapping(row.get("params"))
        if row.get("formula") or chosen:
            said = [f"{short(key, 60)} ({count_text(n)} x)" for key, n in chosen.items()]
            found.append(
                {
                    "title": config_text(row),
                    "formula": short(row.get("formula"), 160),
                    "fits": row.get("fits"),
                    "params": said,
                }
            )
    return found


def shares(value: Any) -> list[dict[str, Any]]:
    """Shares by modality; `width` is drawn, never more than the whole."""
    known = [(name, number(share)) for name, share in mapping(value).items()]
    return [
        {"name": str(name), "text": f"{decimals(100 * share, 0)} %", "width": round(max(0.0, min(1.0, share)) * 100, 1)}
        for name, share in known
        if share is not None
    ]


def contributions(value: Any) -> list[dict[str, Any]]:
    """What each modality added to a prediction, with its sign; bars are relative to the largest."""
    known = [(str(name), number(share)) for name, share in mapping(value).items()]
    most = max((abs(share) for _, share in known if share is not None), default=0.0)
    return [
        {
            "name": name,
            "text": f"{'+' if share > 0 else ''}{decimals(share, 2)}",
            "width": round(100 * abs(share) / most, 1) if most > 0 else 0,
            "against": share < 0,
        }
        for name, share in known
        if share is not None
    ]


def closer(summary: Mapping[str, Any], samples: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of the best head."""
    found = mapping(summary.get("closer"))
    if not found:
        return {}
    by_class = [
        {"label": str(label), "shares": shares(one)} for label, one in mapping(found.get("shares_by_class")).items()
    ]
    return {
        "title": config_text(found),
        "why": plain(found.get("why")),
        "emap": _emap(found.get("emap"), summary),
        "shares": shares(found.get("shares")),
        "by_class": [one for one in by_class if one["shares"]][:MOST_CLASSES],
        "attention": [_attended(one, samples) for one in dicts(found.get("attention"))[:MOST]],
        "mistakes": [_card(one, samples) for one in dicts(found.get("mistakes"))[:MOST_CARDS]],
    }


def _emap(value: Any, summary: Mapping[str, Any]) -> dict[str, Any]:
    found, one = mapping(value), primary(summary)
    if not found:
        return {}
    full = next((found[key] for key in ("value", one.key, "accuracy") if key in found), None)
    return {
        "full": one.text(full),
        "projected": one.text(found.get("projected")),
        "difference": one.change(found.get("difference")),
        "interval": between(one, found.get("low"), found.get("high")),
        "exact": found.get("exact"),
        "rows": found.get("rows"),
    }


def _card(value: Mapping[str, Any], samples: Mapping[str, Any]) -> dict[str, Any]:
    confidence = number(value.get("confidence"))
    return {
        "id": plain(value.get("id")),
        "true": _label(value.get("true")),
        "label": _label(value.get("label")),
        "confidence": None if confidence is None else f"{decimals(100 * confidence, 0)} %",
        "fold": value.get("fold"),
        "shares": contributions(value.get("shares")),
        "sample": samples.get(plain(value.get("id"))),
    }


def _label(value: Any) -> str:
    known = number(value)
    return decimals(known, 2) if isinstance(value, float) and known is not None else plain(value)


def _attended(value: Mapping[str, Any], samples: Mapping[str, Any]) -> dict[str, Any]:
    tokens = mapping(value.get("tokens"))
    parts = []
    for name, weights in mapping(value.get("weights")).items():
        known = [max(0.0, number(weight) or 0.0) for weight in listed(weights)]
        top = max(known, default=0.0)
        scaled = [round(100 * weight / top) if top > 0 else 0 for weight in known]
        side = math.isqrt(len(known))
        words = [plain(word) for word in listed(tokens.get(name))]
        if known:
            grid = name != "text" and side > 1 and side * side == len(known)
            named = words if len(words) == len(known) else []
            kept = scaled if grid else scaled[:MOST_WEIGHTS]
            parts.append(
                {"name": str(name), "side": side if grid else 0, "scaled": kept, "words": named, "n": len(known)}
            )
    return {**_card(value, samples), "parts": parts}


def duplicates(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Near-duplicates by modality."""
    found = []
    for name, value in mapping(summary.get("near_duplicates")).items():
        one = mapping(value)
        pairs = [listed(pair) for pair in listed(one.get("examples"))]
        examples = [(short(p[0], 48), short(p[1], 48), decimals(p[2], 3)) for p in pairs if len(p) == 3]
        counts = {
            key: count_text(one.get(key)) for key in ("rows", "checked", "across", "pairs") if one.get(key) is not None
        }
        threshold = decimals(one.get("threshold"), 3)
        found.append({"name": str(name), "threshold": threshold, "examples": examples[:MOST], **counts})
    return found
