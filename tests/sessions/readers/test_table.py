from __future__ import annotations

import json
import time

import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions.readers import read_one, table

T, N = 40, 3
HEADER = ["time_s", "cell_1", "cell_2", "cell_3", "speed (cm/s)", "lick"]


def _cells():
    """Rows of text whose numbers decimal text holds exactly."""
    frames = np.arange(T)
    columns = [frames / 4, frames * 0.5, 100 - frames, frames % 7, frames * 0.25, frames % 2 == 0]
    return [list(map(str, row)) for row in zip(*columns)]


def _file(tmp_path, cells=None, header=HEADER, delimiter=",", end="\n", encoding="utf-8"):
    path = tmp_path / "mouse.csv"
    rows = [header, *(_cells() if cells is None else cells)]
    path.write_bytes(end.join([*(delimiter.join(row) for row in rows), ""]).encode(encoding))
    return path


def _changed(row, column, cell):
    """The rows with one cell changed; row as a spreadsheet counts, the header being 1."""
    cells = _cells()
    cells[row - 2][HEADER.index(column)] = cell
    return cells


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_columns_become_neurons_times_and_behaviors(tmp_path, delimiter, end, encoding):
    s = read_one(_file(tmp_path, delimiter=delimiter, end=end, encoding=encoding), "cell_*")
    frames = np.arange(T, dtype=np.float32)
    np.testing.assert_array_equal(s.traces, np.stack([frames * 0.5, 100 - frames, frames % 7], axis=1))
    np.testing.assert_array_equal(s.times, frames / 4)
    np.testing.assert_array_equal(s.behavior, np.stack([frames * 0.25, frames % 2 == 0], axis=1))
    assert s.rate == 4.0 and s.id == "mouse" and s.id_from_name and s.neurons == ("cell_1", "cell_2", "cell_3")
    assert s.behavior_names == ("speed", "lick") and s.behavior_units == ("cm/s", "")


def test_without_traces_every_column_but_the_time_is_a_neuron(tmp_path):
    s = read_one(_file(tmp_path))
    assert s.neurons == tuple(HEADER[1:]) and s.behavior_names == () and s.rate == 4.0


def test_patterns_are_parted_by_commas_and_may_be_plain_names(tmp_path):
    path = _file(tmp_path, header=[*HEADER[:4], "speed [cm/s]", "lick"])
    s = read_one(path, "lick, cell_[12],speed [cm/s]")
    assert s.neurons == ("cell_1", "cell_2", "speed [cm/s]", "lick") and s.behavior_names == ("cell_3",)
    assert read_one(path, "*").n_neurons == 5  # the time is no neuron, whatever the pattern


@pytest.mark.parametrize("name, rate", [("time", 4), ("Time", 4), ("t", 4), ("TIMESTAMPS", 4), ("timestamp", 4),
                                        ("time_ms", 4000), ("time (ms)", 4000), ("t [s]", 4), ("timestamps_s", 4)])
def test_a_column_of_times_is_known_by_its_name(tmp_path, name, rate):
    s = read_one(_file(tmp_path, header=[name, *HEADER[1:]]))
    assert s.rate == pytest.approx(rate) and s.n_neurons == 5
    np.testing.assert_allclose(s.times, np.arange(T) / rate)


@pytest.mark.parametrize("name", ["t_1", "time_to_reward", "frame", "temperature"])
def test_other_names_are_no_times_and_the_rate_is_then_unknown(tmp_path, name):
    s = read_one(_file(tmp_path, header=[name, *HEADER[1:]]))
    assert np.isnan(s.rate) and s.neurons[0] == name
    np.testing.assert_array_equal(s.times, np.arange(T))


def test_empty_cells_and_nan_are_nan_and_an_unmeasured_neuron_stays(tmp_path):
    cells = _changed(3, "cell_1", "")
    cells[5][1], cells[6][1] = "nan", " NaN "
    for row in cells:
        row[3] = ""
    s = read_one(_file(tmp_path, cells))
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(s.traces[:, 0])), [1, 5, 6])
    assert np.isnan(s.traces[:, 2]).all() and s.valid is None


def test_a_behavior_never_observed_is_left_out_and_said(tmp_path):
    s = read_one(_file(tmp_path, [[*row[:5], ""] for row in _cells()]), "cell_*")
    assert s.behavior_names == ("speed",) and s.metadata["left out"] == "lick (all NaN)"


def test_row_numbers_as_pandas_writes_them_are_no_neuron(tmp_path):
    pandas = pytest.importorskip("pandas")
    traces = np.random.default_rng(0).normal(size=(T, 4))
    pandas.DataFrame(traces).to_csv(tmp_path / "frame.csv")
    s = read_one(tmp_path / "frame.csv")
    assert s.neurons == ("0", "1", "2", "3") and "column 1 (no name)" in s.metadata["left out"]
    np.testing.assert_allclose(s.traces, traces, rtol=1e-6)


def test_an_empty_column_behind_each_rows_last_delimiter_is_left_out(tmp_path):
    assert read_one(_file(tmp_path, [[*row, ""] for row in _cells()], [*HEADER, ""])).n_neurons == 5


def test_blank_lines_at_the_end_and_quotes_change_nothing(tmp_path):
    path = _file(tmp_path, header=[f'"{name}"' for name in HEADER], end="\n")
    path.write_text(path.read_text() + "\n\n")
    assert read_one(path).n_frames == T


