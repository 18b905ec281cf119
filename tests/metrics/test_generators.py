import numpy as np
import pytest

from raycal.metrics.generators import STABLE, Autoregression, Gaussian, stable

A = np.array([[0.6, 0.2, 0.0], [0.0, 0.5, -0.3], [0.1, 0.0, 0.7]])  # row vectors: x_t = x_{t-1} A + e
ROOT = np.array([[1.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.0, 0.3, 0.5]])


def windows(n, length, seed):
    rng, past = np.random.default_rng(seed), np.zeros((n, 3))
    out = np.empty((n, 3, length))
    for t in range(-100, length):
        past = past @ A + rng.standard_normal((n, 3)) @ ROOT.T
        if t >= 0:
            out[..., t] = past
    return out + 2.0


def test_a_gaussian_has_the_covariance_of_its_windows_over_neurons_and_time(draw):
    train = draw(400, 0, 6)[:, :3]
    found = Gaussian.fit(train).sample(20_000, 1)
    center = train.mean((0, 2))[:, None]
    expected, got = (np.einsum("wa,wb->ab", x, x) / len(x) for x in ((x - center).reshape(len(x), -1)
                                                                       for x in (train, found)))
    assert got == pytest.approx(expected, abs=0.05 * np.diag(expected).max())
    assert found.mean((0, 2)) == pytest.approx(center[:, 0], abs=0.03)
    z = (found - center) / found.std((0, 2))[:, None]
    assert (z**4).mean((0, 2)) == pytest.approx(np.full(3, 3.0), abs=0.2)


def test_an_autoregression_is_recovered_and_so_is_the_process():
    train = windows(600, 40, 0)
    fitted = Autoregression.fit(train, lags=1)
    assert fitted.weights == pytest.approx(A, abs=0.03)
    assert fitted.noise @ fitted.noise.T == pytest.approx(ROOT @ ROOT.T, abs=0.05)
    frames, truth = (np.moveaxis(x, 1, 0).reshape(3, -1) for x in (fitted.sample(600, 40, 1), windows(600, 40, 2)))
    assert np.cov(frames) == pytest.approx(np.cov(truth), abs=0.15)
    assert frames.mean(1) == pytest.approx(np.full(3, 2.0), abs=0.15)


def test_further_lags_that_do_nothing_come_out_as_nothing():
    weights = Autoregression.fit(windows(600, 40, 0), lags=3).weights
    assert weights[3:] == pytest.approx(np.zeros((6, 3)), abs=0.04)


def test_few_windows_choose_a_stronger_penalty():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((4, 30, 16))  # nothing to predict from 60 features of 56 rows
    assert Autoregression.fit(noise).alpha > Autoregression.fit(windows(600, 40, 0)).alpha


def test_an_explosive_fit_is_made_to_forget():
    lag2 = np.concatenate([np.eye(2) * 1.5, -np.eye(2) * 0.2])
    companion = np.eye(4, k=2)
    companion[:, :2] = stable(lag2)
    assert np.abs(np.linalg.eigvals(companion)).max() == pytest.approx(STABLE)
    assert stable(A) == pytest.approx(A) and not stable(np.zeros((2, 2))).any()
    walk = np.cumsum(np.random.default_rng(0).standard_normal((50, 2, 60)) + 0.3, axis=2)
    assert np.isfinite(Autoregression.fit(walk).sample(20, 60)).all()


@pytest.mark.parametrize("sample", [lambda x, s: Gaussian.fit(x).sample(5, s),
                                    lambda x, s: Autoregression.fit(x).sample(5, 24, s)])
def test_the_seed_decides(sample, draw):
    first, again, other = (sample(draw(20, 0), seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.allclose(first, other)
    assert first.shape == (5, 16, 24)


def test_windows_that_leave_nothing_to_fit_are_refused(draw):
    with pytest.raises(ValueError, match="2 frames hold no frame after 2 lags"):
        Autoregression.fit(draw(20, 0, 24)[..., :2])
    with pytest.raises(ValueError, match="8 windows with gap=9"):
        Autoregression.fit(draw(8, 0), gap=9)
