"""Means over seeds with their 95 % intervals (Student's t), and the same of paired differences."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95


class Interval(NamedTuple):
    """NaN throughout where a value is not finite; low and high also where there is one value only."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean of independent values and the interval that covers what they scatter about.

    It is exact for normal values. All values alike give an interval of no width.
    """
    x = np.asarray(values, np.float64)
    if not len(x) or not np.isfinite(x).all():
        return Interval(math.nan, math.nan, math.nan)
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(mean, math.nan, math.nan)
    from scipy.stats import t  # a second that only an interval pays

    half = float(t.ppf(0.5 + LEVEL / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return Interval(mean, mean - half, mean + half)


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Return the mean of first - second, pair by pair: what both owe to their common seed drops out."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values cannot be paired with {len(second)}")
    return mean_interval(np.asarray(first, np.float64) - np.asarray(second, np.float64))