BAD = {
    "text": ({"cells": _changed(12, "cell_2", "high")}, "", "row 12, column 'cell_2' holds 'high'"),
    "decimal_comma": ({"cells": [[c.replace(".", ",") for c in row] for row in _cells()], "delimiter": ";"}, "",
                      "row 2, column 'time_s' holds '0,0'; write a number with a decimal point"),
    "short_row": ({"cells": [*_cells(), ["1", "2"]]}, "", f"row {T + 2} has 2 cells, the header 6"),
    "long_row": ({"cells": [*_cells(), list("1234567")]}, "", f"row {T + 2} has 7 cells, the header 6"),
    "times_back": ({"cells": _changed(9, "time_s", "0")}, "", "do not increase at frame 7"),
    "time_missing": ({"cells": _changed(9, "time_s", "")}, "", "time stamp of frame 7 is nan"),
    "infinite": ({"cells": _changed(9, "cell_1", "inf")}, "", r"infinite at index \(7, 0\)"),
    "few_frames": ({"cells": _cells()[:3]}, "", "3 frames x 5 neurons; at least 16"),
    "few_neurons": ({}, "cell_1", "40 frames x 1 neurons"),
    "two_times": ({"header": ["time_s", "t", *HEADER[2:]]}, "", "columns time_s, t all give the time"),
    "time_unit": ({"header": ["time (days)", *HEADER[1:]]}, "", "'time .days.' is in a unit that is unknown"),
    "one_name_twice": ({"header": ["time_s", "a", "a", *HEADER[3:]]}, "", "2 columns are named 'a'"),
    "one_label_twice": ({"header": [*HEADER[:4], "speed (cm/s)", "speed (m/s)"]}, "cell_*", "not all different"),
    "no_name": ({"header": [*HEADER[:5], ""]}, "", "column 6 has no name"),
    "no_header": ({"header": ["0.0", "0.5", "3", "4", "5", "6"]}, "", "first row holds numbers .0.0, 0.5"),
    "no_header_of_counts": ({"header": list("321987")}, "", "first row holds numbers .3, 2"),
    "unknown_column": ({}, "roi_*", r"no column matches sessions.traces='roi_\*'; it has cell_1, cell_2,"),
    "latin_header": ({"header": [*HEADER[:4], "speed (µm/s)", "lick"], "encoding": "latin-1"}, "",
                     "not a table in UTF-8 all through"),
    "latin": ({"cells": _changed(9, "cell_1", "µ"), "encoding": "latin-1"}, "", "not a table in UTF-8 all through"),
}


@pytest.mark.parametrize("changes, traces, message", BAD.values(), ids=BAD)
def test_bad_tables_end_with_what_is_wrong(tmp_path, changes, traces, message):
    with pytest.raises(UserError, match=message) as caught:
        read_one(_file(tmp_path, **changes), traces)
    assert "mouse" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_cut_off_is_noticed_by_its_last_row(tmp_path):
    path = _file(tmp_path)
    text = path.read_bytes()
    path.write_bytes(text[:text.rindex(b",") - 3])
    with pytest.raises(UserError, match="row 41 has . cells, the header 6; the file is cut off"):
        read_one(path)


NO_TABLES = {
    "paths": "a.npz\nb.npz\n", "paths_in_rows": "a.npz,b.npz\nc.npz,d.npz\n", "allen": "allen:1,2,3\nallen:4,5,6\n",
    "json": json.dumps({"a": [1, 2], "b": 3}), "json_lines": "[1,2,\n3,4,\n5]",
    "json_indented": json.dumps([1, 2], indent=1), "header_alone": "a,b\n", "one_column": "a\n1\n2\n",
    "prose": "Traces of one mouse, at 30 Hz\nrecorded in May, by hand\n",
    "words_in_rows": "a,b\n1,x\n", "ragged": "a,b,c\n1,2\n", "zeros": "a,b\n\0,2\n", "empty": "", "blank": "\n\n\n",
    "open_quote": 'a,"b\n1,2\n', "no_value": "a,b\n,\n",
}


@pytest.mark.parametrize("text", NO_TABLES.values(), ids=NO_TABLES)
def test_what_is_no_table_is_not_claimed(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    assert not table.recognises(tmp_path / "a.csv")


@pytest.mark.parametrize("content", [b"a,b\n\xff1,2\n", "a,b\n1,2\n".encode("utf-16"), bytes(1000)])
def test_what_is_no_utf8_text_is_not_claimed(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    assert not table.recognises(tmp_path / "a.csv") and not table.recognises(tmp_path)


@pytest.mark.parametrize("seed", range(60))
def test_changed_bytes_give_a_recording_or_an_error_for_the_user(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = _file(tmp_path)
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    content[rng.integers(0, len(content), 3)] = rng.integers(0, 256, 3)
    path.write_bytes(content.tobytes())
    for traces in ("", "cell_*"):
        try:
            table.read(path, traces)
        except UserError:
            pass


def test_a_large_table_reads_fast(tmp_path):
    traces = np.random.default_rng(0).normal(size=(3000, 300))
    np.savetxt(tmp_path / "large.csv", traces, "%.5f", ",", header=",".join(f"c{k}" for k in range(300)), comments="")
    start = time.perf_counter()
    assert read_one(tmp_path / "large.csv").traces.shape == traces.shape
    assert time.perf_counter() - start < 5  # s; 0.3 measured
