from __future__ import annotations

import h5py
import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions.readers import allen_nwb, read_one

DFF, RUN = allen_nwb.TRACES, f"{allen_nwb.PIPELINE}/BehavioralTimeSeries/running_speed"
PUPIL = f"{allen_nwb.PIPELINE}/PupilTracking/pupil_size"
EYE = f"{allen_nwb.PIPELINE}/EyeTracking/pupil_location_spherical"
MOVIE, SPONTANEOUS = (f"stimulus/presentation/{name}_stimulus" for name in ("natural_movie_one", "spontaneous"))


def test_reads_traces_times_and_what_was_recorded(write_allen, allen_contents, tmp_path):
    s = read_one(write_allen(tmp_path / "any.name"))
    assert s.id == "501940850" and s.unit == "dF/F" and s.traces.flags.c_contiguous
    np.testing.assert_array_equal(s.traces, allen_contents[f"{DFF}/data"].T)
    np.testing.assert_array_equal(s.times, allen_contents[f"{DFF}/timestamps"])
    assert s.rate == pytest.approx(30.07, rel=1e-9)
    assert s.neurons[:2] == ("517400000", "517400001")
    said = {"area": "VISp", "depth": "175 microns", "cre": "Cux2-CreERT2/wt", "indicator": "GCaMP6f",
            "session type": "three_session_A", "container": "511510736"}
    assert said.items() <= s.metadata.items()


def test_running_speed_is_nan_where_the_wheel_had_no_sample(write_allen, allen_contents, tmp_path):
    s = read_one(write_allen(tmp_path / "a.nwb"))
    assert s.behavior_names == ("running_speed",) and s.behavior_units == ("cm/s",)
    assert np.isnan(s.behavior[:5, 0]).all()
    np.testing.assert_array_equal(s.behavior[5:, 0], allen_contents[f"{RUN}/data"])


def test_column_shaped_running_speed_of_the_first_pipeline(write_allen, allen_contents, tmp_path):
    speed = allen_contents[f"{RUN}/data"][:, None]
    s = read_one(write_allen(tmp_path / "a.nwb", {f"{RUN}/data": speed}))
    np.testing.assert_array_equal(s.behavior[5:, 0], speed[:, 0])


def test_pupil_size_joins_when_there(write_allen, allen_contents, tmp_path):
    times = allen_contents[f"{DFF}/timestamps"]
    s = read_one(write_allen(tmp_path / "a.nwb", {f"{PUPIL}/data": np.arange(300.0), f"{PUPIL}/timestamps": times}))
    assert s.behavior_names == ("running_speed", "pupil_size") and s.behavior_units[1] == "px"
    np.testing.assert_array_equal(s.behavior[:, 1], np.arange(300))


def test_session_without_behaviour_ids_or_metadata(write_allen, allen_contents, tmp_path):
    absent = [k for k in allen_contents if "running" in k or k.startswith("general") or "cell_specimen" in k]
    s = read_one(write_allen(tmp_path / "plain.nwb", dict.fromkeys(absent)))
    assert s.id == "plain" and s.behavior_names == () and set(s.neurons) == {""} and "area" not in s.metadata


def test_all_nan_running_is_left_out_and_said(write_allen, tmp_path):
    s = read_one(write_allen(tmp_path / "a.nwb", {f"{RUN}/data": np.full(295, np.nan)}))
    assert s.behavior_names == () and s.metadata["left out"] == "running_speed (all NaN)"


def test_pupil_on_a_clock_of_its_own_with_a_blink(write_allen, allen_contents, tmp_path):
    times = allen_contents[f"{DFF}/timestamps"]
    stamps = times[0] + np.arange(3000) / 300.7  # ten samples a frame
    values = np.stack([stamps, -stamps], axis=1)
    values[1000:1500] = np.nan
    s = read_one(write_allen(tmp_path / "a.nwb", {f"{EYE}/data": values, f"{EYE}/timestamps": stamps}))
    assert s.behavior_names[1:] == ("pupil_altitude", "pupil_azimuth") and s.behavior_units[1:] == ("deg", "deg")
    seen = ~np.isnan(s.behavior[:, 1])
    assert not seen[102:148].any() and seen[1:99].all() and seen[152:299].all()
    np.testing.assert_allclose(s.behavior[seen, 1], times[seen], atol=0.02)
    np.testing.assert_allclose(s.behavior[seen, 2], -s.behavior[seen, 1])


@pytest.mark.parametrize("kind, key, factor", [("Fluorescence", "", 1.0), ("demixed", "_demixed_signal", 0.9),
                                               ("neuropil", "_neuropil_response", 0.3)])
