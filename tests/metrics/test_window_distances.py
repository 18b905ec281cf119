import numpy as np
import pytest

from raycal.metrics.window_distances import AXES, Frame, Slow, autocorrelation, power


@pytest.fixture(scope="module")
def train(draw):
    return draw(120, 0)


@pytest.fixture(scope="module")
def frame(train):
    return Frame.of(train, 10.0)


@pytest.fixture(scope="module")
def distances(frame):
    return lambda a, b: frame.describe(a).distances(frame.describe(b))


def test_the_same_windows_are_at_no_distance_in_any_order(train, distances):
    d = distances(train, train[::-1])
    assert all(v == pytest.approx(0.0, abs=1e-9) for v in d.values()), d


def test_a_shift_of_one_sd_is_one_sd_of_marginals(train, distances):
    spread = train.std((0, 2))[:, None]
    d = distances(train + spread, train)
    assert d["marginals"] == pytest.approx(1.0)
    assert d["correlations"] == pytest.approx(0.0, abs=1e-9)


def test_twice_the_deviation_is_6_decibels_and_four_times_the_variance(train, distances):
    center = train.mean((0, 2))[:, None]
    d = distances(center + 2.0 * (train - center), train)
    assert d["power"] == pytest.approx(20 * np.log10(2.0), rel=1e-3)
    assert d["covariance_spectrum"] == pytest.approx(3.0)
    assert d["autocorrelation"] == pytest.approx(0.0, abs=1e-9)


def test_a_measure_depends_on_units_of_the_traces_nowhere(train, distances, draw):
    gain, offset = np.linspace(0.1, 9.0, 16)[:, None], np.linspace(-5, 5, 16)[:, None]
    other = draw(120, 1)
    a = Frame.of(gain * train + offset, 10.0)
    assert a.describe(gain * other + offset).distances(a.describe(gain * train + offset)) == pytest.approx(
        distances(other, train), rel=1e-6)


def test_the_power_of_a_sine_lies_at_its_frequency_and_that_of_noise_everywhere():
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 2 * np.pi, (500, 1, 1))
    sine = np.sin(2 * np.pi * 4 * np.arange(32) / 32 + phase)
    p = power(np.concatenate([sine, rng.standard_normal((500, 1, 32))], axis=1))
    assert p.shape == (2, 17) and p[0].argmax() == 4 and p[0, [0, 1, 8, 12]].max() < 1e-3 * p[0, 4]
    assert p[1, 1:-1] == pytest.approx(np.ones(15), rel=0.2)


def test_the_autocorrelation_of_an_ar_process_is_its_powers():
    rng = np.random.default_rng(0)
    x = np.zeros((2000, 1, 40))
    x[..., 0] = rng.standard_normal((2000, 1))
    for t in range(1, 40):
        x[..., t] = 0.8 * x[..., t - 1] + 0.6 * rng.standard_normal((2000, 1))
    assert autocorrelation(x)[0, :6] == pytest.approx(0.8 ** np.arange(1, 7), abs=0.03)
    assert autocorrelation(x).shape == (1, 20)


def test_slow_components_are_orthonormal_and_hold_the_most_variance(train, frame):
    x = np.random.default_rng(0).standard_normal((50, 5, 6))
    slow = Slow.of(x, count=30)
    assert np.square(slow.components(x)).sum(1) == pytest.approx(np.square(x).sum((1, 2)))
    slow = frame.slow
    x = (train - frame.center) / frame.spread
    every = (slow.latents(x) @ slow.cosines).reshape(len(x), -1)
    variance = np.square(every).mean(0)
    assert len(slow.chosen) == AXES
    assert variance[slow.chosen].min() >= np.delete(variance, slow.chosen).max()


def test_a_neuron_that_never_changes_on_train_breaks_nothing(train):
    flat = train.copy()
    flat[:, 3] = 1.0
    frame = Frame.of(flat, 10.0)
    d = frame.describe(flat).distances(frame.describe(train))
    assert np.isfinite(list(d.values())).all()
