import numpy as np
import pytest
from scipy.signal import lfilter

from raycal.metrics import transform_code
from raycal.metrics.blocks import Windows
from raycal.metrics.transform_code import TransformCode, fit, step_at

LENGTH = 64
POLES = np.array([0.98, 0.95, 0.9, 0.8, 0.5, 0.0])
GAINS = np.array([3.0, 2.0, 2.0, 1.0, 1.0, 0.5])  # standard deviations


def gaussian(n_frames: int, seed: int) -> np.ndarray:
    """Independent Gaussian AR(1) sources of known spectra, turned by a fixed rotation."""
    rng = np.random.default_rng(seed)
    sources = [g * np.sqrt(1 - p**2) * lfilter([1], [1, -p], rng.normal(size=n_frames + 500))[500:]
               for p, g in zip(POLES, GAINS)]
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    return (np.stack(sources, axis=1) @ rotation).astype(np.float32)


def water_filling(bits_per_frame: float) -> float:
    """Return the least squared error a frame of these sources at a rate (Berger 1971, section 4.5)."""
    w = (np.arange(4000) + 0.5) / 4000 * np.pi
    spectra = (GAINS**2 * (1 - POLES**2))[:, None] / np.abs(1 - POLES[:, None] * np.exp(-1j * w)) ** 2
    low, high = 1e-12, spectra.max()
    for _ in range(200):
        level = (low * high) ** 0.5
        rate = np.maximum(0.0, 0.5 * np.log2(spectra / level)).mean(1).sum()
        low, high = (level, high) if rate > bits_per_frame else (low, level)
    return float(np.minimum(spectra, high).mean(1).sum())


@pytest.fixture(scope="module")
def fitted():
    return fit(gaussian(30_000, 1), ((0, 10_000), (10_000, 30_000)), LENGTH)


@pytest.fixture(scope="module")
def held_out():
    x = gaussian(12_800, 2)
    windows = Windows.of(((0, len(x)),), LENGTH)
    return x, windows


def coded(code, held_out, bits_per_frame):
    """Return (rate, squared error) a frame at the step found for the wanted rate."""
    x, windows = held_out
    c = code.coefficients(windows.cut(code.axes.transform(x)))
    cost = lambda step: float(code.bits(code.encode(c, step), step) @ windows.weight)  # noqa: E731
    step = step_at(bits_per_frame * len(x), cost, float(np.abs(c).max()))
    decoded = code.axes.inverse_transform(windows.join(code.decode(code.encode(c, step), step)))
    return cost(step) / len(x), float(((x - decoded) ** 2).sum() / len(x))


@pytest.mark.parametrize("bits, decibels", [(0.5, 1.1), (2.0, 1.25), (6.0, 1.8), (15.0, 2.5)])
def test_a_gaussian_source_is_coded_near_reverse_water_filling(fitted, held_out, bits, decibels):
    """A scalar quantizer loses 1.53 dB at high rates, a Laplace model of Gaussians 0.42; less where few bits go."""
    rate, error = coded(fitted, held_out, bits)
    assert 0.98 * bits <= rate <= bits
    assert 0.97 < error / water_filling(bits) < 10 ** (decibels / 10)  # 3 %: the part's own variance


def test_at_high_rates_the_loss_is_that_of_a_scalar_quantizer_and_a_laplace_model(fitted, held_out):
    rate, error = coded(fitted, held_out, 36.0)  # 6 bits a coefficient
    lost = (rate - 36.0) + 6 * 0.5 * np.log2(error / water_filling(36.0))
    assert 6 * 0.25 < lost < 6 * 0.40  # 0.254 + 0.07, and what edges of windows cost


def test_nothing_but_integers_reaches_the_decoder(fitted, held_out):
    x, windows = held_out
    c = fitted.coefficients(windows.cut(fitted.axes.transform(x)))
    integers = fitted.encode(c, 0.7)
    jitter = np.random.default_rng(3).uniform(-0.01, 0.01, c.shape)
    same = fitted.encode(c + jitter, 0.7) == integers  # other values in the same interval
    changed = np.where(same, c + jitter, c)
    assert integers.dtype == np.int32 and not np.array_equal(changed, c)
    assert np.array_equal(fitted.encode(changed, 0.7), integers)
    again = TransformCode(fitted.axes, fitted.scales).decode(integers.copy(), 0.7)
    assert np.array_equal(again, fitted.decode(integers, 0.7))
    error = fitted.coefficients(again) - c
    assert np.abs(error[integers != 0]).max() < 0.7 + 1e-4 and np.abs(error[integers == 0]).max() <= 0.7 * 2 / 3 + 1e-4


