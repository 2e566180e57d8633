"""Settings of a head, searched within the training rows: never on those that judge it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from cache import UsageError, listing
from fuse.calibration import fit_temperature
from fuse.estimators import FusionClassifier, FusionHead, as_numbers
from fuse.evaluate import labelled_by
from fuse.folds import deal
from fuse.gradient import GradientHead

GRIDS = ("none", "small", "full")
FLOOR = 1e-12
PARTS = 5
"""One part in so many of the training rows is held out: of a third less, a network would overfit otherwise."""
HALVING = 3
"""Of candidates that are trained by gradient, one in so many goes on; the others got as small a part of the steps."""

_SCALES = {"small": (0.1, 1.0, 10.0), "full": (0.01, 0.1, 1.0, 10.0, 100.0)}
_RATES = {"small": (1 / 3, 1.0, 3.0), "full": (0.1, 1 / 3, 1.0, 3.0)}
_WIDTHS = {"small": (1, 2), "full": (0.5, 1, 2, 4)}
_LAYERS = {"small": (1,), "full": (1, 2)}
_DROPOUTS = {"small": (0.0,), "full": (0.0, 0.3)}


@dataclass(frozen=True)
class Found:
    """The best settings, the temperature that calibrates a classifier with them (of a regressor None), what was tried.

    `tried` holds settings and their loss on held-out rows, log loss or mean squared error.
    """

    params: Mapping[str, Any]
    temperature: float | None
    tried: tuple[tuple[Mapping[str, Any], float], ...]


def candidates(head: FusionHead, grid: str, fixed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Settings that are tried, the head's own among them; what the user fixed stays as it is.

    Of linear and kernel heads the strength of the penalty, in factors of 10, and the kernel's `gamma`;
    of heads that are trained by gradient the learning rate and the width, in `"full"` also layers and
    dropout. Heads without any of these, and `"none"`, have one candidate.

    Raises:
        UsageError: no such grid.
    """
    if grid not in GRIDS:
        raise UsageError(f"--grid must be one of {listing(GRIDS)}, got {grid!r}")
    if grid == "none":
        return [{}]
    own = head.get_params(deep=False)
    axes = _gradient_axes(head, own, grid) if isinstance(head, GradientHead) else _plain_axes(own, grid)
    free = {name: values for name, values in axes.items() if name in own and name not in fixed}
    return [dict(zip(free, values, strict=True)) for values in product(*free.values())]


def _plain_axes(own: Mapping[str, Any], grid: str) -> dict[str, list[Any]]:
    strengths = [name for name in ("C", "alpha") if _plain(own, name)]
    axes = {name: [_rounded(own[name] * scale) for scale in _SCALES[grid]] for name in strengths}
    if own.get("kernel") == "rbf" and _plain(own, "gamma"):
        axes["gamma"] = [_rounded(own["gamma"] * scale) for scale in (0.5, 1.0, 2.0)]
    return axes


def _plain(own: Mapping[str, Any], name: str) -> bool:
    """Whether it is one number, and not one by modality."""
    return isinstance(own.get(name), int | float)


