import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from fuse.compare import (
    Bootstrap,
    corrected_resampled_t,
    detectable_by_folds,
    detectable_difference,
    detectable_mean,
    holm,
    interval,
    mcnemar,
    mcnemar_by_seed,
    paired_p,
    power_of,
    power_of_mean,
)


def _right(only_a, only_b, both, neither):
    """Rows that the first and the second get right, by how many of each kind."""
    a = np.repeat([True, False, True, False], [only_a, only_b, both, neither])
    b = np.repeat([False, True, True, False], [only_a, only_b, both, neither])
    return a, b


def _resamples(groups, times, seed):
    """Row numbers of each resample, put together group by group."""
    known = np.unique(groups)
    rng = np.random.default_rng(seed)
    for drawn in rng.integers(len(known), size=(times, len(known))):
        yield np.concatenate([np.flatnonzero(groups == known[one]) for one in drawn])


@pytest.fixture
def labelled():
    rng = np.random.default_rng(0)
    groups = rng.integers(40, size=90)
    true = rng.integers(3, size=90)
    labels = np.where(rng.random((2, 3, 90)) < 0.6, true, rng.integers(4, size=(2, 3, 90)))
    labels[labels == 3] = 4  # a class that no row has, beside one (3) that occurs nowhere
    return groups, true, labels


def test_bootstrap_is_an_explicit_loop_over_groups(labelled):
    groups, true, labels = labelled
    right = (labels == true).mean(axis=1).T
    bootstrap = Bootstrap(groups, times=50, seed=3)
    means, f1 = bootstrap.means(right), bootstrap.macro_f1(true, labels, classes=5)
    assert means.shape == (50, 2)
    assert f1.shape == (50, 2, 3)
    for number, rows in enumerate(_resamples(groups, 50, 3)):
        np.testing.assert_allclose(means[number], right[rows].mean(axis=0))
        expected = [[f1_score(true[rows], one[rows], average="macro") for one in seeds] for seeds in labels]
        np.testing.assert_allclose(f1[number], expected)


def test_class_that_a_resample_lacks_does_not_count():
    true = np.array([0, 0, 0, 1])
    f1 = Bootstrap(np.arange(4), times=40).macro_f1(true, true[None, None], classes=2)
    np.testing.assert_array_equal(f1, np.ones((40, 1, 1)))


def test_chunks_do_not_change_the_resamples(labelled, monkeypatch):
    groups, true, labels = labelled
    right = (labels == true).mean(axis=1).T
    whole = Bootstrap(groups, times=20)
    means, f1 = whole.means(right), whole.macro_f1(true, labels, 5)
    monkeypatch.setattr("fuse.compare.CELLS", 7 * len(true))
    np.testing.assert_array_equal(whole.means(right), means)
    np.testing.assert_array_equal(whole.macro_f1(true, labels, 5), f1)


def test_bootstrap_of_independent_rows_is_scipys():
    values = np.random.default_rng(1).normal(size=(300, 2))
    draws = Bootstrap(np.arange(300), times=20_000).means(values)
    for found, data in ((draws[:, 0], values[:, 0]), (draws[:, 0] - draws[:, 1], values[:, 0] - values[:, 1])):
        theirs = stats.bootstrap((data,), np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
        assert interval(found) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_duplicates_widen_the_interval():
    values = np.random.default_rng(2).normal(size=(100, 1))
    single = Bootstrap(np.arange(100)).means(values)
    copied = np.repeat(values, 4, axis=0)
    np.testing.assert_allclose(Bootstrap(np.repeat(np.arange(100), 4)).means(copied), single)
    assert Bootstrap(np.arange(400)).means(copied).std() < 0.6 * single.std()


def test_interval_holds_its_level():
    assert interval(np.arange(1001.0), 0.9) == pytest.approx((50, 950))


def test_seeds_have_the_mean_of_their_intervals():
    draws = np.random.default_rng(8).normal([0, 1, 5], size=(2000, 3))
    assert interval(draws) == pytest.approx(np.mean([interval(one) for one in draws.T], axis=0))
    low, high = interval(draws.mean(axis=1))  # independent here, so this one is narrower
    assert high - low < 0.7 * np.subtract(*interval(draws)[::-1])


@pytest.mark.parametrize(("only_a", "only_b"), [(3, 12), (0, 6), (12, 12)])
def test_few_discordant_rows_are_tested_exactly(only_a, only_b):
    found = mcnemar(*_right(only_a, only_b, 30, 5))
    assert (found.only_a, found.only_b) == (only_a, only_b)
    assert found.p == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)


@pytest.mark.parametrize(("only_a", "only_b"), [(5, 20), (30, 30), (60, 35)])
def test_many_discordant_rows_are_tested_by_chi_square(only_a, only_b):
    p = mcnemar(*_right(only_a, only_b, 30, 5)).p
    assert p == pytest.approx(stats.chi2.sf((only_a - only_b) ** 2 / (only_a + only_b), 1))


def test_equal_classifiers_are_equal():
    right = np.array([True, False, True])
    assert mcnemar(right, right).p == 1.0
    assert paired_p(np.zeros(3), np.arange(3)) == 1.0


def test_seeds_are_joined_by_the_median():
    pairs = [_right(*counts, 30, 5) for counts in ((3, 12), (9, 6), (10, 5))]
    median, tests = mcnemar_by_seed(np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs]))
    assert [test.p for test in tests] == [mcnemar(a, b).p for a, b in pairs]
    assert median == sorted(test.p for test in tests)[1]
    difference = np.stack([a.astype(float) - b for a, b in pairs])
    assert paired_p(difference, np.arange(50)) == pytest.approx(median)


