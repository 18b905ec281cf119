"""v5 and v4 files are written by scipy, v7.3 files by h5py from the published layout: 512 bytes of text in front,
arrays transposed, their class in the attribute MATLAB_class, an empty array's dimensions in its place."""
from __future__ import annotations

import struct
import zlib

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from raycal.errors import UserError
from raycal.sessions.readers import matlab, read_one
from raycal.sessions.readers.apart import Apart

N, T = 5, 40
CLASSES = {"float64": "double", "float32": "single", "bool": "logical"}
FRAMES = np.arange(T)
F = np.arange(N * T, dtype=float).reshape(N, T) / 4  # row n, column t holds (40 n + t) / 4


def _write5(path, variables, **options):
    scipy.io.savemat(path, variables, **options)


def _write73(path, variables, **_):
    with h5py.File(path, "w", userblock_size=512) as f:
        _put(f, variables)
    with open(path, "r+b") as f:
        f.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def _put(group, variables):
    for name, value in variables.items():
        if isinstance(value, dict):
            _put(group.create_group(name), value)
            group[name].attrs["MATLAB_class"] = np.bytes_("struct")
        elif scipy.sparse.issparse(value):
            group.create_group(name)["data"] = value.data
            group[name].attrs.update({"MATLAB_sparse": value.shape[0], "MATLAB_class": np.bytes_("double")})
        else:
            _put_array(group, name, np.asarray(value))


def _put_array(group, name, value):
    value = value.reshape(1, -1) if value.ndim < 2 else value
    kind = {"O": "cell", "U": "char"}.get(value.dtype.kind) or CLASSES.get(value.dtype.name, value.dtype.name)
    if value.dtype.kind == "O":
        value = np.full(value.shape, group.ref, h5py.ref_dtype)
    elif value.dtype.kind == "U":
        value = np.array([[ord(letter) for letter in str(value[0, 0])]], np.uint16)
    elif value.dtype.kind == "c":
        kind, value = "double", value.view([("real", "f8"), ("imag", "f8")])
    value = value.astype(np.uint8) if kind == "logical" else value
    group[name] = value.T if value.size else np.array(value.shape, np.uint64)
    group[name].attrs["MATLAB_class"] = np.bytes_(kind)
    if not value.size:
        group[name].attrs["MATLAB_empty"] = np.uint8(1)


@pytest.fixture(params=[_write5, _write73], ids=["v5", "v7.3"])
def make(request, tmp_path):
    """Write variables into a file of either version."""
    def write(variables, **options):
        request.param(tmp_path / "mouse.mat", variables, **options)
        return tmp_path / "mouse.mat"

    return write


def _typical(**changes):
    return {"F": F, "fs": 10.0, "speed": FRAMES[:, None] * 0.5, "lick": FRAMES % 3 == 0, "note": "awake", **changes}


@pytest.mark.parametrize("compressed", [False, True])
def test_the_only_matrix_is_the_traces_and_its_longer_axis_time(make, compressed):
    s = read_one(make(_typical(), do_compression=compressed))
    np.testing.assert_array_equal(s.traces, (40 * np.arange(N) + FRAMES[:, None]) / 4)
    assert s.id == "mouse" and s.rate == 10.0 and s.times[-1] == 3.9
    assert dict(zip(s.behavior_names, s.behavior.T[:, 4])) == {"speed": 2.0, "lick": 0.0}
    assert s.metadata["variable"] == "F" and s.metadata["axes"] == "5 x 40, its columns are frames (F' takes its rows)"


def test_a_matrix_of_frames_by_neurons_reads_alike(make):
    s = read_one(make(_typical(F=F.T)))
    np.testing.assert_array_equal(s.traces, F.T)
    assert s.metadata["axes"] == "40 x 5, its rows are frames (F' takes its columns)"


