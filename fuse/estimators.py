"""What every head shares: sklearn's interface over `FeatureTable`s and arrays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from cache import FeatureTable, UsageError, label_numbers, listing
from fuse.inputs import ANONYMOUS, Inputs, read_inputs

_Head = TypeVar("_Head", bound="FusionHead")


@dataclass(eq=False, repr=False, kw_only=True)
class FusionHead(BaseEstimator):
    """Base of all heads. It takes a `FeatureTable`, or a 2-D array with `blocks`.

    A head is a dataclass: its fields are its parameters, and `__init__` only stores them. It
    implements `_fit_head` and `_head_output`. Rows that lack every modality teach nothing, and
    are predicted as if nothing were known of them. A modality that no training row had is left
    out of predictions, too.

    Args:
        blocks: columns of each modality where `X` is an array; None takes all as one modality.

    Learned: `blocks_`, columns of each modality; `unseen_`, modalities that no training row had.
    """

    most_modalities: ClassVar[int | None] = None
    """How many modalities the formula allows; None is any number."""

    out_of_core: ClassVar[bool] = False
    """Whether the head can be fitted to rows whose vectors stay on disk, see `fuse.inputs.out_of_core`."""

    copies: ClassVar[float] = 6.0
    """How many times the bytes of all vectors a run in memory takes at its peak; measured, see docs/large.md."""

    blocks: Mapping[str, slice] | None = None

    def fit(self: _Head, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> _Head:
        """Trains the head.

        Args:
            X: `FeatureTable` of `n` rows, or array of shape `(n, D)`.
            y: `n` labels.
            sample_weight: `n` weights; None weighs all rows alike.
            groups: `n` labels; rows of one group are not parted where the head holds out some of its
                training rows. None takes the groups of a table, and of an array rows of equal content.

        Raises:
            ValueError: what sklearn refuses (NaN, wrong shapes), a single class, bad parameters.
        """
        self._fit_head(*self._prepared(X, y, sample_weight, groups))
        return self

    def _prepared(self, X: Any, y: Any, sample_weight: Any, groups: Any) -> tuple[Inputs, np.ndarray, np.ndarray]:
        """What `_fit_head` takes: the rows that teach something, their targets and weights."""
        inputs, y = self._read(X, y, groups)
        if inputs.table is not None and not self.out_of_core:
            raise UsageError(f"{type(self).__name__} needs all vectors in memory; give it the table itself")
        if self.most_modalities is not None and len(inputs.modalities) > self.most_modalities:
            raise UsageError(
                f"the formula of {type(self).__name__} joins at most {self.most_modalities} modalities, found "
                f"{listing(inputs.modalities)}; choose by --modalities, or table.select([...])"
            )
        weight = _check_sample_weight(sample_weight, np.empty((len(inputs), 1)), dtype=np.float64)
        if (weight < 0).any():
            raise UsageError("negative sample weights mean nothing to a head; give 0 to leave a row out")
        kept = weight > 0  # a weight of zero removes the row, here as in every sklearn estimator
        if not kept.all():
            inputs, y, weight = inputs.keep(kept), y[kept], weight[kept]
        target, weight = self._learn_target(y, weight)
        if not inputs.some.any():
            raise UsageError(f"no training row has a modality of {listing(inputs.modalities)}")
        if not inputs.some.all():
            kept = inputs.some
            inputs, target, weight = inputs.keep(kept), target[kept], weight[kept]
        self.unseen_ = [name for name, mask in inputs.masks.items() if not mask.any()]
        return inputs, target, weight

    def _read(self, X: Any, y: Any, groups: Any) -> tuple[Inputs, np.ndarray]:
        """Training rows as the head takes them, and their labels."""
        return read_inputs(self, X, y, groups=groups, reset=True)

    def _read_again(self, X: Any) -> Inputs:
        """Rows to predict."""
        return read_inputs(self, self._as_fitted(X), reset=False)[0]

    def _as_fitted(self, X: Any) -> Any:
        if not isinstance(X, FeatureTable):
            return X
        # A head that was fitted on an array without names takes the columns as they stand.
        return X.to_numpy() if list(self.blocks_) == [ANONYMOUS] else X.select(list(self.blocks_))

    def _output(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return self._known(self._read_again(X).without(self.unseen_))

    def _known(self, inputs: Inputs) -> np.ndarray:
        """The head's output where a row has any modality, else what is known without."""
        output = self._head_output(inputs)
        output[~inputs.some] = self._nothing()
        return output

    @abstractmethod
    def _learn_target(self, y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Checks `n` labels; returns what `_fit_head` takes for them, and the rows' weights."""

    @abstractmethod
    def _nothing(self) -> Any:
        """The output for a row of which nothing is known."""

    @abstractmethod
    def _fit_head(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        """Learns from `n` rows of positive weight; for `target` see `_learn_target`."""

    @abstractmethod
    def _head_output(self, inputs: Inputs) -> np.ndarray:
        """Probabilities of shape `(n, K)`, or standardised values of shape `(n,)`; a new array."""

    @abstractmethod
    def outputs(self) -> int:
        """How many numbers a model gives for a row: K classes, or one value."""


@dataclass(eq=False, repr=False, kw_only=True)
class FusionClassifier(ClassifierMixin, FusionHead):
    """Base of all heads that classify; a row without any modality gets the classes' shares.

    Args:
        class_weight: `"balanced"`, or weights by label.

    Learned: `classes_`, labels in order; `prior_`, their weighted shares in the training rows.
    """

    class_weight: Mapping[Any, float] | str | None = None

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class in the order of `classes_`, shape `(n, K)`."""
        return self._output(X)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each row, shape `(n,)`."""
        proba = self.predict_proba(X)
        return self.classes_[np.argmax(proba, axis=1)]

    def outputs(self) -> int:
        """K."""
        return len(self.classes_)

    def _nothing(self) -> np.ndarray:
        return self.prior_

    def _learn_target(self, y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class numbers, and weights that hold those of the classes."""
        check_classification_targets(y)
        self.classes_, target = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise UsageError(
                f"{type(self).__name__} needs at least two classes, found one class: {listing(self.classes_.tolist())}"
            )
        if self.class_weight is not None:
            share = compute_sample_weight(self.class_weight, y)
            if not np.isfinite(share).all() or share.min() < 0 or share.max() == 0:
                raise UsageError(f"class_weight must map labels to numbers of 0 or more, got {self.class_weight!r}")
            weight = weight * share
        self.prior_ = np.bincount(target, weights=weight, minlength=len(self.classes_)) / weight.sum()
        return target, weight


@dataclass(eq=False, repr=False, kw_only=True)
class FusionRegressor(RegressorMixin, FusionHead):
    """Base of all heads that predict a number; a row without any modality gets the mean.

    Heads learn the standardised target, so that learning rates, penalties and margins mean the
    same whatever its unit.

    Learned: `target_mean_` and `target_scale_`, weighted mean and deviation of the training labels.
    """

    def predict(self, X: Any) -> np.ndarray:
        """The value of each row, shape `(n,)`."""
        return self._output(X) * self.target_scale_ + self.target_mean_

    def outputs(self) -> int:
        """One."""
        return 1

    def _read(self, X: Any, y: Any, groups: Any) -> tuple[Inputs, np.ndarray]:
        return read_inputs(self, X, as_numbers(y), groups=groups, reset=True, numeric=True)

    def _nothing(self) -> float:
        return 0.0

    def _learn_target(self, y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Standardised labels, and the weights as they are."""
        y = y.astype(np.float64)
        self.target_mean_ = float(np.average(y, weights=weight))
        scale = float(np.sqrt(np.average((y - self.target_mean_) ** 2, weights=weight)))
        self.target_scale_ = scale if scale > 1e-12 * abs(self.target_mean_) else 1.0
        return (y - self.target_mean_) / self.target_scale_, weight


def as_numbers(y: Any) -> Any:
    """Labels of a table, which are texts, as numbers; anything else as it is.

    Raises:
        UsageError: a label is no number.
    """
    labels = np.asarray(y)
    if labels.dtype.kind != "U":
        return y
    numbers = label_numbers(labels.tolist())
    wrong = labels[np.isnan(numbers)].tolist()
    if wrong:
        raise UsageError(
            f"a regressor needs numbers as labels: {len(wrong)} are none, such as {wrong[0]!r}; classify, or "
            "correct the labels"
        )
    return numbers


def require_positive(estimator: BaseEstimator, *names: str, zero: bool = False, integer: bool = False) -> None:
    """Raises a UsageError unless each of the named parameters is a positive number (or 0, if allowed)."""
    kinds = (int, np.integer) if integer else (int, float, np.number)
    for name in names:
        value = getattr(estimator, name)
        number = isinstance(value, kinds) and not isinstance(value, bool)
        if not number or not np.isfinite(value) or value < 0 or (value == 0 and not zero):
            wanted = f"{'an integer' if integer else 'a number'} {'of 0 or more' if zero else 'above 0'}"
            raise UsageError(f"{type(estimator).__name__}: {name} must be {wanted}, got {value!r}")


def require_share(estimator: BaseEstimator, *names: str) -> None:
    """Raises a UsageError unless each of the named parameters is a number from 0 up to, but not including, 1."""
    require_positive(estimator, *names, zero=True)
    for name in names:
        if getattr(estimator, name) >= 1:
            raise UsageError(f"{type(estimator).__name__}: {name} must be below 1, got {getattr(estimator, name)!r}")


def require_choice(estimator: BaseEstimator, name: str, choices: tuple[str, ...]) -> None:
    """Raises a UsageError unless the named parameter is one of the choices."""
    if getattr(estimator, name) not in choices:
        kinds = ", ".join(map(repr, choices))
        raise UsageError(f"{type(estimator).__name__}: {name} must be one of {kinds}, got {getattr(estimator, name)!r}")


def softmax(scores: np.ndarray) -> np.ndarray:
    """Row-wise softmax of `(n, K)` scores, in float64."""
    scores = scores.astype(np.float64)
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
