from __future__ import annotations

import dataclasses
import math
import pickle

import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions.session import Session


def _traces(n_frames=40, n_neurons=3):
    return np.random.default_rng(0).normal(size=(n_frames, n_neurons)).astype(np.float32)


def _session(**changes):
    parts = dict(id="a", traces=_traces(), rate=10.0, behavior=np.arange(80.0).reshape(40, 2),
                 behavior_names=("speed", "angle"), behavior_units=("cm/s", "rad"))
    return Session.build(**{**parts, **changes})


def test_build_fills_in_what_a_recording_may_leave_out():
    s = Session.build(id="a", traces=_traces().astype(np.float64).tolist(), rate=4)
    assert s.traces.dtype == np.float32 and s.traces.flags.c_contiguous and s.times.dtype == np.float64
    assert s.segments == ((0, 40),) and s.neurons == ("", "", "") and s.behavior.shape == (40, 0) and s.valid is None
    assert s.times[-1] == 39 / 4 and s.duration == 10.0 and dict(s.masks) == {}


def test_rate_is_never_invented():
    s = Session.build(id="a", traces=_traces(), times=np.arange(40) * 0.1)
    assert math.isnan(s.rate) and math.isnan(s.duration)
    assert Session.build(id="a", traces=_traces()).times.tolist() == list(range(40))


def test_duration_counts_segments_only():
    assert _session(segments=[(0, 10), (20, 40)]).duration == 3.0


def test_one_dimensional_behavior_is_one_column():
    s = _session(behavior=np.arange(40), behavior_names=["speed"], behavior_units=None)
    assert s.behavior.shape == (40, 1) and s.behavior_units == ("",)


def test_transposed_traces_become_contiguous():
    s = _session(traces=_traces(3, 40).T)
    assert s.traces.shape == (40, 3) and s.traces.flags.c_contiguous


def test_arrays_are_read_only_and_the_callers_stay_writable():
    traces = _traces()
    s = _session(traces=traces)
    for array in (s.traces, s.times, s.behavior):
        with pytest.raises(ValueError):
            array[0] = 1
    traces[0, 0] = 5.0


BAD = {
    "one_neuron": (dict(traces=_traces(40, 1)), "40 frames x 1 neurons"),
    "too_few_frames": (dict(traces=_traces(15), behavior=None, behavior_names=(), behavior_units=None), "15 frames"),
    "flat_traces": (dict(traces=np.zeros(40)), r"shape \(40,\)"),
    "words": (dict(traces=[["a", "b"]] * 40), "real numbers"),
    "complex": (dict(traces=_traces() * 1j), "complex"),
    "infinite": (dict(traces=np.where(np.eye(40, 3), np.inf, 0.0)), r"infinite at index \(0, 0\)"),
    "float32_overflow": (dict(traces=np.full((40, 3), 1e300)), "infinite"),
    "infinite_behavior": (dict(behavior=np.full((40, 2), -np.inf)), "behavior is infinite"),
    "negative_rate": (dict(rate=-1.0), "rate=-1 Hz"),
    "zero_rate": (dict(rate=0), "rate=0 Hz"),
    "infinite_rate": (dict(rate=np.inf), "rate=inf Hz"),
    "short_times": (dict(times=np.arange(39)), "39 time stamps for 40 frames"),
    "nan_time": (dict(times=np.where(np.arange(40) == 7, np.nan, np.arange(40))), "frame 7 is nan"),
    "times_back": (dict(times=np.where(np.arange(40) == 7, 2.0, np.arange(40))), "do not increase at frame 7"),
    "times_equal": (dict(times=np.where(np.arange(40) == 7, 6.0, np.arange(40))), r"frame 7 \(6 s after 6 s\)"),
    "short_behavior": (dict(behavior=np.zeros((39, 2))), "behavior has 39 frames, traces 40"),
    "unnamed_behavior": (dict(behavior_names=("speed",), behavior_units=None), "2 behaviours, 1 names"),
    "units": (dict(behavior_units=("cm/s",)), "1 units"),
    "same_names": (dict(behavior_names=("x", "x")), "not all different"),
    "labels": (dict(neurons=["AVA"]), "1 neuron labels for 3 neurons"),
    "valid_shape": (dict(valid=np.ones((40, 2), bool)), "valid has shape"),
    "valid_values": (dict(valid=np.full((40, 3), 0.5)), "True and False"),
    "segment_outside": (dict(segments=[(0, 41)]), r"\[0, 41\)"),
    "segment_empty": (dict(segments=[(5, 5)]), r"\[5, 5\)"),
    "segments_overlap": (dict(segments=[(0, 20), (19, 40)]), r"\[19, 40\) begins before"),
    "segments_unordered": (dict(segments=[(20, 40), (0, 20)]), r"\[0, 20\) begins before"),
    "no_segments": (dict(segments=[]), "segments"),
    "fractional_segments": (dict(segments=[(0, 20.5)]), "segments"),
    "mask_name": (dict(masks={"valid": np.ones(40, bool)}), "mask 'valid' is unknown"),
    "mask_length": (dict(masks={"train": np.ones(39, bool)}), "mask 'train'"),
    "masks_overlap": (dict(masks={"train": np.ones(40, bool), "test": np.arange(40) == 3}), "frame 3"),
    "no_id": (dict(id=" "), "id"),
}