@pytest.mark.parametrize("key", ["F'", "'"])
def test_an_apostrophe_takes_the_shorter_axis_for_time(make, key):
    wide = np.arange(20 * 30).reshape(20, 30)  # 30 neurons in 20 frames
    s = read_one(make({"F": wide, "beat": np.arange(20)}), key)
    np.testing.assert_array_equal(s.traces, wide)
    assert s.behavior_names == ("beat",) and s.metadata["axes"] == "20 x 30, its rows are frames (F takes its columns)"


@pytest.mark.parametrize("dtype", ["float32", "int8", "int16", "uint16", "int32", "uint64"])
def test_every_numeric_class_is_read(make, dtype):
    counts = (np.arange(N * T) % 100).reshape(N, T).astype(dtype)
    np.testing.assert_array_equal(read_one(make({"counts": counts})).traces, counts.T)


def test_nan_neurons_stay_and_nan_behaviors_are_left_out_and_said(make):
    s = read_one(make(_typical(F=np.where(np.arange(N)[:, None] == 2, np.nan, F), pupil=np.full(T, np.nan))))
    assert np.isnan(s.traces[:, 2]).all() and s.valid is None
    assert "pupil" not in s.behavior_names and s.metadata["left out"] == "pupil (all NaN)"


def test_partly_observed_behavior_keeps_its_gaps(make):
    pupil = np.where((FRAMES > 9) & (FRAMES < 20), np.nan, 1.0)
    s = read_one(make(_typical(pupil=pupil)))
    np.testing.assert_array_equal(s.behavior[:, s.behavior_names.index("pupil")], pupil)


@pytest.mark.parametrize("name, scale", [("time", 1), ("t", 1), ("timestamps", 1), ("time_ms", 1e-3)])
def test_a_vector_gives_the_times_and_then_the_rate(make, name, scale):
    s = read_one(make({"F": F, name: 100 + FRAMES * 0.25}))
    np.testing.assert_allclose(s.times, (100 + FRAMES * 0.25) * scale)
    assert s.rate == pytest.approx(4 / scale) and s.behavior_names == ()


@pytest.mark.parametrize("name", ["fs", "fps", "fr", "frame_rate", "framerate", "sampling_rate", "Fs"])
def test_a_scalar_gives_the_rate(make, name):
    assert read_one(make({"F": F, name: 7.5})).rate == 7.5


def test_without_a_rate_or_times_none_is_made_up(make):
    assert np.isnan(read_one(make({"F": F, "gain": 7.5})).rate)


def test_a_field_of_a_struct_comes_with_what_lies_beside_it(make):
    dat = {"F": F, "stat": {"radius": np.arange(9.0), "deep": {"F": F + 1}}, "fs": 4.0, "speed": FRAMES * 2.0}
    path = make({"dat": dat, "fs": 99.0, "speed": FRAMES, "lick": FRAMES % 2, "other": F}, do_compression=True)
    s = read_one(path, "dat.F")
    np.testing.assert_array_equal(s.traces, F.T)
    assert s.rate == 4.0 and s.metadata["variable"] == "dat.F"
    assert dict(zip(s.behavior_names, s.behavior[3])) == {"speed": 6.0, "lick": 1.0}
    np.testing.assert_array_equal(read_one(path, "dat.stat.deep.F").traces, F.T + 1)


def test_fields_that_are_no_arrays_do_not_hinder(make):
    dat = {"names": np.array(["a", "b"], object), "F": F, "map": scipy.sparse.csc_matrix(np.eye(3)),
           "none": np.zeros((0, 0)), "text": "x"}
    assert read_one(make({"dat": dat}), "dat.F").n_neurons == N


