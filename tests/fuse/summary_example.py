"""Summaries of ablations as `pipeline.py ablate` writes them, with names by someone who means harm."""

from __future__ import annotations

import io
import itertools
import random
from typing import Any

from PIL import Image

from fuse.report.page import Shown

SCRIPT = "<script>window.hacked = 1</script>"
HANDLER = '"><img src=x onerror="window.hacked = 2">'
QUOTES = 'it\'s "quoted" & {{ 7 * 7 }} {% raw %} $x_1^2$ 100 % #1 ~\\'
UNICODE = "\u6f22\u5b57 \U0001f600 \u202eright to left\u202c e\u0301"
LONG = "word " * 999 + "endof"
PIPES = "a|b;c,d\n=1+1"
HEADS = ("logreg", "mlp-aux", "gmu", "tensor", "stacking", "kernel", "vote-prior")
FORMULAS = {
    "logreg": "softmax(W [z_1; ...; z_M] + b)",
    "kernel": "sum_m beta_m K_m",
    "tensor": "W vec([1; u_1] o ... o [1; u_M]) + b",
}


def example(
    regression: bool = False, modalities: int = 2, hostile: bool = True, runs: tuple[str, ...] = ("",)
) -> dict[str, Any]:
    """A whole summary.

    Args:
        regression: labels are numbers.
        modalities: two or three.
        hostile: with names and texts that try to break the page; without them it is one to show.
        runs: names of the runs that are joined.
    """
    chance = random.Random(7)  # noqa: S311
    names = ["text", "image", "audio"][:modalities]
    classes = [] if regression else ["positive", "neutral", SCRIPT + LONG if hostile else "negative"]
    heads = (*HEADS, *((SCRIPT, QUOTES + HANDLER, UNICODE, LONG, PIPES) if hostile else ()))
    subsets = [list(one) for size in range(1, modalities + 1) for one in itertools.combinations(names, size)]
    rows = [
        _row(chance, (run, head, subset), classes, names)
        for run in runs
        for head in heads
        for subset in subsets
        if len(subset) > 1 or head in ("logreg", "mlp-aux", SCRIPT)
    ]
    best = ["mlp-aux", names]
    return {
        "schema": 1,
        "task": "regression" if regression else "classification",
        "primary": "mae" if regression else "accuracy",
        "data": _data(names, classes, hostile),
        "protocol": {
            "name": "repeated cross-validation",
            "description": "Stratified 5-fold, three times with other folds; rows that share content stay together. "
            "Settings are chosen inside the training folds only.",
            "folds": 5,
            "seeds": [0, 1, 2],
            "split_seeds": [0, 1, 2],
        },
        "baseline": {"head": "logreg", "modalities": names},
        "unimodal": {"head": "logreg", "modalities": ["text"]},
        "rows": rows,
        "majority": _majority(regression, classes),
        "controls": [_control(chance, name, regression, names) for name in ("image shuffled", "image noise")],
        "closer": _closer(chance, best, regression, classes, hostile),
        "near_duplicates": _duplicates(names, hostile),
        "left_out": [
            "cross-attention: needs tokens, run extract --tokens",
            f"vote-hard: {QUOTES if hostile else 'classes only'}",
        ],
        "conclusions": [
            "mlp-aux on text + image is best: 71.5 % are right, 1.3 points more than logreg (p 0.012 after Holm).",
            "Text alone reaches 69.8 %; the picture adds 1.7 points, more than the 1.1 that these rows can show.",
            "Twelve pairs of texts in different folds are almost the same; without them no figure moves by 0.1.",
            *([SCRIPT, UNICODE] if hostile else []),
        ],
        "provenance": _provenance(names, hostile),
    }


def samples(summary: dict[str, Any], hostile: bool = True) -> dict[str, Shown]:
    """Texts and pictures of the samples that a summary names."""
    said = [
        "What a day at the beach with all of them",
        "so tired of this \U0001f62d",
        "Breaking: the road is closed until Monday",
    ]
    wild = [SCRIPT + " <b>bold</b>", LONG, UNICODE + QUOTES]
    named = summary["closer"]["mistakes"] + summary["closer"]["attention"]
    return {
        one["id"]: Shown(
            {"text": wild[place % 3] if hostile and place % 2 else said[place % 3]},
            {"image": picture(place)} if place % 4 != 3 else {},
        )
        for place, one in enumerate(named)
    }


