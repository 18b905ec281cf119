from __future__ import annotations

import h5py
import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions.readers import ceneurovae, limits, read, read_file, read_one

N, T = 4, 50
UIDS = ("2022-01-01-01", "2022-06-14-07")
DIVISOR = np.array([0.06030961137253011, 0.49429038957075727, 1.2772001409506841])


def _layout(**changes):
    rng = np.random.default_rng(0)
    data = {"B_norm_divisor": DIVISOR, "label_name": np.array([b"AVA", b"RME", b"AIY"])}
    for uid in UIDS:
        data.update({f"data/{uid}/X": rng.normal(size=(N, T)), f"data/{uid}/B": rng.normal(size=(3, T)),
                     f"data/{uid}/I": np.array([0, 1, 3, 2])})
    data[f"data/{UIDS[1]}/M"] = np.arange(N * T).reshape(N, T) % 7 > 0
    return {k: v for k, v in {**data, **changes}.items() if v is not None}


def _file(tmp_path, **changes):
    path = tmp_path / "packed.h5"
    with h5py.File(path, "w") as f:
        for key, value in _layout(**changes).items():
            f[key] = value
    return path


def test_reads_every_recording(tmp_path):
    sessions = read(_file(tmp_path))
    assert [s.id for s in sessions] == list(UIDS) and not any(s.id_from_name for s in sessions)
    for s, uid in zip(sessions, UIDS):
        np.testing.assert_array_equal(s.traces, _layout()[f"data/{uid}/X"].T.astype(np.float32))
        np.testing.assert_array_equal(s.behavior, _layout()[f"data/{uid}/B"].T.astype(np.float32))
        assert np.isnan(s.rate) and s.neurons == ("", "AVA", "AIY", "RME")
    assert sessions[0].valid is None
    np.testing.assert_array_equal(sessions[1].valid, _layout()[f"data/{UIDS[1]}/M"].T)


def test_behaviors_are_named_by_convention_and_their_units_shown_by_the_divisor(tmp_path):
    s = read(_file(tmp_path))[0]
    assert s.behavior_names == ("velocity", "head_curvature", "pumping")
    assert s.behavior_units == ("mm/s", "rad", "pumps/s")
    assert s.metadata["behaviour names"].startswith("not in the file")
    assert s.metadata["B_norm_divisor"] == "0.0603096, 0.49429, 1.2772, not applied"
    assert read(_file(tmp_path, B_norm_divisor=np.ones((3, 1))))[0].behavior_units == ("", "", "")


def test_other_numbers_of_behaviors_are_numbered(tmp_path):
    one = {f"data/{uid}/B": np.ones((2, T)) for uid in UIDS}
    s = read(_file(tmp_path, B_norm_divisor=np.ones(2), **one))[0]
    assert s.behavior_names == ("behavior_0", "behavior_1") and "behaviour names" not in s.metadata


def test_a_behavior_that_is_all_nan_is_left_out_and_said(tmp_path):
    behavior = np.ones((3, T))
    behavior[2] = np.nan
    s = read(_file(tmp_path, **{f"data/{UIDS[0]}/B": behavior}))[0]
    assert s.behavior_names == ("velocity", "head_curvature") and s.metadata["left out"] == "pumping (all NaN)"


def test_a_neuron_that_is_all_nan_stays(tmp_path):
    traces = np.random.default_rng(0).normal(size=(N, T))
    traces[1] = np.nan
    assert read(_file(tmp_path, **{f"data/{UIDS[0]}/X": traces}))[0].nan_neurons().tolist() == [1]


def test_one_recording_can_be_asked_for(tmp_path):
    assert read_one(_file(tmp_path), traces=UIDS[1]).id == UIDS[1]
    with pytest.raises(UserError, match="has no recording '2022-06-14'; it has 2022-01-01-01, .*did you mean"):
        read(_file(tmp_path), traces="2022-06-14")