CELL = np.array([np.arange(3.0), np.arange(4.0)], object)
BAD = {
    "two_matrices": ({"F": F, "Fneu": F}, "",
                     r"has 2 matrices \(F 5 x 40 double, Fneu 5 x 40 double\); say .* with --set sessions.traces=F"),
    "no_matrix": ({"x": np.arange(50.0), "dat": {"F": F}}, "",
                  "no matrix of 2 x 16 numbers or more .*x 1 x 50 double.*--set sessions.traces=STRUCT.FIELD"),
    "logical_matrix": ({"events": F > 3}, "", "no matrix of 2 x 16 .*events 5 x 40 logical"),
    "empty": ({"F": np.zeros((0, 0))}, "", "no matrix of 2 x 16 .*F 0 x 0 double"),
    "unknown": ({"F": F}, "G", "has no 'G'; it has F 5 x 40 double"),
    "unknown_field": ({"dat": {"F": F}}, "dat.G", "has no 'G' for 'dat.G'; it has F 5 x 40 double"),
    "struct": ({"dat": {"F": F}}, "dat", "'dat' is a struct with F 5 x 40 double; .*--set sessions.traces=dat.F"),
    "no_struct": ({"F": F}, "F.x", "'F' in 'F.x' is 5 x 40 double, not one struct"),
    "sparse": ({"S": scipy.sparse.csc_matrix(F)}, "S", r"'S' is .* sparse; save full\(S\)"),
    "cell": ({"C": CELL}, "C", r"'C' is 1 x 2 cell; save cell2mat\(C\)"),
    "text": ({"C": "words"}, "C", "'C' is 1 x 5 char; save it as one matrix of real numbers"),
    "three_axes": ({"C": np.zeros((2, 20, 3))}, "C", "'C' is 2 x 20 x 3 double; save it as one matrix of real numbers"),
    "complex": ({"C": F + 1j}, "C", "'C' is 5 x 40 complex double; save it as one matrix of real"),
    "one_neuron": ({"v": FRAMES * 1.0}, "v", "40 frames x 1 neurons"),
    "infinite": ({"F": np.where(F == 3, np.inf, F)}, "", "infinite"),
    "times_back": ({"F": F, "time": np.where(FRAMES == 9, 0, FRAMES)}, "", "do not increase at frame 9"),
    "times_nan": ({"F": F, "time": np.where(FRAMES == 9, np.nan, FRAMES)}, "", "time stamp of frame 9 is nan"),
    "times_of_the_other_axis": ({"F": F, "time": np.arange(5.0)}, "", "'time' has 5 values for 40 frames of 5 neurons; "
                                ".*sessions.traces=F'"),
    "two_times": ({"F": F, "t": FRAMES, "time": FRAMES}, "", "t and time both give the time"),
    "two_rates": ({"F": F, "fs": 10.0, "sampling_rate": 30.0}, "", r"states rates that differ \(.*10 Hz, .*0 Hz\)"),
    "rate_and_times": ({"F": F, "fs": 10.0, "time": FRAMES}, "", "fs 10 Hz, the step of its times 1 Hz"),
    "rate_of_nothing": ({"F": F, "fs": 0.0}, "", "rate=0 Hz"),
}


@pytest.mark.parametrize("variables, traces, message", BAD.values(), ids=BAD)
def test_bad_files_end_with_what_is_wrong(make, variables, traces, message):
    with pytest.raises(UserError, match=message) as caught:
        read_one(make(variables), traces)
    assert "mouse" in str(caught.value) and "\n" not in str(caught.value)


def test_times_that_fit_neither_axis_are_left_out_and_said(make):
    s = read_one(make({"F": F, "time": np.arange(T + 1)}))
    assert np.isnan(s.rate) and s.metadata["left out"] == "time (41 values for 40 frames)"


def test_a_struct_array_is_refused_by_name(tmp_path):
    many = np.zeros((1, 3), [("F", object)])
    scipy.io.savemat(tmp_path / "mouse.mat", {"dat": many})
    with pytest.raises(UserError, match="'dat' in 'dat.F' is 1 x 3 struct, not one struct"):
        read_one(tmp_path / "mouse.mat", "dat.F")


def test_complex_and_sparse_vectors_beside_the_traces_are_not_read(make):
    s = read_one(make(_typical(phase=FRAMES * 1j, seen=scipy.sparse.csc_matrix(FRAMES[:, None] > 3))))
    assert sorted(s.behavior_names) == ["lick", "speed"] and s.rate == 10.0


