"""Whether the intervals and p-values of `fuse.compare` hold what they promise, on data of known truth.

    python benchmarks/coverage.py
    python benchmarks/coverage.py --repeats 20 --only wide

Each repeat draws rows with two modalities that are equally good by construction, judges a head on
either and on both by repeated grouped 5-fold, and asks every model for its accuracy on many fresh
rows. Writes `results/coverage.*` beside this script.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import joblib
import numpy as np
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import RESULTS, Target, machine, target_lines, write_result
from fuse import make_classifier, make_regressor
from fuse.compare import Bootstrap, corrected_resampled_t, interval, mcnemar, mcnemar_by_seed, paired_p

CLASSES, FOLDS, SEEDS, FRESH = 3, 5, 3, 20_000
CONFIGURATIONS = ("a", "b", "both")
PAIRS = {"a less b": 1, "a less both": 2}
BOUNDS = {"coverage": (0.92, 0.98), "rejection": (0.03, 0.07)}


@dataclass(frozen=True)
class Law:
    """Where rows come from.

    `columns` of each modality, of which three show causes, through noise of variance `own` in one
    modality and `common` in both; `duplicates`: rows come in groups of 1 to 6 that share most;
    `held_out`: models learn from 4 times as many other rows, not from folds.
    """

    about: str
    rows: int
    columns: int
    own: float = 1.0
    common: float = 0.0
    duplicates: bool = False
    numbers: bool = False
    held_out: bool = False


LAWS = {
    "plain": Law("400 rows, 2 x 8 columns", 400, 8),
    "wide": Law("300 rows, 2 x 60 columns: what a model is depends much on its training rows", 300, 60),
    "very wide": Law("300 rows, 2 x 200 columns: more columns than rows", 300, 200),
    "alike": Law("300 rows, noise shared by the modalities: few discordant rows", 300, 8, own=0.03, common=1.0),
    "duplicates": Law("500 rows in groups of 1 to 6", 500, 8, duplicates=True),
    "held out": Law("300 rows, 2 x 60 columns, judged on 300 rows that trained no model", 300, 60, held_out=True),
    "numbers": Law("400 rows, 2 x 8 columns, regression", 400, 8, numbers=True),
    "wide numbers": Law("300 rows, 2 x 60 columns, regression", 300, 60, numbers=True),
    "duplicated numbers": Law("500 rows in groups of 1 to 6, regression", 500, 8, duplicates=True, numbers=True),
}
NOTES = (
    "Intervals and p-values are of the seeds one by one (mean of the ends, median of p) unless they say otherwise. "
    "The targets give the least and the most over the data sets of a kind. 300 repeats know a share of 95 % or of "
    "5 % to about +-2.5 %, so of many true ones some fall outside by chance.",
    "",
    "Why what is based on rows can be too sure: a row is judged by models that learned from most of the other judged "
    "rows, so rows are not independent. The last table of each number of seeds gives by how much the variance falls "
    "short. `held out` is the control: the same methods on rows that trained no model. Of several seeds, the mean of "
    "the seeds' intervals forgoes what averaging over seeds gains; that this makes up for dependence where seeds "
    "differ is what is found here, not a theorem. In ridge regression seeds hardly differ, and it does not. "
    "McNemar's test knows nothing of duplicates.",
)
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def drawn(law: Law, rng: np.random.Generator, rows: int) -> Rows:
    """Columns, labels and groups of fresh rows."""
    sizes = rng.choice([1, 2, 6], size=rows, p=[0.6, 0.3, 0.1]) if law.duplicates else np.ones(rows, dtype=int)
    groups = np.repeat(np.arange(rows), sizes)[:rows]

    def noise(columns: int) -> np.ndarray:
        return np.sqrt(0.8) * rng.normal(size=(rows, columns))[groups] + np.sqrt(0.2) * rng.normal(size=(rows, columns))

    causes = rng.normal(size=(rows, CLASSES))[groups]
    blur = 0.5 * rng.normal(size=(rows, CLASSES))[groups]
    y = (causes + blur).sum(axis=1) if law.numbers else np.argmax(causes + blur + [0.6, 0.2, 0], axis=1)
    both = causes + np.sqrt(law.common) * noise(CLASSES)
    parts = []
    for _ in "ab":
        part = noise(law.columns)
        part[:, :CLASSES] = both + np.sqrt(law.own) * part[:, :CLASSES]
        parts.append(part)
    return np.hstack(parts).astype(np.float32), y, groups


def columns_of(name: str, law: Law) -> slice:
    return {"a": slice(0, law.columns), "b": slice(law.columns, None), "both": slice(None)}[name]


def goodness(law: Law, y: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """By row: 1 where right, or minus the absolute error."""
    return -np.abs(y - predicted) if law.numbers else (y == predicted).astype(float)


@dataclass
class Judgement:
    """Of c configurations: predictions `(c, S, n)`, and by fold `(c, S, K)` goodness found and true, and confusions."""

    predicted: np.ndarray
    found: np.ndarray
    true: np.ndarray
    confusion: np.ndarray
    share: np.ndarray


def rounds(law: Law, rows: Rows, rng: np.random.Generator) -> Iterator[tuple[int, int, np.ndarray, Rows]]:
    """Seed, fold, numbers of the rows it judges, and the rows it learns from."""
    X, y, groups = rows
    if law.held_out:
        yield 0, 0, np.arange(len(y)), drawn(law, rng, 4 * law.rows)
        return
    splitter = GroupKFold if law.numbers else StratifiedGroupKFold
    for seed in range(SEEDS):
        split = splitter(FOLDS, shuffle=True, random_state=seed).split(X, y, groups)
        for fold, (train, test) in enumerate(split):
            yield seed, fold, test, (X[train], y[train], groups[train])


def judged(law: Law, rows: Rows, fresh: Rows, rng: np.random.Generator) -> Judgement:
    """All models of all seeds and folds, and how good each truly is."""
    X, y, _ = rows
    shape = (len(CONFIGURATIONS), 1, 1) if law.held_out else (len(CONFIGURATIONS), SEEDS, FOLDS)
    out = Judgement(
        np.empty((*shape[:2], len(y)), dtype=y.dtype),
        np.empty(shape),
        np.empty(shape),
        np.zeros((*shape, CLASSES, CLASSES)),
        np.empty(shape[1:]),
    )
    for seed, fold, test, train in rounds(law, rows, rng):
        out.share[seed, fold] = len(test) / len(y)
        for number, name in enumerate(CONFIGURATIONS):
            part, at = columns_of(name, law), (number, seed, fold)
            head = make_regressor("ridge") if law.numbers else make_classifier("logreg")
            head.fit(train[0][:, part], train[1])
            label, apart = head.predict(X[test, part]), head.predict(fresh[0][:, part])
            out.predicted[number, seed, test] = label
            out.found[at] = goodness(law, y[test], label).mean()
            out.true[at] = goodness(law, fresh[1], apart).mean()
            if not law.numbers:
                counts = np.bincount(fresh[1] * CLASSES + apart, minlength=CLASSES**2)
                out.confusion[at] = counts.reshape(CLASSES, CLASSES) / len(apart)
    return out


def true_macro_f1(judgement: Judgement, seeds: int) -> np.ndarray:
    """Of each configuration's pooled folds, averaged over seeds, `(c,)`."""
    mean = np.einsum("csfij,sf->csij", judgement.confusion, judgement.share)[:, :seeds]
    f1 = 2 * np.einsum("csii->csi", mean) / (mean.sum(axis=2) + mean.sum(axis=3))
    return f1.mean(axis=(1, 2))


