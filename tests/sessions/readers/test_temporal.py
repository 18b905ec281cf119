from __future__ import annotations

import h5py
import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions.readers import read_one, temporal

td = pytest.importorskip("temporaldata")

T, N, START, RATE = 400, 5, 5.0, 10.0  # the recording lasts from 5 s to 45 s
DFF = np.random.default_rng(0).normal(0, 0.1, (T, N)).astype(np.float32)
FRAMES = START + np.arange(T) / RATE
GRATINGS = [(5.95, 7.95), (8.0, 9.0), (10.0, 10.0), (1.0, 2.0), (44.5, 60.0)]  # inside, on frames, empty, outside
GRATINGS_FRAMES = [(10, 30), (30, 40), (50, 50), (0, 0), (395, 400)]


def _gratings(**columns):
    start, end = np.array(GRATINGS).T
    return td.Interval(start=start, end=end, timestamps=(start + end) / 2, timekeys=["start", "end", "timestamps"],
                       **columns)


def _regular(**arrays):
    return td.RegularTimeSeries(sampling_rate=RATE, domain_start=START, **arrays)


def _written(tmp_path, **parts):
    path = tmp_path / "a-file.h5"
    parts = {key: value for key, value in parts.items() if value is not None}
    with h5py.File(path, "w") as f:
        td.Data(domain=td.Interval(START, START + T / RATE), **parts).to_hdf5(f)
    return path


def _kirby(tmp_path, **changes):
    """What POYO's first pipelines wrote: masks beside the traces, ids as attributes of the root."""
    frame = np.arange(T)
    masks = {"train_mask": frame < 200, "valid_mask": (250 <= frame) & (frame < 275), "test_mask": frame >= 300}
    movie = td.Interval(start=FRAMES[100:104], end=FRAMES[101:105], frame_number=np.arange(4, dtype="f4")[:, None],
                        train_mask=np.ones(4, bool))
    parts = {"calcium_traces": _regular(df_over_f=DFF, **masks), "session_id": "501940850", "subject_id": "m1",
             "units": td.ArrayDict(id=np.array([f"allen/501940850/{k}" for k in range(N)])),
             "drifting_gratings": _gratings(orientation=np.arange(5), temp_freq=np.arange(5) % 3),
             "natural_movie_one": movie, "subject": td.Data(id="m1", species="MUS_MUSCULUS", sex="MALE",
                                                            cre_line="CUX2_CREERT2", depth="175", target_area="VIS_P")}
    return _written(tmp_path, **{**parts, **changes})


def _brainsets(tmp_path, **changes):
    """What brainsets writes now: domains of the parts, rois, behaviours on clocks of their own."""
    wheel = np.delete(np.arange(0, 900) / 20, np.arange(400, 440))  # s, none from 20 s to 22 s
    eye = np.arange(5, 46, dtype=float)  # 1 Hz
    parts = {"calcium_traces": _regular(df_over_f=DFF), "session": td.Data(id="501940850", recording_date="2016-02-16"),
             "rois": td.ArrayDict(id=np.arange(N).astype(str)), "device": td.Data(imaging_depth=175.0),
             "running": td.IrregularTimeSeries(timestamps=wheel, running_speed=wheel[:, None].astype("f4"),
                                               domain="auto"),
             "pupil": td.IrregularTimeSeries(timestamps=eye, size=2 * eye, location=np.stack([eye, -eye], axis=1),
                                             domain="auto"),
             "drifting_gratings": _gratings(orientation=np.array([0.0, 45, 90, 135, 180])),
             "spontaneous_domain": td.Interval(15.0, 16.0), "train_domain": td.Interval(5.0, 25.0),
             "valid_domain": td.Interval(25.0, 30.0), "test_domain": td.Interval([30.0, 40.0], [35.0, 45.0])}
    return _written(tmp_path, **{**parts, **changes})


def _with(path, **changes):
    with h5py.File(path, "r+") as f:
        for key, value in changes.items():
            if key in f:
                del f[key]
            if value is not None:
                f[key] = value
    return path


def test_reads_kirby_files(tmp_path):
    s = read_one(_kirby(tmp_path))
    np.testing.assert_array_equal(s.traces, DFF)
    np.testing.assert_array_equal(s.times, FRAMES)
    assert (s.id, s.id_from_name, s.rate, s.unit, s.segments) == ("501940850", False, RATE, "dF/F", ((0, T),))
    assert s.neurons == tuple(f"allen/501940850/{k}" for k in range(N))
    assert {part: int(mask.sum()) for part, mask in s.masks.items()} == {"train": 200, "validation": 25, "test": 100}
    assert np.flatnonzero(s.masks["validation"]).tolist() == list(range(250, 275))
    assert dict(s.metadata) == {"subject": "m1", "species": "MUS_MUSCULUS", "sex": "MALE", "cre": "CUX2_CREERT2",
                                "depth": "175", "area": "VIS_P"}


