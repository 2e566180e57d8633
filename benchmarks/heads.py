"""All fusion heads: how well on real posts, and how long a training takes.

    python benchmarks/heads.py --data ECNU --text-model FOLDER --image-weights squeezenet1_1.pth
    python benchmarks/heads.py --only cost

`table`: frozen MiniLM and SqueezeNet on ECNU, leak-free 5-fold, every head that can join text and
image; heads that are named are measured anew, the rest of the table stays. `cost`: one training on
3200 x 2816 generated columns, and logistic regression against sklearn's. Writes `results/heads_*` beside this script.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import RESULTS, Target, machine, target_lines, write_result
from benchmarks.main_job import command
from cache import FeatureTable, load
from fuse import HEADS, classification_metrics, make_classifier, protocol_for

ROUNDS = 5
BY_TEXT = {"tokens": ("text",)}
PARAMS: dict[str, dict[str, Any]] = dict.fromkeys(("set-mean", "set-max", "deepsets", "gated-attention"), BY_TEXT)
"""Other than defaults: the image's grid of 169 places would make an hour of each of these."""
ALIGNED = ("cmbert", "ef-lstm")
"""Heads that need tokens aligned one to one, which text and image are not."""
ROWS, BLOCKS = 3200, {"text": slice(0, 768), "image": slice(768, 2816)}


def extracted(data: Path, text_model: Path, image_weights: Path, store: Path, tokens: bool) -> FeatureTable:
    """ECNU's features; with tokens in a store of their own, for they are large."""
    args = ["extract", data, "--text-model", text_model, "--image-model", "squeezenet1_1", "--precision", "fp32"]
    args += ["--image-weights", image_weights, "--store", store, "--name", "posts", "--json"]
    content, _, code = command(*args, *(["--tokens"] if tokens else []))
    if code:
        raise click.ClickException(str(content))
    return load(store, "posts")


def judged(table: FeatureTable, head: str, seeds: int) -> dict[str, Any]:
    """Accuracy, macro-F1 and balanced accuracy of a head over all folds, by seed."""
    rows: dict[str, list[float]] = {"accuracy": [], "macro_f1": [], "balanced_accuracy": []}
    y = table.y
    for seed in range(seeds):
        label = np.empty(len(y), dtype=y.dtype)
        for fold in protocol_for(table, seed=seed).judged:
            model = make_classifier(head, **PARAMS.get(head, {}))
            if "random_state" in model.get_params():
                model.set_params(random_state=seed)
            label[fold.test] = model.fit(table[fold.train], y[fold.train]).predict(table[fold.test])
        found = classification_metrics(y, label, table.classes)
        for key, values in rows.items():
            values.append(found[key])
    return rows


def table_section(data: Path, text_model: Path, image_weights: Path, store: Path, names: list[str], seeds: int) -> None:
    """Judges heads and adds them to the table, one by one: what is measured is kept if the rest is not."""
    table = extracted(data, text_model, image_weights, store, tokens=True)
    table = table[table.labelled]
    known = RESULTS / "heads_table.json"
    rows = json.loads(known.read_text())["heads"] if known.exists() else {}
    labels, counts = np.unique(table.y, return_counts=True)
    for head in names:
        rows[head] = judged(table, head, seeds)
        click.echo(f"{head:16} {shown(rows[head])}", err=True)
        result = {"machine": machine(), "rows": len(table), "majority": f"{labels[counts.argmax()]}", "heads": rows}
        result |= {"majority_accuracy": counts.max() / len(table), "protocol": protocol_for(table).description}
        result["targets"] = table_targets(rows)
        title = "All heads on ECNU: frozen MiniLM-L6 and SqueezeNet 1.1, 5 folds without a leak"
        write_result("heads_table", title, result, table_lines(result), "heads")


