from types import SimpleNamespace

import numpy as np
import pytest

from raycal.metrics.reconstruction import ReconstructionSums, mean_r, nmse


def windows(seed=0, b=6, n=4, length=10):
    return np.random.default_rng(seed).normal(size=(b, n, length)).astype(np.float32)


def test_train_mean_scores_exactly_one_and_perfect_exactly_zero():
    x = windows()
    sums = ReconstructionSums(4)
    sums.add(x, np.zeros_like(x))
    assert sums.nmse == 1.0 and (sums.neuron_nmse == 1.0).all() and (sums.r == 0.0).all()
    sums = ReconstructionSums(4)
    sums.add(x, x)
    assert sums.nmse == 0.0 and np.allclose(sums.r, 1.0)


def test_a_known_error_has_a_known_nmse_and_correlation():
    x = np.tile([1.0, -1.0], 50).reshape(1, 1, 100).repeat(2, axis=1)
    y = np.stack([0.5 * x[:, 0], -x[:, 1]], axis=1)
    sums = ReconstructionSums(2)
    sums.add(x, y)
    assert np.allclose(sums.neuron_nmse, [0.25, 4.0]) and sums.nmse == pytest.approx(4.25 / 2)
    assert np.allclose(sums.r, [1.0, -1.0]) and mean_r([sums]) == pytest.approx(0.0)


def test_correlation_is_that_of_numpy():
    x = windows(1)
    y = 0.3 * x + windows(2) + 5
    sums = ReconstructionSums(4)
    for i in range(6):
        sums.add(x[i:i + 1], y[i:i + 1])
    expected = [np.corrcoef(x[:, n].ravel(), y[:, n].ravel())[0, 1] for n in range(4)]
    np.testing.assert_allclose(sums.r, expected, atol=1e-6)


def test_nmse_is_the_same_in_whichever_normalisation():
    rng = np.random.default_rng(3)
    raw = rng.gamma(2, 3, (5, 4, 20)) * [[[1], [10], [100], [0.01]]]
    guess = raw * 0.7 + 0.1 * raw.mean()
    train = rng.gamma(2, 3, (400, 4)) * [1, 10, 100, 0.01]
    low, quarter, median, three, high = np.percentile(train, (0, 25, 50, 75, 100), axis=0)
    scalers = {"zscore": (train.mean(0), train.std(0)), "robust": (median, (three - quarter) / 1.349),
               "minmax": (low, high - low), "none": (np.zeros(4), np.ones(4))}
    recording = SimpleNamespace(traces=np.zeros((9, 4)), scalers=scalers)
    scores, correlations = [], []
    for name, (center, spread) in scalers.items():
        sums = ReconstructionSums.of(recording, name)
        sums.add((raw - center[:, None]) / spread[:, None], (guess - center[:, None]) / spread[:, None])
        scores.append(sums.nmse)
        correlations.append(mean_r([sums]))
    error, deviation = (raw - guess).transpose(0, 2, 1), raw.transpose(0, 2, 1) - train.mean(0)
    by_hand = ((error / train.std(0)) ** 2).sum() / ((deviation / train.std(0)) ** 2).sum()
    np.testing.assert_allclose(scores, by_hand, rtol=1e-9)
    np.testing.assert_allclose(correlations, correlations[0], rtol=1e-9)


def test_the_split_is_summed_and_not_its_batches_averaged():
    loud, quiet = 10 * np.ones((1, 2, 8)), np.ones((1, 2, 8))
    sums = ReconstructionSums(2)
    sums.add(loud, loud)  # perfect: batch NMSE 0
    sums.add(quiet, np.zeros_like(quiet))  # nothing: batch NMSE 1
    assert sums.nmse == pytest.approx(1 / 101)  # the mean of batches would say 0.5


def test_frames_not_kept_or_not_valid_do_not_count_even_if_nan():
    x, y = windows(4), windows(5)
    keep = np.random.default_rng(6).random((6, 10)) < 0.6
    valid = np.random.default_rng(7).random((6, 4, 10)) < 0.7
    used = keep[:, None] & valid
    sums = ReconstructionSums(4)
    sums.add(np.where(used, x, np.nan), np.where(used, y, np.nan), keep, valid)
    assert sums.nmse == pytest.approx(((x - y)[used].astype(float) ** 2).sum() / (x[used].astype(float) ** 2).sum())
    expected = [np.corrcoef(x[:, n][used[:, n]], y[:, n][used[:, n]])[0, 1] for n in range(4)]
    np.testing.assert_allclose(sums.r, expected, atol=1e-6)


def test_sessions_are_pooled_by_their_sums():
    a, b = ReconstructionSums(2), ReconstructionSums(3)
    a.add(windows(n=2), np.zeros((6, 2, 10)))
    b.add(windows(n=3), windows(n=3))
    deviation = (windows(n=2).astype(float) ** 2).sum(), (windows(n=3).astype(float) ** 2).sum()
    assert nmse([a, b]) == pytest.approx(deviation[0] / sum(deviation))
    assert mean_r([a, b]) == pytest.approx(3 / 5)  # a flat prediction counts as 0


def test_a_flat_target_has_no_correlation_and_nothing_has_no_nmse():
    x = windows()
    x[:, 1] = 2.0
    sums = ReconstructionSums(4)
    assert np.isnan(sums.nmse) and np.isnan(mean_r([sums]))
    sums.add(x, x)
    assert np.isnan(sums.r[1]) and mean_r([sums]) == pytest.approx(1.0)


def test_sums_of_ranks_add_up():
    whole, *shares = (ReconstructionSums(4) for _ in range(3))
    x, y = windows(8), windows(9)
    whole.add(x, y)
    shares[0].add(x[::2], y[::2])
    shares[1].add(x[1::2], y[1::2])
    shares[0].sums += shares[1].sums
    assert shares[0].nmse == pytest.approx(whole.nmse)


def test_a_diverged_model_is_not_a_good_one():
    x = windows()
    sums = ReconstructionSums(4)
    sums.add(x, np.full_like(x, np.nan))
    assert np.isnan(sums.nmse)
