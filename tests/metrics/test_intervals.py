from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from raycal.metrics.intervals import mean_interval, paired_difference


def test_the_interval_of_three_values_by_hand():
    """t(0.975, 2) = 4.3027: 2 +- 4.3027 * 1 / sqrt(3)."""
    found = mean_interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))


def test_the_paired_interval_is_that_of_scipys_paired_t_test():
    rng = np.random.default_rng(1)
    shared = rng.normal(scale=10.0, size=6)
    a, b = shared + rng.normal(size=6), shared + 1.0 + rng.normal(size=6)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    found = paired_difference(a, b)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert found.high - found.low < 0.5 * (mean_interval(a).high - mean_interval(a).low), "the pairs take the seed out"


@pytest.mark.parametrize("n", [3, 5])
def test_the_interval_covers_the_mean_at_its_nominal_rate(n):
    rng = np.random.default_rng(n)
    draws = rng.normal(0.3, 0.02, size=(4000, n))
    covered = sum(low <= 0.3 <= high for _, low, high in map(mean_interval, draws))
    assert abs(covered - 0.95 * 4000) < 4 * math.sqrt(4000 * 0.95 * 0.05)


def test_what_cannot_be_known_is_nan():
    assert all(map(math.isnan, mean_interval([])))
    assert all(map(math.isnan, mean_interval([0.1, math.nan, 0.3])))
    one = mean_interval([0.4])
    assert one.mean == 0.4 and math.isnan(one.low) and math.isnan(one.high)
    assert mean_interval([0.4, 0.4]) == (0.4, 0.4, 0.4)
    with pytest.raises(ValueError, match="3 values cannot be paired with 2"):
        paired_difference([1, 2, 3], [1, 2])
