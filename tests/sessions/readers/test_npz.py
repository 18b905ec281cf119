from __future__ import annotations

import math

import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions.readers import npz, read, read_one
from raycal.sessions.session import Session
from raycal.sessions.stimulus import Stimulus


def _arrays(**changes):
    rng = np.random.default_rng(0)
    arrays = dict(traces=rng.normal(size=(50, 4)).astype(np.float32), fs=np.float32(10), time_s=np.arange(50) / 10,
                  segments=np.array([[0, 20], [20, 50]], np.int32), behavior=rng.normal(size=(50, 2)),
                  behavior_names=np.array(["speed", "x"]), neuron_labels=np.array(["a", "b", "c", "d"]),
                  unit=np.array("dF/F"), source=np.array("somewhere"), citation=np.array("someone"))
    return {k: v for k, v in {**arrays, **changes}.items() if v is not None}


def _file(tmp_path, **changes):
    path = tmp_path / "mouse.npz"
    np.savez(path, **_arrays(**changes))
    return path


def test_reads_every_documented_key(tmp_path):
    s = read_one(_file(tmp_path, masks_train=np.arange(50) < 9, valid=np.ones((50, 4), bool)))
    assert (s.id, s.rate, s.unit, s.segments) == ("mouse", 10.0, "dF/F", ((0, 20), (20, 50)))
    assert s.behavior_names == ("speed", "x") and s.behavior_units == ("", "") and s.neurons == ("a", "b", "c", "d")
    assert s.masks["train"].sum() == 9 and s.valid.all() and s.metadata == {"from": "somewhere", "citation": "someone"}
    np.testing.assert_array_equal(s.traces, _arrays()["traces"])
    assert s.source.endswith("mouse.npz")


def test_traces_and_rate_are_enough(tmp_path):
    np.savez(tmp_path / "small.npz", traces=_arrays()["traces"], fs=np.nan)
    s = read_one(tmp_path / "small.npz")
    assert math.isnan(s.rate) and s.segments == ((0, 50),) and s.behavior_names == ()


def test_recognised_by_content_whatever_the_name(tmp_path):
    path = _file(tmp_path).rename(tmp_path / "mouse.h5")
    assert npz.recognises(path) and read_one(path).id == "mouse"


def test_ignored_keys_are_said(tmp_path):
    assert read_one(_file(tmp_path, behaviour=np.zeros(3))).metadata["ignored keys"] == "behaviour"


@pytest.mark.parametrize("with_all", [True, False])
def test_written_sessions_come_back_equal(tmp_path, with_all):
    traces = np.array(_arrays()["traces"])
    traces[3, 2] = np.nan
    more = dict(valid=~np.isnan(traces), behavior=_arrays()["behavior"], behavior_names=("speed", "x"),
                behavior_units=("cm/s", ""), segments=[(0, 20), (25, 50)], neurons=list("abcd"),
                masks={"test": np.arange(50) > 40}, times=1e6 + np.arange(50) * 0.6,
                stimuli=[Stimulus("a", np.array([[0, 3], [5, 9]]), {"angle": [1, np.nan], "frames of b": [0, 1]}),
                         Stimulus("b", np.array([[1, 2]]), {})]) if with_all else {}
    s = Session.build(id="worm 1", traces=traces, rate=1 / 0.6, unit="F/F20", metadata={"area": "VISp"}, **more)
    npz.write(s, tmp_path / "copy.npz")
    back = read_one(tmp_path / "copy.npz")
    assert back.fingerprint == s.fingerprint and back.rate == s.rate
    for name in ("id", "behavior_names", "behavior_units", "segments", "neurons", "unit"):
        assert getattr(back, name) == getattr(s, name)
    assert (back.valid is None) == (s.valid is None) and list(back.masks) == list(s.masks)
    assert [(k.name, k.frames.tolist(), list(k.columns)) for k in back.stimuli] == \
        [(k.name, k.frames.tolist(), list(k.columns)) for k in s.stimuli] and "ignored keys" not in back.metadata
    assert back.metadata["area"] == "VISp" and [p.name for p in tmp_path.iterdir()] == ["copy.npz"]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    s = read_one(_file(tmp_path))
    before = (tmp_path / "mouse.npz").read_bytes()

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match="mouse.npz: cannot be written .No space left"):
        npz.write(s, tmp_path / "mouse.npz")
    assert (tmp_path / "mouse.npz").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_write_into_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        npz.write(read_one(_file(tmp_path)), tmp_path / "no" / "such.npz")


