"""What a fitted head's predictions are made from: shares of the modalities, and what is left without interactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from cache import UsageError, listing
from fuse.estimators import FusionClassifier, FusionHead, FusionRegressor
from fuse.gradient import TOKEN_ROWS, VECTOR_ROWS
from fuse.inputs import Inputs
from fuse.tokens import TokenHead

MOST_MODALITIES = 12
"""Shapley values take `2^M` predictions of every row."""

FLOOR = 1e-12
"""Probabilities are no smaller where their logarithm is taken."""


@dataclass(frozen=True)
class ModalityShares:
    """Shapley values of the modalities.

    `values`, `(n, M)`, holds what each modality adds to the prediction of each row, in the order of
    `modalities`; a row's values sum to the prediction with all that it has less the one with
    nothing. `mean`, `(M,)`, is each modality's share of the mean absolute values; it sums to 1, or
    is all zeros where no modality changes anything.
    """

    modalities: tuple[str, ...]
    values: np.ndarray
    mean: np.ndarray


def modality_shares(head: FusionHead, X: Any, y: Any = None) -> ModalityShares:
    """What each modality adds to each prediction: exact Shapley values; Shapley (1953).

    `phi_m = sum_S |S|! (M - |S| - 1)! / M! (v(S + m) - v(S))` over all sets S of the other
    modalities. `v(S)` is what the head predicts of the row when it is shown S alone: of a
    classifier the probability of the row's class, of a regressor the value. What is hidden counts
    as missing, in the head's own way; a modality that the row lacks adds 0.

    This is input knockout: the head is the one that was fitted on all modalities, and it is asked
    what it does without some. How well a head would do that was trained without them is another
    question, which an ablation answers.

    Args:
        head: fitted, of M modalities, M up to 12.
        X: `n` rows as `head` takes them.
        y: of a classifier, `n` labels whose probability is shared out; None takes what the head predicts.

    Raises:
        UsageError: more than 12 modalities; labels that the head does not know, or that are no classes.
    """
    inputs = _read(head, X)
    names, count = inputs.modalities, len(inputs.modalities)
    if count > MOST_MODALITIES:
        raise UsageError(
            f"exact Shapley values take 2^M predictions of every row, M up to {MOST_MODALITIES}; "
            f"{type(head).__name__} was fitted on {count} modalities; fit it on fewer, by table.select([...])"
        )
    everything = _predicted(head, inputs)
    column = _columns(head, everything, y)
    values = np.zeros((len(inputs), count))
    for subset in range(2**count):
        shown = [bool(subset >> m & 1) for m in range(count)]
        hidden = [name for name, there in zip(names, shown, strict=True) if not there]
        found = _predicted(head, inputs.without(hidden)) if hidden else everything
        worth = found if column is None else found[np.arange(len(found)), column]
        values += worth[:, None] * _coefficients(shown)
    size = np.abs(values).mean(axis=0)
    return ModalityShares(names, values, size / size.sum() if size.any() else size)


def _coefficients(shown: list[bool]) -> np.ndarray:
    """How the value of this set enters each modality's Shapley value, `(M,)`."""
    count, size = len(shown), sum(shown)
    with_it = factorial(size - 1) * factorial(count - size) / factorial(count) if size else 0.0
    without_it = factorial(size) * factorial(count - size - 1) / factorial(count) if size < count else 0.0
    return np.where(shown, with_it, -without_it)


def _columns(head: FusionHead, proba: np.ndarray, y: Any) -> np.ndarray | None:
    """The class of each row whose probability is looked at, `(n,)`; None of a regressor."""
    if not isinstance(head, FusionClassifier):
        if y is not None:
            raise UsageError(f"{type(head).__name__} predicts numbers, of which no label is looked at; leave y out")
        return None
    if y is None:
        return proba.argmax(axis=1)
    y = np.asarray(y)
    if y.shape != (len(proba),):
        raise UsageError(f"y must hold one label for each of {len(proba)} rows, got shape {y.shape}")
    unknown = sorted(set(y.tolist()) - set(head.classes_.tolist()), key=str)
    if unknown:
        raise UsageError(f"the head knows the classes {listing(head.classes_.tolist())}; y holds {listing(unknown)}")
    return np.searchsorted(head.classes_, y)


def _read(head: FusionHead, X: Any) -> Inputs:
    if not isinstance(head, FusionClassifier | FusionRegressor):
        raise UsageError(f"expected a head of fuse, got {type(head).__name__}; of a pipeline give its last step")
    check_is_fitted(head)
    return head._read_again(X)


def _predicted(head: FusionHead, inputs: Inputs) -> np.ndarray:
    """Probabilities `(n, K)`, or values `(n,)` in the unit of the labels."""
    output = head._known(inputs)
    return output * head.target_scale_ + head.target_mean_ if isinstance(head, FusionRegressor) else output


@dataclass(frozen=True)
class Projection:
    """A head's predictions without what they owe to interactions of modalities.

    `values` are `(n, K)` scores or probabilities in the order of the head's `classes_`, or `(n,)`
    values; `labels`, `(n,)`, the classes with the largest, or the values; `exact` tells whether all
    recombinations were averaged, or a sample.
    """

    values: np.ndarray
    labels: np.ndarray
    exact: bool


