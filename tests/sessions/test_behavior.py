import numpy as np
import pytest

from raycal import config
from raycal.sessions.behavior import feature_frames, feature_names, features, having, observed, series, source_names
from raycal.sessions.session import Session
from raycal.sessions.stimulus import Stimulus


def session():
    rng = np.random.default_rng(0)
    return Session.build(id="m", rate=10.0, traces=rng.normal(size=(100, 2)), behavior=rng.normal(size=(100, 2)),
                         behavior_names=("speed", "gratings.angle"),
                         stimuli=[Stimulus("gratings", [[10, 20], [30, 45]], {"angle": [45, 90], "contrast": [1, 0.5]}),
                                  Stimulus("scenes", [[50, 60]], {"frame": [7]})])


def test_names_are_behaviours_first_and_then_parameters_of_stimuli():
    s = session()
    got = series(s, ["scenes.frame", "gratings.contrast", "gratings.angle", "speed"], [(0, 100)], 0.0)
    assert got.dtype == np.float32 and got.shape == (100, 4)
    assert (got[50:60, 0] == 7).all() and np.isnan(got[:50, 0]).all() and np.isnan(got[60:, 0]).all()
    assert (got[10:20, 1] == 1).all() and (got[30:45, 1] == 0.5).all() and np.isnan(got[:, 1]).sum() == 75
    assert np.array_equal(got[:, 2:], s.behavior[:, ::-1])


def test_behaviours_are_smoothed_and_stimuli_are_not():
    s = session()
    got = series(s, ["speed", "gratings.contrast"], [(0, 50), (50, 100)], 2.0)
    assert got[:, 0].std() < 0.6 * s.behavior[:, 0].std()
    assert np.array_equal(got[:, 1], series(s, ["gratings.contrast"], [(0, 100)], 0.0)[:, 0], equal_nan=True)


def test_a_session_is_given_the_behaviours_of_a_model():
    s = session()
    got = having(s, ["pupil", "gratings.contrast", "speed"])  # one it lacks, one of its stimuli, one it has
    assert got.behavior_names == ("pupil", "speed") and got.behavior_units == ("sd", "")
    assert np.isnan(got.behavior[:, 0]).all() and np.array_equal(got.behavior[:, 1], s.behavior[:, 0])
    assert series(got, ["pupil", "gratings.contrast", "speed"], [(0, 100)], 0.0).shape == (100, 3)
    assert observed(got, ["pupil", "gratings.contrast", "speed"]) == ("gratings.contrast", "speed")


def test_features_lead_back_to_what_they_are_of():
    names = ("mean_speed", "head_mean", "x")
    assert source_names(feature_names(names)) == names and source_names(()) == ()


def test_features_are_those_of_the_window_around_a_frame():
    x = np.random.default_rng(1).normal(size=(60, 2)).astype(np.float32)
    got = features(x, [(0, 60)], 5)
    assert feature_names(["a", "b"])[2:6] == ("a_max", "a_change", "b_mean", "b_std") and got.shape == (60, 8)
    window = x[20:25].astype(float)
    want = np.stack([window.mean(0), window.std(0), window.max(0), window[4] - window[0]], axis=1).reshape(-1)
    np.testing.assert_allclose(got[22], want, rtol=1e-6)
    assert np.isnan(got[[0, 1, 58, 59]]).all() and np.isfinite(got[2:58]).all()


def test_features_stay_inside_a_piece_and_away_from_nan():
    x = np.arange(60, dtype=np.float32)[:, None].copy()
    x[33] = np.nan
    got = features(x, [(0, 20), (20, 40), (50, 54)], 5)
    assert np.array_equal(np.flatnonzero(~np.isnan(got[:, 0])), [*range(2, 18), *range(22, 31), *range(36, 38)])
    assert (got[2:18, 3] == 4).all() and (np.isnan(got).any(axis=1) == np.isnan(got).all(axis=1)).all()


def test_many_windows_are_laid_out_in_turn(monkeypatch):
    x = np.random.default_rng(2).normal(size=(500, 1)).astype(np.float32)
    whole = features(x, [(0, 500)], 31)
    monkeypatch.setattr("raycal.sessions.behavior.VALUES", 100)
    assert np.array_equal(features(x, [(0, 500)], 31), whole, equal_nan=True)


@pytest.mark.parametrize("seconds, rate, width", [(0.0, 10.0, 1), (1.0, 10.0, 11), (1.67, 30.0, 51), (0.1, 10.0, 1)])
def test_windows_have_a_middle(seconds, rate, width):
    assert feature_frames(config.Config().replace({"sessions.features": seconds}).sessions, rate) == width