def picture(seed: int) -> bytes:
    """A JPEG of a sky over a field."""
    chance = random.Random(seed)  # noqa: S311
    image = Image.linear_gradient("L").resize((320, 200 + 60 * (seed % 3)))
    colour = tuple(chance.randrange(80, 255) for _ in range(3))
    tinted = Image.merge("RGB", [image.point([int(v * one / 255) for v in range(256)]) for one in colour])
    file = io.BytesIO()
    tinted.save(file, "JPEG", quality=70)
    return file.getvalue()


def _row(
    chance: random.Random, config: tuple[str, str, list[str]], classes: list[str], names: list[str]
) -> dict[str, Any]:
    run, head, subset = config
    neural = head in ("mlp-aux", "gmu", "tensor")
    good = 0.62 + 0.045 * ("text" in subset) + 0.015 * (len(subset) - 1) + 0.01 * neural + chance.uniform(-0.012, 0.012)
    full = subset == names and (head, subset) != ("logreg", names)
    return {
        "run": run,
        "head": head,
        "modalities": subset,
        "formula": FORMULAS.get(head, "W_2 relu(W_1 [z_1; ...; z_M] + b_1) + b_2"),
        "fits": 15,
        "metrics": _metrics(chance, good) if classes else _errors(chance, good),
        "recall": dict(zip(classes, (good + 0.12, good - 0.1, good - 0.31), strict=True)) if classes else None,
        "confusion": [[1640.3, 190.0, 79.7], [301.0, 498.3, 71.7], [150.0, 110.0, 159.0]] if classes else None,
        "reliability": _reliability(chance) if classes else None,
        "learning": [[0.98 * 0.9**k + 0.2, 0.9 * 0.93**k + 0.36 + 0.004 * k] for k in range(30)] if neural else None,
        "cost": {
            "fit_seconds": chance.uniform(0.2, 4),
            "predict_seconds": chance.uniform(0.003, 0.05),
            "weights": chance.randrange(9000, 2_000_000),
        },
        "params": {"C=1": 10, "C=10": 5} if head == "logreg" else {},
        "knockout": {name: {"accuracy": good - 0.08, "macro_f1": 0.4, "mae": 1.3} for name in subset}
        if len(subset) > 1
        else {},
        "versus": {
            "baseline": _versus(chance, bool(classes)) if full else None,
            "unimodal": _versus(chance, bool(classes)) if full else None,
        },
    }


def _metrics(chance: random.Random, good: float) -> dict[str, Any]:
    f1 = good - 0.11 + chance.uniform(-0.02, 0.02)
    return {
        "accuracy": {"mean": good, "low": good - 0.013, "high": good + 0.014, "sd": 0.004},
        "macro_f1": {"mean": f1, "low": f1 - 0.02, "high": f1 + 0.019, "sd": 0.006},
        "balanced_accuracy": {"mean": f1 - 0.01, "sd": 0.006},
        "weighted_f1": {"mean": good - 0.015, "low": None, "high": None},
        "auroc": {"mean": good + 0.11},
        "nll": {"mean": 1.4 - good},
        "ece": {"mean": 0.13 - good / 10},
        "ece_calibrated": {"mean": 0.021},
    }


def _errors(chance: random.Random, good: float) -> dict[str, Any]:
    mae = 1.6 - good
    return {
        "mae": {"mean": mae, "low": mae - 0.03, "high": mae + 0.031, "sd": 0.01},
        "rmse": {"mean": mae * 1.3, "low": mae * 1.3 - 0.04, "high": mae * 1.3 + 0.04},
        "corr": {"mean": good - 0.02},
        "r2": {"mean": good - 0.25 + chance.uniform(-0.01, 0.01)},
        "acc2_non0": {"mean": good + 0.08},
        "f1_non0": {"mean": good + 0.07},
        "acc7": {"mean": good - 0.33},
    }


def _reliability(chance: random.Random) -> dict[str, Any]:
    def bins(bias: float) -> list[dict[str, float]]:
        middles = [0.35 + 0.1 * k for k in range(7)]
        return [
            {"confidence": m, "accuracy": m - bias * (m - 0.3) + chance.uniform(-0.03, 0.03), "share": 0.05 + 0.03 * k}
            for k, m in enumerate(middles)
        ]

    return {"before": bins(0.3), "after": bins(0.03)}


