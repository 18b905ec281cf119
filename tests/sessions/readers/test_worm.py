from __future__ import annotations

import h5py
import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions.readers import read, read_one, worm

T, N = 60, 5


def _layout(**changes):
    """What h5py sees of a Julia-written file: every array transposed, ranges 1-based and inclusive."""
    rng = np.random.default_rng(0)
    data = {"gcamp/traces_array_F_F20": rng.normal(1, 0.2, (T, N)), "gcamp/trace_array": rng.normal(size=(T, N)),
            "gcamp/idx_splits": np.array([[1, 41], [40, 60]]),
            "timing/timestamp_confocal": 6e5 + np.arange(T + 3) * 0.6,
            "behavior/velocity": np.linspace(-0.1, 0.1, T), "behavior/head_angle": rng.normal(size=T),
            "behavior/pumping": np.full(T, np.nan), "behavior/reversal_vec": (np.arange(T) % 9 == 0).astype(int)}
    return {k: v for k, v in {**data, **changes}.items() if v is not None}


def _file(tmp_path, **changes):
    path = tmp_path / "2022-01-01-data.h5"
    with h5py.File(path, "w") as f:
        for key, value in _layout(**changes).items():
            f[key] = value
    return path


def test_reads_the_layout_as_julia_wrote_it(tmp_path):
    s = read_one(_file(tmp_path))
    assert s.id == "2022-01-01" and s.unit == "F/F20" and s.traces.shape == (T, N)
    np.testing.assert_array_equal(s.traces, _layout()["gcamp/traces_array_F_F20"].astype(np.float32))
    assert s.segments == ((0, 40), (40, 60))
    assert s.rate == pytest.approx(1 / 0.6, rel=1e-6)
    assert s.behavior_names == ("velocity", "head_angle", "reversal_vec") and s.behavior_units == ("mm/s", "rad", "")
    np.testing.assert_allclose(s.behavior[:, 0], np.linspace(-0.1, 0.1, T), rtol=1e-6)


def test_surplus_time_stamps_are_cut_from_the_end_and_said(tmp_path):
    s = read_one(_file(tmp_path))
    np.testing.assert_array_equal(s.times, 6e5 + np.arange(T) * 0.6)
    assert s.metadata["time stamps"] == "3 beyond the last volume cut"


def test_unobserved_behaviors_are_left_out_and_said(tmp_path):
    left = read_one(_file(tmp_path)).metadata["left out"]
    assert "pumping (all NaN)" in left and "worm_curvature (absent)" in left


def test_partly_observed_pumping_stays(tmp_path):
    pumping = np.where(np.arange(T) < 30, np.nan, 4.0)
    s = read_one(_file(tmp_path, **{"behavior/pumping": pumping}))
    assert np.isnan(s.behavior[:30, s.behavior_names.index("pumping")]).all()


def test_splits_and_behaviors_may_be_absent(tmp_path):
    keys = ("gcamp/idx_splits", *(k for k in _layout() if k.startswith("behavior/")))
    s = read_one(_file(tmp_path, **dict.fromkeys(keys)))
    assert s.segments == ((0, T),) and s.behavior_names == ()


def test_other_traces_of_the_file_can_be_taken(tmp_path):
    path = _file(tmp_path)
    for key in ("trace_array", "gcamp/trace_array"):
        s = read_one(path, traces=key)
        np.testing.assert_array_equal(s.traces, _layout()["gcamp/trace_array"].astype(np.float32))
        assert s.unit == "z-score" and s.metadata["traces"].startswith("gcamp/trace_array, z-scored over the whole")
    for key in ("idx_splits", "timing/timestamp_confocal", "../gcamp", "x"):
        with pytest.raises(UserError, match=f"no traces '{key}'; it has gcamp/trace_array, gcamp/traces_array_F"):
            read_one(path, traces=key)


def test_units_are_those_of_the_authors(tmp_path):
    changes = {f"behavior/{name}": np.arange(T) for name in worm.UNITS}
    s = read_one(_file(tmp_path, **changes))
    assert dict(zip(s.behavior_names, s.behavior_units)) == {
        "velocity": "mm/s", "head_angle": "rad", "worm_curvature": "rad", "angular_velocity": "rad/s",
        "reversal_vec": "", "pumping": "pumps/s"}


BAD = {
    "no_traces": ({worm.TRACES: None}, "has no 'gcamp/traces_array_F_F20'"),
    "no_times": ({worm.TIMES: None, "timing/timestamp_nir": np.arange(9)}, "has no 'timing/timestamp_confocal'"),
    "few_times": ({worm.TIMES: np.arange(T - 1)}, r"shape \(59,\) for 60 volumes"),
    "times_back": ({worm.TIMES: np.where(np.arange(T) == 9, 0, np.arange(T))}, "do not increase at frame 9"),
    "nan_time": ({worm.TIMES: np.where(np.arange(T) == 9, np.nan, np.arange(T))}, "time stamp of frame 9 is nan"),
    "python_order": ({worm.TRACES: np.zeros((N * 4, T))}, "must agree"),
    "flat_traces": ({worm.TRACES: np.zeros(T)}, "volumes x neurons"),
    "zero_based_splits": ({worm.SPLITS: np.array([[0], [T - 1]])}, "names volumes 0 to 59"),
    "splits_beyond": ({worm.SPLITS: np.array([[1], [T + 1]])}, "names volumes 1 to 61"),
    "splits_shape": ({worm.SPLITS: np.array([1, T])}, "2 x runs"),
    "behavior_length": ({"behavior/velocity": np.zeros(T + 1)}, r"behavior/velocity has shape \(61,\)"),
    "infinite": ({worm.TRACES: np.full((T, N), np.inf)}, "infinite"),
}


@pytest.mark.parametrize("changes, message", BAD.values(), ids=BAD)
def test_bad_files_end_with_what_is_wrong(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        read_one(_file(tmp_path, **changes))
    assert "2022-01-01" in str(caught.value)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_truncated_file_is_called_damaged(tmp_path, share):
    path = _file(tmp_path)
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    with pytest.raises(UserError, match="damaged or cut.off"):
        read_one(path)


@pytest.mark.data
def test_published_worms_read(data_dir):
    sessions = read(str(data_dir / "worms" / "*.h5"))
    assert [s.n_frames for s in sessions] == [799] + [800] * 5
    assert [s.n_neurons for s in sessions] == [130, 146, 141, 145, 135, 139]
    assert [round(1 / s.rate, 3) for s in sessions] == [0.737] + [0.6] * 5
    assert [s.id for s in sessions if "pumping" in s.behavior_names] == ["swf415_no_id__2022-01-16-01"]
    for s in sessions:
        assert {"velocity", "head_angle", "worm_curvature", "angular_velocity", "reversal_vec"} <= set(s.behavior_names)
        assert s.segments == ((0, s.n_frames),) and not len(s.nan_neurons()) and not len(s.constant_neurons())
        assert set(np.unique(s.behavior[:, s.behavior_names.index("reversal_vec")])) == {0.0, 1.0}
        assert np.abs(s.behavior[:, 0]).max() < 0.5  # mm/s: a worm crawls at most about this fast
