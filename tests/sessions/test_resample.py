import dataclasses

import numpy as np
import pytest

from raycal import config
from raycal.errors import UserError
from raycal.sessions.resample import conditioned, grid_of, paced, resample, restored
from raycal.sessions.session import Session
from raycal.sessions.stimulus import Stimulus


def session(n_frames=120, rate=30.0, **changes):
    """Two neurons that say which frame it is."""
    t = np.arange(n_frames)
    return Session.build(**{"id": "m", "rate": rate, "traces": np.stack([t, 2.0 * t + 1], axis=1), **changes})


def test_down_is_the_mean_of_the_frames_of_a_bin():
    new = resample(session(121), 10.0)
    middle = 3 * np.arange(40) + 1
    assert new.rate == 10.0 and new.traces.shape == (40, 2)  # one frame is left over
    assert np.array_equal(new.traces, np.stack([middle, 2 * middle + 1], axis=1))
    np.testing.assert_allclose(new.times, middle / 30.0)
    assert new.traces.dtype == np.float32 and new.traces.flags.c_contiguous and not new.traces.flags.writeable


def test_what_is_too_fast_for_the_new_rate_is_gone_and_not_slow():
    t = np.arange(3000) / 30.0
    fast, slow = np.sin(2 * np.pi * 10.5 * t), np.sin(2 * np.pi * 0.5 * t)  # every third sample of fast is 0.5 Hz
    taken, kept = resample(session(3000, traces=np.stack([fast, slow], axis=1)), 10.0).traces.T
    assert fast[::3].std() > 0.7 and taken.std() < 0.05 and kept.std() > 0.7


def test_up_joins_neighbours_by_lines():
    new = resample(session(), 60.0)
    assert new.traces.shape == (239, 2)  # from the first frame to the last
    np.testing.assert_allclose(new.traces[:, 0], np.arange(239) / 2, rtol=1e-6)
    np.testing.assert_allclose(np.diff(new.times), 1 / 60, rtol=1e-6)


@pytest.mark.parametrize("rate", [7.0, 29.0, 31.0, 44.1])
def test_a_line_in_time_stays_that_line_and_comes_back(rate):
    s = session(3000)
    new = resample(s, rate)
    expected = new.times * 30.0
    assert abs(new.traces[:, 0] - expected).max() <= (0.51 if rate < 30 else 1e-3)  # bins hold whole frames
    back = restored(np.stack([new.times, -new.times], axis=1), grid_of(s, rate), s)
    inside = (s.times >= new.times[0]) & (s.times <= new.times[-1])
    assert back.shape == (3000, 2)
    np.testing.assert_allclose(back[inside, 0], s.times[inside], rtol=1e-9, atol=1e-9)
    assert back[0, 0] == new.times[0] and back[-1, 1] == -new.times[-1]  # beyond the last frame its value holds


def test_a_constant_stays_exactly_constant():
    traces = np.tile(np.float32([0.1, 7.3]), (1000, 1))
    for rate in (7.0, 13.0, 44.1):
        assert (resample(session(1000, traces=traces), rate).traces == traces[0]).all()


def test_the_same_rate_is_the_same_session():
    s = session()
    assert resample(s, 30.0) is s and resample(s, 30.0 * (1 + 1e-9)) is s
    assert conditioned(s, config.Sessions()) is s


def test_no_new_frame_is_made_of_two_segments():
    s = session(200, segments=[(0, 61), (61, 64), (70, 71), (100, 200)])
    new = resample(s, 10.0)
    assert new.segments == ((0, 20), (20, 21), (21, 54)) and new.n_frames == 54  # one frame is no bin of three
    np.testing.assert_allclose(new.traces[19:22, 0], [58, 62, 101])
    up = resample(s, 60.0)
    assert [b - a for a, b in up.segments] == [121, 5, 1, 199]
    np.testing.assert_allclose(up.traces[120:122, 0], [60, 61])
    back = restored(up.traces, grid_of(s, 60.0), s)
    np.testing.assert_allclose(back[~np.isnan(back[:, 0]), 0], [*range(64), 70, *range(100, 200)], rtol=1e-6)


def test_where_nothing_was_recorded_a_segment_ends():
    times = np.arange(120) / 30.0
    times[60:] += 2.0
    new = resample(session(times=times), 10.0)
    assert new.segments == ((0, 20), (20, 40)) and new.times[20] - new.times[19] == pytest.approx(2.1)
    late = np.arange(120) / 30.0
    late[60:] += 0.15  # less than GAP new frames: the empty bin is joined by a line
    assert resample(session(times=late), 10.0).segments == ((0, 41),)


def test_jitter_loses_and_doubles_no_frame():
    rng = np.random.default_rng(0)
    times = np.arange(3000) / 30.0 + rng.uniform(-0.4, 0.4, 3000) / 30.0
    s = session(3000, times=times)
    grid = grid_of(s, 10.0)
    mean = np.isnan(grid.weight)
    used = np.concatenate([np.arange(a, b + 1) for a, b in zip(grid.first[mean], grid.last[mean])])
    assert len(used) == len(np.unique(used)) >= 2997 and mean.mean() > 0.99