@pytest.mark.parametrize("name", ["S", "dat.S"])
def test_a_sparse_logical_matrix_is_refused(make, name):
    events = scipy.sparse.csc_matrix(F > 3)
    with pytest.raises(UserError, match=rf"'{name}' is .* sparse; save full\(S\)"):
        read_one(make({"S": events, "dat": {"S": events}}), name)


def test_a_table_does_not_hinder_and_is_no_matrix(tmp_path):
    numbers = _matrix(13, (6, 1), b"", _element(6, struct.pack("<6I", 0xdd000000, 2, 1, 1, 1, 1)))
    table = _element(14, _element(6, struct.pack("<2I", 17, 0)) + _element(1, b"trials") + _element(1, b"MCOS")
                     + _element(1, b"table") + numbers)
    fs = _matrix(6, (1, 1), b"fs", _element(9, struct.pack("<d", 10.0)))
    content = _head5() + _matrix(6, (N, T), b"F", _element(9, F.T.tobytes())) + table + fs
    (tmp_path / "a.mat").write_bytes(content + _matrix(9, (1, 8), b"", _element(2, bytes(8))))
    s = read_one(tmp_path / "a.mat")
    np.testing.assert_array_equal(s.traces, F.T)
    assert s.rate == 10.0 and s.behavior_names == ()
    with pytest.raises(UserError, match=r"has no 'trials'; it has F 5 x 40 double, \(tables, strings, ...\) 1 object"):
        read_one(tmp_path / "a.mat", "trials")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_file_is_called_damaged(make, share, compressed):
    path = make({"F": F, "dat": {"F": F}}, do_compression=compressed)
    path.write_bytes(path.read_bytes()[:max(130, int(share * path.stat().st_size))])
    for traces in ("F", "dat.F"):
        with pytest.raises(UserError, match="damaged or cut.off"):
            read_one(path, traces) if share < 0.9 or traces == "dat.F" else read_one(path)


@pytest.mark.parametrize("order", "<>")
def test_version_4_is_refused_in_words(tmp_path, order):
    scipy.io.savemat(tmp_path / "old.mat", {"F": F}, format="4")
    if order == ">":  # as machines that count bytes the other way wrote them
        head = struct.pack(">5i", 1000, N, T, 0, 2)
        (tmp_path / "old.mat").write_bytes(head + b"F\0" + F.T.astype(">f8").tobytes())
    with pytest.raises(UserError, match="old.mat: is a MATLAB file of version 4; load it in MATLAB and save it with"):
        read_one(tmp_path / "old.mat")


@pytest.mark.parametrize("content", [b"", b"MATLAB", bytes(500), b"MATLAB 5.0 MAT-file".ljust(500), b"\1\0\0\0" * 40,
                                     b"\x89HDF\r\n\x1a\n" + bytes(200)])
def test_what_is_no_mat_file_is_not_claimed(tmp_path, content):
    (tmp_path / "a.mat").write_bytes(content)
    assert not matlab.recognises(tmp_path / "a.mat") and not matlab.recognises(tmp_path)


def _element(kind, content, order="<"):
    return struct.pack(f"{order}2I", kind, len(content)) + content + bytes(-len(content) % 8)


def _head5(order="<"):
    version = struct.pack(f"{order}H", 0x100) + (b"IM" if order == "<" else b"MI")
    return b"MATLAB 5.0 MAT-file".ljust(124) + version


def _matrix(kind, shape, name, content, order="<"):
    return _element(14, _element(6, struct.pack(f"{order}2I", kind, 0), order)
                    + _element(5, struct.pack(f"{order}2i", *shape), order) + _element(1, name, order) + content, order)


def _compressed(element):
    content = zlib.compress(element)
    return struct.pack("<2I", 15, len(content)) + content


