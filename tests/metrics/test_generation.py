import math

import numpy as np
import pytest

from raycal.metrics.generation import GROUPS, Yardstick
from raycal.metrics.generators import Gaussian

N = 300  # windows that are compared


@pytest.fixture(scope="module")
def real(draw):
    """Train and held-out windows."""
    return draw(600, 0), draw(N, 1)


@pytest.fixture(scope="module")
def yardstick(real):
    return Yardstick.of(*real, 10.0)


@pytest.fixture(scope="module")
def fresh(yardstick, draw):
    return [yardstick.score(draw(N, seed)) for seed in range(2, 8)]


@pytest.fixture(scope="module")
def worst(fresh):
    return max(s.score for s in fresh)


@pytest.fixture(scope="module")
def white_noise(real):
    center, spread = real[0].mean((0, 2))[:, None], real[0].std((0, 2))[:, None]
    return center + spread * np.random.default_rng(0).standard_normal(real[1].shape)


@pytest.fixture(scope="module")
def phase_shuffled(real, draw):
    """Each neuron's windows with its own spectrum and nothing else."""
    rng, windows = np.random.default_rng(0), draw(N, 2)
    center = real[0].mean((0, 2))[:, None]
    spectrum = np.fft.rfft(windows - center)
    turned = np.abs(spectrum) * np.exp(2j * np.pi * rng.random(spectrum.shape))
    turned[..., 0] = spectrum[..., 0]
    return center + np.fft.irfft(turned, windows.shape[2])


def test_fresh_windows_of_the_same_process_score_about_1(draw):
    """A little above on average, for a floor that came out low by chance counts more than one that came out high."""
    scores = []
    for case in range(8):
        yardstick = Yardstick.of(draw(200, 3 * case), draw(100, 3 * case + 1), 10.0)
        scores.append(yardstick.score(draw(100, 3 * case + 2)).score)
    assert 0.8 < np.mean(scores) < 1.4 and max(scores) < 2.5 and min(scores) > 0.5


def test_real_train_windows_score_1(yardstick, real):
    rng = np.random.default_rng(9)
    scores = [yardstick.score(real[0][rng.permutation(600)[:N]]).score for _ in range(6)]
    assert np.mean(scores) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("name", "spoilt", "groups"), [
    ("time", lambda x, rng: rng.permuted(x, axis=2), ("spectrum", "events", "correlation")),
    ("frames", lambda x, rng: np.stack([w[:, rng.permutation(x.shape[2])] for w in x]), ("spectrum", "events")),
    ("neurons", lambda x, rng: x[:, rng.permutation(x.shape[1])], ("marginals", "spectrum", "correlation", "events")),
    ("windows of each neuron", lambda x, rng: np.stack(
        [x[rng.permutation(len(x)), n] for n in range(x.shape[1])], axis=1), ("correlation", "population", "sliced")),
    ("variance", lambda x, rng: 1.5 * x, ("marginals", "spectrum", "correlation", "population", "sliced", "events")),
    ("half the variance", lambda x, rng: x * 0.7, ("marginals", "spectrum", "correlation", "events"))])
def test_what_is_wrong_raises_its_own_groups_and_the_score(name, spoilt, groups, yardstick, fresh, worst, draw):
    for seed in (2, 3, 4):
        scores = yardstick.score(spoilt(draw(N, seed), np.random.default_rng(seed)))
        assert scores.score > 1.3 * worst, (name, scores.score, worst)
        for group in groups:
            assert scores.groups[group] > 1.5 * np.median([s.groups[group] for s in fresh]), (name, group)


def test_spoilt_and_gaussian_windows_rank_by_what_they_keep(yardstick, real, worst, white_noise, phase_shuffled):
    noise, phases = yardstick.score(white_noise), yardstick.score(phase_shuffled)
    gaussian = yardstick.score(Gaussian.fit(real[0]).sample(N))
    assert noise.score > phases.score > gaussian.score > 1.3 * worst
    assert phases.groups["correlation"] > 3.0 and phases.ratios["power"] < 2.0
    assert gaussian.groups["marginals"] > 2.0 and gaussian.ratios["correlations"] < 1.6


def test_the_score_is_the_mean_of_its_groups_and_all_components_are_kept(yardstick, white_noise):
    scores = yardstick.score(white_noise)
    assert scores.score == pytest.approx(np.mean(list(scores.groups.values())))
    assert set(scores.groups) == set(GROUPS)
    assert set(scores.ratios) == set(scores.distances) == {d for names in GROUPS.values() for d in names}
    for name, distance in scores.distances.items():
        assert scores.ratios[name] == pytest.approx(distance / yardstick.floor[name])


def test_the_same_windows_always_give_the_same_score(yardstick, real, draw):
    windows = draw(N, 2)
    assert Yardstick.of(*real, 10.0).score(windows) == yardstick.score(windows)


def test_windows_that_are_not_finite_are_infinitely_bad(yardstick, draw):
    windows = draw(N, 2)
    windows[0, 0, 0] = np.nan
    scores = yardstick.score(windows)
    assert scores.score == math.inf and set(scores.ratios) == set(yardstick.floor)


def test_more_held_out_than_train_windows_are_thinned(real, draw):
    yardstick = Yardstick.of(real[0][:50], real[1], 10.0)
    assert yardstick.n_windows == 50 and math.isfinite(yardstick.score(draw(50, 2)).score)


def test_without_any_event_the_other_groups_count():
    quiet = np.random.default_rng(0).uniform(-1, 1, (80, 4, 16))
    yardstick = Yardstick.of(quiet[:40], quiet[40:], 10.0)
    scores = yardstick.score(np.random.default_rng(1).uniform(-1, 1, (40, 4, 16)))
    assert math.isnan(scores.groups["events"]) and 0.3 < scores.score < 2.0


def test_shapes_that_do_not_go_together_are_refused(yardstick, real, draw):
    with pytest.raises(ValueError, match=r"are \(3, 16, 24\); the yardstick compares \(300, 16, 24\)"):
        yardstick.score(draw(3, 0))
    with pytest.raises(ValueError, match="do not go together"):
        Yardstick.of(real[0], real[1][:, :3], 10.0)
    with pytest.raises(ValueError, match="finite, at least 2"):
        Yardstick.of(real[0], real[1][:1], 10.0)
