from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions.readers import limits, read_one, wormwideweb

N, T = 4, 60
RAW = np.random.default_rng(0).uniform(0.1, 0.4, (N, T))
Z_SCORED = (RAW - RAW.mean(axis=1, keepdims=True)) / RAW.std(axis=1, keepdims=True)
STAMPS = np.where(np.arange(T) < 40, 0, 60.0) + 0.6 * np.arange(T)


def _label(label, confidence=4.0):
    return {"label": label, "neuron_class": label[:3], "LR": label[-1], "DV": "undefined", "region": "head",
            "roi_id": [7], "confidence": confidence}


def _flat(**changes):
    """The layout of 2023, with keys in no order, as Julia writes a dictionary."""
    doc = {"trace_array": Z_SCORED.tolist(), "uid": "2022-01-01-01", "max_t": T, "avg_timestep": 0.01,
           "num_neurons": N, "dataset_type": ["heat", "neuropal"], "timestamp_confocal": STAMPS.tolist(),
           "velocity": np.linspace(-0.1, 0.1, T).tolist(), "head_curvature": [0.25] * T, "body_curvature": [1] * T,
           "angular_velocity": [None] * T, "reversal_events": [[1, 3], [10, 12], [50, 60]],
           "trace_original": RAW.tolist(), "events": {"heat": [41]},
           "labeled": {"1": _label("AVAL"), "3": _label("RMEV", 1.0), "4": _label("RIVR-alt")}}
    return {k: v for k, v in {**doc, **changes}.items() if v is not ...}


def _nested():
    """The layout of WormWideWebData.jl: five parts, seconds, and a list of beginnings and ends."""
    return {"metadata": {"uid": "2022-01-01-01", "n_neuron": N, "paper_id": "atanas_kim_2023"},
            "timing": {"max_t": T, "mean_timestep": 0.6, "timestamp_confocal": STAMPS.tolist()},
            "behavior": {"velocity": [0.1] * T, "head_angle": [0.25] * T, "angular_velocity": [0] * T,
                         "reversal_events": [[1], [10], [50], [3], [12], [60]]},
            "gcamp": {"trace_array": Z_SCORED.tolist(), "trace_array_original": RAW.tolist()},
            "label": {"2": [_label("AVAR")]}}


def _file(tmp_path, doc=None, name="worm.json", **changes):
    path = tmp_path / name
    path.write_text(json.dumps(_flat(**changes) if doc is None else doc))
    return path


def test_reads_the_flat_layout(tmp_path):
    s = read_one(_file(tmp_path))
    assert s.id == "2022-01-01-01" and not s.id_from_name and s.unit == "F" and s.metadata["traces"] == "trace_original"
    np.testing.assert_array_equal(s.traces, RAW.T.astype(np.float32))
    np.testing.assert_array_equal(s.times, STAMPS)
    assert s.rate == pytest.approx(1 / 0.6) and s.segments == ((0, 40), (40, 60))
    assert s.behavior_names == ("velocity", "head_curvature", "body_curvature", "reversal")
    assert s.behavior_units == ("mm/s", "rad", "rad", "")
    assert s.metadata["left out"] == "angular_velocity (all NaN), pumping (absent)"
    assert s.metadata["kind"] == "heat, neuropal" and s.metadata["events, frames from 0"] == "heat 40"


def test_reads_the_nested_layout(tmp_path):
    s = read_one(_file(tmp_path, _nested()))
    assert s.id == "2022-01-01-01" and s.metadata["paper"] == "atanas_kim_2023"
    np.testing.assert_array_equal(s.traces, RAW.T.astype(np.float32))
    assert s.behavior_names == ("velocity", "head_curvature", "angular_velocity", "reversal")
    assert s.neurons == ("", "AVAR", "", "")
    np.testing.assert_array_equal(s.behavior[:, 3], read_one(_file(tmp_path)).behavior[:, 3])


def test_reversals_are_the_frames_after_the_first_up_to_the_last(tmp_path):
    s = read_one(_file(tmp_path))
    assert np.flatnonzero(s.behavior[:, 3]).tolist() == [0, 1, 2, 10, 11, *range(50, 60)]
    columns = read_one(_file(tmp_path, reversal_events=[[1, 10], [3, 12]]))
    assert np.flatnonzero(columns.behavior[:, 3]).tolist() == [0, 1, 2, 10, 11]
    assert "reversal (no event)" in read_one(_file(tmp_path, reversal_events=[])).metadata["left out"]


