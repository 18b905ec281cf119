from __future__ import annotations

import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions.readers import allen_nwb, read_one

DFF, RUN = allen_nwb.TRACES, f"{allen_nwb.PIPELINE}/BehavioralTimeSeries/running_speed"
PUPIL = f"{allen_nwb.PIPELINE}/PupilTracking/pupil_size"


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


def test_all_nan_running_is_left_out(write_allen, tmp_path):
    assert read_one(write_allen(tmp_path / "a.nwb", {f"{RUN}/data": np.full(295, np.nan)})).behavior_names == ()


BAD = {
    "no_traces": ({f"{DFF}/data": None}, "has no '.*DfOverF/imaging_plane_1/data'"),
    "no_times": ({f"{DFF}/timestamps": None}, "has no '.*timestamps'"),
    "transposed": ({f"{DFF}/data": np.zeros((300, 6), np.float32)}, r"shape \(300, 6\)"),
    "times_back": ({f"{DFF}/timestamps": np.r_[np.arange(299.0), 4.0]}, "do not increase at frame 299"),
    "cells": ({allen_nwb.CELLS: np.arange(5)}, "5 neuron labels for 6 neurons"),
    "running_times": ({f"{RUN}/timestamps": np.arange(9.0)}, "295 values and 9 time stamps"),
    "running_no_times": ({f"{RUN}/timestamps": None}, "running_speed/timestamps"),
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
