"""Which figures of a summary are shown, under which title, and how a number is written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "\N{EN DASH}"
"""Stands where there is no number."""
TURNS = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Characters that turn the direction of what comes after them."""


@dataclass(frozen=True)
class Measure:
    """A figure of merit.

    Args:
        key: its name in the summary.
        title: its name for readers.
        hint: what it is, in a few words.
        percent: shown times a hundred.
        lower: less of it is better.
    """

    key: str
    title: str
    hint: str = ""
    percent: bool = False
    lower: bool = False

    @property
    def unit(self) -> str:
        """What a difference is counted in."""
        return "percentage points" if self.percent else self.title

    def scaled(self, value: Any) -> float | None:
        """The number that is shown, or None."""
        known = number(value)
        return known * 100 if known is not None and self.percent else known

    def text(self, value: Any) -> str:
        """`71.2`, `0.534` or a dash."""
        return decimals(self.scaled(value), 1 if self.percent else 3)

    def change(self, value: Any) -> str:
        """The same with a sign."""
        shown = self.text(value)
        return shown if shown == MISSING or shown.startswith("\N{MINUS SIGN}") else f"+{shown}"


CLASSIFICATION = (
    Measure("accuracy", "accuracy", "share of rows labelled rightly, in percent", percent=True),
    Measure(
        "macro_f1", "macro-F1", "F1 of each class, averaged; every class counts the same; in percent", percent=True
    ),
    Measure("balanced_accuracy", "balanced acc.", "recall of each class, averaged; in percent", percent=True),
    Measure("weighted_f1", "weighted F1", "F1 of each class, weighted by its rows; in percent", percent=True),
    Measure("auroc", "AUROC", "area under the ROC curve, averaged over the classes; 0.5 is chance"),
    Measure("nll", "NLL", "mean negative log-likelihood of the true class; lower is better", lower=True),
    Measure("brier", "Brier", "mean squared error of the probabilities; lower is better", lower=True),
    Measure(
        "ece", "ECE", "expected calibration error: how far confidence is from accuracy; lower is better", lower=True
    ),
    Measure("ece_calibrated", "ECE calibrated", "the same after calibration; lower is better", lower=True),
)

REGRESSION = (
    Measure("mae", "MAE", "mean absolute error; lower is better", lower=True),
    Measure("rmse", "RMSE", "root of the mean squared error; lower is better", lower=True),
    Measure("corr", "Pearson", "correlation of prediction and truth"),
    Measure("r2", "R\N{SUPERSCRIPT TWO}", "share of the variance that is explained"),
    Measure("acc2_non0", "acc2 non0", "rows whose sign is right, without neutral ones"),
    Measure("f1_non0", "F1 non0", "F1 of the sign, without neutral rows"),
    Measure("acc2_has0", "acc2 has0", "rows whose sign is right, neutral counted as positive"),
    Measure("f1_has0", "F1 has0", "F1 of the sign, neutral counted as positive"),
    Measure("acc2_gt0", "acc2 gt0", "rows whose sign is right, neutral counted as negative"),
    Measure("f1_gt0", "F1 gt0", "F1 of the sign, neutral counted as negative"),
    Measure("acc7", "acc7", "rows that round to the right of seven degrees"),
)

MAIN = (
    "accuracy",
    "macro_f1",
    "balanced_accuracy",
    "auroc",
    "nll",
    "ece",
    *(one.key for one in REGRESSION[:6]),
    "acc7",
)
"""What the main table has room for; the files have all."""


