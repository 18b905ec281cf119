from __future__ import annotations

import importlib.util
import json
import sys
import warnings

import h5py
import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions import standin, standin_nwb
from raycal.sessions.readers import read, read_one
from raycal.sessions.visual import movie, simulate_visual

SIZES = [(12, 3000), (9, 2000)]
PIPELINE = "processing/brain_observatory_pipeline"
needs_sdk = pytest.mark.skipif(importlib.util.find_spec("allensdk") is None or sys.version_info >= (3, 12),
                               reason="AllenSDK is not installed: reading the stand-in with it was not tested")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("standin") / "cache"
    return folder, standin.write(folder, SIZES, seed=3)


@pytest.fixture(scope="module")
def truth():
    return simulate_visual(*SIZES[0], seed=3000)


@pytest.fixture(scope="module")
def path(cache):
    return cache[0] / "ophys_experiment_data" / "900003000.nwb"


@pytest.fixture(scope="module")
def sdk(cache):
    """Return AllenSDK's view of the cache, without a network: only the query for eye mappings is answered, by none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import alone gives dozens, all about its own code
        from allensdk.api.queries.brain_observatory_api import BrainObservatoryApi
        from allensdk.core.brain_observatory_cache import BrainObservatoryCache

    class Offline(BrainObservatoryApi):
        def template_query(self, name, key, **kwargs):
            assert key == "all_eye_mapping_files", f"asks the network for {key}"
            return []

    return BrainObservatoryCache(manifest_file=str(cache[0] / "manifest.json"), api=Offline())


@pytest.fixture(scope="module")
def nwb(sdk):
    return sdk.get_ophys_experiment_data(900003000)


def test_ceilings_lie_beside_the_files_and_say_how_to_make_them_again(cache, truth):
    folder, ceilings = cache
    assert json.loads((folder / "ceilings.json").read_text()) == ceilings
    assert set(ceilings) == {"900003000", "900003001"}
    one = ceilings["900003000"]
    assert (one["seed"], one["cells"], one["frames"]) == (3000, 12, 3000)
    assert {name: one[name] for name in ("running", "pupil")} == truth.ceiling


def test_the_reader_gives_back_traces_times_and_behaviours(cache, path, truth):
    s = read_one(path)
    np.testing.assert_array_equal(s.traces, truth.session.traces)
    np.testing.assert_allclose(s.times, 9.2 + np.arange(3000) / 30.07, rtol=0, atol=1e-12)
    assert s.id == "900003000" and s.unit == "dF/F" and s.rate == pytest.approx(30.07)
    behavior = dict(zip(s.behavior_names, s.behavior.T))
    assert np.isnan(behavior["running_speed"][:7]).all()
    np.testing.assert_array_equal(behavior["running_speed"][7:], truth.session.behavior[7:, 0])
    np.testing.assert_array_equal(behavior["pupil_size"], truth.session.behavior[:, 1])
    assert s.neurons[0] == "9030000000" and s.metadata["session type"] == "three_session_A"
    assert len(read(str(cache[0] / "ophys_experiment_data/*.nwb"))) == 2


def test_fluorescence_is_what_the_traces_would_come_from(path, truth):
    with h5py.File(path) as f:
        fluorescence = f[f"{PIPELINE}/Fluorescence"]
        neuropil = fluorescence["imaging_plane_1_neuropil_response"]
        demixed = fluorescence["imaging_plane_1_demixed_signal/data"][()]
        corrected = demixed - neuropil["data"] * neuropil["r"][()][:, None]
        assert fluorescence["imaging_plane_1/timestamps"] == f[f"{PIPELINE}/DfOverF/imaging_plane_1/timestamps"]
    for cell in range(12):
        slope, baseline = np.polyfit(truth.session.traces[:, cell], corrected[cell], 1)
        assert slope == pytest.approx(baseline, rel=0.02) and 400 < baseline < 1200
        residual = corrected[cell] - baseline - slope * truth.session.traces[:, cell]
        assert residual.std() < 1  # whole counts


def test_every_text_is_of_fixed_length_and_says_that_it_is_simulated(path):
    with h5py.File(path) as f:
        texts = []
        f.visititems(lambda name, item: texts.append(item) if isinstance(item, h5py.Dataset)
                     and item.dtype.kind in "SO" else None)
        assert len(texts) > 20 and all(text.dtype.kind == "S" for text in texts)
        assert f["session_description"][()] == b"simulated by raycal" and b"simulated" in f["identifier"][()]


def test_films_show_what_the_neurons_see():
    film = standin_nwb.pictures("natural_movie_one", 300).reshape(300, -1)
    features = movie("natural_movie_one", 300)
    design = np.c_[np.ones(300), film]
    seen = design @ np.linalg.lstsq(design, features, rcond=1e-3)[0]
    assert (((features - seen) ** 2).mean(0) < 0.01).all() and film.std() > 20


def test_the_same_seed_gives_the_same_recording_and_seeds_share_no_id(cache, tmp_path):
    again = standin.write(tmp_path / "again", SIZES, seed=3)
    other = standin.write(tmp_path / "other", SIZES[:1], seed=4)
    assert again == cache[1] and not set(other) & set(again)
    sessions = [read_one(folder / "ophys_experiment_data" / f"{id}.nwb") for folder, id in (
        (cache[0], 900003000), (tmp_path / "again", 900003000), (tmp_path / "other", 900004000))]
    assert sessions[0].fingerprint == sessions[1].fingerprint != sessions[2].fingerprint


def test_own_files_are_written_anew(tmp_path):
    standin.write(tmp_path, [(5, 2000)])
    assert standin.write(tmp_path, [(6, 2000)])["900000000"]["cells"] == 6
    assert read_one(tmp_path / "ophys_experiment_data" / "900000000.nwb").n_neurons == 6
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("name, content", [
    ("manifest.json", '{"manifest": []}'), ("cell_specimens.json", "[]"), ("ceilings.json", "\0\xff"),
    ("ophys_experiment_data/900000000.nwb", "not HDF5"), ("ophys_experiment_data/900000000.nwb", None)])
def test_what_others_put_there_is_left_alone(tmp_path, name, content):
    theirs = tmp_path / name
    theirs.parent.mkdir(exist_ok=True)
    if content is None:
        with h5py.File(theirs, "w") as f:
            f["session_description"] = np.bytes_("a mouse")
    else:
        theirs.write_text(content)
    before = theirs.read_bytes()
    with pytest.raises(UserError, match=f"{theirs.name}: is there already and does not say"):
        standin.write(tmp_path, [(5, 2000)])
    assert theirs.read_bytes() == before and [p for p in tmp_path.rglob("*") if p.is_file()] == [theirs]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/.*cannot be written"):
        standin.write(tmp_path / "file", [(5, 2000)])


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    standin.write(tmp_path, [(5, 2000)])
    path = tmp_path / "ophys_experiment_data" / "900000000.nwb"
    before = path.read_bytes()

    def full(temporary, *_):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(standin, "write_nwb", full)
    with pytest.raises(UserError, match="No space left"):
        standin.write(tmp_path, [(5, 2000)])
    assert path.read_bytes() == before and not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("changes, wanted", [
    ({"seed": -1}, "seed=-1: must be"), ({"seed": 10_000}, "seed=10000: must be"), ({"sizes": []}, "sizes=.*give 1 to"),
    ({"sizes": [(5, 2000), (1, 2000)]}, "n_neurons=1"), ({"sizes": [(5, 100)]}, "n_frames=100: must be at least 1805"),
    ({"sizes": [(10_001, 2000)]}, "10001 cells: must be at most")])
def test_numbers_out_of_range_are_named_before_anything_is_written(tmp_path, changes, wanted):
    with pytest.raises(UserError, match=wanted):
        standin.write(tmp_path / "cache", **changes)
    assert not (tmp_path / "cache").exists()


def test_cells_can_be_counted_by_container(cache):
    cells = json.loads((cache[0] / "cell_specimens.json").read_text())
    containers = json.loads((cache[0] / "experiment_containers.json").read_text())
    counts = [sum(cell["experiment_container_id"] == c["id"] for cell in cells) for c in containers]
    assert counts == [12, 9] and len({cell["cell_specimen_id"] for cell in cells}) == 21


@pytest.mark.allen
@needs_sdk
def test_the_sdk_lists_containers_experiments_and_cells_offline(sdk):
    one, other = sdk.get_experiment_containers()
    assert (one["cre_line"], one["targeted_structure"], one["imaging_depth"]) == ("Cux2-CreERT2", "VISp", 175)
    assert other["targeted_structure"] == "VISl" and one["id"] != other["id"]
    assert [e["id"] for e in sdk.get_ophys_experiments(stimuli=["drifting_gratings"])] == [900003000, 900003001]
    found = sdk.get_ophys_experiments(experiment_container_ids=[other["id"]], session_types=["three_session_A"])
    assert [e["acquisition_age_days"] for e in found] == [91] and found[0]["id"] == 900003001
    cells = sdk.get_cell_specimens(experiment_container_ids=[one["id"]])
    assert [c["cell_specimen_id"] for c in cells] == list(range(9030000000, 9030000012))
    assert sdk.get_ophys_experiments(cell_specimen_ids=[9030000000])[0]["id"] == 900003000
    assert sdk.get_all_cre_lines() == ["Cux2-CreERT2", "Rorb-IRES2-Cre"] and len(sdk.get_all_reporter_lines()) == 1


@pytest.mark.allen
@needs_sdk
def test_the_sdk_reads_traces_and_behaviour(nwb, truth):
    times, dff = nwb.get_dff_traces()
    np.testing.assert_array_equal(dff, truth.session.traces.T)
    np.testing.assert_array_equal(nwb.get_dff_traces([9030000002, 9030000007])[1], truth.session.traces.T[[2, 7]])
    speed, stamps = nwb.get_running_speed()
    np.testing.assert_array_equal(stamps, times)
    assert np.isnan(speed[:7]).all()
    np.testing.assert_array_equal(speed[7:], truth.session.behavior[7:, 0])
    stamps, pupil = nwb.get_pupil_size()
    np.testing.assert_array_equal(stamps, times)
    np.testing.assert_array_equal(pupil, truth.session.behavior[:, 1])
    degrees, cm = nwb.get_pupil_location()[1], nwb.get_pupil_location(as_spherical=False)[1]
    np.testing.assert_allclose(cm, 15 * np.tan(np.deg2rad(degrees[:, ::-1])), rtol=1e-5)


@pytest.mark.allen
@needs_sdk
def test_the_sdk_reads_fluorescence_and_cells(nwb, path, truth):
    with h5py.File(path) as f:
        neuropil = f[f"{PIPELINE}/Fluorescence/imaging_plane_1_neuropil_response"]
        demixed = f[f"{PIPELINE}/Fluorescence/imaging_plane_1_demixed_signal/data"][()]
        expected = demixed - neuropil["r"][()][:, None] * neuropil["data"][()]
    np.testing.assert_allclose(nwb.get_corrected_fluorescence_traces()[1], expected)
    np.testing.assert_array_equal(nwb.get_fluorescence_traces()[1], demixed)
    assert nwb.get_neuropil_traces()[1].shape == (12, 3000) and nwb.get_neuropil_r().shape == (12,)
    assert nwb.get_cell_specimen_ids().tolist() == list(range(9030000000, 9030000012))
    masks = nwb.get_roi_mask_array()
    assert masks.shape == (12, 512, 512) and masks.sum(0).max() == 1 and (masks.sum((1, 2)) > 100).all()
    projection = nwb.get_max_projection()
    assert projection[masks.any(0)].min() > projection[~masks.any(0)].max()
    motion = nwb.get_motion_correction()
    assert list(motion.columns) == ["x_motion", "y_motion", "timestamp"] and len(motion) == 3000


@pytest.mark.allen
@needs_sdk
def test_the_sdk_reads_every_stimulus(nwb, truth):
    shown = {stimulus.name: stimulus for stimulus in truth.session.stimuli}
    assert sorted(nwb.list_stimuli()) == sorted(shown)
    for name, stimulus in shown.items():
        table = nwb.get_stimulus_table(name)
        np.testing.assert_array_equal(table[["start", "end"]].values, stimulus.frames)
        for column, values in stimulus.columns.items():
            np.testing.assert_array_equal(table[column].values, values)
    blocks = ["drifting_gratings", "natural_movie_three", "natural_movie_one", "drifting_gratings", "spontaneous",
              "natural_movie_three", "drifting_gratings"]
    epochs = nwb.get_stimulus_epoch_table()
    assert epochs["stimulus"].tolist() == blocks
    assert len(nwb.get_stimulus_table("master")) == sum(len(s.frames) for s in shown.values())
    for name in ("natural_movie_one", "natural_movie_three"):
        n_frames = int(shown[name].columns["frame"].max()) + 1
        np.testing.assert_array_equal(nwb.get_stimulus_template(name), standin_nwb.pictures(name, n_frames))
    film = shown["natural_movie_three"]
    picture = nwb.get_stimulus(int(film.frames[40, 0]))[1]
    np.testing.assert_array_equal(picture, nwb.get_stimulus_template("natural_movie_three")[40])


@pytest.mark.allen
@needs_sdk
def test_the_sdk_reads_the_metadata(nwb):
    metadata = nwb.get_metadata()
    assert nwb.get_session_type() == "three_session_A" and metadata["pipeline_version"] == "3.0"
    assert (metadata["ophys_experiment_id"], metadata["experiment_container_id"]) == (900003000, 910003000)
    assert (metadata["cre_line"], metadata["targeted_structure"], metadata["imaging_depth_um"]) == (
        "Cux2-CreERT2/wt", "VISp", 175)
    assert (metadata["age_days"], metadata["device"], metadata["indicator"]) == (90, "Simulation", "GCaMP6f")
    assert (metadata["session_start_time"].year, metadata["specimen_name"]) == (2000, "simulated-3000")