def test_names_may_begin_with_that_of_the_unknown_or_be_absent(tmp_path):
    names = np.array([b"unknown", b"AVA", b"RME", b"AIY"])
    assert read(_file(tmp_path, label_name=names))[0].neurons == ("", "AVA", "AIY", "RME")
    assert read(_file(tmp_path, label_name=None))[0].neurons == ("", "identity 1", "identity 3", "identity 2")


X, B, I, M = (f"data/{UIDS[0]}/{key}" for key in "XBIM")
BAD = {
    "no_traces": ({X: None}, "has no 'data/2022-01-01-01/X'"),
    "no_behavior": ({B: None}, "has no 'data/2022-01-01-01/B'"),
    "no_identity": ({I: None}, "has no 'data/2022-01-01-01/I'"),
    "traces_flat": ({X: np.zeros(T)}, r"X has shape \(50,\) .* neurons x frames"),
    "traces_text": ({X: np.full((N, T), b"a")}, "must be numbers"),
    "infinite": ({X: np.full((N, T), np.inf)}, "infinite"),
    "behavior_frames": ({B: np.zeros((3, T + 1))}, "must be numbers, any x 50"),
    "behavior_count": ({B: np.zeros((2, T))}, "B_norm_divisor has 3 .* has 2 behaviours"),
    "divisor_text": ({"B_norm_divisor": np.array([b"a"] * 3)}, "must have a number for each"),
    "mask_shape": ({M: np.ones((T, N))}, "must be numbers, 4 x 50"),
    "mask_values": ({M: np.full((N, T), 0.5)}, "valid holds float64"),
    "identity_shape": ({I: np.zeros(N + 1, int)}, "must be 4 whole numbers"),
    "identity_negative": ({I: np.array([0, -1, 1, 2])}, "must be 4 whole numbers"),
    "identity_part": ({I: np.array([0, 0.5, 1, np.inf])}, "must be 4 whole numbers"),
    "identity_text": ({I: np.array([b"a"] * N)}, "must be 4 whole numbers"),
    "identity_beyond": ({I: np.array([0, 1, 2, 4])}, "names identity 4, but label_name has 3"),
    "no_recording": (dict.fromkeys(k for k in _layout() if k.startswith("data/")) | {"data": 1}, "holds no recording"),
}


@pytest.mark.parametrize("changes, message", BAD.values(), ids=BAD)
def test_bad_files_end_with_what_is_wrong(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        read(_file(tmp_path, **changes))
    assert "packed.h5" in str(caught.value)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_truncated_file_is_called_damaged(tmp_path, share):
    path = _file(tmp_path)
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    with pytest.raises(UserError, match="damaged or cut.off"):
        read(path)


def test_broken_links_and_stray_datasets_do_no_harm(tmp_path):
    path = _file(tmp_path)
    with h5py.File(path, "a") as f:
        f["data/note"] = 1
    assert len(read(path)) == 2
    with h5py.File(path, "a") as f:
        f["data/gone"] = h5py.SoftLink("/nowhere")
    with pytest.raises(UserError, match="packed.h5: damaged"):
        read(path)


def test_a_declared_size_far_above_the_file_is_refused(tmp_path):
    path = _file(tmp_path, **{X: None})
    with h5py.File(path, "a") as f:
        f.create_dataset(X, (10**6, 10**6), "f8", chunks=True)
    with pytest.raises(UserError, match="far more than its"):
        read(path)


def test_recordings_that_only_together_exceed_the_memory_are_refused(tmp_path, monkeypatch):
    path = _file(tmp_path)
    one = 8 * (N * T + 3 * T + N)
    memory = limits.os.sysconf("SC_PAGE_SIZE") * limits.os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr(limits, "SHARE", 1.5 * one / memory)
    assert read_one(path, traces=UIDS[0]).id == UIDS[0]
    with pytest.raises(UserError, match="packed.h5: 'data' takes"):
        read_file(path)


def test_only_this_layout_is_recognised(tmp_path):
    assert ceneurovae.recognises(_file(tmp_path))
    with h5py.File(tmp_path / "other.h5", "w") as f:
        f["data/x"] = 1
    assert not ceneurovae.recognises(tmp_path / "other.h5") and not ceneurovae.recognises(tmp_path)
