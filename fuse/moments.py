"""Means and deviations of columns, from rows that are given part by part."""

from __future__ import annotations

import numpy as np


class Moments:
    """Weighted mean and variance of `columns` columns, in float64 (Chan, Golub and LeVeque 1983).

    Sums of squares would lose all digits of a column whose mean is large beside its deviation; here each part is
    centred by its own mean, and parts are joined by the distance of their means.
    """

    def __init__(self, columns: int) -> None:
        self.mass = 0.0
        self.mean, self._spread = np.zeros(columns), np.zeros(columns)

    def add(self, rows: np.ndarray, weight: np.ndarray) -> None:
        """Takes in rows `(b, D)` of weights `(b,)`, 0 or more."""
        mass = float(weight.sum())
        if not mass:
            return
        centred = rows.astype(np.float64)
        mean = (weight / mass) @ centred
        centred -= mean
        np.square(centred, out=centred)
        away, total = mean - self.mean, self.mass + mass
        self._spread += weight @ centred + away**2 * (self.mass * mass / total)
        self.mean += away * (mass / total)
        self.mass = total

    @property
    def variance(self) -> np.ndarray:
        """`(D,)`; zeros where there were no rows."""
        return self._spread / self.mass if self.mass else np.zeros_like(self._spread)
