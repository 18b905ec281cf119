import numpy as np
import pytest

from raycal.metrics.conditional import decoded_behavior


def pair(n, seed, obey=1.0):
    """Windows (n, 6, 20) whose first neurons hold, as far as they obey, the behaviour (n, 2, 20)."""
    rng = np.random.default_rng(seed)
    behavior = np.cumsum(rng.standard_normal((n, 2, 20)), axis=2) * 0.4
    windows = rng.standard_normal((n, 6, 20))
    windows[:, :2] = obey * behavior + 0.3 * windows[:, :2]
    return windows, behavior


def test_windows_that_hold_their_behaviour_decode_as_well_as_real_ones():
    train, (real, behavior) = pair(60, 0), pair(40, 1)
    rng = np.random.default_rng(2)
    generated = rng.standard_normal(real.shape)
    generated[:, :2] = behavior + 0.3 * generated[:, :2]
    found = decoded_behavior(train, generated, real, behavior)
    assert (found.real > 0.8).all() and found.generated == pytest.approx(found.real, abs=0.05)


def test_windows_that_ignore_it_do_not():
    train, (real, behavior) = pair(60, 0), pair(40, 1)
    found = decoded_behavior(train, pair(40, 3)[0], real, behavior)
    assert (found.generated < 0.0).all()


def test_unknown_behaviour_and_behaviour_that_never_changes_do_not_count():
    (x, y), (real, behavior) = pair(60, 0), pair(40, 1)
    y[:10, 0] = np.nan
    behavior[:5, 0], behavior[:, 1] = np.nan, 1.0
    found = decoded_behavior((x, y), real, real, behavior)
    assert found.real[0] > 0.8 and np.isnan(found.real[1])
    assert np.array_equal(found.real, found.generated, equal_nan=True)
