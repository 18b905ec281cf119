from __future__ import annotations

import h5py
import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions.readers import neuropal, read_one

T, N = 40, 4
HEADER = "Label,Coordinates,ROI(s),Confidence,Comment,Region\n"
ROWS = ("AVAL,,1,4,,head", "AVAR,,2/7,5,,head", 'RMEV,,"3, 6",2.5,,head')


def _worm(tmp_path, **changes):
    """Seven ROIs; neuron 2 was dropped, so neurons 1, 3, 4, 5 are columns 1 to 4, listed in no order."""
    data = {"gcamp/traces_array_F_F20": np.random.default_rng(0).normal(size=(T, N)),
            "timing/timestamp_confocal": np.arange(T) * 0.6,
            "gcamp/match_org_to_skip": np.array([[5, 1, 3, 4], [4, 1, 2, 3]]),
            neuropal.MATCH: np.array([5, 3, 0, 2, 4, 1, 1]),
            neuropal.MATCH_CONFIDENCE: np.array([9.0, 8.0, 0.0, 9.0, 1.9, 7.0, 3.0])}
    path = tmp_path / "2022-01-01-data.h5"
    with h5py.File(path, "w") as f:
        for key, value in {**data, **changes}.items():
            if value is not None:
                f[key] = value
    return path


def _read(tmp_path, *rows, header=HEADER, name="2022-01-01.csv", **changes):
    table = tmp_path / name
    table.parent.mkdir(exist_ok=True)
    table.write_text(header + "\n".join(rows))
    return read_one(_worm(tmp_path, **changes))


def test_labels_go_by_roi_and_neuron_to_their_column(tmp_path):
    s = _read(tmp_path, *ROWS)
    # ROI 1 -> neuron 5 -> column 4; of ROIs 2 and 7, 2 is the surer: neuron 3 -> column 2; ROI 3 has none, 6 -> 1 -> 1
    assert s.neurons == ("RMEV", "AVAR", "", "AVAL")
    assert s.metadata["identities"] == "3 used, from 2022-01-01.csv"


@pytest.mark.parametrize("row, reason", [
    ("AVBL,,1,2.4,,", "1 below confidence 2.5"), ("AVBL,,1,,,", "1 below confidence 2.5"),
    ("AVB-alt,,1,4,,", "1 marked as an alternative"), ("AVBL,,3,4,,", "1 without a trace"),
    ("AVBL,,5,4,,", "1 without a trace"), ("AVBL,,4,4,,", "1 without a trace"), ("AVBL,,99,4,,", "1 without a trace")])
def test_what_is_left_out_is_counted(tmp_path, row, reason):
    s = _read(tmp_path, row)
    assert s.neurons == ("",) * N and s.metadata["identities"] == f"0 used, left out {reason}, from 2022-01-01.csv"


def test_an_roi_or_a_trace_with_two_labels_has_none(tmp_path):
    s = _read(tmp_path, "AVAL,,1,4,,", "AVAR,,1/2,4,,", "RMEV,,6,4,,", "RMED,,7,4,,")
    assert s.neurons == ("",) * N
    assert "2 of an ROI with several labels, 2 of a trace with several labels" in s.metadata["identities"]


def test_rows_without_an_roi_and_short_rows_say_nothing(tmp_path):
    s = _read(tmp_path, "AVBL,,,4,,", "AVBR,,?,4,,", "short", "", "AVAL,,1.0,4,,")
    assert s.neurons == ("", "", "", "AVAL") and s.metadata["identities"] == "1 used, from 2022-01-01.csv"


@pytest.mark.parametrize("name", ["2022-01-01_labels.csv", "2022-01-01-NeuroPAL-labels.csv",
                                  "labels_csv/2022-01-01.csv"])
def test_common_names_are_found(tmp_path, name):
    assert _read(tmp_path, *ROWS, name=name).neurons[3] == "AVAL"