def test_missing_values_leave_means_and_are_not_joined_over():
    s = session()
    traces, valid = s.traces.copy(), np.ones(s.traces.shape, bool)
    traces[3, 0] = traces[6:9, 0] = np.nan
    valid[0:2, 1] = valid[9:12, 1] = False
    holed = session(traces=traces, valid=valid)
    down = resample(holed, 10.0)
    np.testing.assert_allclose(down.traces[:4, 0], [1, 4.5, np.nan, 10])
    np.testing.assert_allclose(down.traces[:4, 1], [5, 9, 15, np.nan])
    assert down.valid[:, 0].all() and np.array_equal(np.flatnonzero(~down.valid[:, 1]), [3])  # NaN is not declared
    up = resample(holed, 60.0)
    assert np.array_equal(np.flatnonzero(np.isnan(up.traces[:, 0])), [5, 6, 7, *range(11, 18)])
    assert np.array_equal(np.flatnonzero(~up.valid[:, 1]), [0, 1, 2, 3, *range(17, 24)])


def test_behaviour_follows_and_codes_become_fractions():
    behavior = np.stack([np.arange(120) % 2, np.where(np.arange(120) < 6, np.nan, 1.0)], axis=1)
    new = resample(session(behavior=behavior, behavior_names=("code", "late")), 10.0)
    np.testing.assert_allclose(new.behavior[:2, 0], [1 / 3, 2 / 3])
    assert np.isnan(new.behavior[:2, 1]).all() and (new.behavior[2:, 1] == 1).all()


def test_a_frame_is_of_a_part_when_all_its_frames_are():
    t = np.arange(120)
    s = session(masks={"train": t < 61, "test": t >= 61})
    down = resample(s, 10.0)
    assert down.masks["train"].sum() == 20 and down.masks["test"].sum() == 19  # frames 60-62 are of both
    up = resample(s, 60.0)
    assert up.masks["train"].sum() == 121 and not (up.masks["train"] | up.masks["test"])[121]


def test_stimuli_follow_the_time_and_keep_their_values():
    s = session(segments=[(0, 60), (66, 120)], stimuli=[
        Stimulus("gratings", [[0, 9], [9, 12], [30, 30], [57, 63], [60, 66], [66, 69], [117, 120]],
                 {"angle": [0, 45, 90, 135, 180, 225, 270]})])
    new = resample(s, 10.0).stimuli[0]
    assert new.frames.tolist() == [[0, 3], [3, 4], [10, 10], [19, 20], [20, 20], [20, 21], [37, 38]]
    assert np.array_equal(new.columns["angle"], s.stimuli[0].columns["angle"])
    up = resample(s, 60.0).stimuli[0].frames
    assert up[:2].tolist() == [[0, 17], [17, 23]]  # frame 9 begins half a frame before its time, at 17/60 s


def test_times_of_segments_may_go_back():
    times = np.concatenate([np.arange(60), np.arange(60)]) / 30.0
    s = session(times=times, segments=[(0, 60), (60, 120)], stimuli=[Stimulus("a", [[90, 120]], {})])
    new = resample(s, 10.0)
    assert new.segments == ((0, 20), (20, 40)) and new.times[20] == new.times[0]
    assert new.stimuli[0].frames.tolist() == [[30, 40]]


def test_an_unknown_rate_is_asked_for_and_then_used():
    s = session(rate=np.nan)
    with pytest.raises(UserError, match="m states no sampling rate.*sessions.rate=HZ"):
        resample(s, 10.0)
    settings = config.Config().replace({"sessions.resample": 10.0}).sessions
    with pytest.raises(UserError, match="m states no sampling rate.*sessions.rate=HZ"):
        conditioned(s, settings)
    known = conditioned(s, dataclasses.replace(settings, rate=30.0))
    assert np.array_equal(known.traces, resample(session(), 10.0).traces) and known.rate == 10.0
    np.testing.assert_allclose(paced(s, 30.0).times, np.arange(120) / 30.0)
    assert paced(session(), 5.0).rate == 30.0


def test_rates_that_leave_nothing_or_add_nothing_are_refused():
    with pytest.raises(UserError, match="resample=0.5 Hz leaves 2 of 120 frames; at least 16"):
        resample(session(), 0.5)
    with pytest.raises(UserError, match="resample=301 Hz is more than 10 times its own 30 Hz"):
        resample(session(), 301.0)
    milliseconds = session(times=np.arange(120) * 33.3)  # a file that states its times in another unit
    with pytest.raises(UserError, match="leaves 0 of 120 frames"):
        resample(milliseconds, 10.0)


@pytest.mark.parametrize("seed", range(20))
def test_any_session_gives_one_that_stands(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(200, 900))
    edges = np.sort(rng.choice(np.arange(1, n), 6, replace=False))
    steps = rng.gamma(rng.choice([0.5, 20.0]), size=n) + 1e-6
    s = session(n, rate=1.0, times=np.cumsum(steps / steps.mean()), segments=list(zip(edges[::2], edges[1::2])),
                valid=rng.random((n, 2)) < 0.8, behavior=np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n)),
                behavior_names=("b",), stimuli=[Stimulus("s", np.sort(rng.integers(0, n + 1, (9, 2))), {})])
    for rate in rng.uniform(0.5, 3, 3):
        try:
            new = resample(s, float(rate))
        except UserError as e:
            assert "frames; at least 16" in str(e)
            continue
        grid = grid_of(s, float(rate))
        for (a, b), (c, d) in grid.runs:
            assert any(start <= a < b <= stop for start, stop in s.segments)
            assert (grid.first[c:d] >= a).all() and (grid.last[c:d] < b).all()
        assert np.isfinite(new.traces[new.valid]).all() and new.segments[-1][1] == new.n_frames
        seen = s.traces[s.valid[:, 0], 0]
        assert new.traces[new.valid[:, 0], 0].min() >= seen.min() - 1e-3
