from __future__ import annotations

import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions.visual import DIRECTIONS, FREQUENCIES, MOVIES, schedule, simulate_visual


def _held_out_r2(features, target, block=300):
    """Linear R2 (ridge, hardly any) on every second block, fitted on the others."""
    features = np.c_[np.ones(len(features)), features - features.mean(0)]
    test = np.arange(len(features)) // block % 2 == 1
    fit = features[~test]
    weights = np.linalg.solve(fit.T @ fit + 1e-6 * len(fit) * np.eye(fit.shape[1]), fit.T @ target[~test])
    return 1 - np.mean((target[test] - features[test] @ weights) ** 2, 0) / target[test].var(0)


def _trials(values, stimulus):
    return np.array([values[start:stop].mean(0) for start, stop in stimulus.frames])


def _decoded(values, gratings, angles):
    """Share of the second half's gratings whose angle a linear readout of trial means, fitted on the first, finds."""
    means, shown = _trials(values, gratings), gratings.columns["blank_sweep"] == 0
    means, truth = means[shown], np.deg2rad(gratings.columns["orientation"][shown])
    target = np.stack([f(k * truth) for k in (1, 2) for f in (np.cos, np.sin)], axis=1)
    features, half = np.c_[np.ones(len(means)), (means - means.mean(0)) / means.std(0)], len(means) // 2
    fit = features[:half]
    weights = np.linalg.solve(fit.T @ fit + np.eye(fit.shape[1]), fit.T @ target[:half])
    patterns = np.stack([f(k * np.deg2rad(angles)) for k in (1, 2) for f in (np.cos, np.sin)], axis=1)
    distance = ((features[half:] @ weights)[:, None] - patterns) ** 2
    return np.mean(np.abs(np.array(angles)[distance.sum(-1).argmin(1)] - np.rad2deg(truth[half:])) < 1)


@pytest.fixture(scope="module")
def world():
    return simulate_visual(n_neurons=60, n_frames=40_000, rate=20.0, seed=2)


def test_shapes_units_names_and_small_numbers(world):
    s = world.session
    assert s.traces.shape == world.rates.shape == world.spikes.shape == world.clean.shape == (40_000, 60)
    assert world.latents.shape == (40_000, 6) and world.behavior_clean.shape == (40_000, 2)
    assert s.behavior_names == ("running", "pupil") and s.behavior_units == ("cm/s", "px") and s.unit == "dF/F"
    assert world.rates.dtype == world.clean.dtype == np.float32 and world.spikes.dtype == np.uint16
    assert [k.name for k in s.stimuli] == ["drifting_gratings", "natural_movie_one", "natural_movie_three",
                                           "spontaneous"]
    assert s.rate == 20.0 and s.metadata["session type"] == "three_session_A" and s.id == "simulated-visual-2"


def test_the_same_seed_gives_the_same_numbers_another_seed_others():
    one, same, other = (simulate_visual(5, 700, rate=10.0, seed=seed).session.fingerprint for seed in (1, 1, 2))
    assert one == same != other


def test_a_readout_of_the_true_log_rates_reaches_the_ceiling_and_does_not_pass_it(world):
    reached = _held_out_r2(np.log(world.rates.astype(float)), world.session.behavior.astype(float))
    ceiling = np.array([world.ceiling["running"], world.ceiling["pupil"]])
    np.testing.assert_allclose(reached, ceiling, atol=0.01)
    assert (reached < ceiling + 0.002).all() and 0.95 < ceiling[0] < 0.99 and 0.9 < ceiling[1] < 0.93


def test_the_ceiling_is_the_share_without_sensor_noise_where_neurons_know_every_source(world):
    noise = (world.session.behavior - world.behavior_clean).var(0)
    np.testing.assert_allclose(list(world.ceiling.values()), 1 - noise / world.session.behavior.var(0), atol=1e-3)


def test_private_drives_and_few_neurons_lower_the_ceiling_to_what_is_reached():
    s = simulate_visual(n_neurons=10, n_frames=100_000, rate=10.0, coupling=0.5, seed=3)
    reached = _held_out_r2(np.log(s.rates.astype(float)), s.session.behavior.astype(float))
    np.testing.assert_allclose(reached, list(s.ceiling.values()), atol=0.03)
    assert max(s.ceiling.values()) < 0.8
    assert set(simulate_visual(5, 700, rate=10.0, coupling=0.0).ceiling.values()) == {0.0}


def test_calcium_tells_most_but_not_all_of_it(world):
    reached = _held_out_r2(world.session.traces.astype(float), world.session.behavior.astype(float))
    assert (reached > 0.4).all() and (reached < np.array(list(world.ceiling.values())) - 0.05).all()


def test_the_mouse_runs_in_bouts_and_rests_mostly(world):
    running, seen = world.behavior_clean[:, 0] > 0, world.session.behavior[:, 0]
    assert 0.2 < running.mean() < 0.4 and np.median(world.behavior_clean[:, 0]) == 0
    edges = np.flatnonzero(np.diff(running.astype(int)))
    bouts = np.diff(edges)[running[edges[:-1] + 1]] / 20.0  # s
    assert len(bouts) > 30 and 1 < np.median(bouts) < 30 and 5 < seen[running].mean() < 20 and seen.max() < 100
    assert seen.min() < 0  # the wheel slips back: clipping would make the noise depend on the speed