def test_the_table_of_automatic_labels_is_read(tmp_path):
    s = _read(tmp_path, 'AVAL,"1,2,3",1,4,', header="Neuron Class,Coordinates,ROI ID,Confidence,Alternatives\n")
    assert s.neurons == ("", "", "", "AVAL")


def test_labels_beside_the_folder_of_recordings_are_found(tmp_path):
    (tmp_path / "labels_csv").mkdir()
    (tmp_path / "processed_h5").mkdir()
    (tmp_path / "labels_csv" / "2022-01-01.csv").write_text(HEADER + "\n".join(ROWS))
    assert read_one(_worm(tmp_path / "processed_h5")).neurons[3] == "AVAL"


def test_without_table_or_registration_there_are_no_labels(tmp_path):
    s = read_one(_worm(tmp_path))
    assert s.neurons == ("",) * N and "identities" not in s.metadata
    assert _read(tmp_path, *ROWS, **{neuropal.MATCH: None}).neurons == ("",) * N


@pytest.mark.parametrize("content", [b"", b"time,speed\n1,2\n", b"\x00\xff" * 500])
def test_another_table_of_that_name_is_said_to_be_one(tmp_path, content):
    (tmp_path / "2022-01-01.csv").write_bytes(content)
    s = read_one(_worm(tmp_path))
    assert s.neurons == ("",) * N
    assert s.metadata["identities"] == "none, 2022-01-01.csv has no columns ROI and confidence"


def test_without_the_map_of_dropped_neurons_none_was_dropped(tmp_path):
    s = _read(tmp_path, "AVAL,,5,4,,", "AVAR,,6,4,,", **{"gcamp/match_org_to_skip": None,
                                                         neuropal.MATCH_CONFIDENCE: np.full(7, 9)})
    assert s.neurons == ("AVAR", "", "", "AVAL")


BAD = {
    "field": ("A" * 200_000 + ",,1,4,,", {}, "2022-01-01.csv: the neuron labels cannot be read"),
    "match_text": (ROWS[0], {neuropal.MATCH: np.array([b"x"] * 7)}, "data.h5: .*roi_match has shape"),
    "match_part": (ROWS[0], {neuropal.MATCH: np.full(7, 0.5)}, "must be 1-dimensional, whole numbers"),
    "match_shape": (ROWS[0], {neuropal.MATCH: np.ones((7, 7), int)}, "must be 1-dimensional, whole numbers"),
    "no_confidence": (ROWS[0], {neuropal.MATCH_CONFIDENCE: None}, "has no '.*/roi_match_confidence'"),
    "confidence_length": (ROWS[0], {neuropal.MATCH_CONFIDENCE: np.ones(6)}, "it must have a number for each ROI"),
    "map_shape": (ROWS[0], {"gcamp/match_org_to_skip": np.ones((3, 4), int)}, "must be 2 x neurons"),
    "map_nan": (ROWS[0], {"gcamp/match_org_to_skip": np.full((2, 4), np.nan)}, "whole numbers"),
}


@pytest.mark.parametrize("row, changes, message", BAD.values(), ids=BAD)
def test_damage_ends_naming_the_file(tmp_path, row, changes, message):
    with pytest.raises(UserError, match=message):
        _read(tmp_path, row, **changes)


@pytest.mark.data
def test_published_registrations_bring_labels_to_their_traces(data_dir, tmp_path):
    path = sorted((data_dir / "worms").glob("*with_id*.h5"))[0]
    with h5py.File(path) as f:
        match, sure = f[neuropal.MATCH][()], f[neuropal.MATCH_CONFIDENCE][()]
    (tmp_path / path.name).symlink_to(path)
    table = tmp_path / (path.name.removesuffix("-data.h5") + ".csv")
    table.write_text(HEADER + "\n".join(f"N{neuron},,{roi},4,," for roi, neuron in enumerate(match, start=1)))
    neurons = read_one(tmp_path / path.name).neurons
    assert sum(map(bool, neurons)) == (sure >= 2).sum() == 130
    assert all(label in ("", f"N{column}") for column, label in enumerate(neurons, start=1))