def number(value: Any) -> float | None:
    """A finite number as a float; anything else is None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def decimals(value: Any, places: int) -> str:
    """A number with so many places and a true minus, or a dash."""
    known = number(value)
    if known is None:
        return MISSING
    shown = f"{known:.{places}f}"
    return shown.removeprefix("-") if float(shown) == 0 else shown.replace("-", "\N{MINUS SIGN}")


def p_text(value: Any) -> str:
    """A p-value: `0.034`, `<0.001` or a dash."""
    known = number(value)
    if known is None:
        return MISSING
    return "<0.001" if known < 0.001 else f"{known:.3f}"


def seconds_text(value: Any) -> str:
    """Seconds with sense: `0.004`, `1.2`, `340`."""
    known = number(value)
    if known is None:
        return MISSING
    return decimals(known, 3 if known < 0.1 else 2 if known < 1 else 1 if known < 100 else 0)


def count_text(value: Any) -> str:
    """A count with thin spaces between thousands."""
    known = number(value)
    return MISSING if known is None else f"{known:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def stat(metrics: Any, key: str, part: str = "mean") -> float | None:
    """`metrics[key][part]`, where a bare number stands for its mean."""
    found = metrics.get(key) if isinstance(metrics, Mapping) else None
    if isinstance(found, Mapping):
        return number(found.get(part))
    return number(found) if part == "mean" else None


def measures(summary: Mapping[str, Any], keys: Iterable[str] | None = None) -> list[Measure]:
    """What at least one row has, the primary measure first.

    Args:
        summary: of the ablation.
        keys: the measures to choose from; all by default.
    """
    known = {one.key: one for one in (REGRESSION if is_regression(summary) else CLASSIFICATION)}
    first = primary(summary)
    wanted = [first.key, *(key for key in known if key != first.key and (keys is None or key in keys))]
    rows = dicts(summary.get("rows"))
    had = [key for key in wanted if any(stat(row.get("metrics"), key) is not None for row in rows)]
    return [first if key == first.key else known[key] for key in had]


def is_regression(summary: Mapping[str, Any]) -> bool:
    """Whether labels are numbers."""
    return summary.get("task") == "regression"


def primary(summary: Mapping[str, Any]) -> Measure:
    """The measure by which rows are ordered."""
    known = REGRESSION if is_regression(summary) else CLASSIFICATION
    key = str(summary.get("primary") or known[0].key)
    return next((one for one in known if one.key == key), Measure(key, key))


def ranked(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows, best first by the primary measure; those without it come last."""
    first = primary(summary)

    def place(row: Mapping[str, Any]) -> tuple[bool, float]:
        value = stat(row.get("metrics"), first.key)
        return value is None, (value or 0.0) * (1 if first.lower else -1)

    return sorted(dicts(summary.get("rows")), key=place)


def best(values: Sequence[float | None], lower: bool) -> float | None:
    """The best of what is known."""
    known = [value for value in values if value is not None]
    return None if not known else min(known) if lower else max(known)


def dicts(value: Any) -> list[dict[str, Any]]:
    """The mappings of a list that may not be there."""
    return [dict(one) for one in value if isinstance(one, Mapping)] if isinstance(value, list | tuple) else []


def mapping(value: Any) -> dict[str, Any]:
    """A mapping that may not be there."""
    return dict(value) if isinstance(value, Mapping) else {}


def listed(value: Any) -> list[Any]:
    """A list that may not be there."""
    return list(value) if isinstance(value, list | tuple) else []


def subset_text(modalities: Any) -> str:
    """`text + image`."""
    return " + ".join(short(one, 24) for one in listed(modalities))


def same_config(row: Mapping[str, Any], other: Any) -> bool:
    """Whether both name the same head on the same modalities, of the same run where the other names one."""
    wanted = mapping(other)
    keys = ("head", "modalities", *(["run"] if "run" in wanted else []))
    return bool(wanted) and all(row.get(key) == wanted.get(key) for key in keys)


def short(value: Any, most: int = 40) -> str:
    """A name of at most `most` characters on one line; the end of a longer one becomes three dots."""
    text = re.sub(r"\s+", " ", TURNS.sub("", plain(value))).strip()
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"


def plain(value: Any) -> str:
    """As text; what is not there, or no number, is empty; lists and mappings as JSON."""
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, default=str, ensure_ascii=False)
    return "" if value is None or (isinstance(value, float) and number(value) is None) else str(value)


def texts(value: Any) -> list[str]:
    """Those of a list that say something."""
    return [said for said in map(plain, listed(value)) if said]


def several_runs(summary: Mapping[str, Any]) -> bool:
    """Whether runs are joined, so that a row must say which it is of."""
    return any(row.get("run") for row in dicts(summary.get("rows")))
