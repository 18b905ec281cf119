from __future__ import annotations

import datetime
import shutil

import h5py
import numpy as np
import pynwb
import pytest
from hdmf.build import BuildManager
from pynwb import NWBHDF5IO, NWBFile, TimeSeries, behavior, ophys
from pynwb.core import NWBMixin
from pynwb.epoch import TimeIntervals
from pynwb.spec import NWBAttributeSpec, NWBGroupSpec, NWBNamespaceBuilder

from raycal.errors import UserError
from raycal.sessions.readers import READERS, nwb, nwb_file, read_one
from raycal.sessions.readers.apart import Apart

T, N, RATE = 90, 5, 30.0
TIMES = 2.0 + np.arange(T) / RATE
TRACES = np.random.default_rng(0).normal(1, 0.2, (T, N)).astype(np.float32)
SERIES = "processing/ophys/Fluorescence/RoiResponseSeries"
SPEED = "processing/behavior/BehavioralTimeSeries/speed"


def _recording(*planes):
    """Return an NWB file in memory with a table of N ROIs for each plane."""
    file = NWBFile(session_description="open field " * 40, identifier="8f1c", institution="Institute", lab="Lab",
                   session_start_time=datetime.datetime(2022, 1, 1, tzinfo=datetime.timezone.utc), session_id="1")
    file.subject = pynwb.file.Subject(subject_id="M7", species="Mus musculus", sex="F", age="P90D")
    device = file.create_device(name="scope")
    channel = ophys.OpticalChannel(name="green", description="GCaMP", emission_lambda=510.0)
    segmentation = ophys.ImageSegmentation()
    file.create_processing_module("ophys", "imaging").add(segmentation)
    for name in planes or ("plane0",):
        plane = file.create_imaging_plane(
            name=name, optical_channel=channel, description="glass window", device=device, excitation_lambda=920.0,
            indicator="GCaMP6f", location="VISp", origin_coords=[0.0, 0.0, 175.0], origin_coords_unit="micrometers")
        table = segmentation.create_plane_segmentation(name=f"rois_{name}", description="ROIs", imaging_plane=plane)
        for k in range(N):
            table.add_roi(image_mask=np.eye(4), id=100 + k)
    return file


def _rois(file, plane="plane0"):
    return file.processing["ophys"]["ImageSegmentation"][f"rois_{plane}"]


def _respond(file, container="Fluorescence", name="RoiResponseSeries", plane="plane0", data=TRACES, rows=range(N),
             **changes):
    """Add a series of responses to a container of the ophys module, which is made where it is not there."""
    module, kind = file.processing["ophys"], ophys.DfOverF if container == "DfOverF" else ophys.Fluorescence
    if container not in module.data_interfaces:
        module.add(kind(name=container))
    clock = {} if "timestamps" in changes else {"rate": RATE, "starting_time": 2.0}
    module[container].create_roi_response_series(
        name=name, data=data, rois=_rois(file, plane).create_roi_table_region("these", region=list(rows)),
        **{"unit": "a.u.", **clock, **changes})
    return file


def _behave(file, *interfaces):
    module = file.create_processing_module("behavior", "behaviour")
    for interface in interfaces:
        module.add(interface)
    return file


def _write(file, path, **options):
    with NWBHDF5IO(str(path), "w", **options) as io:
        io.write(file)
    return path


def _file(folder):
    """Write one plane's fluorescence at 30 Hz from 2 s, running at 100 Hz from 0 s and four trials."""
    running = behavior.BehavioralTimeSeries()
    running.create_timeseries(name="speed", data=np.arange(600) / 10, unit="cm/s", rate=100.0, starting_time=0.0)
    file = _behave(_respond(_recording()), running)
    file.add_trial_column("contrast", "of the grating")
    file.add_trial_column("kind", "in words")
    for k in range(4):
        file.add_trial(start_time=2.0 + k / 2, stop_time=2.25 + k / 2, contrast=k / 4, kind="go")
    return _write(file, folder / "sub-M7_ophys.nwb")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return _file(tmp_path_factory.mktemp("nwb"))


@pytest.fixture
def changed(base, tmp_path):
    """Return a function that copies the base file and changes the copy with h5py; it returns the copy's path."""
    def change(edit):
        path = tmp_path / "changed.nwb"
        shutil.copy(base, path)
        with h5py.File(path, "r+") as f:
            edit(f)
        return path
    return change


def _replace(f, key, value, **options):
    attributes = dict(f[key].attrs)
    del f[key]
    f.create_dataset(key, data=value, **options).attrs.update(attributes)


