"""An ablation on the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fuse.report.screen import aligned

if TYPE_CHECKING:
    from fuse.ablation.report import Ablated

MOST_LINES = 25


def ablation_text(summary: Mapping[str, Any]) -> str:
    """The best configurations as a table, the majority under them, and what follows from it in words."""
    classify = summary["task"] == "classification"
    runs = any(row.get("run") for row in summary["rows"])
    title = ("accuracy, 95 %", "macro-F1", "balanced") if classify else ("MAE, 95 %", "Pearson", "acc2 non0")
    header = (*(("run",) if runs else ()), "head", "modalities", *title, "to baseline", "p (Holm)", "seconds")
    lines = [header, *(_line(row, classify, runs) for row in summary["rows"][:MOST_LINES])]
    majority = summary["majority"]
    metrics = majority["metrics"]
    floor = (f"always {majority['label']}", "", *_floor(metrics, classify), "", "", "")
    lines.append((*(("",) if runs else ()), *floor))
    more = len(summary["rows"]) - MOST_LINES
    said = [f"\n{more} more stand in the report.\n" if more > 0 else ""]
    said += [textwrap.fill(one, 110, initial_indent="- ", subsequent_indent="  ") for one in summary["conclusions"]]
    return "\n".join([f"{summary['data']['name']}: {summary['protocol']['description']}\n", aligned(lines), *said])


def _line(row: Mapping[str, Any], classify: bool, runs: bool) -> tuple[str, ...]:
    metrics, versus = row["metrics"], row["versus"].get("baseline")
    first, *others = ("accuracy", "macro_f1", "balanced_accuracy") if classify else ("mae", "corr", "acc2_non0")
    scale, digits = (100, 1) if classify else (1, 3)
    value, low, high = (f"{scale * metrics[first][key]:.{digits}f}" for key in ("mean", "low", "high"))
    p = None if versus is None else versus.get("p_holm")
    return (
        *((row["run"],) if runs else ()),
        row["head"],
        "+".join(row["modalities"]),
        f"{value} [{low}, {high}]",
        *(_number(metrics[name]["mean"]) for name in others),
        "" if versus is None else f"{scale * versus['difference']:+.{digits}f}",
        "" if p is None else ("<0.001" if p < 0.001 else f"{p:.3f}"),
        f"{row['cost']['fit_seconds']:.2f}",
    )


def _floor(metrics: Mapping[str, Any], classify: bool) -> tuple[str, ...]:
    if classify:
        return f"{100 * metrics['accuracy']:.1f}", _number(metrics["macro_f1"]), _number(metrics["balanced_accuracy"])
    return _number(metrics["mae"]), _number(metrics["corr"]), _number(metrics["acc2_non0"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def ablation_result(done: Ablated) -> dict[str, Any]:
    """What `ablate --json` and `report --json` print."""
    summary = done.summary
    best = summary["rows"][0]
    return {
        "out": str(done.folder),
        "best": {
            "head": best["head"],
            "modalities": best["modalities"],
            **{name: value["mean"] for name, value in best["metrics"].items()},
        },
        "conclusions": summary["conclusions"],
        "configurations": len(summary["rows"]),
        "fitted": done.fitted,
        "reused": done.reused,
        "failed": list(done.failed),
        "seconds": summary["provenance"].get("seconds"),
    }


def accuracies(summary: Mapping[str, Any]) -> dict[str, float]:
    """The primary metric by configuration, such as `mlp on text+image`."""
    return {
        f"{row['head']} on {'+'.join(row['modalities'])}": row["metrics"][summary["primary"]]["mean"]
        for row in summary["rows"]
    }
