"""A closer look at one configuration: interactions, shares of the modalities, attention, mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from threadpoolctl import threadpool_limits

from cache import canonical_json, digest
from fuse.ablation.engine import FITS, Done
from fuse.ablation.fits import Fit, Fits
from fuse.ablation.keys import decided_by
from fuse.ablation.plan import Cell, Round, Settings, make
from fuse.ablation.results import Column
from fuse.ablation.work import Data
from fuse.compare import Bootstrap, interval
from fuse.estimators import FusionHead
from fuse.evaluate import labelled_by
from fuse.explain import emap, modality_shares
from fuse.runs import versions
from fuse.tokens import TokenHead

MOST_ROWS = 1000
"""Of each fold so many rows are looked at."""
ALL_PAIRS = 250_000
"""Recombinations of rows that are all predicted; of more, `DRAWS` random ones a row."""
DRAWS = 50
MISTAKES = 12
SHOWN = 3
"""Rows of each fold whose attention is shown."""


def look(done: Done, cell: Cell, rounds: Sequence[Round], fits: Mapping[str, Fit], jobs: int | None) -> list[Fit]:
    """Looks at the folds of one repeat, as they were judged: the same heads are fitted again.

    Args:
        done: the ablation; what is found is kept beside its fits.
        cell: more than one modality.
        rounds: of one seed.
        fits: by name of the fold, what was judged there; gives the settings that were chosen.
        jobs: processes; None takes one a core.
    """
    data, settings, folder = done.data, done.settings, done.folder / FITS
    asked = [(round_, fits[round_.fold.name].about["params"]) for round_ in rounds]
    count = min(jobs or joblib.cpu_count(), len(asked)) if settings.device == "cpu" else 1
    if count == 1:
        return [_look(data.of(round_.fold), settings, cell, round_, params, folder) for round_, params in asked]
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        run = joblib.Parallel(n_jobs=count)
        found: list[Fit] = run(
            joblib.delayed(_look)(data.of(round_.fold), settings, cell, round_, params, folder)
            for round_, params in asked
        )
    return found


def _look(data: Data, settings: Settings, cell: Cell, round_: Round, params: Mapping[str, Any], folder: Path) -> Fit:
    train, test = round_.fold.train, round_.fold.test
    decided, _ = decided_by(data, settings, cell, round_)
    said = decided | {
        "look": [MOST_ROWS, ALL_PAIRS, DRAWS, SHOWN],
        "cell": asdict(cell),
        "chosen": dict(params),
        "round": round_.seed,
        "task": data.task,
        "versions": versions(),
        "encoders": [data.table.view.blocks[name].encoder for name in cell.modalities],
    }
    key = digest(canonical_json(said), data.table.view.digest.encode(), train.tobytes(), test.tobytes())
    held = Fits(folder).read(key)
    if held is not None:
        return held
    with threadpool_limits(1):
        head = make(settings, cell, data.task, round_.seed).set_params(**params)
        table = data.table.select(cell.modalities)
        X = table if isinstance(head, TokenHead) else data.inputs.only(cell.modalities)
        head.fit(X[train], data.y[train])
        rows = np.sort(np.random.default_rng(round_.seed).permutation(test)[:MOST_ROWS])
        found = _found(head, X[rows], rows)
        weights = _attention(head, table[rows[:SHOWN]]) if isinstance(head, TokenHead) else {}
    fit = Fit({"exact": found.pop("exact"), "attention": weights}, found)
    Fits(folder).write(key, fit)
    return fit


def _found(head: FusionHead, X: Any, rows: np.ndarray) -> dict[str, Any]:
    label, _ = labelled_by(head, X)
    found: dict[str, Any] = {"rows": rows, "shares": modality_shares(head, X).values, "label": label, "exact": False}
    if len(X) and not (isinstance(head, TokenHead) and head.aligned):  # recombined tokens would not be aligned
        projected = emap(head, X, most=ALL_PAIRS, draws=DRAWS)
        found |= {"projected": projected.labels, "exact": projected.exact}
    return found


def _attention(head: TokenHead, X: Any) -> dict[str, Any]:
    """Of each row the weights of its tokens, where the head's output is a mean of them.

    Tokens of several modalities are shown where they are aligned: as those of the first, the text.
    """
    model = head._model()
    if not model.network.attends or not (head.aligned or len(head.read_by_token_) == 1):
        return {}
    weights = head.attention(X)
    return {
        str(id_): {head.read_by_token_[0]: [float(one) for one in own]}
        for id_, own in zip(X.ids.tolist(), weights, strict=True)
    }


def closer_look(data: Data, column: Column, looks: Sequence[Fit]) -> dict[str, Any]:
    """What `summary.json` says of one configuration beyond its metrics.

    Args:
        data: of the ablation.
        column: the configuration.
        looks: from `look`.
    """
    rows = np.concatenate([one.arrays["rows"] for one in looks])
    shares = np.concatenate([one.arrays["shares"] for one in looks])
    label = np.concatenate([one.arrays["label"] for one in looks])
    true, names = data.y[rows], column.cell.modalities
    return {
        "head": column.cell.head,
        "modalities": list(names),
        "emap": _emap(data, rows, label, looks),
        "shares": dict(zip(names, _mean_shares(shares), strict=True)),
        "shares_by_class": {
            name: dict(zip(names, _mean_shares(shares[true == name]), strict=True)) for name in data.classes
        },
        "attention": [
            {"id": id_, "weights": weights} for one in looks for id_, weights in one.about["attention"].items()
        ],
        "mistakes": mistakes(column, dict(zip(data.table.ids[rows].tolist(), shares, strict=True))),
    }


def _mean_shares(values: np.ndarray) -> list[float]:
    size = np.abs(values).mean(axis=0) if len(values) else np.zeros(values.shape[1])
    return [float(one) for one in (size / size.sum() if size.sum() > 0 else size)]


def _emap(data: Data, rows: np.ndarray, label: np.ndarray, looks: Sequence[Fit]) -> dict[str, Any] | None:
    """What is lost without interactions, on the rows that were looked at; positive: interactions help."""
    if not all("projected" in one.arrays for one in looks):
        return None
    projected, true = np.concatenate([one.arrays["projected"] for one in looks]), data.y[rows]
    if data.classes:
        scores = np.stack([label == true, projected == true], axis=1).astype(np.float64)
    else:
        scores = np.stack([np.abs(label - true), np.abs(projected - true)], axis=1)
    draws = Bootstrap(data.table.groups[rows]).means(scores)
    low, high = interval(draws[:, 0] - draws[:, 1])
    mean = scores.mean(axis=0)
    return {
        "value": float(mean[0]),
        "projected": float(mean[1]),
        "difference": float(mean[0] - mean[1]),
        "low": low,
        "high": high,
        "rows": len(rows),
        "exact": all(one.about["exact"] for one in looks),
    }


def mistakes(column: Column, shares: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """The rows of the first repeat that were labelled wrongly with most confidence; of numbers, the largest errors."""
    rows, label = column.rows, column.label[0]
    score = column.proba[0].max(axis=1) * (label != rows.true) if rows.classify else np.abs(label - rows.true)
    order = np.argsort(-score, kind="stable")[:MISTAKES]
    names = column.cell.modalities
    found = []
    for place in order[score[order] > 0].tolist():
        id_ = str(rows.ids[place])
        one: dict[str, Any] = {
            "id": id_,
            "true": _named(rows.classes, rows.true[place]),
            "label": _named(rows.classes, label[place]),
            "confidence": float(score[place]) if rows.classify else None,
            "fold": int(rows.fold[0, place]),
        }
        if id_ in shares:
            one["shares"] = dict(zip(names, map(float, shares[id_]), strict=True))
        found.append(one)
    return found


def _named(classes: np.ndarray, value: Any) -> str:
    return str(classes[int(value)]) if len(classes) else f"{float(value):.4g}"
