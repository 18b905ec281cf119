import numpy as np
import pytest

from raycal.metrics.decoding import DecodingSums, bootstrap, combine, r2, shift_null

PIECES = ((0, 400), (400, 1000))


def smooth(n, seed, width=5):
    x = np.random.default_rng(seed).normal(size=(n + width, 1))
    return np.apply_along_axis(lambda c: np.convolve(c, np.ones(width) / width, "valid"), 0, x)[:n]


def test_r2_of_known_predictions():
    y = np.tile([0.0, 2.0], 50)[:, None]  # mean 1, variance 1
    assert r2(y, y, 1.0).mean == 1.0
    assert r2(y, np.ones_like(y), 1.0).mean == 0.0  # the mean
    assert r2(y, 0.5 * y + 0.5, 1.0).mean == pytest.approx(0.75)
    assert r2(y, 2 - y, 1.0).mean == pytest.approx(-3.0)  # not clipped


def test_the_two_means_differ_under_drift():
    y = np.tile([2.0, 4.0], 50)[:, None]  # held-out mean 3, variance 1; train mean 0
    found = r2(y, np.full_like(y, 3.0), 0.0)
    assert found.held_out[0] == pytest.approx(0.0) and found.train[0] == pytest.approx(1 - 1 / 10)


def test_uniform_and_weighted_means():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(2000, 2)) * [1, 3]
    y -= y.mean(0)
    found = r2(y, np.stack([y[:, 0], np.zeros(2000)], axis=1))
    assert found.mean == pytest.approx(0.5)
    assert found.weighted == pytest.approx((y[:, 0] ** 2).sum() / (y**2).sum())


def test_unit_of_behaviour_does_not_enter():
    rng = np.random.default_rng(1)
    y, guess = rng.normal(size=(500, 2)), rng.normal(size=(500, 2))
    scale, shift = np.array([1000.0, 1e-3]), np.array([5.0, -2.0])
    a, b = r2(y, guess), r2(y * scale + shift, guess * scale + shift, shift, scale)
    np.testing.assert_allclose(a.train, b.train)
    assert a.weighted == pytest.approx(b.weighted) and b.dropped == ()


def test_constant_and_unobserved_dimensions_are_dropped_and_listed():
    rng = np.random.default_rng(2)
    y = rng.normal(size=(300, 4))
    y[:, 1], y[:, 2] = 3.0, np.nan
    found = r2(y, np.where(np.isnan(y), 0.0, y))
    assert found.dropped == (1, 2) and found.mean == 1.0 and np.isnan(found.train[[1, 2]]).all()
    nothing = r2(y[:, 1:3], y[:, 1:3])
    assert nothing.dropped == (0, 1) and np.isnan(nothing.mean)


def test_nan_frames_of_behaviour_do_not_count():
    rng = np.random.default_rng(3)
    y, guess = rng.normal(size=(500, 2)), rng.normal(size=(500, 2))
    holes = rng.random((500, 2)) < 0.3
    found = r2(np.where(holes, np.nan, y), guess)
    for k in range(2):
        assert found.train[k] == pytest.approx(r2(y[~holes[:, k], k:k + 1], guess[~holes[:, k], k:k + 1]).train[0])


def test_the_split_is_summed_and_not_its_batches_averaged():
    y = np.concatenate([np.tile([10.0, -10.0], 4), np.tile([1.0, -1.0], 4)])
    guess = np.concatenate([y[:8], np.zeros(8)])  # R2 1 in the first batch, 0 in the second
    sums = DecodingSums(1)
    for rows in (slice(0, 8), slice(8, 16)):
        sums.add(y[rows].reshape(2, 1, 4), guess[rows].reshape(2, 1, 4))
    assert combine([sums]).mean == pytest.approx(1 - 8 / 808)


def test_windows_count_only_kept_frames():
    rng = np.random.default_rng(4)
    y, guess, keep = rng.normal(size=(6, 2, 10)), rng.normal(size=(6, 2, 10)), rng.random((6, 10)) < 0.5
    sums = DecodingSums(2)
    sums.add(y, guess, keep)
    expected = r2(y.transpose(0, 2, 1)[keep], guess.transpose(0, 2, 1)[keep])
    np.testing.assert_allclose(combine([sums]).train, expected.train)
    np.testing.assert_allclose(combine([sums]).held_out, expected.held_out)


def test_sessions_are_pooled_each_about_its_own_mean():
    a, b = DecodingSums(1), DecodingSums(1)
    y = np.tile([1.0, -1.0], 10)[:, None]
    a.add_rows(y + 5, np.full((20, 1), 5.0))
    b.add_rows(y - 5, y - 5)
    assert combine([a, b]).held_out[0] == pytest.approx(0.5)
    assert combine([a, b]).train[0] == pytest.approx(1 - 20 / (40 * 26))


def test_shift_null_of_unrelated_signals_is_not_above_zero():
    y, guess = smooth(1000, 0), smooth(1000, 1)
    null = shift_null(y, 0.3 * guess, PIECES, 50)
    assert null.mean[0] < 0.02 and null.low[0] <= null.mean[0] <= null.high[0] < 0.3


def test_shift_null_of_a_true_but_aperiodic_prediction_is_low():
    y = smooth(1000, 2)
    assert r2(y, y).mean == 1.0 and shift_null(y, y, PIECES, 50).mean[0] < -0.5


def test_shift_null_of_a_periodic_behaviour_is_high():
    lap = 100
    y = np.where(np.arange(1000) % lap < 90, 0.01, 1.0)[:, None] + np.sin(2 * np.pi * np.arange(1000) / lap)[:, None]
    null = shift_null(y, y, PIECES, 50, n=900)
    assert null.high[0] > 0.8  # whole laps fit again
    assert shift_null(y, y, PIECES, lap - 1, n=1).mean[0] == pytest.approx(1.0)  # the first shift allowed is one lap


def test_shift_null_without_room_is_nan():
    y = smooth(100, 3)
    assert np.isnan(shift_null(y, y, ((0, 100),), 50).mean).all()
    assert np.isfinite(shift_null(y, y, ((0, 100),), 49).mean).all()


def test_shift_null_uses_the_pieces_alone():
    y, guess = smooth(1000, 4), smooth(1000, 5)
    lost = y.copy()
    lost[300:700] = np.nan
    guess[300:700] = np.nan
    null = shift_null(lost, guess, ((0, 300), (700, 1000)), 20)
    assert np.isfinite(null.mean).all()


def test_bootstrap_interval_holds_the_value_and_narrows_with_data():
    rng = np.random.default_rng(6)
    y = smooth(8000, 7)
    guess = y + y.std() * rng.normal(size=y.shape) * 0.5
    short, long = (bootstrap(y, guess, ((0, n),), 50) for n in (800, 8000))
    assert long.low[0] < r2(y, guess).train[0] < long.high[0]
    assert long.high[0] - long.low[0] < short.high[0] - short.low[0]
    again = bootstrap(y, guess, ((0, 800),), 50)
    assert again.low[0] == short.low[0]