def _stamp(f, series, times):
    """Give a series time stamps where it had a rate."""
    del f[f"{series}/starting_time"]
    f[f"{series}/timestamps"] = times
    f[f"{series}/timestamps"].attrs.update({"interval": 1, "unit": "seconds"})


def test_reads_what_pynwb_wrote(base):
    s = read_one(base)
    assert (s.id, s.id_from_name, s.unit, s.rate) == ("sub-M7_ophys", True, "a.u.", RATE)
    np.testing.assert_array_equal(s.traces, TRACES)
    np.testing.assert_allclose(s.times, TIMES)
    assert s.segments == ((0, T),) and s.neurons == ("100", "101", "102", "103", "104")
    assert s.metadata.items() >= {
        "traces": "ophys/Fluorescence/RoiResponseSeries", "plane": "plane0", "area": "VISp", "indicator": "GCaMP6f",
        "depth": "175.0 micrometers", "excitation": "920 nm", "subject": "M7", "species": "Mus musculus", "sex": "F",
        "age": "P90D", "session": "1", "identifier": "8f1c", "institution": "Institute", "lab": "Lab",
        "start": "2022-01-01 00:00:00+00:00"}.items()
    assert s.metadata["description"].startswith("open field") and len(s.metadata["description"]) == nwb.LONG


def test_behavior_on_another_clock_comes_onto_the_frames(base):
    s = read_one(base)
    assert (s.behavior_names, s.behavior_units) == (("speed",), ("cm/s",))
    # three samples in 30 ms fall on a frame of 33 ms: a ramp of 10 cm/s each second is met within half a sample
    np.testing.assert_allclose(s.behavior[:, 0], 10 * TIMES, atol=0.051)


def test_trials_become_a_stimulus_of_their_numbers(base):
    (trials,) = read_one(base).stimuli
    assert trials.name == "trials" and list(trials.columns) == ["contrast"]
    np.testing.assert_array_equal(trials.columns["contrast"], [0, 0.25, 0.5, 0.75])
    np.testing.assert_array_equal(trials.frames, [[15 * k, np.ceil(7.5) + 15 * k] for k in range(4)])


def test_files_of_suite2p_need_no_key_and_keep_their_cells(tmp_path):
    file, rows = _recording(), [4, 2, 1, 0]
    _rois(file).add_column("iscell", "and its probability", data=np.array([[1, 0.9], [0, 0.1], [1, 1], [1, 1], [1, 1]]))
    for container in ("Neuropil", "Deconvolved", "Fluorescence"):
        scale = {"Fluorescence": 1, "Neuropil": 2, "Deconvolved": 3}[container]
        _respond(file, container, "plane0", data=scale * TRACES[:, rows], rows=rows)
    path = _write(file, tmp_path / "a.nwb")
    s = read_one(path)
    assert s.neurons == ("104", "102", "100") and s.metadata["ROIs"] == "3 of 4 kept by 'iscell'"
    np.testing.assert_array_equal(s.traces, TRACES[:, [4, 2, 0]])
    np.testing.assert_array_equal(read_one(path, "plane0").traces, s.traces)
    np.testing.assert_array_equal(read_one(path, "neuropil/").traces, 2 * s.traces)


def test_an_accepted_column_of_nothing_is_not_applied_and_said(changed):
    def reject(f):
        table = f["processing/ophys/ImageSegmentation/rois_plane0"]
        table["Accepted"] = np.zeros(N, int)
        table["Accepted"].attrs.update({**table["id"].attrs, "neurodata_type": "VectorData", "description": "by hand",
                                        "object_id": "5b6a"})
        table.attrs["colnames"] = [*table.attrs["colnames"], "Accepted"]

    s = read_one(changed(reject))
    assert s.n_neurons == N and s.metadata["ROIs"] == "'Accepted' keeps none of 5: not applied"


def test_dff_goes_before_fluorescence_with_its_conversion(tmp_path):
    file, counts = _respond(_recording()), (1000 * TRACES).astype(np.int16)
    _respond(file, "DfOverF", data=counts, conversion=1e-3, offset=-1.0)
    s = read_one(_write(file, tmp_path / "a.nwb"))
    assert s.unit == "dF/F" and s.metadata["traces"] == "ophys/DfOverF/RoiResponseSeries"
    np.testing.assert_allclose(s.traces, TRACES - 1, atol=1.01e-3)


@pytest.fixture(scope="module")
def two_planes(tmp_path_factory):
    file = _recording("upper", "lower")
    for k, plane in enumerate(("upper", "lower")):
        _respond(file, "DfOverF", f"dff_{plane}", plane, TRACES + k)
        _respond(file, "Fluorescence", f"f_{plane}", plane, TRACES + (k + 2))
    return _write(file, tmp_path_factory.mktemp("nwb") / "planes.nwb")


