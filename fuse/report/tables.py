"""The main table as Markdown, CSV and LaTeX, for a report, a spreadsheet and a paper."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fuse.report.measures import (
    MAIN,
    Measure,
    best,
    count_text,
    decimals,
    is_regression,
    listed,
    mapping,
    measures,
    number,
    p_text,
    primary,
    ranked,
    several_runs,
    short,
    stat,
    subset_text,
)
from fuse.report.parts import by_folds

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    '"': "''",
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{NARROW NO-BREAK SPACE}": r"\,",
    "\N{SUPERSCRIPT TWO}": r"\textsuperscript{2}",
}
NOT_IN_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def markdown_table(summary: Mapping[str, Any]) -> str:
    """The rows, best first, the majority row last; `[low, high]` is the 95 % interval, bold the best of a column."""
    shown = measures(summary, MAIN)
    header, lines = _lines(summary, shown, _markdown, "**{}**".format)
    rule = ["---"] * _names(summary) + ["---:"] * (len(header) - _names(summary))
    return "".join(f"| {' | '.join(line)} |\n" for line in [header, rule, *lines])


def latex_table(summary: Mapping[str, Any]) -> str:
    r"""The same as a `table` of LaTeX with booktabs (`\usepackage{booktabs}`); the caption says how it was measured."""
    shown = measures(summary, MAIN)
    header, lines = _lines(summary, shown, _latex, "\\textbf{{{}}}".format)
    rows = [" & ".join(line) + r" \\" for line in lines]
    if mapping(summary.get("majority")) and rows:
        rows.insert(len(rows) - 1, r"\midrule")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_caption(summary)}}}",
            r"\label{tab:ablation}",
            rf"\begin{{tabular}}{{{'l' * _names(summary)}{'r' * (len(header) - _names(summary))}}}",
            r"\toprule",
            " & ".join(header) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def csv_table(summary: Mapping[str, Any]) -> str:
    """All rows and all figures as plain numbers: means, ends of intervals, deviations, differences, cost."""
    keys = [one.key for one in measures(summary)]
    parts = [(key, part) for key in keys for part in ("mean", "low", "high", "sd")]
    against = [
        (one, key)
        for one in ("baseline", "unimodal")
        for key in ("difference", "low", "high", "p", "p_holm", "p_rows", "p_rows_holm")
    ]
    costs = ("fit_seconds", "predict_seconds", "weights")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["run", "head", "modalities", *(key if part == "mean" else f"{key}_{part}" for key, part in parts)]
        + [f"{one}_{key}" for one, key in against]
        + list(costs)
    )
    for row in ranked(summary):
        metrics, versus, cost = row.get("metrics"), mapping(row.get("versus")), mapping(row.get("cost"))
        names = [_line(row.get("run")), _line(row.get("head")), "+".join(map(_line, listed(row.get("modalities"))))]
        figures = [stat(metrics, key, part) for key, part in parts]
        figures += [number(mapping(versus.get(one)).get(key)) for one, key in against]
        writer.writerow([*names, *figures, *(number(cost.get(key)) for key in costs)])
    majority = mapping(summary.get("majority"))
    if majority:
        floor = [stat(majority.get("metrics"), key) if part == "mean" else None for key, part in parts]
        writer.writerow(["", _floor_name(summary), "", *floor, *[None] * (len(against) + len(costs))])
    return file.getvalue()


def _lines(
    summary: Mapping[str, Any], shown: Sequence[Measure], escape: Any, bold: Any
) -> tuple[list[str], list[list[str]]]:
    """Header and lines, escaped."""
    rows, runs = ranked(summary), several_runs(summary)
    tops = {one.key: best([stat(row.get("metrics"), one.key) for row in rows], one.lower) for one in shown}
    header = [
        "head",
        "modalities",
        *(["run"] if runs else []),
        *(one.title for one in shown),
        "vs. baseline",
        "p (Holm)",
    ]
    lines = []
    for row in rows:
        names = [short(row.get("head")), subset_text(row.get("modalities")), *([short(row.get("run"))] if runs else [])]
        line = [escape(name) for name in names]
        for one in shown:
            value = stat(row.get("metrics"), one.key)
            text = escape(one.text(value))
            text = bold(text) if value is not None and value == tops[one.key] else text
            line.append(text + escape(_interval(row.get("metrics"), one)))
        versus = mapping(mapping(row.get("versus")).get("baseline"))
        difference = primary(summary).change(versus.get("difference")) if versus else ""
        p = p_text(versus.get("p_holm", versus.get("p"))) if versus else ""
        lines.append([*line, escape(difference), escape(p)])
    majority = mapping(summary.get("majority"))
    if majority:
        figures = [escape(one.text(stat(majority.get("metrics"), one.key))) for one in shown]
        lines.append([_floor_name(summary), "", *([""] if runs else []), *figures, "", ""])
    return [escape(title) for title in header], lines


def _interval(metrics: Any, one: Measure) -> str:
    low, high = stat(metrics, one.key, "low"), stat(metrics, one.key, "high")
    return "" if low is None or high is None else f" [{one.text(low)}, {one.text(high)}]"


def _names(summary: Mapping[str, Any]) -> int:
    """How many columns are names."""
    return 3 if several_runs(summary) else 2


def _floor_name(summary: Mapping[str, Any]) -> str:
    return "mean" if is_regression(summary) else "majority"


def _caption(summary: Mapping[str, Any]) -> str:
    data, protocol = mapping(summary.get("data")), mapping(summary.get("protocol"))
    rows, folds, seeds = data.get("rows"), number(protocol.get("folds")), listed(protocol.get("seeds"))
    measured = f"{decimals(folds, 0)} folds" if folds and folds > 1 else short(protocol.get("name"))
    said = [f"Ablation of {short(data.get('name')) or 'modalities and heads'}"]
    if number(rows) is not None:
        said.append(f"n = {count_text(rows)}")
    if measured:
        said.append(f"{measured} x {len(seeds)} seeds" if len(seeds) > 1 else measured)
    text = _latex(", ".join(said)).replace(" x ", r" $\times$ ")
    baseline = mapping(summary.get("baseline"))
    against = (
        _latex(f"{short(baseline.get('head'))} on {subset_text(baseline.get('modalities'))}")
        if baseline
        else "the baseline"
    )
    percent = any(one.percent for one in measures(summary, MAIN))
    test = "the corrected resampled t-test" if by_folds(summary) else "a paired test of the rows"
    unit = "; accuracy and F1 in percent" if percent else ""
    return (
        f"{text}. Brackets are 95\\,\\% bootstrap intervals, bold is the best of a column{unit}. "
        f"Differences are to {against}, $p$ of {test} after Holm's correction."
    )


def _line(value: Any) -> str:
    """Text on one line, of characters that a file can hold."""
    return NOT_IN_A_LINE.sub(" ", "" if value is None else str(value))


def _markdown(text: str) -> str:
    return re.sub(
        r"([\\|`*_\[\]])", r"\\\1", _line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    )


def _latex(text: str) -> str:
    safe = "".join(LATEX.get(one, one) for one in _line(text))
    return f"{{}}{safe}" if safe[:1] in ("[", "*") else safe  # or the line before would take it for an argument