BAD = {
    "no_rate": (dict(fs=None), "has no 'fs'"),
    "names_missing": (dict(behavior_names=None), "go together"),
    "behavior_missing": (dict(behavior=None), "go together"),
    "wrong_rate": (dict(fs=np.float32(30)), "'fs' is 30 Hz, but 'time_s' advances 0.1 s"),
    "two_rates": (dict(fs=np.array([1.0, 2.0])), "'fs' is"),
    "text_rate": (dict(fs=np.array("fast")), "'fs' is"),
    "times_back": (dict(time_s=np.arange(50)[::-1] / 10), "do not increase at frame 1"),
    "times_long": (dict(time_s=np.arange(51) / 10), "51 time stamps for 50 frames"),
    "behavior_short": (dict(behavior=np.zeros((49, 2))), "behavior has 49 frames"),
    "infinite": (dict(traces=np.full((50, 4), np.inf)), "infinite"),
    "pickled": (dict(unit=np.array([{"a": 1}], object)), "'unit' is pickled"),
    "pickled_traces": (dict(traces=np.array([[1, None]] * 50, object)), "'traces' is pickled"),
    "stimulus_frames": (dict(stimuli=np.array(["x"])), "has no 'stimulus_0_frames'"),
    "stimulus_text": (dict(stimuli=np.array(["x"]), stimulus_0_frames=np.array([["a", "b"]])), "give numbers"),
    "stimulus_shape": (dict(stimuli=np.array(["x"]), stimulus_0_frames=np.arange(3)), "rows of .start, stop"),
    "metadata": (dict(metadata=np.array("{oops")), "not a JSON object"),
    "metadata_list": (dict(metadata=np.array("[1]")), "not a JSON object"),
}


@pytest.mark.parametrize("changes, message", BAD.values(), ids=BAD)
def test_bad_files_end_with_what_is_wrong(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        read_one(_file(tmp_path, **changes))
    assert "mouse" in str(caught.value)


def test_archive_without_traces_names_the_key_and_the_formats(tmp_path):
    with pytest.raises(UserError, match="without 'traces' .it has .*fs.npy.*raycal npz, worm HDF5"):
        read_one(_file(tmp_path, traces=None))


def test_nan_in_traces_is_read_as_it_stands(tmp_path):
    traces = _arrays()["traces"]
    traces[7, 1] = np.nan
    assert read_one(_file(tmp_path, traces=traces)).nan_neurons().tolist() == [1]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95, 0.999])
def test_truncated_archives_are_called_damaged(tmp_path, share):
    path = _file(tmp_path)
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    with pytest.raises(UserError, match="mouse.npz: .*(damaged|cut.off)"):
        read_one(path)


def test_flipped_bytes_inside_an_archive_are_called_damaged(tmp_path):
    path = _file(tmp_path)
    data = bytearray(path.read_bytes())
    data[300:340] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(UserError, match="'traces' is damaged"):
        read_one(path)


@pytest.mark.data
def test_every_published_recording_reads(data_dir, tmp_path):
    sessions = read(str(data_dir / "traces" / "*.npz"))
    shapes = {s.id: s.traces.shape for s in sessions}
    assert len(sessions) == 8 and shapes["allen_vc_552195520_0_4500"] == (4500, 74)
    place = next(s for s in sessions if s.id == "mouse_ca1_place_C6M3")
    assert place.segments == ((0, 2419), (2419, 4641)) and place.rate == 20.0
    assert sum(math.isnan(s.rate) for s in sessions) == 3
    for s in sessions:
        npz.write(s, tmp_path / "copy.npz")
        assert read_one(tmp_path / "copy.npz").fingerprint == s.fingerprint
