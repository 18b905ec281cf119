from __future__ import annotations

import h5py
import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions.readers import caiman, read_one

K, T = 5, 50
ACCEPTED = [0, 2, 3]


def _layout(**changes):
    """What CNMF.save writes of an object: None as text, sparse matrices as groups, parameters in groups."""
    rng = np.random.default_rng(0)
    C = rng.uniform(0, 9, (K, T)).astype(np.float32)
    data = {"dims": np.array([8, 8]), "dview": "NoneType", "remove_very_bad_comps": False, "skip_refinement": False,
            "params/data/fr": 30, "params/data/decay_time": 0.4, "params/data/fnames": np.array([b"a.tif"]),
            "params/init/K": K, "estimates/A/data": np.ones(K), "estimates/A/indices": np.arange(K),
            "estimates/A/indptr": np.arange(K + 1), "estimates/A/shape": np.array([64, K]), "estimates/C": C,
            "estimates/YrA": rng.normal(size=(K, T)).astype(np.float32), "estimates/S": np.maximum(C - 5, 0),
            "estimates/F_dff": C / 10, "estimates/f": np.ones((1, T)), "estimates/R": "NoneType",
            "estimates/idx_components": np.array(ACCEPTED), "estimates/idx_components_bad": np.array([1, 4])}
    return {k: v for k, v in {**data, **changes}.items() if v is not None}


def _file(tmp_path, **changes):
    path = tmp_path / "mouse7_memmap.hdf5"
    with h5py.File(path, "w") as f:
        for key, value in _layout(**changes).items():
            f[key] = value
    return path


def test_the_accepted_components_as_dff(tmp_path):
    s = read_one(_file(tmp_path))
    assert s.id == "mouse7_memmap" and s.unit == "dF/F" and s.rate == 30.0 and s.traces.shape == (T, 3)
    np.testing.assert_array_equal(s.traces, _layout()["estimates/F_dff"][ACCEPTED].T)
    assert s.neurons == ("component 0", "component 2", "component 3")
    assert s.metadata["components"] == "3 accepted of 5 (idx_components)"
    assert s.metadata["traces"] == "F_dff of estimates"
    np.testing.assert_allclose(s.times, np.arange(T) / 30)


@pytest.mark.parametrize("absent", [None, "NoneType"])
def test_without_dff_it_is_c_with_its_residuals(tmp_path, absent):
    s = read_one(_file(tmp_path, **{"estimates/F_dff": absent}))
    layout = _layout()
    np.testing.assert_allclose(s.traces, (layout["estimates/C"] + layout["estimates/YrA"])[ACCEPTED].T, rtol=1e-6)
    assert s.unit == "a.u. (C + YrA)" and s.metadata["traces"] == "C + YrA of estimates"
    s = read_one(_file(tmp_path, **{"estimates/F_dff": absent, "estimates/YrA": absent}))
    np.testing.assert_array_equal(s.traces, layout["estimates/C"][ACCEPTED].T)
    assert s.unit == "a.u. (C)"


@pytest.mark.parametrize("key, unit", [("C", "a.u. (C)"), ("S", "a.u. (S)"), ("YrA", "a.u. (YrA)"), ("F_dff", "dF/F")])
def test_a_key_takes_one_of_the_estimates(tmp_path, key, unit):
    s = read_one(_file(tmp_path), traces=key)
    np.testing.assert_array_equal(s.traces, _layout()[f"estimates/{key}"][ACCEPTED].T)
    assert s.unit == unit


@pytest.mark.parametrize("absent", [None, "NoneType"])
def test_without_evaluation_all_components_are_taken_and_it_is_said(tmp_path, absent):
    s = read_one(_file(tmp_path, **{"estimates/idx_components": absent}))
    assert s.n_neurons == K and s.metadata["components"] == "all 5, none evaluated (no idx_components)"


@pytest.mark.parametrize("stored, rate", [(30, 30.0), (np.float64(7.5), 7.5), (np.array([10.0]), 10.0)])
def test_the_rate_is_in_the_parameters(tmp_path, stored, rate):
    assert read_one(_file(tmp_path, **{"params/data/fr": stored})).rate == rate