@pytest.mark.data
def test_reversals_agree_with_the_frames_published_beside_them(data_dir):
    for path in sorted((data_dir / "worms").glob("*.h5")):
        with h5py.File(path) as f:
            frames, events = f["behavior/reversal_vec"][()], f["behavior/reversal_events"][()]
        np.testing.assert_array_equal(wormwideweb._reversal(path, events.T.tolist(), len(frames)), frames)


def test_labels_that_are_doubtful_are_left_out_and_counted(tmp_path):
    s = read_one(_file(tmp_path))
    assert s.neurons == ("AVAL", "", "", "")
    assert s.metadata["identities"] == "1 used, left out 1 below confidence 2.5, 1 marked as an alternative"
    assert read_one(_file(tmp_path, labeled=...)).neurons == ("",) * N


@pytest.mark.parametrize("key", ["0", "5", "x", "-1", "9" * 5000])
def test_labels_numbered_by_roi_are_not_taken_for_traces(tmp_path, key):
    s = read_one(_file(tmp_path, labeled={"1": _label("AVAL"), key: _label("AVAR")}))
    assert s.neurons == ("",) * N and s.metadata["identities"] == "none, 1 of 2 labels are of no trace from 1 to 4"


def test_the_z_scored_traces_are_said_to_know_the_test_frames(tmp_path):
    s = read_one(_file(tmp_path), traces="trace_array")
    np.testing.assert_array_equal(s.traces, Z_SCORED.T.astype(np.float32))
    assert s.unit == "z-score" and "test frames included" in s.metadata["traces"]
    assert "test frames" in read_one(_file(tmp_path, trace_original=...)).metadata["traces"]
    with pytest.raises(UserError, match="worm.json: has no traces 'dff'; it has trace_array, trace_original"):
        read_one(_file(tmp_path), traces="dff")


def test_frames_may_come_first_where_the_number_of_neurons_shows_it(tmp_path):
    s = read_one(_file(tmp_path, trace_original=RAW.T.tolist()))
    np.testing.assert_array_equal(s.traces, RAW.T.astype(np.float32))


def test_null_and_nan_are_missing_values(tmp_path):
    traces = RAW.tolist()
    traces[1] = [None] * T
    traces[2][5] = float("nan")
    s = read_one(_file(tmp_path, trace_original=traces))
    assert np.isnan(s.traces[:, 1]).all() and s.nan_neurons().tolist() == [1, 2]


def test_the_rate_comes_from_the_time_stamps_then_from_the_step_in_minutes(tmp_path):
    s = read_one(_file(tmp_path, timestamp_confocal=...))
    assert s.rate == pytest.approx(1 / 0.6) and s.segments == ((0, T),)
    assert np.isnan(read_one(_file(tmp_path, timestamp_confocal=..., avg_timestep=...)).rate)
    s = read_one(_file(tmp_path, avg_timestep=100))
    assert s.rate == pytest.approx(1 / 0.6) and "contradicts the time stamps" in s.metadata["time step"]
    longer = [*STAMPS.tolist(), 200.0, 300.0]
    assert read_one(_file(tmp_path, timestamp_confocal=longer)).metadata["time stamps"].startswith("2 beyond")


def test_a_file_without_uid_is_called_by_its_name(tmp_path):
    s = read_one(_file(tmp_path, uid=..., name="2023-01-01.json"))
    assert s.id == "2023-01-01" and s.id_from_name
    assert read_one(_file(tmp_path, uid="a\ud800")).id == "a?"