@pytest.mark.parametrize("key, offset", [("lower", 1), ("upper", 0), ("f_upper", 2), ("ophys/DfOverF/dff_lower", 1),
                                         ("Fluorescence/f_lower", 3)])
def test_a_key_names_a_plane_a_series_or_a_path(two_planes, key, offset):
    np.testing.assert_array_equal(read_one(two_planes, key).traces, TRACES + offset)


@pytest.mark.parametrize("key, message", [("", "has several series"), ("DfOverF", "'DfOverF' fits 2 of its series"),
                                          ("middle", "'middle' fits 0 of its series")])
def test_without_a_key_that_decides_the_series_are_listed(two_planes, key, message):
    with pytest.raises(UserError, match=message) as caught:
        read_one(two_planes, key)
    assert "ophys/DfOverF/dff_upper (plane 'upper')" in str(caught.value)
    assert "ophys/Fluorescence/f_lower (plane 'lower')" in str(caught.value)


def test_gaps_and_invalid_times_part_segments(tmp_path):
    times = TIMES + np.where(np.arange(T) >= 40, 0.5, 0.0)
    file = _respond(_recording(), timestamps=times)
    file.add_invalid_time_interval(start_time=times[60], stop_time=times[70])
    file.add_invalid_time_interval(start_time=times[65], stop_time=times[72])
    s = read_one(_write(file, tmp_path / "a.nwb"))
    assert s.segments == ((0, 40), (40, 60), (72, T)) and s.stimuli == ()
    assert s.rate == pytest.approx(RATE)
    np.testing.assert_array_equal(s.times, times)


@pytest.mark.parametrize("stamped", [False, True])
def test_rois_by_frames_are_turned_and_said(changed, stamped):
    def edit(f):
        _replace(f, f"{SERIES}/data", TRACES.T)
        if stamped:
            _stamp(f, SERIES, TIMES)

    s = read_one(changed(edit))
    np.testing.assert_array_equal(s.traces, TRACES)
    np.testing.assert_allclose(s.times, TIMES)
    assert "turned" in s.metadata["orientation"]


def test_every_behavior_has_a_name_and_a_unit(tmp_path):
    position, events, eye = behavior.Position(), behavior.BehavioralEvents(), behavior.EyeTracking()
    walk = np.stack([np.arange(T), np.arange(T) ** 2], axis=1).astype(float)
    position.create_spatial_series(name="place", data=walk, reference_frame="corner", unit="meters", timestamps=TIMES)
    events.create_timeseries(name="licks", data=np.ones(3), unit="n.a.", timestamps=[2.1, 2.2, 2.9])
    eye.create_spatial_series(name="speed", data=walk[:, 0], reference_frame="eye", unit="deg/s", timestamps=TIMES)
    file = _behave(_respond(_recording()), position, events, eye,
                   TimeSeries(name="speed", data=walk[:, 1], unit="cm/s", timestamps=TIMES, conversion=0.5),
                   TimeSeries(name="late", data=walk[:, 0], unit="V", timestamps=TIMES + 100),
                   TimeSeries(name="words", data=["a"] * T, unit="n.a.", timestamps=TIMES))
    file.add_acquisition(TimeSeries(name="wheel", data=(walk * 2).astype(np.int16), unit="unknown", timestamps=TIMES))
    file.add_acquisition(TimeSeries(name="wide", data=np.zeros((T, 9)), unit="V", timestamps=TIMES))
    file.add_acquisition(ophys.TwoPhotonSeries(name="movie", data=np.zeros((T, 2, 2)), unit="n.a.", rate=RATE,
                                               imaging_plane=file.imaging_planes["plane0"]))
    s = read_one(_write(file, tmp_path / "a.nwb"))
    seen = dict(zip(s.behavior_names, zip(s.behavior_units, s.behavior.T)))
    expected = {"speed": ("deg/s", walk[:, 0]), "place_x": ("meters", walk[:, 0]), "place_y": ("meters", walk[:, 1]),
                "behavior/speed": ("cm/s", walk[:, 1] / 2), "wheel_0": ("", 2 * walk[:, 0]),
                "wheel_1": ("", 2 * walk[:, 1])}
    assert {name: unit for name, (unit, _) in seen.items()} == {name: unit for name, (unit, _) in expected.items()}
    for name, (_, values) in expected.items():
        np.testing.assert_allclose(seen[name][1], values, rtol=1e-6)
    assert s.metadata["left out"] == ("behavior/BehavioralEvents/licks (events, not samples), late (all NaN), "
                                      "behavior/words (no numbers), acquisition/wide (shape (90, 9))")


