from __future__ import annotations

import os
import pathlib
import shutil

import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions.readers import read, read_one, suite2p

ROIS, T = 6, 40
CELLS = [1, 3, 4]


def _arrays(seed=0, n_frames=T):
    rng = np.random.default_rng(seed)
    iscell = np.stack([np.isin(np.arange(ROIS), CELLS), rng.uniform(size=ROIS)], axis=1)
    return {"F": rng.uniform(100, 200, (ROIS, n_frames)).astype(np.float32),
            "Fneu": rng.uniform(50, 90, (ROIS, n_frames)).astype(np.float32),
            "spks": rng.uniform(0, 5, (ROIS, n_frames)).astype(np.float32), "iscell": iscell}


def _plane(folder, seed=0, n_frames=T, ops={"fs": 15.5, "tau": 1.0}, **changes):
    """One plane as suite2p writes it: numpy's files, ops a pickled dict."""
    folder.mkdir(parents=True)
    for name, value in {**_arrays(seed, n_frames), "ops": ops, "stat": np.array([{"npix": 9}]), **changes}.items():
        if value is not None:
            np.save(folder / f"{name}.npy", value)
    return folder


@pytest.fixture
def plane(tmp_path):
    return _plane(tmp_path / "mouse7" / "suite2p" / "plane0")


@pytest.fixture
def planes(tmp_path):
    for k in (0, 2, 10):
        _plane(tmp_path / "mouse7" / "suite2p" / f"plane{k}", seed=k)
    return tmp_path / "mouse7" / "suite2p"


def test_the_cells_of_a_plane_without_their_neuropil(plane):
    s = read_one(plane)
    arrays = _arrays()
    assert s.id == "mouse7-plane0" and s.id_from_name and s.unit == "a.u. (F - 0.7 Fneu)" and s.rate == 15.5
    np.testing.assert_allclose(s.traces, (arrays["F"] - 0.7 * arrays["Fneu"])[CELLS].T, rtol=1e-5)
    assert s.neurons == ("roi 1", "roi 3", "roi 4") and s.metadata["cells"] == "3 of 6 ROIs (iscell.npy)"
    np.testing.assert_allclose(s.times, np.arange(T) / 15.5)


@pytest.mark.parametrize("key", ["F", "Fneu", "spks"])
def test_a_key_takes_one_array_as_it_is(plane, key):
    s = read_one(plane, traces=key)
    np.testing.assert_array_equal(s.traces, _arrays()[key][CELLS].T)
    assert s.unit == f"a.u. ({key})"


def test_the_file_f_its_folder_and_the_folder_above_are_one_recording(plane):
    assert len({s.fingerprint for s in (read_one(plane), read_one(plane / "F.npy"), read_one(plane.parent),
                                        read_one(plane.parent, traces="plane0"))}) == 1


def test_planes_of_recordings_get_different_names(tmp_path):
    for seed, mouse in enumerate(("a", "b")):
        _plane(tmp_path / mouse / "suite2p" / "plane0", seed)
        _plane(tmp_path / mouse / "elsewhere", seed + 2)
    assert [s.id for s in read(str(tmp_path / "*" / "suite2p" / "plane0"))] == ["a-plane0", "b-plane0"]
    assert [s.id for s in read(str(tmp_path / "*" / "elsewhere"))] == ["a-elsewhere", "b-elsewhere"]


def test_a_relative_path_is_named_as_well(plane, monkeypatch):
    monkeypatch.chdir(plane)
    assert read_one(".").id == read_one("F.npy").id == "mouse7-plane0"


def test_several_planes_are_to_be_chosen_from(planes):
    with pytest.raises(UserError, match="holds 3 planes; choose one of plane0, plane2, plane10, combined as in "
                                        "--set sessions.traces=plane0"):
        read_one(planes)
    with pytest.raises(UserError, match="holds 3 planes.*sessions.traces=plane0/spks"):
        read_one(planes, traces="spks")
    s = read_one(planes, traces="plane2/F")
    np.testing.assert_array_equal(s.traces, _arrays(2)["F"][CELLS].T)
    assert s.id == "mouse7-plane2" and s.unit == "a.u. (F)"
    assert read_one(planes, traces="plane10").id == "mouse7-plane10"