BAD = {
    "no_traces": ({"trace_original": ..., "trace_array": ...}, "has no traces 'trace_array'; it has none"),
    "no_list": ({"trace_original": {"a": 1}}, "'trace_original' does not hold numbers"),
    "text": ({"trace_original": [["a"] * T] * N}, "'trace_original' does not hold numbers"),
    "ragged": ({"trace_original": [[0.0] * T, [0.0] * (T - 1)]}, "rows of one length"),
    "flat": ({"trace_original": [0.0] * T}, "must be 2-dimensional"),
    "empty": ({"trace_original": [[]], "num_neurons": 1}, "the traces 0 frames"),
    "one_neuron": ({"trace_original": [[0.0] * T], "num_neurons": 1}, "60 frames x 1 neurons"),
    "neurons": ({"num_neurons": 9}, "states 9 neurons"),
    "infinite": ({"trace_original": [[float("inf")] * T] * N}, "infinite"),
    "times_short": ({"timestamp_confocal": [0.0]}, r"shape \(1,\) for 60 volumes"),
    "times_back": ({"timestamp_confocal": [0.6 * abs(t - 9) for t in range(T)]}, "do not increase at frame 1"),
    "times_null": ({"timestamp_confocal": [None] * T}, "time stamp of frame 0 is nan"),
    "velocity_length": ({"velocity": [0.0] * (T + 1)}, "'velocity' has 61 values"),
    "velocity_number": ({"velocity": 3}, "'velocity' has shape"),
    "reversal_odd": ({"reversal_events": [[1, 2, 3]]}, "'reversal_events' are not pairs"),
    "reversal_beyond": ({"reversal_events": [[1, T + 1]]}, "'reversal_events' are not pairs"),
    "reversal_back": ({"reversal_events": [[5, 1], [4, 2]]}, "'reversal_events' are not pairs"),
    "reversal_nan": ({"reversal_events": [[None, float("inf")]]}, "'reversal_events' are not pairs"),
    "reversal_empty": ({"reversal_events": [[]]}, "'reversal_events' are not pairs"),
    "reversal_text": ({"reversal_events": "never"}, "'reversal_events' are not pairs"),
}


@pytest.mark.parametrize("changes, message", BAD.values(), ids=BAD)
def test_bad_files_end_with_what_is_wrong(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        read_one(_file(tmp_path, **changes))
    assert str(tmp_path / "worm.json") in str(caught.value)


ODD = {"labels_list": {"labeled": [1]}, "labels_of_null": {"labeled": {"1": None, "2": [], "3": {"label": 5}}},
       "uid_number": {"uid": 5}, "step_text": {"avg_timestep": "fast"}, "kinds": {"dataset_type": [1, None]},
       "events": {"events": {"heat": [None, [1]]}}, "parts": {"metadata": [], "timing": None}}


@pytest.mark.parametrize("changes", ODD.values(), ids=ODD)
def test_oddities_beside_the_traces_do_no_harm(tmp_path, changes):
    assert read_one(_file(tmp_path, **changes)).traces.shape == (T, N)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.99])
def test_truncated_file_is_called_damaged(tmp_path, share):
    path = _file(tmp_path)
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    with pytest.raises(UserError, match="damaged or cut off"):
        read_one(path)


HOSTILE = {"deep_lists": '{"trace_array": ' + "[" * 200_000,
           "closed": '{"trace_array": ' + "[" * 60_000 + "]" * 60_000 + "}",
           "deep_objects": '{"trace_array": ' * 100_000, "digits": '{"trace_array": [[' + "9" * 3_000_000 + "]]}",
           "bytes": '{"trace_array": \xff\xfe'}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_content_ends_in_one_message(tmp_path, content):
    path = tmp_path / "worm.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match="worm.json"):
        read_one(path)


def test_a_file_too_large_for_the_memory_is_refused_unread(tmp_path, monkeypatch):
    path = _file(tmp_path)
    monkeypatch.setattr(limits, "SMALL", 0)
    monkeypatch.setattr(limits, "SHARE", 1e-12)
    monkeypatch.setattr(type(path), "read_bytes", lambda path: pytest.fail("was read"))
    with pytest.raises(UserError, match="its content takes .* of memory"):
        read_one(path)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"a": 1}', b'["trace_array"]', b"{", b'"trace_array"', b"\xff" * 99,
                                     b'{"mouse": ' + b"[1," * 5000])
def test_other_json_is_not_recognised(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    assert not wormwideweb.recognises(path) and not wormwideweb.recognises(tmp_path)


def test_a_key_behind_much_else_is_found(tmp_path):
    path = tmp_path / "worm.json"
    path.write_text('\n {"velocity": [' + "0.1, " * 10_000 + '0], "trace_array": [[')
    assert wormwideweb.recognises(path)