def test_other_traces_by_their_key(write_allen, allen_extras, tmp_path, kind, key, factor):
    s = read_one(write_allen(tmp_path / "a.nwb", allen_extras), kind)
    gray = allen_extras[f"{allen_nwb.FLUORESCENCE}/data"]
    np.testing.assert_array_equal(s.traces.T, gray * np.float32(factor))
    assert s.unit == "F" and s.traces.flags.c_contiguous


def test_corrected_traces_are_demixed_less_weighted_neuropil(write_allen, allen_extras, tmp_path):
    gray, r = allen_extras[f"{allen_nwb.FLUORESCENCE}/data"], allen_extras[f"{allen_nwb.NEUROPIL}/r"]
    s = read_one(write_allen(tmp_path / "a.nwb", allen_extras), "corrected")
    np.testing.assert_allclose(s.traces.T, gray * (0.9 - 0.3 * r[:, None]), rtol=1e-5)
    first = {f"{allen_nwb.NEUROPIL}/r": None, f"{allen_nwb.NEUROPIL}/data": None,  # the places of pipeline 1.0
             f"{allen_nwb.FLUORESCENCE}_demixed_signal/data": None, f"{allen_nwb.FLUORESCENCE}/r": r,
             f"{allen_nwb.FLUORESCENCE}/neuropil_traces": gray * np.float32(0.3)}
    s = read_one(write_allen(tmp_path / "b.nwb", {**allen_extras, **first}), "corrected")
    np.testing.assert_allclose(s.traces.T, gray * (1 - 0.3 * r[:, None]), rtol=1e-5)


def test_unknown_traces_list_those_there_are(write_allen, allen_extras, tmp_path):
    with pytest.raises(UserError, match=r"no traces 'demixd'; did you mean 'demixed'.*DfOverF, Fluorescence, demixed, "
                                        "neuropil, corrected"):
        read_one(write_allen(tmp_path / "a.nwb", allen_extras), "demixd")
    with pytest.raises(UserError, match=r"no traces 'corrected' \(it has DfOverF\)"):
        read_one(write_allen(tmp_path / "b.nwb"), "corrected")


@pytest.mark.parametrize("chunks", [(1, 100), (4, 7), (6, 300), None])
def test_blocks_put_every_sample_in_its_place(write_allen, allen_contents, tmp_path, chunks, monkeypatch):
    monkeypatch.setattr(allen_nwb, "BLOCK", 4096)
    path = write_allen(tmp_path / "a.nwb", {f"{DFF}/data": None})
    with h5py.File(path, "a") as f:
        f.create_dataset(f"{DFF}/data", data=allen_contents[f"{DFF}/data"].astype(np.float64), chunks=chunks)
    np.testing.assert_array_equal(read_one(path).traces.T, allen_contents[f"{DFF}/data"])


def test_stimuli_have_the_columns_and_order_of_allens_tables(write_allen, allen_extras, tmp_path):
    s = read_one(write_allen(tmp_path / "a.nwb", allen_extras))
    stimuli = {stimulus.name: stimulus for stimulus in s.stimuli}
    assert {name: list(k.columns) for name, k in stimuli.items()} == {
        "drifting_gratings": ["temporal_frequency", "orientation", "blank_sweep"],
        "static_gratings": ["orientation", "spatial_frequency", "phase"], "natural_movie_one": ["frame", "repeat"],
        "natural_scenes": ["frame"], "locally_sparse_noise_4deg": ["frame"], "spontaneous": []}
    assert stimuli["spontaneous"].frames.tolist() == [[200, 220], [250, 280]]
    assert stimuli["natural_scenes"].columns["frame"].tolist() == list(range(-1, 29))
    assert stimuli["natural_movie_one"].columns["repeat"].tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert np.isnan(stimuli["drifting_gratings"].columns["orientation"][4])
    shown = stimuli["natural_movie_one"].series("frame", s.n_frames)
    assert shown[10:16].tolist() == [0, 0, pytest.approx(np.nan, nan_ok=True), 1, 1, pytest.approx(np.nan, nan_ok=True)]


def test_a_movie_cut_short_has_no_repeats_and_ends_with_the_recording(write_allen, tmp_path):
    spans = np.stack([np.arange(20) * 20, np.arange(20) * 20 + 20], axis=1)  # 400 frames, 300 recorded
    movie = {f"{MOVIE}/data": np.arange(20) % 7, f"{MOVIE}/frame_duration": spans}
    s = read_one(write_allen(tmp_path / "a.nwb", movie))
    assert list(s.stimuli[0].columns) == ["frame"]
    assert s.stimuli[0].frames[14:].tolist() == [[280, 300], *[[300, 300]] * 5]