def test_reads_brainsets_files(tmp_path):
    s = read_one(_brainsets(tmp_path))
    np.testing.assert_array_equal(s.traces, DFF)
    assert (s.id, s.rate, s.neurons) == ("501940850", RATE, ("0", "1", "2", "3", "4"))
    assert s.metadata["start"] == "2016-02-16" and s.metadata["depth"] == "175.0"
    runs = {"train": [(0, 200)], "validation": [(200, 250)], "test": [(250, 300), (350, 400)]}  # start <= t < end
    for part, wanted in runs.items():
        assert np.flatnonzero(s.masks[part]).tolist() == [t for a, b in wanted for t in range(a, b)]


def test_agrees_with_what_temporaldata_reads_back(tmp_path):
    path = _brainsets(tmp_path)
    s = read_one(path)
    with h5py.File(path) as f:
        data = td.Data.from_hdf5(f, lazy=False)
    np.testing.assert_array_equal(s.traces, data.calcium_traces.df_over_f)
    np.testing.assert_array_equal(s.times, data.calcium_traces.timestamps)
    for name, part in temporal.PARTS.items():
        domain = getattr(data, f"{name}_domain")
        pieces = [data.calcium_traces.slice(a, b).df_over_f for a, b in zip(domain.start, domain.end)]
        np.testing.assert_array_equal(s.traces[s.masks[part]], np.concatenate(pieces))


@pytest.mark.parametrize("written", [_kirby, _brainsets])
def test_stimuli_take_the_frames_inside_them(tmp_path, written):
    gratings = {k.name: k for k in read_one(written(tmp_path)).stimuli}["drifting_gratings"]
    assert gratings.frames.tolist() == [list(run) for run in GRATINGS_FRAMES]
    orientation = np.arange(5.0) * (1 if written is _kirby else 45)
    np.testing.assert_array_equal(gratings.columns["orientation"], orientation)
    assert "timestamps" not in gratings.columns  # a time on the recording's clock is no parameter


def test_columns_of_one_value_a_row_are_flattened_and_masks_are_no_parameters(tmp_path):
    movie = {k.name: k for k in read_one(_kirby(tmp_path)).stimuli}["natural_movie_one"]
    assert list(movie.columns) == ["frame_number"] and movie.columns["frame_number"].tolist() == [0, 1, 2, 3]
    assert movie.frames.tolist() == [[100 + k, 101 + k] for k in range(4)]


def test_epochs_are_stimuli_and_domains_of_parts_are_not(tmp_path):
    stimuli = {k.name: k for k in read_one(_brainsets(tmp_path)).stimuli}
    assert set(stimuli) == {"drifting_gratings", "spontaneous_domain"}
    assert stimuli["spontaneous_domain"].frames.tolist() == [[100, 110]] and not stimuli["spontaneous_domain"].columns


def test_intervals_may_have_no_rows(tmp_path):
    none = td.Interval(np.zeros(0), np.zeros(0))
    s = read_one(_brainsets(tmp_path, valid_domain=none, drifting_gratings=none))
    assert s.masks["validation"].sum() == 0 and s.stimuli[0].frames.shape == (0, 2)


def test_what_is_no_list_of_numbers_is_left_out_and_said(tmp_path):
    gratings = _gratings(image=np.zeros((5, 3, 4)), kind=np.array(list("abcde")), contrast=np.ones(5))
    s = read_one(_brainsets(tmp_path, drifting_gratings=gratings))
    assert list(s.stimuli[0].columns) == ["contrast"]
    left = s.metadata["left out"]
    assert "drifting_gratings/image (float64, shape (5, 3, 4))" in left and "drifting_gratings/kind" in left


def test_behaviors_come_at_the_frames_with_nan_in_gaps(tmp_path):
    s = read_one(_brainsets(tmp_path))
    assert s.behavior_names == ("pupil_location_0", "pupil_location_1", "pupil_size", "running_speed")
    assert s.behavior_units == ("deg", "deg", "px", "cm/s")
    x, y, size, speed = s.behavior.T
    gap = (20.1 <= FRAMES) & (FRAMES <= 21.9)
    assert np.isnan(speed[gap]).all() and not np.isnan(speed[(FRAMES < 20) | (FRAMES > 22) & (FRAMES < 44.9)]).any()
    np.testing.assert_allclose(speed[~np.isnan(speed)], FRAMES[~np.isnan(speed)], atol=1 / 20)  # its value is the time
    np.testing.assert_allclose(size, 2 * FRAMES, rtol=1e-6)  # joined by a line between seconds
    np.testing.assert_allclose(x, -y)


