import numpy as np
import pytest

from raycal import config
from raycal.sessions.select import best, scores

T = 4000


def settings(select, neurons):
    return config.Config().replace({"sessions.select": select, "sessions.neurons": neurons}).sessions


def test_variance_is_that_of_the_measured_frames():
    x = np.random.default_rng(0).normal(0, (1, 3, 2), (T, 3)).astype(np.float32)
    missing = np.zeros(x.shape, bool)
    missing[:100, 0] = True
    holed = np.where(missing, np.float32(np.nan), x)
    np.testing.assert_allclose(scores("variance", x, None, np.empty((T, 0))), x.astype(float).var(0))
    np.testing.assert_allclose(scores("variance", holed, missing, np.empty((T, 0)))[0], x[100:, 0].astype(float).var())


def test_activity_is_the_share_of_frames_above_the_noise():
    rng = np.random.default_rng(1)
    noise = rng.normal(5, 2, T)
    events = np.where(np.arange(T) % 20 == 0, 40.0, 0.0)  # 5 % of the frames, far above
    silent = (np.arange(T) % 50 == 0).astype(float)  # an event train: no noise at all
    got = scores("activity", np.stack([noise, noise + events, silent], axis=1), None, np.empty((T, 0)))
    assert got[0] < 0.004 and got[1] == pytest.approx(0.05, abs=0.004) and got[2] == 0.02
    scaled = scores("activity", np.stack([noise * 7 + 3, noise], axis=1), None, np.empty((T, 0)))
    assert scaled[0] == scaled[1]  # no matter the unit


def test_behavior_is_the_largest_absolute_correlation_over_common_frames():
    rng = np.random.default_rng(2)
    y = rng.normal(3, 2, (T, 2)).astype(np.float32)
    x = np.stack([-y[:, 0] + rng.normal(size=T), y[:, 1] + 5 * rng.normal(size=T), rng.normal(size=T), np.ones(T)],
                 axis=1).astype(np.float32)
    full = np.abs(np.corrcoef(x[:, :3].T, y.T)[:3, 3:]).max(axis=1)
    np.testing.assert_allclose(scores("behavior", x, None, y), [*full, 0.0], rtol=1e-4)
    y[:1000, 0] = np.nan
    y[:, 1] = 4.0  # constant: correlates with nothing
    missing = np.zeros(x.shape, bool)
    missing[3000:, 0] = True
    got = scores("behavior", np.where(missing, np.float32(np.nan), x), missing, y)
    assert got[0] == pytest.approx(abs(np.corrcoef(x[1000:3000, 0], y[1000:3000, 0])[0, 1]), rel=1e-4)
    assert got[3] == 0.0 and (scores("behavior", x, None, np.full((T, 1), np.nan, np.float32)) == 0).all()


def test_variance_and_behavior_share_their_ranks():
    rng = np.random.default_rng(3)
    y = rng.normal(size=(T, 1)).astype(np.float32)
    x = np.stack([9 * rng.normal(size=T), y[:, 0] + rng.normal(size=T), 0.1 * rng.normal(size=T)], axis=1)
    r = np.abs(np.corrcoef(x.T, y.T)[:3, 3])
    want = 0.5 * (1 + np.argsort(np.argsort(x.var(0)))) + 0.5 * (1 + np.argsort(np.argsort(r)))
    assert np.array_equal(scores("variance_behavior", x.astype(np.float32), None, y), want)


def test_the_best_come_in_their_order_and_ties_go_to_the_first():
    x = np.zeros((T, 5), np.float32)
    x[::2] = np.float32([1, 3, 2, 3, 2])
    said = []
    assert best("m", settings("variance", 3), x, None, np.empty((T, 0)), said.append).tolist() == [1, 2, 3]
    assert said == ["session m: 3 of 5 neurons kept by variance over the train part, 2 left out"]


def test_fewer_than_asked_are_all_kept_and_that_is_said():
    said = []
    x = np.random.default_rng(4).normal(size=(T, 5))
    assert best("m", settings("variance", 9), x, None, np.empty((T, 0)), said.append).tolist() == [0, 1, 2, 3, 4]
    assert said == ["session m: sessions.neurons=9, but only 5 are usable; all are kept"]
    assert best("m", settings("variance", 5), x, None, np.empty((T, 0)), said.append).tolist() == [0, 1, 2, 3, 4]