BAD = {
    "no_traces": ({f"{DFF}/data": None}, "has no '.*DfOverF/imaging_plane_1/data'"),
    "no_times": ({f"{DFF}/timestamps": None}, "has no '.*timestamps'"),
    "transposed": ({f"{DFF}/data": np.zeros((300, 6), np.float32)}, r"shape \(300, 6\)"),
    "times_back": ({f"{DFF}/timestamps": np.r_[np.arange(299.0), 4.0]}, "do not increase at frame 299"),
    "cells": ({allen_nwb.CELLS: np.arange(5)}, "5 neuron labels for 6 neurons"),
    "running_times": ({f"{RUN}/timestamps": np.arange(9.0)}, r"shape \(295,\) for 9 time stamps"),
    "running_no_times": ({f"{RUN}/timestamps": None}, "running_speed/timestamps"),
    "text_traces": ({f"{DFF}/data": np.full((6, 300), b"x")}, r"holds \|S1 values of shape \(6, 300\)"),
    "flat_traces": ({f"{DFF}/data": np.zeros(300)}, "cells x frames"),
    "eye_width": ({f"{EYE}/data": np.zeros((300, 3)), f"{EYE}/timestamps": np.arange(300.0)},
                  r"shape \(300, 3\) for 300 time stamps; give 2 number"),
    "text_running": ({f"{RUN}/data": np.full(295, b"x")}, "running_speed has .S1 values"),
    "stimulus_parts": ({f"{MOVIE}/data": np.arange(9)}, "has no 'natural_movie_one_stimulus/frame_duration'"),
    "stimulus_length": ({f"{MOVIE}/data": np.arange(9), f"{MOVIE}/frame_duration": np.zeros((8, 2))},
                        r"'natural_movie_one' has int64 data of shape \(9,\) and float64 frames of shape \(8, 2\)"),
    "stimulus_text": ({f"{MOVIE}/data": np.full(2, b"x"), f"{MOVIE}/frame_duration": np.zeros((2, 2))}, "numbers"),
    "stimulus_back": ({f"{MOVIE}/data": np.arange(1), f"{MOVIE}/frame_duration": [[9, 3]]},
                      r"bad.nwb: stimulus 'natural_movie_one': presentation 0 takes frames \[9, 3\]"),
    "stimulus_nan": ({f"{MOVIE}/data": np.arange(1), f"{MOVIE}/frame_duration": [[9, np.nan]]}, "without frames"),
    "features_absent": ({f"{MOVIE}/data": np.zeros((2, 3)), f"{MOVIE}/frame_duration": np.zeros((2, 2))},
                        "has no 'natural_movie_one_stimulus/features'"),
    "features_few": ({f"{MOVIE}/data": np.zeros((2, 3)), f"{MOVIE}/frame_duration": np.zeros((2, 2)),
                      f"{MOVIE}/features": [b"a", b"b"]}, "3 columns and the features"),
    "unpaired": ({f"{SPONTANEOUS}/data": [1, 1], f"{SPONTANEOUS}/frame_duration": [[1, 0], [2, 0]]},
                 "2 starts and 0 stops"),
    "infinite": ({f"{DFF}/data": np.full((6, 300), np.inf)}, "infinite"),
}


@pytest.mark.parametrize("changes, message", BAD.values(), ids=BAD)
def test_bad_files_end_with_what_is_wrong(write_allen, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        read_one(write_allen(tmp_path / "bad.nwb", changes))


def test_nan_traces_are_read_as_they_stand(write_allen, allen_contents, tmp_path):
    dff = np.array(allen_contents[f"{DFF}/data"])
    dff[2, 10] = np.nan
    assert read_one(write_allen(tmp_path / "a.nwb", {f"{DFF}/data": dff})).nan_neurons().tolist() == [2]


def test_truncated_file_is_called_damaged(write_allen, tmp_path):
    path = write_allen(tmp_path / "cut.nwb")
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    with pytest.raises(UserError, match="damaged or cut.off"):
        read_one(path)


def test_a_size_far_beyond_the_file_is_refused(write_allen, tmp_path):
    path = write_allen(tmp_path / "a.nwb", {f"{DFF}/data": None})
    with h5py.File(path, "a") as f:
        f.create_dataset(f"{DFF}/data", (2**20, 2**20), np.float32, chunks=(1, 2**20), compression="gzip")
    with pytest.raises(UserError, match="DfOverF.* declares 4 TiB"):
        read_one(path)