@pytest.mark.parametrize("stored", [None, "NoneType", 0, -1.0, np.nan, np.inf, np.arange(3), 1j])
def test_a_rate_that_is_not_there_stays_unknown(tmp_path, stored):
    s = read_one(_file(tmp_path, **{"params/data/fr": stored}))
    assert np.isnan(s.rate) and s.metadata["sampling rate"] == "no number in params/data/fr"


def test_a_neuron_without_numbers_stays(tmp_path):
    traces = _layout()["estimates/F_dff"]
    traces[2] = np.nan
    assert list(read_one(_file(tmp_path, **{"estimates/F_dff": traces})).nan_neurons()) == [1]


NOTHING = {"estimates/F_dff": None, "estimates/C": None, "estimates/YrA": None}
BAD = {
    "unknown_key": ({}, "dff", "estimates has no 'dff'; --set sessions.traces takes F_dff, C, YrA, S"),
    "absent_key": ({"estimates/F_dff": "NoneType"}, "F_dff", "has no 'F_dff'; --set sessions.traces takes C, YrA, S"),
    "only_spikes": (NOTHING, "", "has neither F_dff nor C .it has S.; save it after CNMF.fit"),
    "no_traces": ({**NOTHING, "estimates/S": None}, "", "has neither F_dff nor C .it has no traces"),
    "no_traces_key": ({**NOTHING, "estimates/S": None}, "C", "nothing: it has no traces at all"),
    "words": ({"estimates/C": np.full((K, T), b"a")}, "C", "has no 'C'"),
    "complex": ({"estimates/F_dff": np.zeros((K, T), complex)}, "", "F_dff holds complex128"),
    "flat": ({"estimates/F_dff": np.zeros(T)}, "", r"F_dff holds float64 values of shape \(50,\)"),
    "lengths": ({"estimates/F_dff": None, "estimates/YrA": np.zeros((K, T - 1))}, "",
                r"YrA has shape \(5, 49\), estimates/C \(5, 50\)"),
    "components": ({"estimates/F_dff": np.zeros((K - 1, T))}, "", r"F_dff has shape \(4, 50\)"),
    "none_accepted": ({"estimates/idx_components": np.zeros(0)}, "", "none of 5 components was accepted"),
    "beyond": ({"estimates/idx_components": np.array([0, K])}, "", "must name some of components 0 to 4"),
    "negative": ({"estimates/idx_components": np.array([-1, 0])}, "", "must name some of components 0 to 4"),
    "twice": ({"estimates/idx_components": np.array([1, 1])}, "", "each once"),
    "fractions": ({"estimates/idx_components": np.array([0.5, 1])}, "", "must name some of components 0 to 4"),
    "one_accepted": ({"estimates/idx_components": np.array([2])}, "", "50 frames x 1 neurons"),
    "infinite": ({"estimates/F_dff": np.full((K, T), np.inf)}, "", "infinite"),
}


@pytest.mark.parametrize("changes, traces, message", BAD.values(), ids=BAD)
def test_bad_files_end_with_what_is_wrong(tmp_path, changes, traces, message):
    with pytest.raises(UserError, match=message) as caught:
        read_one(_file(tmp_path, **changes), traces=traces)
    assert "mouse7" in str(caught.value)


def test_estimates_that_are_no_group(tmp_path):
    path = tmp_path / "mouse7.hdf5"
    with h5py.File(path, "w") as f:
        f["estimates"], f["params"] = 1, 2
    with pytest.raises(UserError, match="has neither F_dff nor C"):
        read_one(path)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_truncated_file_is_called_damaged(tmp_path, share):
    path = _file(tmp_path)
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    with pytest.raises(UserError, match="damaged or cut.off"):
        read_one(path)


def test_a_declared_size_beyond_the_file_is_refused(tmp_path):
    path = _file(tmp_path, **{"estimates/F_dff": None})
    with h5py.File(path, "a") as f:
        f.create_dataset("estimates/F_dff", (10 ** 6, 10 ** 6), np.float32, chunks=(100, 100))
    with pytest.raises(UserError, match="'estimates/F_dff' declares"):
        read_one(path)


def test_other_hdf5_is_not_taken_for_it(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as f:
        f["estimates/C"] = np.zeros((K, T))
    for path in (tmp_path / "other.h5", tmp_path, tmp_path / "gone"):
        assert not caiman.recognises(path)