def test_a_file_of_the_other_byte_order_reads(tmp_path):
    values = _element(9, F.T.astype(">f8").tobytes(), ">")
    fields = struct.pack(">2HI", 4, 5, 2) + _element(1, b"F\0", ">")
    dat = _matrix(2, (1, 1), b"dat", fields + _matrix(6, (N, T), b"", values, ">"), ">")
    (tmp_path / "a.mat").write_bytes(_head5(">") + _matrix(6, (N, T), b"F", values, ">") + dat)
    for traces in ("F", "dat.F"):
        np.testing.assert_array_equal(read_one(tmp_path / "a.mat", traces).traces, F.T)


@pytest.mark.parametrize("compress", [bytes, _compressed])
def test_a_size_far_above_the_file_is_refused_before_it_is_taken(tmp_path, compress):
    huge = _matrix(6, (60000, 60000), b"F", _element(9, bytes(64)))
    (tmp_path / "huge.mat").write_bytes(_head5() + compress(huge))
    with pytest.raises(UserError, match="'F' declares 26.82 GiB, far more than"):
        read_one(tmp_path / "huge.mat")


def test_a_struct_of_a_size_far_above_the_file_is_refused(tmp_path):
    content = zlib.compress(struct.pack("<2I", 14, 2**32 - 8) + _matrix(2, (1, 1), b"dat", b"")[8:])
    (tmp_path / "huge.mat").write_bytes(_head5() + struct.pack("<2I", 15, len(content)) + content)
    with pytest.raises(UserError, match="huge.mat: damaged or cut off"):
        read_one(tmp_path / "huge.mat", "dat.F")


def test_a_v73_size_far_above_the_file_is_refused(tmp_path):
    with h5py.File(tmp_path / "huge.mat", "w", userblock_size=512) as f:
        f.create_dataset("F", (60000, 60000), "f8", chunks=(10, 10)).attrs["MATLAB_class"] = np.bytes_("double")
    with open(tmp_path / "huge.mat", "r+b") as f:
        f.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    with pytest.raises(UserError, match="'F' declares 26.82 GiB, far more than"):
        read_one(tmp_path / "huge.mat")


def test_cells_thousands_deep_in_one_another_end_only_the_process_that_reads_them(tmp_path, apart):
    deep, size = [], 0
    prefix = _matrix(1, (1, 1), b"", b"")[8:]
    for _ in range(50000):  # scipy follows them on the C stack, which ends the program
        size += len(prefix)
        deep.append(struct.pack("<2I", 14, size) + prefix)
        size += 8
    fields = struct.pack("<2HI", 5, 4, 8) + _element(1, b"deep\0\0\0\0" + b"F".ljust(8, b"\0"))
    traces = _matrix(6, (N, T), b"", _element(9, F.T.tobytes()))
    dat = _matrix(2, (1, 1), b"dat", fields + b"".join(reversed(deep)) + traces)
    (tmp_path / "deep.mat").write_bytes(_head5() + _compressed(dat))
    with pytest.raises(UserError, match="deep.mat: the library that reads it crashed"):
        apart.read(tmp_path / "deep.mat", "dat.F")


@pytest.fixture(scope="module")
def apart():
    """A process of its own reads what can crash scipy."""
    with Apart() as reader:
        yield reader


@pytest.mark.parametrize("seed", range(40))
def test_changed_bytes_give_a_recording_or_an_error_for_the_user(make, apart, seed):
    rng = np.random.default_rng(seed)
    path = make({**_typical(), "dat": {"F": F, "fs": 3.0, "c": CELL}}, do_compression=seed % 4 == 0)
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    for _ in range(4):
        where = rng.integers(128, len(content) if seed % 2 else 900, 3)  # heads and tags lie in front
        content[where] = rng.choice([0, 1, 255, rng.integers(256)], 3)
        path.write_bytes(content.tobytes())
        for traces in ("", "F'", "dat.F"):
            try:
                apart.read(path, traces, limit=20.0)
            except UserError:
                pass
