import numpy as np
import pytest

from raycal.metrics.generators import Gaussian
from raycal.metrics.memorisation import memorisation, nearest


@pytest.fixture(scope="module")
def real(recording, cut):
    """Train and held-out windows."""
    return cut(recording(6000, 0), 24, 3), cut(recording(2400, 1), 24, 6)


def test_fresh_windows_are_as_near_to_train_as_to_held_out_windows(real, draw):
    found = memorisation(draw(200, 2), *real)
    assert found.ratio == pytest.approx(1.0, abs=0.1) and found.copied == 0.0
    assert memorisation(Gaussian.fit(real[0]).sample(200), *real).copied == 0.0


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_copied_windows_are_flagged(noise, real):
    (train, held_out), rng = real, np.random.default_rng(0)
    windows = train[rng.permutation(len(train))[:100]]
    windows = windows + noise * rng.standard_normal(windows.shape)
    assert memorisation(windows, *real).copied == 1.0
    assert memorisation(train[::20], train[::20], held_out).ratio < 0.01


def test_the_share_of_copies_is_counted(real, draw):
    windows = np.concatenate([real[0][:30], draw(70, 3)])
    assert memorisation(windows, *real).copied == pytest.approx(0.3)


def test_quiet_windows_near_everything_are_no_copies(real, draw):
    assert memorisation(0.1 * draw(50, 4), *real).copied == 0.0


def test_nearest_is_the_euclidean_distance():
    a, b = np.random.default_rng(0).standard_normal((2, 7, 5))
    assert nearest(a, b) == pytest.approx(np.sqrt(((a[:, None] - b) ** 2).sum(2)).min(1))
