"""Classifiers that give scores rather than probabilities, and the temperature that makes them probabilities."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.base import clone

from fuse.estimators import FusionClassifier, softmax
from fuse.folds import inner_folds
from fuse.inputs import Inputs

PARTS = 3


@dataclass(eq=False, repr=False, kw_only=True)
class ScoreClassifier(FusionClassifier):
    """Base of heads that score classes: `p = softmax(t s)`.

    The temperature `1 / t` is fitted to the scores that a model of two thirds of the training rows
    gives to the last third (Guo et al. 2017); 1 where these have one class only. It changes no label.

    Learned: `sharpness_`, t.
    """

    @abstractmethod
    def _fit_scores(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        """Learns to score; some classes may have no row."""

    @abstractmethod
    def _scores(self, inputs: Inputs) -> np.ndarray:
        """Scores `(n, K)`; the largest is the label."""

    def _fit_head(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> None:
        self.sharpness_ = self._held_out_sharpness(inputs, target, weight)
        self._fit_scores(inputs, target, weight)

    def _held_out_sharpness(self, inputs: Inputs, target: np.ndarray, weight: np.ndarray) -> float:
        if len(np.unique(inputs.row_groups())) < 2:
            return 1.0
        held = inner_folds(inputs, target, weight, PARTS) == 0
        if held.all() or len(np.unique(target[~held])) < 2:
            return 1.0
        copy = clone(self)
        copy.classes_, copy.prior_, copy.blocks_ = self.classes_, self.prior_, self.blocks_
        copy._fit_scores(inputs.keep(~held), target[~held], weight[~held])
        return fit_sharpness(copy._scores(inputs.keep(held)), target[held], weight[held])

    def _head_output(self, inputs: Inputs) -> np.ndarray:
        return softmax(self.sharpness_ * self._scores(inputs))


def fit_sharpness(scores: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    """The factor from 0.01 to 100 by which scores `(n, K)` have the least weighted negative log-likelihood."""

    def loss(log_factor: float) -> float:
        chosen = log_softmax(np.exp(log_factor) * scores, axis=1)[np.arange(len(target)), target]
        return -float(np.average(chosen, weights=weight))

    return float(np.exp(minimize_scalar(loss, bounds=np.log([0.01, 100.0]), method="bounded").x))