def emap(
    head: FusionHead, X: Any, space: str = "logit", *, most: int = 1_000_000, draws: int = 100, seed: int = 0
) -> Projection:
    """Empirical multimodally-additive projection of a head's predictions; Hessel and Lee (2020).

    The sum of functions of one modality each that is closest to the head's output f on these rows,
    if every modality's rows are combined with every other's:
    `f_hat_i = sum_m E[f | x_m = x_im] - (M - 1) E[f]`, for two modalities
    `mean_j f(t_i, v_j) + mean_j f(t_j, v_i) - mean_jk f(t_j, v_k)`. Of a head that is additive it is
    f itself; the accuracy that f has beyond it comes from interactions. A modality that a row lacks
    is lacking in its recombinations, too.

    All `n^M` recombinations are averaged if they are at most `most`, else `draws` random ones, the
    same for all rows, into which each row's modalities are put one by one: `E[f | x_m = x_im]` and
    `E[f]` are means over them, so that an additive head still is its own projection.

    Args:
        head: fitted on M modalities, M at least 2.
        X: `n` rows as `head` takes them.
        space: of a classifier, what is projected: `"logit"`, logarithms of probabilities (of at
            least 1e-12) less their mean over the classes, or `"proba"`.
        most: the largest number of recombinations that are all predicted.
        draws: how many are drawn otherwise; `M n draws` predictions.
        seed: of the draws.

    Raises:
        UsageError: a single modality, a bad parameter, or a head that joins aligned tokens of rows that
            differ in their number.
    """
    inputs = _read(head, X)
    _check_emap(head, inputs, space, most, draws)
    exact = len(inputs) ** len(inputs.modalities) <= most
    values = _exact(head, inputs, space) if exact else _sampled(head, inputs, space, draws, seed)
    if isinstance(head, FusionClassifier):
        return Projection(values, head.classes_[values.argmax(axis=1)], exact)
    return Projection(values[:, 0], values[:, 0], exact)


def _check_emap(head: FusionHead, inputs: Inputs, space: str, most: int, draws: int) -> None:
    if len(inputs.modalities) < 2:
        raise UsageError(f"a projection on sums over modalities needs two, found {listing(inputs.modalities)} alone")
    if space not in ("logit", "proba"):
        raise UsageError(f"space must be 'logit' or 'proba', got {space!r}")
    if most < 0 or draws < 1:
        raise UsageError(f"most must be 0 or more and draws 1 or more, got {most!r} and {draws!r}")
    lengths = {length for tokens in inputs.tokens.values() for length in np.unique(tokens.lengths) if length}
    if isinstance(head, TokenHead) and head.aligned and len(lengths) > 1:
        raise UsageError(
            f"{type(head).__name__} joins modalities token by token, and rows have {min(lengths)} to {max(lengths)} "
            "tokens; recombined they would not be aligned; give rows of one length"
        )


def _exact(head: FusionHead, inputs: Inputs, space: str) -> np.ndarray:
    """The projection `(n, K)` by all recombinations."""
    n, count, size = len(inputs), len(inputs.modalities), _rows_at_once(inputs)
    sums = np.zeros((count, n, head.outputs()))
    for start in range(0, n**count, size):
        rows = np.unravel_index(np.arange(start, min(start + size, n**count)), (n,) * count)
        found = _scores(head, _recombined(inputs, rows), space)
        for total, chosen in zip(sums, rows, strict=True):
            np.add.at(total, chosen, found)
    means = sums / n ** (count - 1)
    projected: np.ndarray = means.sum(axis=0) - (count - 1) * means[0].mean(axis=0)
    return projected


def _sampled(head: FusionHead, inputs: Inputs, space: str, draws: int, seed: int) -> np.ndarray:
    """The projection `(n, K)` by random recombinations, into which each row's modalities are put one by one."""
    n, count = len(inputs), len(inputs.modalities)
    drawn = np.random.default_rng(seed).integers(n, size=(count, draws))
    at_once = max(1, _rows_at_once(inputs) // draws)
    overall = _scores(head, _recombined(inputs, list(drawn)), space).mean(axis=0)
    projected = np.tile(-(count - 1) * overall, (n, 1))
    for start in range(0, n, at_once):
        own = np.arange(start, min(start + at_once, n))
        for m in range(count):
            rows = [np.tile(one, len(own)) for one in drawn]
            rows[m] = np.repeat(own, draws)
            found = _scores(head, _recombined(inputs, rows), space)
            projected[own] += found.reshape(len(own), draws, -1).mean(axis=1)
    return projected


def _rows_at_once(inputs: Inputs) -> int:
    return TOKEN_ROWS if inputs.tokens else VECTOR_ROWS


def _recombined(inputs: Inputs, rows: Sequence[np.ndarray]) -> Inputs:
    """Rows of which each modality comes from a row of its own."""
    chosen = dict(zip(inputs.modalities, rows, strict=True))
    return Inputs(
        {name: values[chosen[name]] for name, values in inputs.values.items()},
        {name: mask[chosen[name]] for name, mask in inputs.masks.items()},
        {name: tokens.take(chosen[name]) for name, tokens in inputs.tokens.items()},
    )


def _scores(head: FusionHead, inputs: Inputs, space: str) -> np.ndarray:
    """What is projected, `(n, K)`; of a regressor `(n, 1)`."""
    found = _predicted(head, inputs)
    if isinstance(head, FusionRegressor):
        return found[:, None]
    if space == "proba":
        return found
    logs = np.log(found.clip(min=FLOOR))
    centred: np.ndarray = logs - logs.mean(axis=1, keepdims=True)
    return centred
