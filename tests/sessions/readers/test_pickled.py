from __future__ import annotations

import datetime
import pathlib
import pickle
import pickletools

import numpy as np
import pytest

from raycal.sessions.readers import pickled


def _file(tmp_path, contents, protocol=3):
    """An .npy file of one object as numpy writes it, whose pickle is of this protocol."""
    path = tmp_path / "ops.npy"
    array = np.empty((), object)
    array[()] = contents
    with open(path, "wb") as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(array, f, protocol=protocol)
    return path


RICH = {"tau": np.float64(1.0), "date_proc": datetime.datetime(2024, 1, 1), "meanImg": np.zeros((4, 4), np.float32),
        "save_path": pathlib.PurePosixPath("/data/fs"), "classes": {1, 2}, "filelist": ["fs", "a"], "size": (9, 9)}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("kind", [float, int, np.float64, np.float32, np.int64, np.uint8])
def test_a_number_is_found_in_every_protocol_and_type(tmp_path, protocol, kind):
    path = _file(tmp_path, {**RICH, "fs": kind(30), "after": np.float32(2)}, protocol)
    assert pickled.number(path, "fs") == 30.0


def test_what_numpy_itself_saves_is_read(tmp_path):
    np.save(tmp_path / "settings.npy", {"fs": 7.5, "run": {"do_detection": True}})
    assert pickled.number(tmp_path / "settings.npy", "fs") == 7.5


def test_the_word_elsewhere_is_no_key(tmp_path):
    assert pickled.number(_file(tmp_path, {"filelist": ["fs", 3.0], "name": "fs", "rate": 5.0}), "fs") is None


@pytest.mark.parametrize("contents", [{"fs": "30"}, {"fs": None}, {"fs": [30.0]}, {"fs": np.zeros(3)}, {"other": 1.0},
                                      {"fs": 30.0, "again": {"fs": 15.0}}, {"fs": 10 ** 400}, [30.0]])
def test_no_number_and_numbers_that_differ_give_none(tmp_path, contents):
    assert pickled.number(_file(tmp_path, contents), "fs") is None


def test_dicts_that_agree_give_their_number(tmp_path):
    assert pickled.number(_file(tmp_path, {"fs": 30.0, "again": {"fs": 30}}), "fs") == 30.0


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return pathlib.Path.touch, (self.marker,)


def test_a_payload_is_passed_over_and_not_executed(tmp_path):
    marker = tmp_path / "executed"
    path = _file(tmp_path, {"before": Payload(marker), "fs": 30.0, "after": Payload(marker)})
    assert pickled.number(path, "fs") == 30.0
    assert pickled.number(_file(tmp_path, {"fs": Payload(marker)}), "fs") is None
    assert not marker.exists()
    np.load(path, allow_pickle=True)
    assert marker.exists(), "the payload works where it is let"


def test_what_is_no_such_file_gives_none(tmp_path):
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "numbers.npy", np.arange(9.0))
    for name in ("gone.npy", "folder.npy", "empty.npy", "numbers.npy"):
        assert pickled.number(tmp_path / name, "fs") is None


def test_a_pickle_cut_anywhere_gives_none_or_the_number(tmp_path):
    path = _file(tmp_path, {**RICH, "fs": 30.0})
    whole = path.read_bytes()
    for stop in range(0, len(whole), 3):
        path.write_bytes(whole[:stop])
        assert pickled.number(path, "fs") in (None, 30.0)


def test_a_pickle_without_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(pickled, "MAX_OPCODES", 1000)
    path = _file(tmp_path, {"list": list(range(2000)), "fs": 30.0})
    assert len(list(pickletools.genops(path.read_bytes()[128:]))) > 1000
    assert pickled.number(path, "fs") is None
    monkeypatch.setattr(pickled, "MAX_BYTES", 100)
    assert pickled.number(_file(tmp_path, {"fs": 30.0}), "fs") is None