def test_corrected_t_is_the_formula():
    differences = np.random.default_rng(3).normal(0.02, 0.03, size=15)
    found = corrected_resampled_t(differences, test_share=0.2)
    error = differences.std(ddof=1) * np.sqrt(1 / 15 + 0.2 / 0.8)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(differences.mean()) / error, 14))
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 14, differences.mean(), error))
    # without overlap of training rows it is the plain t-test
    plain = corrected_resampled_t(differences, test_share=1e-12)
    assert plain.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


def test_corrected_t_without_variance():
    assert corrected_resampled_t(np.array([0.1]), 0.2) is None
    assert corrected_resampled_t(np.full(5, 0.1), 0.2) is None
    assert corrected_resampled_t(np.zeros(5), 0.2).p == 1.0
    with pytest.raises(ValueError, match="test_share"):
        corrected_resampled_t(np.arange(5.0), 1.0)


@pytest.mark.parametrize(("only_a", "only_b"), [(3, 12), (0, 6), (9, 15), (12, 12), (5, 20), (60, 35)])
def test_paired_p_of_one_seed_is_mcnemars(only_a, only_b):
    a, b = _right(only_a, only_b, 30, 5)
    assert paired_p(a.astype(float) - b, np.arange(len(a))) == pytest.approx(mcnemar(a, b).p, rel=1e-12)


def test_paired_p_flips_groups_as_scipy_does():
    rng = np.random.default_rng(4)
    for count in (8, 12):
        groups = rng.integers(count, size=30)
        difference = rng.integers(-3, 4, size=30) / 3
        sums = np.array([difference[groups == one].sum() for one in np.unique(groups)])
        theirs = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=1e6)
        assert paired_p(difference, groups) == pytest.approx(theirs.pvalue)


def test_paired_p_of_many_groups_is_close_to_all_signs():
    rng = np.random.default_rng(5)
    sums = rng.normal(0.3, 1, size=40)
    theirs = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=50_000, rng=0)
    assert paired_p(sums, np.arange(40)) == pytest.approx(theirs.pvalue, abs=0.01)
    rows, groups = np.repeat(sums / 3, 3), np.repeat(np.arange(40), 3)
    assert paired_p(rows, groups) == pytest.approx(paired_p(sums, np.arange(40)))


def test_paired_p_ignores_what_rounding_leaves():
    rows = np.tile([0.1 + 0.2, -0.3], 30)
    groups = np.repeat(np.arange(30), 2)
    assert paired_p(np.r_[rows, 1.0], np.r_[groups, 30]) == 1.0  # one group differs: either sign is as likely


@pytest.mark.slow
@pytest.mark.parametrize("rows", [12, 24, 60, 400])
def test_paired_p_holds_its_level_for_grouped_rows(rows):
    rng = np.random.default_rng(rows)
    groups = np.repeat(np.arange(rows), rng.choice([1, 2, 6], size=rows))
    sign = rng.choice([-1, 1], size=(2000, rows))[:, groups]
    p = np.array([paired_p(one * rng.exponential(size=len(groups)), groups) for one in sign])
    assert 0.03 < np.mean(p <= 0.05) < 0.065


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03, 0.6]) == pytest.approx([0.09, 0.04, 0.09, 0.6])
    assert holm([]).shape == (0,)


def test_power_is_that_of_simulated_tests():
    n, difference, discordant = 500, 0.06, 0.2
    rng = np.random.default_rng(6)
    shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    counts = rng.multinomial(n, shares, size=20_000)
    z = (counts[:, 0] - counts[:, 1]) / np.sqrt(counts[:, 0] + counts[:, 1])
    found = np.mean(2 * stats.norm.sf(np.abs(z)) <= 0.05)
    assert power_of(n, difference, discordant) == pytest.approx(found, abs=0.015)
    assert power_of(n, -difference, discordant) == power_of(n, difference, discordant)


@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_detectable_difference_is_found_with_that_power(power):
    size = detectable_difference(500, 0.2, power, alpha=0.01)
    assert power_of(500, size, 0.2, alpha=0.01) == pytest.approx(power)


def test_what_no_difference_can_reach():
    assert detectable_difference(20, 0.05) is None
    assert detectable_difference(500, 0.0) is None
    assert detectable_difference(100, 1.0) == pytest.approx(0.277, abs=0.001)  # (1.96 + 0.84 sqrt(1 - d^2)) / 10
    with pytest.raises(ValueError, match="discordant"):
        power_of(500, 0.3, 0.2)


def test_power_of_means_is_that_of_simulated_t_tests():
    rng = np.random.default_rng(7)
    found = np.mean(stats.ttest_1samp(rng.normal(0.2, 1.5, size=(5000, 400)), 0, axis=1).pvalue <= 0.05)
    assert power_of_mean(400, 0.2, 1.5) == pytest.approx(found, abs=0.02)
    assert power_of_mean(400, detectable_mean(400, 1.5), 1.5) == pytest.approx(0.8)


def test_what_the_test_over_folds_can_detect_it_detects_four_times_out_of_five() -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal(scale=0.02, size=15)
    size = detectable_by_folds(differences, 0.2)
    assert size is not None
    error = np.sqrt(np.var(differences, ddof=1) * (1 / 15 + 0.25))
    reach = stats.t.ppf(0.975, 14)
    found = stats.nct.sf(reach, 14, size / error) + stats.nct.cdf(-reach, 14, size / error)
    assert found == pytest.approx(0.8, abs=1e-6)
    assert detectable_by_folds(differences[:1], 0.2) is None
    assert detectable_by_folds(np.full(4, 0.1), 0.2) is None