def table_targets(rows: dict[str, Any]) -> list[Target]:
    def mean(head: str, key: str) -> float:
        return statistics.mean(rows[head][key])

    both = [head for head in rows if mean(head, "accuracy") >= 0.715 and mean(head, "macro_f1") >= 0.59]
    best = max(both or rows, key=lambda head: mean(head, "accuracy"))
    return [
        (
            "best head, accuracy and macro-F1",
            ">= 71.5 % and >= 0.59",
            f"{best}: {100 * mean(best, 'accuracy'):.2f} %, {mean(best, 'macro_f1'):.3f}",
            bool(both),
        )
    ]


def shown(row: dict[str, Any]) -> str:
    accuracy = [100 * one for one in row["accuracy"]]
    macro, balanced = (statistics.mean(row[key]) for key in ("macro_f1", "balanced_accuracy"))
    cells = [f"{statistics.mean(accuracy):.1f}", f"{min(accuracy):.1f} to {max(accuracy):.1f}", f"{macro:.3f}"]
    return " | ".join([*cells, f"{100 * balanced:.1f}", str(len(accuracy))])


def table_lines(result: dict[str, Any]) -> list[str]:
    rows = result["heads"]
    lines = [*target_lines(result["targets"]), "", f"{result['protocol']}. Seed 0, 1, ... of folds and of weights.", ""]
    lines += [
        "| head | accuracy, % | least to most | macro-F1 | balanced accuracy, % | seeds |",
        "|---|---|---|---|---|---|",
    ]
    lines.append(f"| majority ({result['majority']}) | {100 * result['majority_accuracy']:.1f} | | | | |")
    ranked = sorted(rows, key=lambda head: -statistics.mean(rows[head]["accuracy"]))
    lines += [f"| {head} | {shown(rows[head])} |" for head in ranked]
    notes = [f"{head} with {params}" for head, params in PARAMS.items() if head in rows]
    lines += ["", f"Default parameters{''.join(f'; {note}' for note in notes)}."]
    absent = [head for head in HEADS if head not in rows and head not in ("unimodal", *ALIGNED)]
    missing = f" Not yet measured: {', '.join(absent)}." if absent else ""
    return [
        *lines,
        "",
        f"{' and '.join(ALIGNED)} need tokens that are aligned one to one, which these are not.{missing}",
    ]


def generated() -> tuple[np.ndarray, np.ndarray]:
    """Rows whose class 64 hidden causes decide, seen through noise in two modalities; float32."""
    rng = np.random.default_rng(0)
    causes = rng.normal(size=(ROWS, 64))
    target = np.argmax(causes[:, :3] + 1.2 * rng.normal(size=(ROWS, 3)) + [1, 0.5, -0.5], axis=1)
    seen = causes / np.sqrt(1 + np.arange(64))
    strength = {"text": 0.6, "image": 0.3}
    parts = [
        strength[name] * seen @ rng.normal(size=(64, part.stop - part.start))
        + 0.5 * rng.normal(size=(ROWS, part.stop - part.start))
        for name, part in BLOCKS.items()
    ]
    return np.hstack(parts).astype(np.float32), target


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def cost_section(names: list[str]) -> None:
    X, y = generated()
    heads = {name: make_classifier(name, blocks=BLOCKS) for name in names}
    for head in heads.values():
        if "random_state" in head.get_params():
            head.set_params(random_state=0)
    make_classifier("mlp", blocks=BLOCKS, epochs=1).fit(X[:200], y[:200])  # torch is imported once
    taken: dict[str, list[float]] = {name: [] for name in [*heads, "sklearn"]}
    for _ in range(ROUNDS):
        for name, head in heads.items():
            taken[name].append(seconds_of(functools.partial(head.fit, X, y)))
        taken["sklearn"].append(seconds_of(lambda: sklearns_logistic(X, y)))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    result = {"machine": machine(), "rows": ROWS, "columns": X.shape[1], "seconds": medians}
    exact = sklearns_logistic(X.astype(np.float64), y, solver="newton-cg", tol=1e-9)(X)
    found = {"ours": heads["logreg"].fit(X, y).predict_proba(X), "sklearn": sklearns_logistic(X, y)(X)}
    result["from_the_optimum"] = {name: float(np.abs(proba - exact).max()) for name, proba in found.items()}
    result["targets"] = cost_targets(medians, **result["from_the_optimum"])
    click.echo(
        write_result("heads_cost", f"One training on {ROWS} x {X.shape[1]}", result, cost_lines(result), "heads")
    )