def one_repeat(law: Law, repeat: int) -> dict[str, Any]:
    """Intervals as (low, high, truth of the judged models) and p-values, for 1 seed and for all."""
    rng = np.random.default_rng([repeat, *law.about.encode()])
    rows, fresh = drawn(law, rng, law.rows), drawn(law, rng, FRESH)
    judgement = judged(law, rows, fresh, rng)
    counts = (1,) if law.held_out else (1, SEEDS)
    return {str(seeds): with_seeds(law, rows, judgement, seeds) for seeds in counts}


def with_seeds(law: Law, rows: Rows, judgement: Judgement, seeds: int) -> dict[str, Any]:
    """What the first so many seeds show: intervals with their truths, and p-values."""
    _, y, groups = rows
    good = goodness(law, y, judgement.predicted[:, :seeds])
    metric = "MAE" if law.numbers else "accuracy"
    truth = np.einsum("csf,sf->c", judgement.true[:, :seeds], judgement.share[:seeds]) / seeds
    bootstrap = Bootstrap(groups)
    draws = bootstrap.means(good.reshape(-1, len(y)).T).reshape(-1, *good.shape[:2])
    intervals = intervals_of(metric, draws, truth)
    if not law.numbers:
        draws = bootstrap.macro_f1(y, judgement.predicted[:, :seeds], CLASSES)
        intervals |= intervals_of("macro-F1", draws, true_macro_f1(judgement, seeds))
    p = {what: p_values(law, good[0], good[other], groups) for what, other in PAIRS.items()}
    folds = judgement.found[:, :seeds].reshape(len(CONFIGURATIONS), -1)
    for what, other in PAIRS.items():
        corrected = corrected_resampled_t(folds[0] - folds[other], 1 / FOLDS)
        if corrected:
            p[what]["corrected resampled t"] = corrected.p
            name = f"{metric}, {what}"
            intervals[f"{name}, corrected t"] = (corrected.low, corrected.high, intervals[name][2])
    error = good.mean(axis=(1, 2)) - truth
    ratio = error[0], error[0] - error[1], sampling_variance(good[0]), sampling_variance(good[0] - good[1])
    return {"intervals": intervals, "p": p, "discordant": float((good[0] != good[1]).mean()), "ratio": ratio}