def test_combined_planes_stand_beside_each_other(planes):
    s = read_one(planes, traces="combined/F")
    np.testing.assert_array_equal(s.traces, np.concatenate([_arrays(k)["F"][CELLS] for k in (0, 2, 10)]).T)
    assert s.id == "mouse7-combined"
    assert s.neurons[:4] == ("plane0 roi 1", "plane0 roi 3", "plane0 roi 4", "plane2 roi 1")
    assert s.rate == 15.5 and s.metadata["cells"] == "9 of 18 ROIs (iscell.npy)"


def test_planes_that_differ_in_frames_or_rate(planes):
    np.save(planes / "plane2" / "ops.npy", {"fs": 7.0})
    s = read_one(planes, traces="combined")
    assert np.isnan(s.rate) and "plane2 7 Hz" in s.metadata["sampling rate"]
    shutil.rmtree(planes / "plane2")
    _plane(planes / "plane2", n_frames=T - 1)
    with pytest.raises(UserError, match="different numbers of frames .plane0 40, plane2 39, plane10 40.*=plane0"):
        read_one(planes, traces="combined")


@pytest.mark.parametrize("ops, rate", [({"fs": 30}, 30.0), ({"fs": np.float32(7.5), "tau": 1.0}, 7.5),
                                       ({"tau": np.float64(1.0), "fs": np.float64(9)}, 9.0)])
def test_the_rate_is_read_from_ops(tmp_path, ops, rate):
    s = read_one(_plane(tmp_path / "p", ops=ops))
    assert s.rate == rate and s.metadata["sampling rate"].startswith("fs of ops.npy")


@pytest.mark.parametrize("ops", [None, {"tau": 1.0}, {"fs": 0.0}, {"fs": -3}, {"fs": np.inf}, {"fs": "30"}])
def test_a_rate_that_is_not_there_stays_unknown(tmp_path, ops):
    s = read_one(_plane(tmp_path / "p", ops=ops))
    assert np.isnan(s.rate) and s.metadata["sampling rate"] == "no fs found in ops.npy, settings.npy, db.npy"


def test_the_rate_of_newer_suite2p_is_in_its_settings(tmp_path):
    s = read_one(_plane(tmp_path / "p", ops=None, settings={"fs": 12.0, "run": {}}, db={"nplanes": 1}))
    assert s.rate == 12.0 and s.metadata["sampling rate"].startswith("fs of settings.npy")


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return pathlib.Path.touch, (self.marker,)


def test_a_payload_in_ops_is_not_executed(tmp_path):
    marker = tmp_path / "executed"
    folder = _plane(tmp_path / "p", ops={"x": Payload(marker), "fs": 5.0}, stat=np.array([Payload(marker)]))
    assert read_one(folder).rate == 5.0 and not marker.exists()
    np.load(folder / "ops.npy", allow_pickle=True)
    assert marker.exists(), "the payload works where it is let"


def test_pickled_traces_are_refused_and_not_executed(tmp_path):
    marker = tmp_path / "executed"
    folder = _plane(tmp_path / "p", F=np.array([[Payload(marker)] * T] * ROIS))
    with pytest.raises(UserError, match="F.npy: damaged or cut off"):
        read_one(folder)
    assert not marker.exists()


def test_a_neuron_without_numbers_stays(tmp_path):
    arrays = _arrays()
    arrays["F"][3] = np.nan
    s = read_one(_plane(tmp_path / "p", F=arrays["F"]))
    assert np.isnan(s.traces[:, 1]).all() and list(s.nan_neurons()) == [1]


def _iscell(column):
    return np.stack([np.array(column, float), np.zeros(ROIS)], axis=1)


