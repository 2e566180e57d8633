"""What the numbers of an ablation say, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LEVEL = 0.05


def conclusions(summary: Mapping[str, Any]) -> list[str]:
    """Sentences, the most important first, from a `summary` that holds everything else."""
    unit = _Unit(summary)
    return [
        one
        for one in (
            _best(summary, unit),
            _fusion(summary, unit),
            _baseline(summary, unit),
            _interaction(summary, unit),
            *_controls(summary, unit),
            _power(summary, unit),
            _duplicates(summary),
        )
        if one
    ]


class _Unit:
    """How values and differences of the primary metric are written."""

    def __init__(self, summary: Mapping[str, Any]) -> None:
        self.classify = summary["task"] == "classification"
        self.primary = summary["primary"]

    def value(self, value: float) -> str:
        return f"{self.points(value)} %" if self.classify else self.points(value)

    def points(self, value: float) -> str:
        return f"{100 * value:z.1f}" if self.classify else f"{value:z.3f}"  # z: 0.0 has no sign

    def ahead(self, versus: Mapping[str, Any]) -> float:
        """By how much it is better."""
        return float(versus["difference"] if self.classify else -versus["difference"])

    def by(self, versus: Mapping[str, Any]) -> str:
        """Such as `1.9 points of accuracy [0.8, 3.1]`: how far the first is ahead."""
        ends = [versus["low"], versus["high"]] if self.classify else [-versus["high"], -versus["low"]]
        low, high = map(self.points, ends)
        what = "points of accuracy" if self.classify else "of mean absolute error"
        return f"{self.points(self.ahead(versus))} {what} [{low}, {high}]"


def p_text(p: float | None) -> str:
    """Such as `p = 0.012` or `p < 0.001`."""
    if p is None:
        return "p unknown"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def name_of(row: Mapping[str, Any]) -> str:
    """Such as `mlp on text + image`."""
    run = f" ({row['run']})" if row.get("run") else ""
    return f"{row['head']} on {' + '.join(row['modalities'])}{run}"


def significant(versus: Mapping[str, Any]) -> bool:
    """Whether a difference is shown: Holm's p below 0.05, and an interval without 0."""
    p = versus.get("p_holm", versus["p"])
    return p < LEVEL and (versus["low"] > 0 or versus["high"] < 0)


def _best(summary: Mapping[str, Any], unit: _Unit) -> str:
    best, majority = summary["rows"][0], summary["majority"]
    found = best["metrics"][unit.primary]
    said = (
        f"The best of {len(summary['rows'])} configurations is {name_of(best)}: {unit.primary.replace('mae', 'MAE')} "
    )
    said += f"{unit.value(found['mean'])} [{unit.points(found['low'])}, {unit.points(found['high'])}]"
    if unit.classify:
        said += f", macro-F1 {best['metrics']['macro_f1']['mean']:.3f}"
        return f"{said}; always saying {majority['label']!r} gets {unit.value(majority['metrics']['accuracy'])}."
    return f"{said}; always saying the mean gets {unit.value(majority['metrics']['mae'])}."


def _fusion(summary: Mapping[str, Any], unit: _Unit) -> str:
    """Whether fusion beats the best single modality."""
    single = summary["unimodal"]
    fused = [row for row in summary["rows"] if row["versus"].get("unimodal")]
    if single is None or not fused:
        return ""
    alone = f"{single['modalities'][0]} alone ({single['head']})"
    better = [
        one for one in fused if significant(one["versus"]["unimodal"]) and unit.ahead(one["versus"]["unimodal"]) > 0
    ]
    first = max(better or fused, key=lambda one: unit.ahead(one["versus"]["unimodal"]))
    versus = first["versus"]["unimodal"]
    p = _p(versus, fused, first)
    if better:
        return f"Fusion beats {alone}: {name_of(first)} by {unit.by(versus)}, {p}."
    if unit.ahead(versus) == 0:
        return f"Fusion is no better than {alone}: the best fused, {name_of(first)}, is just as good."
    if unit.ahead(versus) < 0:
        return (
            f"Fusion is no better than {alone}: the best fused, {name_of(first)}, is behind by {_behind(unit, versus)}."
        )
    return (
        f"That fusion beats {alone} is not shown: the best fused, {name_of(first)}, is ahead by {unit.by(versus)}, {p}."
    )


def _behind(unit: _Unit, versus: Mapping[str, Any]) -> str:
    return unit.by({**versus, "difference": -versus["difference"], "low": -versus["high"], "high": -versus["low"]})