def _versus(chance: random.Random, classify: bool) -> dict[str, Any]:
    gap = chance.uniform(-0.01, 0.02)
    extra = {
        "f1_difference": gap * 1.4,
        "f1_low": gap - 0.02,
        "f1_high": gap + 0.03,
        "discordant": 0.1288,
    }
    return {
        "difference": gap,
        "low": gap - 0.009,
        "high": gap + 0.009,
        "p": 0.0004 if gap > 0.015 else 0.2,
        "p_holm": 0.0032 if gap > 0.015 else 0.61,
        "test": "folds",
        "p_rows": 0.03,
        "p_rows_holm": 0.18,
        "detectable": 0.011,
        **(extra if classify else {}),
    }


def _data(names: list[str], classes: list[str], hostile: bool) -> dict[str, Any]:
    return {
        "name": f"posts {SCRIPT}" if hostile else "posts",
        "rows": 3200,
        "classes": classes,
        "counts": dict(zip(classes, (1910, 871, 419), strict=True)) if classes else {},
        "modalities": names,
        "present": dict(zip(names, (3200, 3187, 2954), strict=False)),
        "kept_together": 148,
        "digest": "9f2c51e0b7",
    }


def _majority(regression: bool, classes: list[str]) -> dict[str, Any]:
    if regression:
        return {"label": 0.21, "metrics": {"mae": 1.31, "rmse": 1.58, "corr": None}}
    return {"label": classes[0], "metrics": {"accuracy": 0.597, "macro_f1": 0.249, "balanced_accuracy": 0.333}}


def _control(chance: random.Random, name: str, regression: bool, names: list[str]) -> dict[str, Any]:
    value = chance.uniform(0.66, 0.69)
    return {
        "head": "mlp-aux",
        "modalities": names,
        "control": name,
        "metrics": {"mae": {"mean": 1.1}}
        if regression
        else {"accuracy": {"mean": value}, "macro_f1": {"mean": value - 0.1}},
        "versus": {"difference": 0.02, "low": 0.008, "high": 0.033, "p": 0.0021},
    }


def _closer(
    chance: random.Random, best: list[Any], regression: bool, classes: list[str], hostile: bool
) -> dict[str, Any]:
    head, names = best
    labels = classes or [1.6, -0.4, 2.2]
    ids = [f"post-{k}" for k in range(6)]
    ids[1:3] = [HANDLER, LONG] if hostile else ids[1:3]
    shares = dict(zip(names, (0.71, 0.21, 0.08), strict=False))
    looks = {"text": [chance.random() ** 3 for _ in range(14)], "image": [chance.random() ** 2 for _ in range(49)]}
    return {
        "head": head,
        "modalities": names,
        "why": "Best accuracy of the heads on all modalities.",
        "emap": None
        if regression
        else {"accuracy": 0.715, "projected": 0.709, "difference": 0.006, "low": -0.002, "high": 0.013, "exact": True},
        "shares": shares,
        "shares_by_class": dict.fromkeys(classes, shares) or None,
        "attention": [{"id": f"look-{k}", "true": labels[k], "label": labels[0], "weights": looks} for k in range(3)],
        "mistakes": [
            {
                "id": one,
                "true": labels[k % 3],
                "label": labels[(k + 1) % 3],
                "confidence": None if regression else 0.99 - k / 50,
                "fold": k % 5,
                "shares": dict(zip(names, (0.31, -0.06, 0.02), strict=False)),
            }
            for k, one in enumerate(ids)
        ],
    }


def _duplicates(names: list[str], hostile: bool) -> dict[str, Any]:
    pairs = [["post-1", SCRIPT if hostile else "post-9", 0.9991], ["post-4", "post-17", 0.9972]]
    return {
        name: {"threshold": 0.995, "rows": 3200, "checked": 3200, "across": 12, "examples": pairs} for name in names
    }


def _provenance(names: list[str], hostile: bool) -> dict[str, Any]:
    return {
        "command": "pipeline.py ablate posts --heads all --seeds 3 --baseline logreg --controls shuffled,noise "
        f"--name '{SCRIPT if hostile else 'first'}' --output runs/posts-ablate-1",
        "created": "2026-11-21T14:40:00+00:00",
        "seconds": 812.4,
        "versions": {"encode-once": "0.1.0", "python": "3.11.7", "torch": "2.11.0", "scikit-learn": "1.7.2"},
        "machine": "2 cores, x86_64, no GPU",
        "encoders": {
            name: {
                "encoder": "38c5eb0a36bd6dae05e8b3ab7e5b1d3f",
                "model": LONG if hostile else "all-MiniLM-L6-v2",
                "output": "mean",
                "dim": 384,
            }
            for name in names
        },
        "data_digest": "9f2c51e0b7d14",
        "store": "features",
        "settings": {"heads": "all", "calibrate": True},
    }