def test_a_gap_of_a_behavior_stays_unobserved(changed):
    stamps = TIMES + np.where(np.arange(T) >= 45, 1.0, 0.0)  # half of the samples come a second late

    def edit(f):
        _replace(f, f"{SPEED}/data", np.arange(T, dtype=float))
        _stamp(f, SPEED, stamps)

    speed = read_one(changed(edit)).behavior[:, 0]
    np.testing.assert_allclose(speed[:45], np.arange(45))
    assert np.isnan(speed[45:75]).all()
    np.testing.assert_allclose(speed[75:], np.arange(45, 60), atol=1e-4)


def test_behaviors_that_do_not_fit_are_left_out_and_said(changed):
    s = read_one(changed(lambda f: _stamp(f, SPEED, np.arange(599.0))))
    assert s.behavior_names == ()
    assert s.metadata["left out"] == "behavior/BehavioralTimeSeries/speed (600 samples, 599 time stamps)"


def test_epochs_and_other_tables_are_stimuli_too(tmp_path):
    file = _respond(_recording())
    file.add_epoch(TIMES[10], TIMES[20], tags=["dark"])
    gratings = TimeIntervals(name="gratings", description="shown")
    gratings.add_column("angle", "degrees")
    for k, stop in enumerate([TIMES[40], np.nan, 1e9]):
        gratings.add_row(start_time=TIMES[30 + k], stop_time=stop, angle=45 * k)
    file.add_time_intervals(gratings)
    epochs, gratings = read_one(_write(file, tmp_path / "a.nwb")).stimuli
    assert (epochs.name, dict(epochs.columns), epochs.frames.tolist()) == ("epochs", {}, [[10, 20]])
    assert gratings.name == "gratings" and gratings.frames.tolist() == [[30, 40], [31, 31], [32, T]]
    np.testing.assert_array_equal(gratings.columns["angle"], [0, 45, 90])


def test_types_of_extensions_are_read_and_forgotten(base, tmp_path):
    namespace = NWBNamespaceBuilder(name="ndx-wheel", version="0.1.0", doc="wheels", author="A", contact="a@b.c")
    namespace.include_type("TimeSeries", namespace="core")
    namespace.add_spec("wheel.extensions.yaml", NWBGroupSpec(
        neurodata_type_def="WheelSeries", neurodata_type_inc="TimeSeries", doc="a wheel",
        attributes=[NWBAttributeSpec("radius", dtype="float", doc="in cm")]))
    namespace.export("wheel.namespace.yaml", outdir=str(tmp_path))
    types = pynwb.get_type_map()
    types.load_namespaces(str(tmp_path / "wheel.namespace.yaml"))
    wheel = types.get_dt_container_cls("WheelSeries", "ndx-wheel")
    file = _behave(_respond(_recording()), wheel(name="wheel", data=np.arange(T) * 1.0, unit="cm", timestamps=TIMES,
                                                 radius=7.5))
    path = _write(file, tmp_path / "a.nwb", manager=BuildManager(types))
    before = nwb_file._core_types().namespace_catalog.namespaces
    for _ in range(2):
        s = read_one(path)
        assert (s.behavior_names, s.behavior_units) == (("wheel",), ("cm",))
        assert read_one(base).behavior_names == ("speed",)
    assert nwb_file._core_types().namespace_catalog.namespaces == before and "ndx-wheel" not in before


def test_pynwb_is_left_as_it_was(base):
    original = NWBMixin._get_type_map
    read_one(base)
    with pytest.raises(UserError):
        read_one(base, "no such series")
    assert NWBMixin._get_type_map is original


def test_a_neuron_without_numbers_stays(changed):
    def edit(f):
        f[f"{SERIES}/data"][:, 2] = np.nan

    assert read_one(changed(edit)).nan_neurons().tolist() == [2]