def _p(versus: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], first: Mapping[str, Any]) -> str:
    """Such as `p = 0.021, after Holm's correction over 16 heads 0.336`."""
    count = sum(row["modalities"] == first["modalities"] for row in rows)
    if count == 1 or "p_holm" not in versus:
        return p_text(versus["p"])
    corrected = p_text(versus["p_holm"]).removeprefix("p ").removeprefix("= ")
    return f"{p_text(versus['p'])}, after Holm's correction over {count} heads {corrected}"


def _baseline(summary: Mapping[str, Any], unit: _Unit) -> str:
    """Whether any head is better than the linear one on the same modalities."""
    baseline = summary["baseline"]
    rows = [
        row for row in summary["rows"] if row["modalities"] == baseline["modalities"] and row["versus"].get("baseline")
    ]
    if not rows:
        return ""
    better = [
        one for one in rows if significant(one["versus"]["baseline"]) and unit.ahead(one["versus"]["baseline"]) > 0
    ]
    worse = [
        one for one in rows if significant(one["versus"]["baseline"]) and unit.ahead(one["versus"]["baseline"]) < 0
    ]
    lead = max(rows, key=lambda one: unit.ahead(one["versus"]["baseline"]))
    versus = lead["versus"]["baseline"]
    p = _p(versus, rows, lead)
    if better:
        names = ", ".join(name_of(one).split(" on ")[0] for one in better)
        said = f"Better than {name_of(baseline)}: {names}; {lead['head']} by {unit.by(versus)}, {p}."
    else:
        said = f"No head is shown to be better than {name_of(baseline)}: "
        ahead = unit.ahead(versus)
        said += f"the largest lead is {unit.by(versus)} of {lead['head']}, {p}." if ahead > 0 else "all are behind."
    if worse:
        said += f" Shown to be worse: {', '.join(one['head'] for one in worse)}."
    return said


def _interaction(summary: Mapping[str, Any], unit: _Unit) -> str:
    """Whether what a fused head gains comes from interactions of the modalities (Hessel and Lee 2020)."""
    closer = summary.get("closer") or {}
    found = closer.get("emap")
    if not found:
        return ""
    versus = {key: found[key] for key in ("difference", "low", "high")}
    said = f"Without interactions (EMAP) {name_of(closer)} gets {unit.value(found['projected'])} instead of "
    said += f"{unit.value(found['value'])}: "
    if unit.ahead(versus) > 0 and (versus["low"] > 0 or versus["high"] < 0):
        return said + f"interactions of the modalities give {unit.by(versus)}."
    return said + (
        f"a difference of {unit.by(versus)}; that interactions add anything is not shown, modalities that only add "
        "up (ensembling) may do as well."
    )


def _controls(summary: Mapping[str, Any], unit: _Unit) -> list[str]:
    """Whether a modality counts by what it says: shuffled, it has the same columns and says nothing."""
    found = []
    for head in dict.fromkeys((one.get("run", ""), one["head"]) for one in summary["controls"]):
        parts = []
        for one in summary["controls"]:
            if (one.get("run", ""), one["head"]) == head and one["control"].endswith("shuffled"):
                versus = one["versus"]
                shown = versus["p"] < LEVEL and (versus["low"] > 0 or versus["high"] < 0) and unit.ahead(versus) > 0
                lost = f"{unit.by(versus)}, {p_text(versus['p'])}"  # where p and interval disagree, both are to be seen
                parts.append(f"with {one['control']} it loses {lost if shown else f'nothing that is shown ({lost})'}")
        if parts:
            found.append(f"Control of {head[1]}: {'; '.join(parts)}.")
    return found[:1]


def _power(summary: Mapping[str, Any], unit: _Unit) -> str:
    """What differences these rows could show."""
    shown = [
        row["versus"]["baseline"]["detectable"]
        for row in summary["rows"]
        if row["versus"].get("baseline")
        and row["modalities"] == summary["baseline"]["modalities"]
        and row["versus"]["baseline"].get("detectable")
    ]
    if not shown:
        return ""
    low, high = unit.points(min(shown)), unit.points(max(shown))
    spread = low if low == high else f"{low} to {high}"
    what = "points of accuracy" if unit.classify else "of mean absolute error"
    return (
        f"Power: a true difference of {spread} {what} to the baseline would be found on these rows with a "
        "probability of 80 % (before correction); smaller ones may well exist unseen."
    )


def _duplicates(summary: Mapping[str, Any]) -> str:
    across = {name: one["across"] for name, one in (summary.get("near_duplicates") or {}).items() if one["across"]}
    if not across:
        return ""
    counts = ", ".join(f"{count} of {name}" for name, count in across.items())
    return f"Near-duplicates lie in different folds ({counts}): the figures may be a little too good."
