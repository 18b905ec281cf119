from __future__ import annotations

import importlib.util
import pathlib
import socket
import sys

import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions import allen
from raycal.sessions.readers import read, read_one

ID = 501940850
NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens
needs_sdk = pytest.mark.skipif(importlib.util.find_spec("allensdk") is None or sys.version_info >= (3, 12),
                               reason="AllenSDK is not installed: fetching by id was not tested")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYCAL_ALLEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(allen_server, write_allen, tmp_path):
    """Allen's server with one session."""
    allen_server.add(ID, 511510736, "three_session_A", write_allen(tmp_path / "served.nwb").read_bytes())
    return allen_server


@pytest.mark.parametrize("bad", ["", "abc", "-5", "1.5", "../x", "best3"])
def test_ids_are_numbers(bad):
    with pytest.raises(UserError, match="give an ophys experiment id"):
        allen.file(bad)


def test_python_too_new_says_which_works(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    with pytest.raises(UserError, match=r'3.12.*Python 3.11 with pip install -c constraints.txt -e ".\[allen\]".*NWB'):
        allen.file(str(ID))


def test_without_the_sdk_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 11, 9))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'not installed.*Python 3.11 with pip install .*NWB file'):
        read(f"allen:{ID}")


def test_cache_folder_has_a_default(monkeypatch):
    monkeypatch.delenv("RAYCAL_ALLEN_CACHE", raising=False)
    assert allen.cache_folder() == pathlib.Path.home() / ".cache" / "raycal" / "allen"


@pytest.mark.allen
@needs_sdk
def test_fetches_once_and_then_reads_the_cache(server, cache, monkeypatch):
    s, = read(f"allen:{ID}")
    assert s.id == str(ID) and s.traces.shape == (300, 6) and len(server.asked) == 3  # the link, size, file
    monkeypatch.setenv("RAYCAL_ALLEN_API", NOBODY)
    assert read_one(allen.file(str(ID))).fingerprint == s.fingerprint
    assert not list(cache.rglob("*.part")) and (cache / "manifest.json").is_file()


@pytest.mark.allen
@needs_sdk
def test_a_cached_session_needs_no_network(write_allen, cache):
    path = cache / "ophys_experiment_data" / f"{ID}.nwb"
    path.parent.mkdir(parents=True)
    expected = read_one(write_allen(path))
    assert read(f"allen:{ID}")[0].fingerprint == expected.fingerprint


@pytest.mark.allen
@needs_sdk
def test_unknown_id_is_said(server):
    with pytest.raises(UserError, match="allen:7: the Allen Institute has no session"):
        allen.file("7")


@pytest.mark.allen
@needs_sdk
def test_network_failure_says_what_to_do(cache):
    with pytest.raises(UserError, match=f"query of Allen's server failed.*check the network.*{ID}.nwb"):
        allen.file(str(ID), base_uri=NOBODY)
    assert not list(cache.rglob("*.nwb"))


