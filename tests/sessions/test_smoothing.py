import numpy as np
import pytest

from raycal.sessions.smoothing import smoothed


def test_none_is_the_array_itself():
    x = np.ones((9, 1), np.float32)
    assert smoothed(x, None, [(0, 9)], 0.0) is x


def test_an_impulse_becomes_the_gaussian_and_the_input_stays():
    x = np.zeros((101, 1), np.float32)
    x[50] = 1.0
    got = smoothed(x, None, [(0, 101)], 2.0)[:, 0]
    t = np.arange(101) - 50
    want = np.where(abs(t) <= 8, np.exp(-(t**2) / 8.0), 0.0)
    np.testing.assert_allclose(got, want / want.sum(), atol=1e-6)
    assert x[50] == 1.0 and x.sum() == 1.0 and got.dtype == np.float32


def test_nothing_crosses_the_border_of_a_run_and_frames_outside_stay():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 3)).astype(np.float32)
    other = x.copy()
    other[40:60] += 100
    runs = [(0, 40), (60, 90)]
    a, b = smoothed(x, None, runs, 5.0), smoothed(other, None, runs, 5.0)
    assert np.array_equal(a[:40], b[:40]) and np.array_equal(a[60:], b[60:]) and np.array_equal(b[40:60], other[40:60])


@pytest.mark.parametrize("sd", [0.3, 3.0, 400.0])
def test_a_constant_stays_one_up_to_the_border_and_beside_holes(sd):
    x = np.full((30, 2), 3.0, np.float32)
    missing = np.zeros((30, 2), bool)
    missing[5:9, 1] = missing[29, 0] = True
    np.testing.assert_allclose(smoothed(x, missing, [(0, 30)], sd), 3.0, rtol=1e-5)


def test_missing_values_stay_missing_and_reach_nobody():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 2)).astype(np.float32)
    missing = rng.random((60, 2)) < 0.3
    as_nan, as_value = np.where(missing, np.float32(np.nan), x), np.where(missing, np.float32(1e6), x)
    a, b = smoothed(as_nan, missing, [(0, 60)], 2.0), smoothed(as_value, missing, [(0, 60)], 2.0)
    assert np.array_equal(np.isnan(a), missing) and (b[missing] == 1e6).all()
    assert np.array_equal(a[~missing], b[~missing])
    t, column = np.arange(60), ~missing[:, 0]
    frame = int(np.flatnonzero(column)[10])
    weight = np.exp(-((t - frame) ** 2) / 8.0) * column * (abs(t - frame) <= 8)
    np.testing.assert_allclose(a[frame, 0], (weight * x[:, 0]).sum() / weight.sum(), rtol=1e-5)
