"""Statistics by which configurations that predicted the same rows are compared.

A configuration predicts every row once for each of S seeds, always by a model that did not see the
row. Rows of one group (duplicates) are not independent: whole groups are resampled, or change sign.
Rows of folds are not independent either: each is judged by models that learned from most of the
others, which no estimate from one data set shows without bias (Bengio & Grandvalet 2004). What is
based on rows is therefore too sure with one seed where models depend much on their training rows;
`corrected_resampled_t` of three seeds holds what it promises, and finds less; `mcnemar` is wrong for
duplicates. `benchmarks/coverage.py` measures all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm
from scipy.stats import t as student

EXACT_BELOW = 25
"""With fewer discordant rows (or groups) a test is exact, else by the normal distribution."""
CELLS = 8_000_000
"""Numbers that a chunk of resamples holds."""


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Resamples of rows, by whole groups with replacement; the same ones for every configuration.

    Differences between two columns of its results are therefore paired. Groups differ in size, so a
    resample has not exactly `n` rows; means are ratios of sums to its own number of rows
    (Field & Welsh 2007, cluster bootstrap).

    Args:
        groups: of `n` rows, shape `(n,)`; rows of equal value are drawn together.
        times: number of resamples.
        seed: of the draws.
    """

    groups: np.ndarray
    times: int = 2000
    seed: int = 0

    def means(self, values: np.ndarray) -> np.ndarray:
        """Mean of each column over the rows of each resample.

        Args:
            values: shape `(n, c)`, a column for each configuration and seed, such as 1 where it is
                right, or its absolute error.

        Returns:
            Shape `(times, c)`, in the unit of `values`.
        """
        return np.concatenate([drawn @ values / drawn.sum(axis=1, keepdims=True) for drawn in self._draws(np.float64)])

    def macro_f1(self, true: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
        """Macro-F1 of each configuration and seed on each resample.

        As in sklearn, the mean is over the classes that occur in the truth or in the predictions.

        Args:
            true: class numbers, int `(n,)`.
            labels: predicted class numbers of c configurations under S seeds, int `(c, S, n)`.
            classes: K, more than the largest number.

        Returns:
            Shape `(times, c, S)`, from 0 to 1.
        """
        hot = true[:, None] == np.arange(classes)
        chunks = []
        for drawn in self._draws(np.float32):  # sums of whole numbers, exact up to 2**24
            support = drawn @ hot.astype(np.float32)
            found = [[_macro_f1(drawn, hot, support, label) for label in seeds] for seeds in labels]
            chunks.append(np.moveaxis(np.array(found), 2, 0))
        return np.concatenate(chunks)

    def _draws(self, dtype: type[np.floating]) -> Iterator[np.ndarray]:
        """How often each resample has each row, `(some, n)`, some resamples at a time."""
        groups, member = np.unique(self.groups, return_inverse=True)
        rng, count = np.random.default_rng(self.seed), len(groups)
        chunk = max(1, CELLS // len(member))
        for start in range(0, self.times, chunk):
            size = min(chunk, self.times - start)
            drawn = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
            often = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
            yield often.astype(dtype)[:, member]


def _macro_f1(drawn: np.ndarray, hot: np.ndarray, support: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Macro-F1 `(b,)` of labels `(n,)`, for rows drawn `(b, n)` times whose classes are `hot` `(n, K)`."""
    classes = hot.shape[1]
    said = label[:, None] == np.arange(classes)
    sums = drawn @ np.hstack([said & hot, said]).astype(np.float32)
    either = support + sums[:, classes:]
    # F1 = 2 tp / (support + predicted); a class that is in neither has 0 / 1 here and does not count
    f1 = 2 * sums[:, :classes].astype(np.float64) / np.maximum(either, 1)
    return f1.sum(axis=1) / (either > 0).sum(axis=1)


def interval(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of a bootstrap (Efron 1979); of several seeds the mean of their intervals.

    More seeds do not make more rows: the mean of the seeds' intervals is as wide as that of one,
    around a mean that is surer, which makes up for some of the dependence between folds;
    averaging `draws` over seeds first does not.

    Args:
        draws: what `Bootstrap` found of a configuration, or the difference of two, `(times,)` or `(times, S)`.
        level: share of draws in it.

    Returns:
        Its lower and upper end.
    """
    ends = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    low, high = ends.reshape(2, -1).mean(axis=1)
    return float(low), float(high)


@dataclass(frozen=True)
class McNemar:
    """Of a test: its p-value, and how many rows only the first and only the second gets right."""

    p: float
    only_a: int
    only_b: int


def mcnemar(a_right: np.ndarray, b_right: np.ndarray) -> McNemar:
    """McNemar's test that two classifiers are right equally often, for independent rows and one seed.

    Exact binomial below 25 discordant rows, else chi-square without continuity correction, which
    holds its level better (Fagerland et al. 2013).

    Args:
        a_right: whether the first is right on each row, bool `(n,)`.
        b_right: the same of the second.
    """
    from statsmodels.stats.contingency_tables import mcnemar as test

    a, b = np.asarray(a_right, dtype=bool), np.asarray(b_right, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    table = [[int((a & b).sum()), only_a], [only_b, int((~a & ~b).sum())]]
    found = test(table, exact=only_a + only_b < EXACT_BELOW, correction=False)
    return McNemar(float(found.pvalue), only_a, only_b)


def mcnemar_by_seed(a_right: np.ndarray, b_right: np.ndarray) -> tuple[float, list[McNemar]]:
    """McNemar's test for each seed, and the median of their p-values (van de Wiel et al. 2009).

    Args:
        a_right: whether the first is right, bool `(S, n)`.
        b_right: the same of the second, with the same folds for the same seed.

    Returns:
        The median p-value, and the S tests.
    """
    tests = [mcnemar(a, b) for a, b in zip(a_right, b_right, strict=True)]
    return float(np.median([test.p for test in tests])), tests


@dataclass(frozen=True)
class Difference:
    """Of a test of a mean difference: its p-value and the ends of its 95 % interval."""

    p: float
    low: float
    high: float


def corrected_resampled_t(differences: np.ndarray, test_share: float) -> Difference | None:
    """Nadeau & Bengio's (2003) t-test of differences that come from overlapping training sets.

    The variance of the mean is that of the differences times `1/J + n_test/n_train`, with J - 1
    degrees of freedom. For repeated K-fold, J is seeds times K (Bouckaert & Frank 2004).

    Args:
        differences: of a metric, for each fold of each seed, shape `(J,)`.
        test_share: share of the rows that a fold tests, above 0 and below 1; 1/K of K folds.

    Returns:
        None where no variance can be had: J < 2, or all differences equal and not 0.
    """
    count = len(differences)
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be above 0 and below 1, got {test_share}")
    if count < 2:
        return None
    mean = float(np.mean(differences))
    if np.ptp(differences) < 1e-12:
        return Difference(1.0, 0.0, 0.0) if abs(mean) < 1e-12 else None
    error = _resampled_error(differences, test_share)
    reach = student.ppf(0.975, count - 1) * error
    return Difference(float(2 * student.sf(abs(mean) / error, count - 1)), float(mean - reach), float(mean + reach))


def _resampled_error(differences: np.ndarray, test_share: float) -> float:
    """Nadeau & Bengio's standard error of a mean over folds."""
    return float(np.sqrt(np.var(differences, ddof=1) * (1 / len(differences) + test_share / (1 - test_share))))


def detectable_by_folds(
    differences: np.ndarray, test_share: float, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """The least difference that `corrected_resampled_t` finds with a given power, by the noncentral t distribution.

    Args:
        differences, test_share: as there.
        power: probability that it is found.
        alpha: level of the test.

    Returns:
        In the unit of the differences; None for fewer than two, or where they do not vary.
    """
    from statsmodels.stats.power import TTestPower

    count = len(differences)
    if count < 2 or np.ptp(differences) < 1e-12:
        return None
    size = TTestPower().solve_power(nobs=count, power=power, alpha=alpha)  # in deviations of one difference
    return float(size * np.sqrt(count) * _resampled_error(differences, test_share))


def paired_p(difference: np.ndarray, groups: np.ndarray) -> float:
    """P-value of two configurations being equally good on the average row; of several seeds the median.

    Were they equal, the summed difference of a group would as likely have the other sign. Below 25
    groups that differ, all signs are tried (Fisher's randomisation test); else the sum over the
    root of the sum of squares, its standard deviation under these signs, is taken for normal. For
    correctness without duplicates this is `mcnemar`, to the digit; with duplicates it is McNemar's
    test for clusters (Yang et al. 2010). The median over seeds (van de Wiel et al. 2009) has the
    variance of one seed: see `interval`. Absolute errors are compared the same way. On rows of
    folds it finds differences between equals up to twice as often as promised; from three seeds
    on `corrected_resampled_t` does not.

    Args:
        difference: of each row, correctness or error of the first less that of the second; `(n,)`,
            or `(S, n)` for S seeds; any unit.
        groups: of the rows, shape `(n,)`; they change sign as a whole.
    """
    groups_found, member = np.unique(groups, return_inverse=True)
    by_seed = np.atleast_2d(difference)
    sums = np.stack([np.bincount(member, weights=one, minlength=len(groups_found)) for one in by_seed])
    return float(np.median([_sign_p(one) for one in sums]))


def _sign_p(sums: np.ndarray) -> float:
    """Two-sided p-value of a total, were the sign of each summand a coin's."""
    least = 1e-9 * np.abs(sums).max(initial=0.0)  # less is what rounding leaves of sums that cancel
    sums = sums[np.abs(sums) > least]
    total = abs(sums.sum())
    if len(sums) >= EXACT_BELOW:
        return float(2 * norm.sf(total / np.linalg.norm(sums)))
    # All totals are those of one half plus those of the other; one half is sorted to count what reaches far enough
    half, other = (_totals(part) for part in np.array_split(sums, 2))
    half.sort()
    above = len(half) - np.searchsorted(half, total - least - other, side="left")
    below = np.searchsorted(half, least - total - other, side="right")
    return min(1.0, float((above.sum() + below.sum()) / (len(half) * len(other))))


def _totals(sums: np.ndarray) -> np.ndarray:
    """The total for every choice of signs, `(2 ** len(sums),)`."""
    totals = np.zeros(1)
    for one in sums:
        totals = np.concatenate([totals - one, totals + one])
    return totals


def holm(p: Sequence[float]) -> np.ndarray:
    """P-values adjusted for their number by Holm (1979), in the order given."""
    from statsmodels.stats.multitest import multipletests

    return multipletests(p, method="holm")[1] if len(p) else np.empty(0)


def power_of(n: int, difference: float, discordant: float, alpha: float = 0.05) -> float:
    """Probability that McNemar's test finds a difference in accuracy (Connor 1987).

    `Phi((|d| sqrt(n) - z sqrt(q)) / sqrt(q - d^2))` for difference d, discordant share q and the
    two-sided normal quantile z. Too high where fewer than 25 rows are discordant: the exact test
    used there finds less.

    Args:
        n: independent rows; of duplicates, groups.
        difference: between the two accuracies, from -1 to 1.
        discordant: share of rows that exactly one of the two gets right, from 0 to 1.
        alpha: level of the test.

    Raises:
        ValueError: the difference is larger than the discordant share.
    """
    size = abs(difference)
    if size > discordant:
        raise ValueError(f"accuracies differ by {size} at most where {discordant} of the rows are discordant")
    excess = size * np.sqrt(n) - norm.isf(alpha / 2) * np.sqrt(discordant)
    spread = np.sqrt(discordant - size**2)
    return float(norm.cdf(excess / spread)) if spread > 0 else float(excess > 0)


def detectable_difference(n: int, discordant: float, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """The least difference in accuracy that McNemar's test finds with a given power; see `power_of`.

    Returns:
        None where even the largest possible difference, the discordant share, is not found so often.
    """
    if power_of(n, discordant, discordant, alpha) < power:
        return None
    return float(brentq(lambda size: power_of(n, size, discordant, alpha) - power, 0, discordant))


def power_of_mean(n: int, difference: float, deviation: float, alpha: float = 0.05) -> float:
    """Probability that a paired t-test finds a mean difference, such as between absolute errors.

    Args:
        n: independent rows, 2 or more; of duplicates, groups.
        difference: between the two means.
        deviation: standard deviation of the rows' differences, in the same unit, above 0.
        alpha: level of the test.
    """
    from statsmodels.stats.power import TTestPower

    return float(TTestPower().power(abs(difference) / deviation, n, alpha))


def detectable_mean(n: int, deviation: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """The least mean difference that a paired t-test finds with a given power, in the deviation's unit."""
    from statsmodels.stats.power import TTestPower

    return float(deviation * TTestPower().solve_power(nobs=n, power=power, alpha=alpha))