def test_a_decoded_value_is_the_mean_of_its_interval_under_the_model():
    scale, step = 1.3, 0.9
    code = TransformCode(None, np.full((1, 1), scale))
    x = np.linspace(0, 40, 4_000_001)
    n = code.encode(x[:, None, None], step)[:, 0, 0]
    density = np.exp(-x / scale)
    for k in (1, 2, 5):
        mean = (x * density)[n == k].sum() / density[n == k].sum()
        assert code.decode(np.array([[[k]]]), step)[0, 0, 0] == pytest.approx(mean, abs=1e-4)
        assert code.decode(np.array([[[-k]]]), step)[0, 0, 0] == pytest.approx(-mean, abs=1e-4)


@pytest.mark.parametrize("depth", [0.05, 1.0, 30.0])
def test_lengths_are_those_of_a_code(depth):
    """Kraft: 2 ** -length sums to 1 over all integers, so that a coder of these lengths exists."""
    code = TransformCode(None, np.ones((1, 1)))
    n = np.arange(-20_000, 20_001)
    lengths = code.bits(n[:, None, None].astype(np.int32), depth)
    assert (2.0**-lengths).sum() == pytest.approx(1.0, abs=1e-6) and (2.0**-lengths).sum() <= 1.0 + 1e-9
    assert np.allclose(lengths, lengths[::-1])


def test_what_train_never_showed_has_a_finite_length():
    code = TransformCode(None, np.full((1, 2), 1e-12))
    bits = code.bits(np.array([[[2**31 - 1, -7]]], np.int32), 1.0)
    assert np.isfinite(bits).all() and 16 < bits[0] < 120
    assert code.bits(np.zeros((1, 1, 2), np.int32), 1.0)[0] < 1e-3


def test_everything_is_fitted_on_the_frames_given_and_scales_on_axes_of_other_frames():
    x = gaussian(3000, 4)
    code, again = fit(x, ((0, 3000),), 32), fit(x.copy(), ((0, 3000),), 32)
    assert np.array_equal(code.scales, again.scales)
    noise = np.random.default_rng(5).normal(size=(200, 150)).astype(np.float32)  # nearly as many neurons as frames
    crossed, inside = (fit(noise, ((0, 200),), 16, folds) for folds in (3, 1))
    fresh = np.random.default_rng(6).normal(size=(2000, 150)).astype(np.float32)
    windows = Windows.of(((0, 2000),), 16)
    seen = np.abs(crossed.coefficients(windows.cut(crossed.axes.transform(fresh)))).mean((0, 1))[-20:].mean()
    assert inside.scales[:, -20:].mean() < 0.5 * seen  # the last axes look quiet where they were fitted
    assert crossed.scales[:, -20:].mean() == pytest.approx(seen, rel=0.2)


def test_more_neurons_than_frames_leave_no_axis_without_a_scale():
    wide = np.random.default_rng(8).normal(size=(90, 300)).astype(np.float32)
    code = fit(wide, ((0, 90),), 16)
    assert code.scales.shape == (16, 90) and code.scales.min() > 0.1  # white noise: all are as loud


def test_shares_shorter_than_a_window_measure_scales_on_all_frames():
    x = gaussian(100, 7)
    assert np.array_equal(fit(x, ((0, 50), (50, 100)), 48).scales, fit(x, ((0, 50), (50, 100)), 48, folds=1).scales)


def test_the_step_spends_what_is_asked_or_the_finest_there_is():
    assert step_at(100.0, lambda step: 1000.0 / step, 100.0) == pytest.approx(10.0, rel=0.01)
    assert step_at(1e9, lambda step: 5.0, 8.0) == pytest.approx(8.0 * transform_code.FINEST, rel=2)
    assert step_at(0.0, lambda step: max(0.0, 10 - step), 10.0) >= 10.0