def test_pupil_follows_running_and_arousal(world):
    running, pupil = world.session.behavior.T
    assert 0.5 < np.corrcoef(running, pupil)[0, 1] < 0.9 and pupil.min() > 0
    clean = world.behavior_clean[:, 1]
    assert np.corrcoef(world.latents[:, -1], clean)[0, 1] > 0.7
    assert (pupil - clean).std() == pytest.approx(0.06 * 1500, rel=0.02)
    later = [np.corrcoef(running[:-200], np.roll(pupil, -lag)[:-200])[0, 1] for lag in (-10, 0, 10)]
    assert later[2] > later[1] > later[0]


def test_latents_are_forgotten_within_the_gap_of_a_split(world):
    lag = 160  # 8 s
    assert np.abs((world.latents[lag:] * world.latents[:-lag]).mean(0)).max() < 0.2


def test_direction_of_gratings_can_be_decoded_from_rates_and_less_well_from_calcium(world):
    gratings = world.session.stimuli[0]
    from_rates = _decoded(np.log(world.rates), gratings, DIRECTIONS)
    from_calcium = _decoded(world.session.traces, gratings, DIRECTIONS)
    assert from_rates > 0.97 and 0.3 < from_calcium < from_rates  # chance is 1/8


def test_neurons_prefer_directions_of_their_own(world):
    gratings = world.session.stimuli[0]
    means, angle = _trials(world.rates, gratings), gratings.columns["orientation"]
    curves = np.array([means[angle == direction].mean(0) for direction in DIRECTIONS])
    assert len(set(curves.argmax(0))) == len(DIRECTIONS) and np.median(curves.max(0) / curves.min(0)) > 2


@pytest.mark.parametrize("name", MOVIES)
def test_neurons_see_the_same_in_every_showing_of_a_film(world, name):
    film = next(k for k in world.session.stimuli if k.name == name)
    length = int(film.columns["frame"].max()) + 1
    shown = np.array([np.log(world.rates[start:stop]).mean(0) for start, stop in film.frames if stop > start])
    frame = film.columns["frame"][film.frames[:, 1] > film.frames[:, 0]]
    half = np.arange(len(shown)) < len(shown) // 2
    one, other = (np.array([shown[part & (frame // 10 == k)].mean(0) for k in range(length // 10)])
                  for part in (half, ~half))
    assert np.median([np.corrcoef(a, b)[0, 1] for a, b in zip(one.T, other.T)]) > 0.5


def test_a_whole_session_is_scheduled_like_session_a():
    gratings, one, three, grey = schedule(np.random.default_rng(0), 115_459, 30.07)
    assert len(gratings.frames) == 600 and abs(np.diff(gratings.frames, axis=1) - 60.14).max() < 1
    pairs = np.stack([gratings.columns["orientation"], gratings.columns["temporal_frequency"]], axis=1)
    shown = pairs[gratings.columns["blank_sweep"] == 0]
    combinations, counts = np.unique(shown, axis=0, return_counts=True)
    assert len(combinations) == len(DIRECTIONS) * len(FREQUENCIES) and counts.max() - counts.min() <= 1
    blank = gratings.columns["blank_sweep"] == 1
    assert 25 <= blank.sum() <= 30 and np.isnan(pairs[blank]).all()
    for film, length, showings in ((one, 900, 10), (three, 3600, 10)):
        values, counts = np.unique(film.columns["frame"], return_counts=True)
        assert len(values) == length and set(counts) == {showings}
    assert 280 < np.diff(grey.frames)[0, 0] / 30.07 < 320


@pytest.mark.parametrize("n_frames, rate", [(600, 10.0), (1805, 30.07), (5000, 30.0), (9000, 7.0)])
def test_no_two_stimuli_are_shown_at_once_at_any_size(n_frames, rate):
    stimuli = schedule(np.random.default_rng(0), n_frames, rate)
    taken = np.zeros(n_frames, int)
    for stimulus in stimuli:
        assert len(stimulus.frames)
        for start, stop in stimulus.frames:
            taken[start:stop] += 1
    assert taken.max() == 1 and taken[0] == taken[-1] == 0
    assert simulate_visual(3, n_frames, rate=rate).session.stimuli[0].frames.shape == stimuli[0].frames.shape


@pytest.mark.parametrize("name, value, wanted", [
    ("n_neurons", 1, "at least 2"), ("n_frames", 1804, "at least 1805, 60 s"), ("n_latents", 1, "at least 2"),
    ("rate", 0.0, "above 0"), ("coupling", 1.1, "from 0 to 1"), ("noise", -1.0, "0 or more")])
def test_numbers_out_of_range_are_named(name, value, wanted):
    with pytest.raises(UserError, match=f"simulate_visual: {name}={value}: must be .*{wanted}"):
        simulate_visual(**{name: value})