def sklearns_logistic(X: np.ndarray, y: np.ndarray, **options: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Sklearn's own LogisticRegression on the same scaled columns, with the same objective."""
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    scaled = [
        (
            name,
            make_pipeline(StandardScaler(), FunctionTransformer(_narrow, kw_args={"factor": part.stop - part.start})),
            part,
        )
        for name, part in BLOCKS.items()
    ]
    model = make_pipeline(ColumnTransformer(scaled), LogisticRegression(max_iter=1000, **options)).fit(X, y)
    return lambda rows: model.predict_proba(rows)


def _narrow(values: np.ndarray, factor: int) -> np.ndarray:
    return values / np.float32(np.sqrt(factor))


def cost_targets(seconds: dict[str, float], ours: float, sklearn: float) -> list[Target]:
    slow = {name: one for name, one in seconds.items() if one >= 5 and name != "sklearn"}
    worst = max((name for name in seconds if name != "sklearn"), key=lambda name: seconds[name])
    said = ", ".join(f"{name} {one:.1f} s" for name, one in slow.items()) or f"slowest: {worst} {seconds[worst]:.1f} s"
    return [
        ("every head but the token ones", "< 5 s", said, not slow),
        (
            "logreg against sklearn's LogisticRegression",
            "no slower",
            f"{seconds['logreg']:.2f} s to {seconds['sklearn']:.2f} s",
            seconds["logreg"] <= seconds["sklearn"],
        ),
        (
            "logreg, largest error of a probability against sklearn's optimum (newton-cg, 1e-9, float64)",
            "<= 1e-4",
            f"{ours:.1e} (sklearn as it comes: {sklearn:.1e})",
            ours <= 1e-4,
        ),
    ]


def cost_lines(result: dict[str, Any]) -> list[str]:
    seconds = result["seconds"]
    lines = [*target_lines(result["targets"]), "", f"Medians of {ROUNDS} interleaved rounds, default parameters.", ""]
    lines += ["| head | seconds |", "|---|---|"]
    return lines + [f"| {name} | {one:.2f} |" for name, one in sorted(seconds.items(), key=lambda pair: pair[1])]


def names_of(heads: str | None, tokens: bool) -> list[str]:
    if heads:
        return heads.split(",")
    chosen = [name for name in HEADS if name not in ("unimodal", *ALIGNED)]
    return [name for name in chosen if tokens or not HEADS[name].reads_tokens]


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="The ECNU posts, for the table.")
@click.option("--text-model", type=click.Path(exists=True, path_type=Path), help="Folder of MiniLM-L6.")
@click.option("--image-weights", type=click.Path(exists=True, path_type=Path), help="Of SqueezeNet 1.1.")
@click.option("--only", type=click.Choice(["table", "cost"]), help="One section; both by default.")
@click.option("--heads", help="Names, comma-separated; all by default.")
@click.option("--seeds", default=3, show_default=True, help="Of the table.")
@click.option("--store", type=click.Path(path_type=Path), help="Keep the features here; a temporary folder by default.")
def main(
    data: Path,
    text_model: Path,
    image_weights: Path,
    only: str | None,
    heads: str | None,
    seeds: int,
    store: Path | None,
) -> None:
    """Measure the heads and write the results beside this script."""
    if only != "table":
        cost_section(names_of(heads, tokens=False))
    if only != "cost":
        if not (data and text_model and image_weights):
            raise click.UsageError("the table needs --data, --text-model and --image-weights")
        with tempfile.TemporaryDirectory() as work:
            names = names_of(heads, tokens=True)
            table_section(data, text_model, image_weights, store or Path(work) / "store", names, seeds)


if __name__ == "__main__":
    main()
