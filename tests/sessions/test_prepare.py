import pickle

import numpy as np
import pytest

from raycal import config
from raycal.errors import UserError
from raycal.sessions.agreement import sketch
from raycal.sessions.prepare import prepare
from raycal.sessions.session import Session
from raycal.sessions.smoothing import smoothed
from raycal.sessions.split import split

SENTINEL = np.float32(31337.0)


def settings(**changes):
    return config.Config().replace({f"sessions.{k}": v for k, v in {"gap": 2.0, **changes}.items()}).sessions


def session(n_frames=1200, n_neurons=5, seed=0, id="mouse", names=("speed", "pupil"), **changes):
    rng = np.random.default_rng(seed)
    values = {"traces": rng.gamma(2.0, 1.5, (n_frames, n_neurons)),
              "behavior": rng.normal(3, 2, (n_frames, len(names))),
              **{k: v for k, v in changes.items() if k in ("traces", "behavior")}}
    rest = {k: v for k, v in changes.items() if k not in values}
    return Session.build(**{"id": id, "rate": 10.0, "behavior_names": names, **values, **rest})


def frames(cut, *parts):
    return np.concatenate([np.arange(a, b) for a, b in sorted(r for p in parts for r in cut.pieces[p])])


def arrays(value):
    """Yield every array inside a dataset."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict):
        yield from (a for v in value.values() for a in arrays(v))
    elif isinstance(value, tuple):
        yield from (a for v in value for a in arrays(v))
    elif hasattr(value, "__dataclass_fields__"):
        yield from (a for name in value.__dataclass_fields__ for a in arrays(getattr(value, name)))


def quiet(_):
    pass


def test_no_test_frame_and_no_gap_frame_is_carried():
    plain = session()
    cut = split(plain, settings(), 32)
    traces, behavior = plain.traces.copy(), plain.behavior.copy()
    hidden = np.setdiff1d(np.arange(1200), frames(cut, "train", "validation"))
    traces[hidden], behavior[hidden] = SENTINEL, SENTINEL
    dataset = prepare([session(traces=traces, behavior=behavior)], settings(), 32)
    found = list(arrays(dataset))
    assert len(found) >= 12 and all(np.abs(a).max() < 100 for a in found if a.dtype != bool)
    assert SENTINEL.tobytes() not in pickle.dumps(dataset)
    opened = prepare([session(traces=traces, behavior=behavior)], settings(), 32, parts=("test",))
    assert (opened.recordings[0].traces == SENTINEL).all()  # the sentinel was where it should be


def test_rows_are_the_wanted_frames_in_time_and_pieces_point_at_them():
    plain = session()
    cut, recording = split(plain, settings(), 32), prepare([plain], settings(), 32).recordings[0]
    assert np.array_equal(recording.traces, plain.traces[frames(cut, "train", "validation")])
    assert recording.traces.dtype == np.float32 and recording.traces.flags.c_contiguous
    for part in ("train", "validation"):
        for (a, b), (first, last) in zip(cut.pieces[part], recording.pieces[part]):
            assert np.array_equal(recording.traces[first:last], plain.traces[a:b])
            assert np.array_equal(recording.behavior[first:last], plain.behavior[a:b])


def test_scalers_are_those_of_the_train_frames():
    plain = session()
    cut, recording = split(plain, settings(), 32), prepare([plain], settings(), 32).recordings[0]
    train = plain.traces[frames(cut, "train")].astype(np.float64)
    least, low, median, high, most = np.percentile(train, (0, 5, 50, 95, 100), axis=0)
    expected = {"zscore": (train.mean(0), train.std(0)), "robust": (median, (high - low) / 3.29),
                "minmax": (least, most - least), "none": (np.zeros(5), np.ones(5))}
    assert recording.scalers.keys() == expected.keys()
    for name, (center, spread) in expected.items():
        np.testing.assert_allclose(recording.scalers[name][0], center, rtol=1e-6)
        np.testing.assert_allclose(recording.scalers[name][1], spread, rtol=1e-6)
        assert recording.scalers[name][0].dtype == recording.scalers[name][1].dtype == np.float32
    behavior = plain.behavior[frames(cut, "train")].astype(np.float64)
    np.testing.assert_allclose(recording.behavior_center, behavior.mean(0), rtol=1e-6)
    np.testing.assert_allclose(recording.behavior_spread, behavior.std(0), rtol=1e-6)


def test_scalers_do_not_move_when_other_parts_do():
    plain = session()
    cut = split(plain, settings(), 32)
    traces, behavior = plain.traces.copy(), plain.behavior.copy()
    other = np.setdiff1d(np.arange(1200), frames(cut, "train"))
    traces[other], behavior[other] = traces[other] * 50 + 7, behavior[other] - 90
    a, b = (prepare([s], settings(), 32).recordings[0] for s in (plain, session(traces=traces, behavior=behavior)))
    for name in a.scalers:
        assert all(np.array_equal(x, y) for x, y in zip(a.scalers[name], b.scalers[name]))
    assert np.array_equal(a.behavior_center, b.behavior_center)
    assert np.array_equal(a.behavior_spread, b.behavior_spread)


def test_robust_is_the_sd_of_a_gaussian_and_heeds_no_outlier():
    rng = np.random.default_rng(0)
    traces = rng.normal(4, 3, (30_000, 2))
    traces[::50, 1] += 1000
    plain = session(traces=traces, behavior=rng.normal(size=(30_000, 2)))
    scalers = prepare([plain], settings(), 32).recordings[0].scalers
    np.testing.assert_allclose(scalers["robust"][0], 4.0, atol=0.15)
    np.testing.assert_allclose(scalers["robust"][1], 3.0, rtol=0.05)
    assert scalers["zscore"][1][1] > 100


def with_nan(place):
    traces = session().traces.copy()
    traces[place] = np.nan
    return session(traces=traces)


def test_nan_is_refused_by_name_and_place():
    with pytest.raises(UserError, match=r"session mouse: neuron 3 is NaN, first at frame 7 \(1 of 5 neurons.*nan=drop"):
        prepare([with_nan((slice(7, 20), 3))], settings(), 32)


def test_nan_neurons_are_dropped_and_said():
    said = []
    recording = prepare([with_nan((9, 3))], settings(nan="drop"), 32, log=said.append).recordings[0]
    assert recording.traces.shape[1] == 4 and recording.valid is None
    assert np.array_equal(recording.traces[:, 3], prepare([session()], settings(), 32).recordings[0].traces[:, 4])
    assert any("1 of 5 neurons with NaN left out" in s for s in said)


def test_nan_frames_are_masked_and_leave_the_scalers():
    plain = with_nan((slice(0, 50), 3))
    cut, recording = split(plain, settings(), 32), prepare([plain], settings(nan="mask"), 32).recordings[0]
    assert not recording.valid[:50, 3].any() and recording.valid[50:].all() and recording.valid[:, :3].all()
    assert (recording.traces[:50, 3] == 0).all() and np.isfinite(recording.traces).all()
    column = plain.traces[frames(cut, "train"), 3].astype(np.float64)
    np.testing.assert_allclose(recording.scalers["zscore"][0][3], np.nanmean(column), rtol=1e-6)
    np.testing.assert_allclose(recording.scalers["zscore"][1][3], np.nanstd(column), rtol=1e-6)


def test_nan_in_a_gap_troubles_nobody():
    gap = split(session(), settings(), 32).pieces["train"][0][1]
    dataset = prepare([with_nan((gap, 3))], settings(), 32)
    assert dataset.n_neurons == (5,) and dataset.recordings[0].valid is None


def test_frames_declared_not_measured_are_masked_without_being_asked():
    valid = np.ones((1200, 5), bool)
    valid[:30, 1] = False
    recording = prepare([session(valid=valid)], settings(), 32).recordings[0]
    assert not recording.valid[:30, 1].any() and (recording.traces[:30, 1] == 0).all()


def test_neurons_constant_over_train_are_dropped_and_said():
    plain, said = session(), []
    cut, traces = split(plain, settings(), 32), plain.traces.copy()
    traces[frames(cut, "train"), 2] = 0.5  # it still moves in validation and test
    recording = prepare([session(traces=traces)], settings(), 32, log=said.append).recordings[0]
    assert recording.traces.shape[1] == 4 and len(recording.neurons) == 4
    assert all(len(c) == len(s) == 4 for c, s in recording.scalers.values())
    assert any("1 of 5 neurons constant or not measured over the train part left out: 2" in s for s in said)


def test_too_few_neurons_left_is_refused():
    with pytest.raises(UserError, match="mouse: 0 of 5 neurons left"):
        prepare([session(traces=np.ones((1200, 5)))], settings(), 32, log=quiet)


def test_a_mostly_silent_neuron_has_robust_spread_one():
    traces = session().traces.copy()
    traces[:, 0] = np.arange(1200) % 40 == 0
    assert prepare([session(traces=traces)], settings(), 32).recordings[0].scalers["robust"][1][0] == 1.0


def test_behaviours_are_the_common_ones_and_the_rest_is_said():
    said = []
    dataset = prepare([session(), session(seed=1, id="b", names=("pupil", "licks"))], settings(), 32, log=said.append)
    assert dataset.behavior_names == ("pupil",) and dataset.recordings[1].behavior.shape[1] == 1
    assert any("left out: licks, speed" in s for s in said)


def test_wanted_behaviours_come_in_the_wanted_order_or_are_refused():
    plain = session()
    dataset = prepare([plain], settings(behavior=["pupil", "speed"]), 32)
    assert dataset.behavior_names == ("pupil", "speed")
    assert np.array_equal(dataset.recordings[0].behavior[:50], plain.behavior[:50, ::-1])
    with pytest.raises(UserError, match=r"mouse has no behaviour 'sped'; did you mean 'speed'\?; it has speed, pupil"):
        prepare([plain], settings(behavior=["sped"]), 32)


def test_nan_in_behaviour_stays_and_leaves_its_scaler():
    behavior = session().behavior.copy()
    behavior[:100, 0], behavior[:, 1] = np.nan, np.nan
    plain = session(behavior=behavior)
    cut, recording = split(plain, settings(), 32), prepare([plain], settings(), 32).recordings[0]
    assert np.isnan(recording.behavior[:100, 0]).all() and np.isnan(recording.behavior[:, 1]).all()
    observed = np.nanmean(behavior[frames(cut, "train"), 0], dtype=float)
    np.testing.assert_allclose(recording.behavior_center[0], observed, 1e-6)
    assert (recording.behavior_center[1], recording.behavior_spread[1]) == (0.0, 1.0)


def test_first_only_keeps_the_first_and_says_so():
    said = []
    dataset = prepare([session(), session(seed=1, id="b")], settings(mode="first_only"), 32, log=said.append)
    assert [r.id for r in dataset.recordings] == ["mouse"] and "only mouse is used, 1 left out" in said[0]


def test_a_window_that_does_not_fit_is_refused_with_the_one_that_does():
    with pytest.raises(UserError, match=r"window of 400 frames does not fit.* which holds (\d+)") as e:
        prepare([session()], settings(), 400)
    fits = int(str(e.value).split("holds ")[1].split(";")[0])
    assert prepare([session()], settings(), fits).window == fits
    with pytest.raises(UserError):
        prepare([session()], settings(), fits + 1)


def test_no_session_is_refused():
    with pytest.raises(UserError, match="no session"):
        prepare([], settings(), 32)


def test_fingerprint_tells_data_and_split_and_not_the_parts_carried():
    same = prepare([session()], settings(), 32).fingerprint
    assert prepare([session()], settings(normalize="robust"), 32).fingerprint == same
    assert prepare([session()], settings(), 32, parts=("train", "validation", "test")).fingerprint == same
    assert prepare([session(seed=1)], settings(), 32).fingerprint != same
    assert prepare([session()], settings(rounds=2), 32).fingerprint != same
    assert prepare([session()], settings(), 32, context=30).fingerprint != same


def hidden_from(chosen, parts, per_new=1):
    """Return the frames of the plain session that none of the parts holds, at `per_new` frames a new one."""
    cut = split(sketch(session(), chosen), chosen, 32)
    held = (frames(cut, *parts)[:, None] * per_new + np.arange(per_new)).ravel()
    return np.setdiff1d(np.arange(1200), held)


ALL = {"smooth": 0.5, "smooth_behavior": 0.5, "features": 1.0, "select": "variance_behavior", "neurons": 3}


@pytest.mark.parametrize("changes, per_new", [(ALL, 1), ({**ALL, "resample": 5.0}, 2)])
def test_nothing_of_test_and_gap_frames_reaches_the_others(changes, per_new):
    chosen = settings(**changes)
    traces, behavior = session().traces.copy(), session().behavior.copy()
    hidden = hidden_from(chosen, ("train", "validation"), per_new)
    traces[hidden], behavior[hidden] = SENTINEL, SENTINEL
    a, b = (prepare([s], chosen, 32, log=quiet) for s in (session(), session(traces=traces, behavior=behavior)))
    assert a.recordings[0].kept == b.recordings[0].kept and len(a.recordings[0].kept) == 3
    found = list(zip(arrays(a), arrays(b)))
    assert len(found) >= 12 and all(np.array_equal(x, y, equal_nan=x.dtype != bool) for x, y in found)


@pytest.mark.parametrize("select", ["activity", "variance", "behavior", "variance_behavior"])
def test_neurons_are_chosen_by_the_train_part(select):
    """Validation, test and gap frames may say anything: the same neurons are kept."""
    chosen = settings(select=select, neurons=2, resample=5.0)
    traces = session().traces.copy()
    other = hidden_from(chosen, ("train",), 2)
    traces[other] = traces[other] * [500, 1, 500, 1, 500] + session().behavior[other, :1] * [900, 0, 0, 900, 0]
    a, b = (prepare([session(traces=t)], chosen, 32, log=quiet).recordings[0] for t in (session().traces, traces))
    assert a.kept == b.kept and len(a.kept) == 2


def test_chosen_neurons_are_carried_with_their_scalers_and_said():
    traces = session().traces * np.float32([1, 9, 3, 1, 7])
    traces[:, 3] = 2.0  # constant: not among those to choose from
    said = []
    plain = session(traces=traces, neurons=list("abcde"))
    recording = prepare([plain], settings(select="variance", neurons=2), 32, log=said.append).recordings[0]
    assert recording.kept == (1, 4) and recording.neurons == ("b", "e") and recording.n_recorded == 5
    everyone = prepare([plain], settings(), 32, log=quiet).recordings[0]
    assert np.array_equal(recording.traces, everyone.traces[:, [1, 3]])
    for name, scaler in recording.scalers.items():
        assert all(np.array_equal(x, y[[1, 3]]) for x, y in zip(scaler, everyone.scalers[name]))
    assert "session mouse: 2 of 4 neurons kept by variance over the train part, 2 left out" in said


def test_smoothing_stays_inside_a_piece():
    chosen = settings(smooth=0.5, smooth_behavior=0.3)
    plain = session()
    cut, recording = split(plain, chosen, 32), prepare([plain], chosen, 32).recordings[0]
    (a, b), (first, last) = cut.pieces["validation"][1], recording.pieces["validation"][1]
    alone = smoothed(plain.traces[a:b], None, [(0, b - a)], 5.0)
    assert np.array_equal(recording.traces[first:last], alone)
    alone = smoothed(plain.behavior[a:b], np.zeros((b - a, 2), bool), [(0, b - a)], 3.0)
    assert np.array_equal(recording.behavior[first:last], alone)
    train = np.concatenate([recording.traces[a:b] for a, b in recording.pieces["train"]]).astype(float)
    np.testing.assert_allclose(recording.scalers["zscore"][1], train.std(0), rtol=1e-6)  # of what the model sees


def test_smoothing_leaves_masked_frames_masked():
    recording = prepare([with_nan((slice(10, 50), 3))], settings(nan="mask", smooth=0.5), 32).recordings[0]
    assert not recording.valid[10:50, 3].any() and recording.valid.sum() == recording.valid.size - 40
    assert (recording.traces[10:50, 3] == 0).all() and np.isfinite(recording.traces).all()
    whole = prepare([session()], settings(smooth=0.5), 32).recordings[0]
    np.testing.assert_array_equal(recording.traces[80:], whole.traces[80:])


def test_resampled_recordings_have_the_new_rate_and_remember_the_old():
    recording = prepare([session(rate=np.nan)], settings(rate=10.0, resample=5.0), 32).recordings[0]
    assert (recording.rate, recording.recorded_rate, recording.resample, recording.gap) == (5.0, 10.0, 5.0, 10)
    assert recording.fingerprint == session(rate=np.nan).fingerprint  # it is told by what was recorded
    plain = session()
    np.testing.assert_allclose(recording.traces[:9], plain.traces[:18].reshape(9, 2, 5).mean(1), rtol=1e-6)


def test_behaviours_that_validation_shows_changing_are_told():
    behavior = session().behavior.copy()
    validation = frames(split(session(), settings(), 32), "validation")
    behavior[validation, 1] = 5.0
    assert prepare([session(behavior=behavior)], settings(), 32).recordings[0].varying == ("speed",)
    behavior[validation, 0] = np.nan
    assert prepare([session(behavior=behavior)], settings(), 32).recordings[0].varying == ()
    opened = prepare([session()], settings(features=1.0, behavior=["pupil"]), 32, parts=("test",)).recordings[0]
    assert opened.varying == ("pupil_mean", "pupil_std", "pupil_max", "pupil_change")


def test_behaviours_that_train_shows_still_are_told():
    behavior = session().behavior.copy()
    train = frames(split(session(), settings(), 32), "train")
    assert prepare([session(behavior=behavior)], settings(), 32).recordings[0].still == ()
    behavior[train, 1] = 5.0
    assert prepare([session(behavior=behavior)], settings(), 32).recordings[0].still == ("pupil",)
    behavior[train, 0] = np.nan
    assert prepare([session(behavior=behavior)], settings(), 32).recordings[0].still == ("speed", "pupil")


@pytest.mark.parametrize("part", ["validation", "test"])
def test_masks_that_leave_nothing_of_a_part_are_refused(part):
    valid = np.ones(session().traces.shape, bool)
    valid[frames(split(session(), settings(), 32), part)] = False
    with pytest.raises(UserError, match=f"its masks leave no value of its {part} part .*another sessions.rounds"):
        prepare([session(valid=valid)], settings(), 32)
    valid[:, 1] = True  # one neuron is enough
    prepare([session(valid=valid)], settings(), 32)


def test_features_replace_the_behaviours_and_are_scaled_by_train():
    dataset = prepare([session()], settings(features=1.0, behavior=["speed"]), 32)
    recording = dataset.recordings[0]
    assert recording.behavior.shape[1] == 4 == len(dataset.behavior_names)
    for first, last in (run for runs in recording.pieces.values() for run in runs):
        inside = np.isfinite(recording.behavior[first:last, 0])
        assert not inside[:5].any() and not inside[-5:].any() and inside[5:-5].all()
    train = np.concatenate([recording.behavior[a:b] for a, b in recording.pieces["train"]]).astype(float)
    np.testing.assert_allclose(recording.behavior_spread, np.nanstd(train, axis=0), rtol=1e-5)


def test_sizes_are_told():
    dataset = prepare([session(), session(n_neurons=7, id="b", seed=2)], settings(), 32)
    assert dataset.n_neurons == (5, 7) and dataset.mode == "separate"
    assert dataset.n_bytes == sum(r.traces.nbytes + r.behavior.nbytes for r in dataset.recordings)
    assert dataset.recordings[0].gap == 20 and dataset.recordings[0].rate == 10.0