def test_behavior_may_be_regular_and_never_observed(tmp_path):
    running = td.RegularTimeSeries(sampling_rate=RATE, domain_start=START, running_speed=np.arange(T, dtype="f4"),
                                   cadence=np.full(T, np.nan))
    s = read_one(_brainsets(tmp_path, running=running, pupil=None))
    assert s.behavior_names == ("running_speed",) and s.metadata["left out"] == "running_cadence (all NaN)"
    np.testing.assert_array_equal(s.behavior[:, 0], np.arange(T))


def test_other_series_are_no_behaviors(tmp_path):
    s = read_one(_brainsets(tmp_path, running=None, pupil=None, events=_regular(amplitude=DFF)))
    assert s.behavior_names == ()


def test_irregular_series_begins_a_segment_after_a_gap(tmp_path):
    times = FRAMES + 1e-3 * np.random.default_rng(1).uniform(-1, 1, T)
    times[150:] += 0.1  # one frame lost: still one run
    times[300:] += 7.0
    traces = td.IrregularTimeSeries(timestamps=times, df_over_f=DFF, domain="auto")
    s = read_one(_brainsets(tmp_path, calcium_traces=traces))
    np.testing.assert_array_equal(s.times, times)
    assert s.segments == ((0, 300), (300, T)) and s.rate == pytest.approx(RATE, rel=1e-3)
    assert s.masks["train"].sum() == np.count_nonzero((times >= 5) & (times < 25))


def test_fill_values_of_a_regular_series_with_gaps_are_dropped(tmp_path):
    measured = np.ones(T, bool)
    measured[100], measured[200:260] = False, False
    traces = td.RegularTimeSeries.from_gappy_timeseries(FRAMES[measured], RATE, df_over_f=DFF[measured],
                                                        train_mask=np.arange(T)[measured] < 230)
    s = read_one(_brainsets(tmp_path, calcium_traces=traces))
    np.testing.assert_array_equal(s.traces, DFF[measured])
    np.testing.assert_allclose(s.times, FRAMES[measured])
    assert s.segments == ((0, 199), (199, 339)) and s.masks["train"].sum() == 199
    assert s.stimuli[0].frames.tolist()[:2] == [[10, 30], [30, 40]]


def test_neuron_of_nan_stays_and_file_without_id_takes_its_name(tmp_path):
    dff = DFF.copy()
    dff[:, 2] = np.nan
    s = read_one(_kirby(tmp_path, calcium_traces=_regular(df_over_f=dff), session_id=None, units=None))
    assert s.nan_neurons().tolist() == [2] and s.neurons == ("",) * N and not s.masks
    assert s.id == "a-file" and s.id_from_name


def test_traces_are_chosen_by_key(tmp_path):
    path = _brainsets(tmp_path, calcium_traces=_regular(df_over_f=DFF, events=2 * DFF),
                      other=_regular(df_over_f=3 * DFF))
    np.testing.assert_array_equal(read_one(path).traces, DFF)
    for key in ("events", "calcium_traces/events", "/calcium_traces/events"):
        s = read_one(path, key)
        np.testing.assert_array_equal(s.traces, 2 * DFF)
        assert s.unit == ""
    np.testing.assert_array_equal(read_one(path, "other/df_over_f").traces, 3 * DFF)
    choices = "calcium_traces/df_over_f, calcium_traces/events, other/df_over_f"
    for key, message in (("spikes", "'spikes' fits 0"), ("df_over_f", "'df_over_f' fits 2")):
        with pytest.raises(UserError, match=f"{message} .*KEY: {choices}"):
            read_one(path, key)


def test_without_dff_the_only_series_is_taken_and_several_are_listed(tmp_path):
    assert read_one(_brainsets(tmp_path, calcium_traces=_regular(events=DFF))).unit == ""
    with pytest.raises(UserError, match="calcium_traces has 2 series .*calcium_traces/a, calcium_traces/b"):
        read_one(_brainsets(tmp_path, calcium_traces=_regular(a=DFF, b=DFF)))
    with pytest.raises(UserError, match="calcium_traces has 0 series .*the file has none"):
        read_one(_brainsets(tmp_path, calcium_traces=None))