def _gradient_axes(head: GradientHead, own: Mapping[str, Any], grid: str) -> dict[str, list[Any]]:
    axes: dict[str, list[Any]] = {"learning_rate": [_rounded(own["learning_rate"] * one) for one in _RATES[grid]]}
    if own.get("hidden_sizes") == () or own.get("hidden_sizes") == []:
        return axes  # a linear layer has no width, and nothing to drop
    if "hidden_sizes" in own:
        widths = [[max(1, int(size * scale)) for size in own["hidden_sizes"]] for scale in _WIDTHS[grid]]
        axes["hidden_sizes"] = [width * layers for layers in _LAYERS[grid] for width in widths]
    elif head._widths:
        axes[head._widths[0]] = [max(1, int(own[head._widths[0]] * scale)) for scale in _WIDTHS[grid]]
    axes["dropout"] = list(_DROPOUTS[grid])
    return axes


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def search(
    build: Callable[[Mapping[str, Any]], FusionHead],
    tried: Sequence[Mapping[str, Any]],
    X: Any,
    y: np.ndarray,
    groups: np.ndarray,
) -> Found:
    """Fits candidates to four fifths of the training rows and judges them on the rest, groups kept whole.

    The loss is log loss or squared error: it tells more from few rows than a share of right labels.
    Of heads that are trained by gradient, successive halving (Jamieson and Talwalkar 2016): all get a
    third of the steps, the best third of them all steps.

    Args:
        build: makes the head of some settings, not fitted.
        tried: settings.
        X: training rows, a `FeatureTable` or `Inputs`; `n` of them.
        y: labels `(n,)`.
        groups: `int64 (n,)`, rows that are not parted.
    """
    kinds = _kinds(build({}), y)
    held = _held(groups, kinds)
    if len(tried) == 1 and kinds.dtype.kind != "f" and len(np.unique(kinds[~held])) < 2:
        return Found(tried[0], 1.0, ())  # nothing is left to learn from, and there is nothing to choose
    parts = X[np.flatnonzero(~held)], y[~held], X[np.flatnonzero(held)], y[held]
    left = list(tried)
    losses: dict[int, float] = {}
    if len(left) > HALVING and isinstance(build({}), GradientHead):
        first = [loss for loss, _ in _judged([build(one) for one in left], *parts, share=1 / HALVING)]
        order = np.argsort(first, kind="stable")[: -(-len(left) // HALVING)]
        losses = dict(enumerate(first))
        chosen = sorted(order.tolist())
    else:
        chosen = list(range(len(left)))
    judged = dict(zip(chosen, _judged([build(left[number]) for number in chosen], *parts), strict=True))
    best = min(judged, key=lambda number: judged[number][0])
    losses |= {number: loss for number, (loss, _) in judged.items()}
    return Found(left[best], judged[best][1], tuple((left[number], losses[number]) for number in sorted(losses)))


def _held(groups: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """`bool (n,)`: the rows held out; the first part without which every class still has rows to learn from."""
    dealt = deal(groups, kinds, np.ones(len(kinds)), PARTS)
    parts = [dealt == number for number in np.unique(dealt)]
    if kinds.dtype.kind == "f":
        return parts[0]
    return max(parts, key=lambda held: len(np.unique(kinds[~held])))


def _kinds(head: FusionHead, y: np.ndarray) -> np.ndarray:
    return np.unique(y, return_inverse=True)[1] if isinstance(head, FusionClassifier) else np.asarray(as_numbers(y))


def _judged(
    heads: Sequence[FusionHead], X: Any, y: np.ndarray, held: Any, held_y: np.ndarray, share: float = 1.0
) -> list[tuple[float, float | None]]:
    """Of each head its loss on held-out rows, and the temperature for them."""
    trained = [head for head in heads if isinstance(head, GradientHead)]
    if trained:
        GradientHead.fit_together(trained, X, y, share)
    else:
        for head in heads:
            head.fit(X, y)
    return [_loss(head, held, held_y) for head in heads]


def _loss(head: FusionHead, held: Any, held_y: np.ndarray) -> tuple[float, float | None]:
    label, proba = labelled_by(head, held)
    if not isinstance(head, FusionClassifier):
        return float(np.mean((label - as_numbers(held_y)) ** 2)), None
    known = np.isin(held_y, head.classes_)
    true = np.searchsorted(head.classes_, held_y[known])
    chosen = proba[np.flatnonzero(known), true]
    missed = len(held_y) - len(chosen)  # of a class that these training rows lack
    loss = -(np.log(chosen.clip(min=FLOOR)).sum() + missed * np.log(FLOOR)) / max(len(held_y), 1)
    return float(loss), fit_temperature(proba[known], true) if len(true) else 1.0