@pytest.mark.parametrize("changes, message", BAD.values(), ids=BAD)
def test_refuses_parts_that_do_not_belong_together(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        _session(**changes)
    assert "session" in str(caught.value)


def test_times_may_jump_back_between_segments():
    times = np.r_[np.arange(20), np.arange(20)]
    assert _session(times=times, segments=[(0, 20), (20, 40)]).n_frames == 40


def test_replace_is_checked_too():
    with pytest.raises(UserError, match="outside"):
        dataclasses.replace(_session(), segments=((0, 99),))


def test_fingerprint_tells_every_part_a_model_could_learn_from():
    base = _session()
    other_traces = np.array(base.traces)
    other_traces[-1, -1] += 1e-3
    changes = [dict(traces=other_traces), dict(valid=np.eye(40, 3, dtype=bool)), dict(behavior=np.zeros((40, 2))),
               dict(behavior_names=("speed", "turn")), dict(segments=[(0, 39)]), dict(rate=11.0),
               dict(times=np.arange(40) * 0.2)]
    prints = [base.fingerprint] + [_session(**change).fingerprint for change in changes]
    assert len(set(prints)) == len(prints) and all(len(p) == 16 for p in prints)


def test_fingerprint_ignores_names_and_survives_pickling():
    base = _session()
    assert base.fingerprint == _session(id="b", source="elsewhere", metadata={"k": 1}).fingerprint
    assert pickle.loads(pickle.dumps(base)).fingerprint == base.fingerprint


def test_constant_neurons_look_at_measured_frames_only():
    traces, valid = _traces(40, 5), np.ones((40, 5), bool)
    traces[:, 1] = 2.0
    traces[:, 2], traces[3, 2] = 1.0, np.nan
    traces[:, 3], traces[3, 3], valid[3, 3] = 1.0, 9.0, False
    valid[:, 4] = False
    assert _session(traces=traces, valid=valid).constant_neurons().tolist() == [1, 2, 3, 4]
    assert _session(traces=traces).constant_neurons().tolist() == [1, 2]


def test_nan_neurons_are_those_missing_where_marked_measured():
    traces, valid = _traces(), np.ones((40, 3), bool)
    traces[5, 1] = traces[6, 2] = np.nan
    valid[6, 2] = False
    assert _session(traces=traces).nan_neurons().tolist() == [1, 2]
    assert _session(traces=traces, valid=valid).nan_neurons().tolist() == [1]


def test_summary_says_what_matters_in_25_lines():
    behavior = np.tile(np.arange(40.0)[:, None], (1, 12))
    behavior[:10, 0], behavior[:, 1] = np.nan, np.nan
    s = _session(behavior=behavior, behavior_names=[f"b{k}" for k in range(12)], behavior_units=["cm/s"] * 12,
                 masks={"train": np.arange(40) < 20}, metadata={f"m{k}": "line\nbreak" for k in range(9)},
                 segments=[(4 * k, 4 * k + 4) for k in range(10)], unit="dF/F", source="here")
    text = s.summary()
    assert len(text.splitlines()) <= 25 and max(map(len, text.splitlines())) < 120
    for said in ("40 frames x 3 neurons, dF/F", "10 Hz, 4 s", "10 in all", "10 to 39 cm/s, 25 % NaN", "never observed",
                 "and 4 more", "train 20 frames", s.fingerprint, "here"):
        assert said in text


def test_summary_without_a_rate_says_the_fix():
    assert "--set sessions.rate=HZ" in Session.build(id="a", traces=_traces()).summary()
