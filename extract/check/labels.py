"""What the labels and splits are: how many of each, which are rare, and which are likely slips."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from cache import REGRESSION, SPLITS, label_numbers
from extract.check.duplicates import Rows
from extract.check.measure import spread
from extract.manifest import Sample

FOLDS = 5
"""Of `fuse` by default: a class needs as many rows that nothing keeps together."""
MOST_LISTED = 200
"""Classes that are listed; of more of them the most frequent."""


def label_facts(rows: Rows, together: np.ndarray) -> dict[str, Any]:
    """What the labels are.

    Args:
        rows: of the data set.
        together: `int64 (n,)`, which rows folds keep together.

    Returns:
        Of classes `classes` with their rows, `majority`, `few` (classes with fewer independent rows than folds, and
        how many), `alike` (labels that differ only in case, spaces or the way a number is written); of numbers
        `numbers`, their spread; `words`, labels that are no numbers where others are, and how many rows have them.
    """
    known = [label for label in rows.labels if label]
    numbers = np.isfinite(label_numbers(known))
    words = Counter(label for label, number in zip(known, numbers.tolist(), strict=True) if not number)
    mixed = 0 < words.total() < len(known)
    found: dict[str, Any] = {"words": dict(words.most_common(20)) if mixed else {}, "numbers": None}
    found["number_rows"] = len(known) - words.total() if mixed else 0
    if rows.task == REGRESSION and not mixed:
        return found | {"numbers": spread(label_numbers(known)), "distinct": len(set(label_numbers(known).tolist()))}
    counts = Counter(known)
    independent: dict[str, set[int]] = {}
    for label, group in zip(rows.labels, together.tolist(), strict=True):
        if label:
            independent.setdefault(label, set()).add(group)
    few = {label: len(groups) for label, groups in independent.items() if len(groups) < FOLDS}
    majority = counts.most_common(1)
    return found | {
        "distinct": len(counts),
        "classes": dict(counts.most_common(MOST_LISTED)),
        "majority": {"label": majority[0][0], "share": round(majority[0][1] / len(known), 4)} if majority else None,
        "rarest": min(counts.values(), default=0),
        "few": dict(sorted(few.items(), key=lambda one: one[1])[:MOST_LISTED]),
        "few_count": len(few),
        "alike": _alike(counts)[:20],
    }


def _alike(counts: Counter[str]) -> list[list[str]]:
    same: dict[str, list[str]] = {}
    for label in counts:
        number = label_numbers([label])[0]
        plain = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
        same.setdefault(str(float(number)) if np.isfinite(number) else plain, []).append(label)
    return [sorted(labels) for labels in same.values() if len(labels) > 1]


def split_facts(samples: Sequence[Sample], rows: Rows) -> dict[str, Any]:
    """What the splits are.

    Returns:
        By the name of each, `rows`, `labelled` and, of classes, `classes`; `unknown`, names that mean nothing to
        `fuse`; `without`, labelled rows without a split where others have one; `unseen`, labels of valid or test
        that no row of train has, with their rows.
    """
    of: dict[str, dict[str, Any]] = {}
    for split, label in zip(rows.split, rows.labels, strict=True):
        one = of.setdefault(split, {"rows": 0, "labelled": 0, "classes": Counter()})
        one["rows"] += 1
        one["labelled"] += bool(label)
        one["classes"].update([label] if label else [])
    named = {name: one for name, one in of.items() if name}
    lost = sorted({sample.split for sample in samples if sample.split.strip().lower() not in {"", *SPLITS}})
    seen = set(named.get("train", {}).get("classes", ()))
    unseen: Counter[str] = Counter()
    if rows.task != REGRESSION and "train" in named:
        for name in {"valid", "test"} & set(named):
            unseen.update({label: count for label, count in named[name]["classes"].items() if label not in seen})
    for one in named.values():
        one["classes"] = dict(one["classes"].most_common(MOST_LISTED)) if rows.task != REGRESSION else {}
    return {
        "of": named,
        "unknown": lost[:20],
        "without": of.get("", {"labelled": 0})["labelled"] if named else 0,
        "unseen": dict(unseen.most_common(20)),
    }