def intervals_of(metric: str, draws: np.ndarray, truth: np.ndarray) -> dict[str, tuple[float, float, float]]:
    """Of draws `(times, c, S)`: the mean of the seeds' intervals and, of several seeds, the interval of their mean."""
    found = {}
    wanted = {f"{metric} of a": (draws[:, 0], truth[0])}
    wanted |= {f"{metric}, {what}": (draws[:, 0] - draws[:, o], truth[0] - truth[o]) for what, o in PAIRS.items()}
    for name, (of, true) in wanted.items():
        found[name] = (*interval(of), float(true))
        if of.shape[1] > 1:
            found[f"{name}, seeds averaged first"] = (*interval(of.mean(axis=1)), float(true))
    return found


def sampling_variance(by_row: np.ndarray) -> float:
    """Of the mean of values `(S, n)` averaged over seeds, were the rows independent."""
    return float(by_row.mean(axis=0).var() / by_row.shape[1])


def p_values(law: Law, a: np.ndarray, b: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    found = {"paired_p, median of seeds": paired_p(a - b, groups)}
    if len(a) > 1:
        found["paired_p, seeds averaged first"] = paired_p((a - b).mean(axis=0), groups)
    if law.numbers:
        return found
    return found | {"McNemar, first seed": mcnemar(a[0], b[0]).p, "McNemar, median of seeds": mcnemar_by_seed(a, b)[0]}


def summary(repeats: list[dict[str, Any]]) -> dict[str, Any]:
    """By number of seeds: how often intervals hold the truth, and how often a difference is found."""
    return {seeds: summary_of([repeat[seeds] for repeat in repeats]) for seeds in repeats[0]}


def summary_of(some: list[dict[str, Any]]) -> dict[str, Any]:
    coverage = {}
    rejected: dict[str, dict[str, float]] = {what: {} for what in PAIRS}
    for name in some[0]["intervals"]:
        low, high, truth = np.array([one["intervals"][name] for one in some]).T
        coverage[name] = {
            "judged": float(np.mean((low <= truth) & (truth <= high))),
            "expected": float(np.mean((low <= truth.mean()) & (truth.mean() <= high))),
            "truth": float(truth.mean()),
            "truth_deviation": float(truth.std(ddof=1)),
            "width": float(np.mean(high - low)),
        }
        for what in PAIRS:
            if what in name.split(", ") and "corrected t" not in name:
                rejected[what][f"bootstrap of {name} without 0"] = float(np.mean((low > 0) | (high < 0)))
    for what in PAIRS:
        for name in some[0]["p"][what]:
            rejected[what][name] = float(np.mean([one["p"][what][name] <= 0.05 for one in some]))
    error_a, error_pair, variance_a, variance_pair = np.array([one["ratio"] for one in some]).T
    ratio = {
        "of a": float(np.mean(error_a**2) / variance_a.mean()),
        "a less b": float(np.mean(error_pair**2) / variance_pair.mean()),
    }
    discordant = float(np.mean([one["discordant"] for one in some]))
    return {"coverage": coverage, "rejected": rejected, "discordant": discordant, "variance_ratio": ratio}


def within(kind: str, share: float) -> bool:
    low, high = BOUNDS[kind]
    return low <= share <= high


def spread(kind: str, what: str, shares: Sequence[float]) -> Target:
    low, high = BOUNDS[kind]
    goal = f"{100 * low:.0f} to {100 * high:.0f} %"
    met = all(within(kind, share) for share in shares)
    return what, goal, f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %", met


def kind_of(name: str) -> str:
    if LAWS[name].held_out:
        return "held-out rows"
    return "regression" if LAWS[name].numbers else "classification"


def targets(laws: dict[str, Any]) -> list[Target]:
    """Over all laws, by method: least and most."""
    found: dict[tuple[str, str], list[float]] = {}
    for name, law in laws.items():
        kind = kind_of(name)
        for seeds, one in law["seeds"].items():
            for interval_of, row in one["coverage"].items():
                key = ("coverage", f"{kind}, seeds: {seeds}; interval, {interval_of}, holds the judged models' truth")
                found.setdefault(key, []).append(row["judged"])
            for test, share in one["rejected"]["a less b"].items():
                key = ("rejection", f"{kind}, seeds: {seeds}; {test}, found a difference between equals")
                found.setdefault(key, []).append(share)
    return [spread(group, what, shares) for (group, what), shares in found.items()]


def table(laws: Sequence[str], heading: str, rows: dict[str, list[str]]) -> list[str]:
    lines = [f"| {heading} | {' | '.join(laws)} |", f"|---{'|---' * len(laws)}|"]
    return lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def result_lines(result: dict[str, Any]) -> list[str]:
    laws, lines = result["laws"], [*target_lines(result["targets"]), ""]
    lines += [f"- {name}: {LAWS[name].about}; {law['repeats']} repeats" for name, law in laws.items()] + [""]
    lines += [*NOTES, ""]
    for seeds in ("1", str(SEEDS)):
        said = "1 seed" if seeds == "1" else f"{seeds} seeds"
        some = {name: law["seeds"][seeds] for name, law in laws.items() if seeds in law["seeds"]}
        for which, title in (("judged", "of the models judged"), ("expected", "expected over training sets")):
            names = dict.fromkeys(key for one in some.values() for key in one["coverage"])
            cells = {key: [percent(one["coverage"].get(key, {}).get(which)) for one in some.values()] for key in names}
            lines += table(list(some), f"{said}: intervals that hold the truth {title}, %", cells)
            lines.append("")
        for what, title in (("a less b", "no true difference"), ("a less both", "a true difference")):
            names = dict.fromkeys(key for one in some.values() for key in one["rejected"][what])
            cells = {key: [percent(one["rejected"][what].get(key)) for one in some.values()] for key in names}
            lines += table(list(some), f"{said}: found at 5 %, {title}, %", cells)
            lines.append("")
        # The variance that rows would have if independent is no measure where they come in groups
        alone = {name: one["variance_ratio"] for name, one in some.items() if not LAWS[name].duplicates}
        cells = {what: [f"{one[what]:.2f}" for one in alone.values()] for what in ("of a", "a less b")}
        lines += table(list(alone), f"{said}: squared error over the variance of independent rows", cells)
        lines.append("")
    return lines


@click.command()
@click.option("--repeats", default=300, show_default=True, help="Data sets drawn from each law.")
@click.option("--only", type=click.Choice(list(LAWS)), multiple=True, help="These laws; all by default.")
@click.option("--jobs", default=2, show_default=True, help="Processes, of one thread each.")
def main(repeats: int, only: tuple[str, ...], jobs: int) -> None:
    """Measure coverage and false alarms, and write them beside this script; laws not measured anew stay."""
    stored = RESULTS / "coverage.json"
    laws = json.loads(stored.read_text())["laws"] if stored.exists() else {}
    with joblib.parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
        for name in only or LAWS:
            started = time.perf_counter()
            found = joblib.Parallel()(joblib.delayed(one_repeat)(LAWS[name], repeat) for repeat in range(repeats))
            laws[name] = {"about": LAWS[name].about, "repeats": repeats, "seeds": summary(found)}
            click.echo(f"{name}: {time.perf_counter() - started:.0f} s", err=True)
            text = written({name: laws[name] for name in LAWS if name in laws})
    click.echo(text)


def written(laws: dict[str, Any]) -> str:
    """Writes what is known of the laws; returns the page."""
    result = {"machine": machine("scipy", "statsmodels"), "laws": laws, "targets": targets(laws)}
    title = "Intervals and p-values of the comparison table, on data of known truth"
    return write_result("coverage", title, result, result_lines(result))


if __name__ == "__main__":
    main()