def test_links_within_the_folder_are_followed_and_no_others(changed, tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as f:
        f["x"] = 3 * TRACES
        f["x"].attrs.update({"unit": "a.u.", "conversion": 1.0, "offset": 0.0, "resolution": -1.0})

    def link(target):
        def edit(f):
            del f[f"{SERIES}/data"]
            f[f"{SERIES}/data"] = h5py.ExternalLink(target, "/x")
        return changed(edit)

    np.testing.assert_array_equal(read_one(link("data.h5")).traces, 3 * TRACES)
    for target in ("../data.h5", str(tmp_path.parent / "data.h5"), "gone.h5"):
        with pytest.raises(UserError, match=f"links to '{target}', which is no file in its folder"):
            read_one(link(target))


def _set(key, value, **options):
    return lambda f: _replace(f, key, value, **options)


def _huge(f):
    _replace(f, f"{SERIES}/data", np.zeros((1, N), np.float32), maxshape=(None, N), chunks=(1, N))
    f[f"{SERIES}/data"].resize((2**34, N))


def _stamped(times):
    return lambda f: _stamp(f, SERIES, times)


def _no_rate(f):
    f[f"{SERIES}/starting_time"].attrs["rate"] = 0.0


def _external(f):
    _replace(f, f"{SERIES}/data", None, shape=(T, N), dtype="f4", external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)])


BAD = {
    "no_responses": (lambda f: f.__delitem__("processing/ophys/Fluorescence"), "has no ROI responses"),
    "no_module": (lambda f: f.__delitem__("processing/ophys"), "has no ROI responses"),
    "no_data": (lambda f: f.__delitem__(f"{SERIES}/data"), r"data of shape \(0, 1\) for 5 ROIs"),
    "no_clock": (lambda f: f.__delitem__(f"{SERIES}/starting_time"), "RoiResponseSeries .*'timestamps' or 'rate' must"),
    "no_identifier": (lambda f: f.__delitem__("identifier"), "NWBFile .*identifier"),
    "text": (_set(f"{SERIES}/data", np.full((T, N), b"a")), "data holds .* values; real numbers"),
    "lengths": (_stamped(TIMES[:-1]), r"data of shape \(90, 5\) for 5 ROIs and 89 time stamps"),
    "rois": (_set(f"{SERIES}/data", TRACES[:, 1:]), r"data of shape \(90, 4\) for 5 ROIs and no time stamps"),
    "rows": (_set(f"{SERIES}/rois", np.arange(N) + 7), "out of bounds"),
    "times_back": (_stamped(np.where(np.arange(T) == 9, 0, TIMES)), "do not increase at frame 9"),
    "nan_time": (_stamped(np.where(np.arange(T) == 9, np.nan, TIMES)), "time stamp of frame 9 is nan"),
    "no_rate": (_no_rate, "has a rate of 0 Hz"),
    "huge": (_huge, "declares 320 GiB, far more than its"),
    "external": (_external, "data lies in other files"),
    "infinite": (_set(f"{SERIES}/data", np.full((T, N), np.inf)), "infinite"),
    "cycle": (lambda f: f["processing"].__setitem__("ophys/again", f["processing"]), "no valid NWB file"),
}


@pytest.mark.parametrize("edit, message", BAD.values(), ids=BAD)
def test_bad_files_end_with_what_is_wrong(changed, edit, message):
    path = changed(edit)
    with pytest.raises(UserError, match=message) as caught:
        read_one(path)
    assert "changed" in str(caught.value)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_truncated_file_is_called_damaged(base, tmp_path, share):
    path = tmp_path / "a.nwb"
    path.write_bytes(base.read_bytes()[:int(share * base.stat().st_size)])
    assert not nwb.recognises(path)
    for read in (read_one, nwb.read):
        with pytest.raises(UserError, match="damaged.* cut.off"):
            read(path)


@pytest.mark.parametrize("which", [0, 0.5])
def test_text_of_a_damaged_type_crashes_the_hdf5_library_and_not_this_process(base, tmp_path, which):
    data, text = bytearray(base.read_bytes()), bytes.fromhex("19 01 01 00 10 00 00 00")  # variable length, string
    places = [k for k in range(len(data)) if data.startswith(text, k)]
    assert len(places) > 20
    data[places[int(which * (len(places) - 1))] + 1] = 3  # neither sequence nor string: reading it would crash Python
    (tmp_path / "a.nwb").write_bytes(data)
    with Apart() as apart:
        with pytest.raises(UserError, match="damaged"):
            apart.read(tmp_path / "a.nwb")
        assert apart.read(base)[0].n_neurons == N


def test_only_files_that_state_nwb_2_are_recognised(base, tmp_path):
    assert nwb.recognises(base) and "nwb" in READERS
    for version in ("NWB-1.0.5", 2.0, None):
        with h5py.File(tmp_path / "old.nwb", "w") as f:
            if version is not None:
                f["nwb_version"] = version
        assert not nwb.recognises(tmp_path / "old.nwb")
    (tmp_path / "text.nwb").write_text("2")
    assert not nwb.recognises(tmp_path / "text.nwb") and not nwb.recognises(tmp_path)