@pytest.mark.allen
@needs_sdk
def test_a_silent_server_is_given_up(cache, monkeypatch):
    monkeypatch.setattr(allen, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError, match="timed out.*network"):
        allen.file(str(ID), base_uri=f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.allen
@needs_sdk
def test_a_download_cut_short_never_enters_the_cache_and_goes_on(server, cache):
    whole = len(next(iter(server.files.values())))
    server.breaks = [whole // 2, 0, 0]
    with pytest.raises(UserError, match=f"allen:{ID}: the download failed .*goes on from there.*{ID}.nwb"):
        allen.file(str(ID))
    assert not list(cache.rglob("*.nwb")) and len(list(cache.rglob("*.part"))) == 1
    server.breaks, server.sent = [], 0
    assert read_one(allen.file(str(ID))).n_neurons == 6 and server.sent < whole


@pytest.mark.allen
@needs_sdk
@pytest.mark.parametrize("text", ["{oops", '{"manifest": [{"type": "manifest_version", "value": "0.1"}]}'])
def test_a_damaged_or_foreign_manifest_is_named(cache, text):
    cache.mkdir()
    (cache / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="manifest.json.*delete that file"):
        allen.file(str(ID))


@pytest.mark.allen
@needs_sdk
def test_an_unusable_cache_folder_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYCAL_ALLEN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="RAYCAL_ALLEN_CACHE"):
        allen.file(str(ID))


@pytest.mark.allen
@needs_sdk
def test_the_sdk_reads_the_same_numbers(write_allen, tmp_path):
    from allensdk.core.brain_observatory_nwb_data_set import BrainObservatoryNwbDataSet

    path = write_allen(tmp_path / f"{ID}.nwb")
    s, sdk = read_one(path), BrainObservatoryNwbDataSet(str(path))
    times, traces = sdk.get_dff_traces()
    np.testing.assert_array_equal(s.traces.T, traces)
    np.testing.assert_array_equal(s.times, times)
    np.testing.assert_array_equal(s.behavior[:, 0], sdk.get_running_speed()[0])  # (speed, times), not (times, speed)
    assert s.neurons == tuple(map(str, sdk.get_cell_specimen_ids()))
    said = sdk.get_metadata()
    assert s.metadata["cre"] == said["cre_line"] and s.metadata["area"] == said["targeted_structure"]
    assert s.id == str(said["ophys_experiment_id"]) and s.metadata["container"] == str(said["experiment_container_id"])
    assert s.metadata["depth"] == f"{said['imaging_depth_um']} microns"
    assert s.metadata["age"] == f"{said['age_days']} days"
    assert (s.metadata["session type"], s.metadata["sex"], s.metadata["indicator"]) == \
        (said["session_type"], said["sex"], said["indicator"])


@pytest.mark.allen
@needs_sdk
def test_the_sdk_reads_the_same_behaviours_and_traces(write_allen, allen_extras, tmp_path):
    from allensdk.core.brain_observatory_nwb_data_set import BrainObservatoryNwbDataSet

    path = write_allen(tmp_path / f"{ID}.nwb", allen_extras)
    s, sdk = read_one(path), BrainObservatoryNwbDataSet(str(path))
    columns = dict(zip(s.behavior_names, s.behavior.T))
    np.testing.assert_array_equal(columns["pupil_size"], sdk.get_pupil_size()[1].astype(np.float32))
    for names, spherical in ((("pupil_altitude", "pupil_azimuth"), True), (("pupil_x", "pupil_y"), False)):
        expected = sdk.get_pupil_location(as_spherical=spherical)[1].astype(np.float32)
        np.testing.assert_array_equal(np.stack([columns[name] for name in names], axis=1), expected)
    for kind, get in {"Fluorescence": sdk.get_fluorescence_traces, "demixed": sdk.get_demixed_traces,
                      "neuropil": sdk.get_neuropil_traces}.items():
        np.testing.assert_array_equal(read_one(path, kind).traces.T, get()[1])
    np.testing.assert_allclose(read_one(path, "corrected").traces.T, sdk.get_corrected_fluorescence_traces()[1],
                               rtol=1e-5, atol=1e-4)


@pytest.mark.allen
@needs_sdk
def test_the_sdk_reads_the_same_stimulus_tables(write_allen, allen_extras, tmp_path):
    from allensdk.core.brain_observatory_nwb_data_set import BrainObservatoryNwbDataSet

    path = write_allen(tmp_path / f"{ID}.nwb", allen_extras)
    stimuli, sdk = read_one(path).stimuli, BrainObservatoryNwbDataSet(str(path))
    assert [stimulus.name for stimulus in stimuli] == sdk.list_stimuli() and len(stimuli) == 6
    for stimulus in stimuli:
        table = sdk.get_stimulus_table(stimulus.name)
        np.testing.assert_array_equal(stimulus.frames, table[["start", "end"]].to_numpy())
        assert set(stimulus.columns) == set(table.columns) - {"start", "end"}
        for name, values in stimulus.columns.items():
            np.testing.assert_array_equal(values, table[name].to_numpy(float))