RAGGED, CT = np.zeros(7), "calcium_traces"
BAD = {
    "no_domain": ({f"{CT}/domain": None}, "has no 'calcium_traces/domain/start'"),
    "empty_domain": ({f"{CT}/domain/start": np.zeros(0), f"{CT}/domain/end": np.zeros(0)}, "domain is empty"),
    "text_traces": ({f"{CT}/df_over_f": np.full((T, N), b"x")}, "df_over_f holds .S1 values"),
    "complex_traces": ({f"{CT}/df_over_f": np.ones((T, N), complex)}, "df_over_f holds complex128"),
    "infinite": ({f"{CT}/df_over_f": np.full((T, N), np.inf)}, "infinite"),
    "no_neurons": ({f"{CT}/df_over_f": np.zeros((T, 0))}, "is empty"),
    "rois_length": ({"rois/id": np.array([b"a"])}, "1 neuron labels for 5 neurons"),
    "mask_length": ({f"{CT}/test_mask": np.ones(T - 1, bool)}, r"shape \(399,\) beside 400"),
    "mask_values": ({f"{CT}/test_mask": np.full(T, 2)}, "masks"),
    "mask_overlap": ({f"{CT}/test_mask": np.ones(T), f"{CT}/train_mask": np.ones(T)}, "in more than one"),
    "domain_overlap": ({"valid_domain/start": [24.0]}, "frame 190 is in more than one"),
    "domain_back": ({"valid_domain/start": [31.0]}, "interval 0 of valid_domain runs from 31 to 30 s"),
    "column_length": ({"drifting_gratings/orientation": RAGGED}, r"shape \(7,\) beside 5"),
    "ends_length": ({"drifting_gratings/end": RAGGED}, r"shape \(7,\) beside 5"),
    "no_ends": ({"drifting_gratings/end": None}, "has no 'drifting_gratings/end'"),
    "nan_start": ({"drifting_gratings/start": np.full(5, np.nan)}, "interval 0 of drifting_gratings runs from nan"),
    "behavior_length": ({"running/running_speed": RAGGED}, r"running/timestamps has shape \(860,\) beside 7"),
    "behavior_text": ({"running/running_speed": np.full(860, b"x")}, "running/running_speed holds"),
    "times_back": ({f"{CT}/timestamps": np.where(np.arange(T) == 9, 0, FRAMES)}, "do not increase at frame 9"),
    "times_reversed": ({f"{CT}/timestamps": FRAMES[::-1]}, "do not increase at frame 1"),
    "times_nan": ({f"{CT}/timestamps": np.where(np.arange(T) == 9, np.nan, FRAMES)}, "stamp of frame 9 is nan"),
    "times_short": ({f"{CT}/timestamps": FRAMES[1:]}, r"shape \(399,\) beside 400"),
}


@pytest.mark.parametrize("changes, message", BAD.values(), ids=BAD)
def test_bad_files_end_with_what_is_wrong(tmp_path, changes, message):
    path = _with(_brainsets(tmp_path), **changes)
    with pytest.raises(UserError, match=message) as caught:
        read_one(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("rate", [0.0, -3.0, np.nan, np.inf, "fast", [1.0, 2.0], None])
def test_sampling_rate_must_be_one_number_above_zero(tmp_path, rate):
    path = _brainsets(tmp_path)
    with h5py.File(path, "r+") as f:
        del f[CT].attrs["sampling_rate"]
        if rate is not None:
            f[CT].attrs["sampling_rate"] = rate
    with pytest.raises(UserError, match="calcium_traces has no timestamps and its sampling_rate is"):
        read_one(path)


def test_declared_size_far_above_the_file_is_refused(tmp_path):
    path = _with(_brainsets(tmp_path), **{f"{CT}/df_over_f": None})
    with h5py.File(path, "r+") as f:
        f.create_dataset(f"{CT}/df_over_f", (10**9, N), "f4", chunks=(1000, N))
    with pytest.raises(UserError, match="declares .*far more than"):
        read_one(path)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_truncated_file_is_called_damaged(tmp_path, share):
    path = _kirby(tmp_path)
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    with pytest.raises(UserError, match="damaged or cut.off"):
        read_one(path)


def test_recognises_by_content_and_is_silent_on_anything(tmp_path):
    assert temporal.recognises(_kirby(tmp_path).rename(tmp_path / "no-suffix"))
    (tmp_path / "garbage.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    with h5py.File(tmp_path / "other.h5", "w") as f:
        f["calcium_traces/df_over_f"] = DFF
    assert not any(temporal.recognises(path) for path in
                   (tmp_path, tmp_path / "garbage.h5", tmp_path / "other.h5", tmp_path / "absent.h5"))


def test_names_that_are_no_text_are_passed_over(tmp_path):
    path = _brainsets(tmp_path)
    with h5py.File(path, "r+") as f:
        f.copy("drifting_gratings", b"\xff\xfe stimulus")
        f["session"].attrs["id"] = np.bytes_(b"\xff7")
    s = read_one(path)
    assert {k.name for k in s.stimuli} == {"drifting_gratings", "spontaneous_domain"}
    s.fingerprint.encode(), s.summary().encode()
