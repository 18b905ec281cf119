from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from raycal.config import Config
from raycal.errors import UserError
from raycal.metrics.blocks import standardised
from raycal.metrics.real_windows import HELD_OUT, RealWindows, baselines, pooled, real_windows
from raycal.sessions.prepare import prepare
from raycal.sessions.session import Session

L = 16


def made(n_neurons=6, n_frames=2400, events=0.0, seed=0, **changed):
    """A session of white frames, correlated over neurons, with events that no Gaussian has."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n_frames, 3)) @ rng.standard_normal((3, n_neurons)) + rng.standard_normal(n_neurons)
    x += events * (rng.random((n_frames, n_neurons)) < 0.02) * 8.0
    return Session.build(id=f"s{seed}", traces=x + 0.3 * rng.standard_normal(x.shape), rate=5.0,
                         behavior=x[:, :1], behavior_names=["first"], **changed)


@pytest.fixture(scope="module")
def dataset():
    return prepare([made(), made(4, seed=1)], Config().sessions, L, log=lambda _: None)


@pytest.fixture(scope="module")
def real(dataset):
    return real_windows(dataset, L)


def test_windows_are_cut_from_their_part_in_train_sd_units(real, dataset):
    recording = dataset.recordings[0]
    x, pieces = standardised(recording, "validation")
    first = pieces[0][0]
    np.testing.assert_array_equal(real[0].held_out[0], x[first:first + L].T)
    assert real[0].held_out.shape == (HELD_OUT, 6, L) and real[0].n == HELD_OUT
    assert real[0].train.mean() == pytest.approx(0.0, abs=0.02) and real[0].train.std() == pytest.approx(1.0, abs=0.02)
    row = recording.pieces["validation"][0][0]
    expected = (recording.behavior[row:row + L, 0] - recording.behavior_center) / recording.behavior_spread
    np.testing.assert_allclose(real[0].behavior[0, 0], expected, rtol=1e-6)


def test_neighbours_that_share_frames_are_counted(real, dataset):
    offsets = sum(b - a - L + 1 for a, b in dataset.recordings[0].pieces["validation"])
    assert real[0].overlap == -(-L * HELD_OUT // offsets)


def test_the_same_windows_serve_every_epoch(real, dataset):
    assert real_windows(dataset, L)[1] is real_windows(dataset, L)[1]
    assert real_windows(dataset, 8)[0].held_out.shape[2] == 8


def test_train_windows_score_about_1_and_are_told_to_be_copies(real):
    figures = real[0].figures(real[0].train[::7][:HELD_OUT])
    assert 0.6 < figures["generation"] < 1.5 and figures["copied"] == 1.0
    spoilt = real[0].figures(np.random.default_rng(0).standard_normal((HELD_OUT, 6, L)))
    assert spoilt["generation"] > 2.0 and spoilt["copied"] == 0.0 and spoilt["c2st"] > 0.9


def test_a_gaussian_generates_gaussian_data_and_no_events():
    plain, eventful = (prepare([made(events=e)], Config().sessions, L, log=lambda _: None) for e in (0.0, 1.0))
    assert baselines(plain, L)["Gaussian"]["generation"] < 1.3
    assert baselines(plain, L)["autoregression"]["generation"] < 1.5
    assert baselines(eventful, L)["Gaussian"]["generation/events"] > 2.0


def test_windows_that_are_not_finite_have_no_score(real):
    assert real[0].figures(np.full((HELD_OUT, 6, L), np.nan))["generation"] == np.inf


def test_what_was_not_measured_is_not_compared():
    valid = np.ones((2400, 6), bool)
    valid[:, 2] = np.random.default_rng(0).random(2400) < 0.5
    recording = prepare([made(valid=valid)], Config().replace({"sessions.nan": "mask"}).sessions, L,
                        log=lambda _: None).recordings[0]
    real = RealWindows.of(recording, "validation", L)
    windows = np.random.default_rng(0).standard_normal(real.held_out.shape)
    spoilt = np.where(real.measured, windows, 50.0)
    assert real.figures(spoilt) == real.figures(windows)


def test_a_part_of_one_window_is_refused(dataset):
    recording = dataset.recordings[0]
    short = dataclasses.replace(recording, pieces={**recording.pieces, "validation": ((1500, 1500 + L),)})
    with pytest.raises(UserError, match="session s0: validation holds 1 windows of 16 frames.*shorter windows.length"):
        RealWindows.of(short, "validation", L)


def test_pooling_leaves_out_what_is_unknown_and_keeps_the_most_copied():
    each = [{"generation": 1.0, "copied": 0.1, "c2st": float("nan")}, {"generation": 3.0, "copied": 0.0, "c2st": 0.75}]
    assert pooled(each) == {"generation": 2.0, "copied": 0.1, "c2st": 0.75}