BAD = {
    "no_neuropil": ({"Fneu": None}, "", "has no Fneu.npy .it has F.npy, spks.npy, iscell.npy.*sessions.traces=F"),
    "no_spikes": ({"spks": None}, "spks", "has no spks.npy"),
    "no_iscell": ({"iscell": None}, "", "has no iscell.npy"),
    "unknown_key": ({}, "dff", "has no traces 'dff'; --set sessions.traces takes F, Fneu, spks .*plane0, combined"),
    "unknown_plane": ({}, "plane7/F", "has no traces 'plane7/F'"),
    "rois_disagree": ({"F": np.zeros((5, T))}, "", r"iscell.npy has 6 ROIs, F.npy shape \(5, 40\), Fneu.npy"),
    "frames_disagree": ({"Fneu": np.zeros((ROIS, T - 1))}, "", r"F.npy shape \(6, 40\), Fneu.npy shape \(6, 39\)"),
    "no_cells": ({"iscell": _iscell([0] * ROIS)}, "", "marks none of 6 ROIs as a cell"),
    "one_cell": ({"iscell": _iscell([1] + [0] * 5)}, "", "40 frames x 1 neurons"),
    "probabilities": ({"iscell": _iscell([0.5] * ROIS)}, "", "first column must be 1 for cells"),
    "flat": ({"F": np.zeros(T)}, "", r"F.npy: holds float64 values of shape \(40,\)"),
    "words": ({"F": np.full((ROIS, T), "a")}, "", "F.npy: holds <U1 values"),
    "complex": ({"F": np.zeros((ROIS, T), complex)}, "", "F.npy: holds complex128 values"),
    "infinite": ({"F": np.full((ROIS, T), np.inf)}, "", "infinite"),
    "short": ({"F": np.zeros((ROIS, 9)), "Fneu": np.zeros((ROIS, 9))}, "", "9 frames x 3 neurons"),
    "no_column": ({"iscell": np.zeros((ROIS, 0))}, "", "first column must be 1 for cells"),
}


@pytest.mark.parametrize("changes, traces, message", BAD.values(), ids=BAD)
def test_bad_folders_end_with_what_is_wrong(tmp_path, changes, traces, message):
    folder = _plane(tmp_path / "mouse7" / "suite2p" / "plane0", **changes)
    with pytest.raises(UserError, match=message) as caught:
        read_one(folder, traces=traces)
    assert "plane0" in str(caught.value)


@pytest.mark.parametrize("name", ["F", "Fneu", "iscell"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_truncated_files_are_called_damaged(plane, name, share):
    path = plane / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=f"{name}.npy: damaged or cut off"):
        read_one(plane)


@pytest.mark.parametrize("shape", [(ROIS, 10 ** 12), (10 ** 12, T), (2 ** 40, 2 ** 40)])
def test_a_declared_size_beyond_the_file_is_refused(plane, shape):
    with open(plane / "F.npy", "wb") as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "<f4", "fortran_order": False, "shape": shape})
        f.write(bytes(4 * ROIS * T))
    with pytest.raises(UserError, match="F.npy: damaged or cut off"):
        read_one(plane)


def test_an_archive_and_a_pipe_in_place_of_an_array(plane):
    with open(plane / "Fneu.npy", "wb") as f:
        np.savez(f, Fneu=np.zeros((ROIS, T)))
    with pytest.raises(UserError, match="Fneu.npy: holds an archive"):
        read_one(plane)
    for name in ("Fneu.npy", "ops.npy"):
        (plane / name).unlink()
        os.mkfifo(plane / name)
    with pytest.raises(UserError, match="has no Fneu.npy"):
        read_one(plane)
    assert np.isnan(read_one(plane, traces="F").rate)


def test_other_folders_and_arrays_are_not_taken_for_it(tmp_path):
    (tmp_path / "plane0").mkdir()
    np.save(tmp_path / "plane0" / "F.npy", np.zeros((ROIS, T)))
    for path in (tmp_path, tmp_path / "plane0", tmp_path / "plane0" / "F.npy", tmp_path / "gone"):
        assert not suite2p.recognises(path)


@pytest.mark.data
def test_a_published_plane_reads(data_dir):
    s = read_one(data_dir / "suite2p" / "plane0")
    assert s.traces.shape == (2000, 20) and s.metadata["cells"] == "20 of 219 ROIs (iscell.npy)"
    assert s.id == f"{data_dir.name}-plane0" and np.isnan(s.rate)  # it comes without ops.npy
    assert not len(s.nan_neurons()) and not len(s.constant_neurons())
    labels = [int(label.removeprefix("roi ")) for label in s.neurons]
    F = np.load(data_dir / "suite2p" / "plane0" / "F.npy", allow_pickle=False)
    np.testing.assert_array_equal(read_one(data_dir / "suite2p", traces="F").traces, F[labels].T)
