from __future__ import annotations

import os
import pickle

import h5py
import numpy as np
import pytest

import raycal
from raycal.errors import UserError
from raycal.sessions import readers
from raycal.sessions.readers import READERS, npz, read, read_one
from raycal.sessions.session import Session


def _session(seed, id="a"):
    return Session.build(id=id, traces=np.random.default_rng(seed).normal(size=(30, 3)), rate=5.0)


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(("b.npz", "a.npz", "c[1],d.npz")):
        npz.write(_session(seed, id=name[0]), tmp_path / name)
    return tmp_path


def test_pattern_gives_its_files_sorted(folder):
    assert [s.id for s in read(str(folder / "?.npz"))] == ["a", "b"]


def test_commas_lists_and_paths_keep_their_order(folder):
    assert [s.id for s in read(f"{folder}/b.npz, {folder}/a.npz")] == ["b", "a"]
    assert [s.id for s in read([folder / "b.npz", f"{folder}/a*"])] == ["b", "a"]
    assert [s.id for s in read(folder / "a.npz")] == ["a"]


def test_a_name_that_exists_is_no_pattern_and_no_list(folder):
    assert [s.id for s in read(str(folder / "c[1],d.npz"))] == ["c"]


def test_the_package_offers_read(folder):
    assert raycal.read(folder / "a.npz")[0].id == "a"


def test_files_of_one_name_are_told_apart_by_their_folder(tmp_path):
    for seed, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        arrays = _session(seed)
        np.savez(tmp_path / folder / "plane0.npz", traces=arrays.traces, fs=5.0)
    assert [s.id for s in read(str(tmp_path / "*" / "plane0.npz"))] == ["a-plane0", "b-plane0"]


def test_two_files_that_state_one_id_and_differ_are_refused(tmp_path):
    for seed in range(2):
        npz.write(_session(seed, "x"), tmp_path / f"{seed}.npz")
    with pytest.raises(UserError, match="'x': .*0.npz and .*1.npz both state this id and hold different data"):
        read(str(tmp_path / "*.npz"))


def test_a_name_yields_to_a_stated_id(tmp_path):
    npz.write(_session(0, "x"), tmp_path / "stated.npz")
    np.savez(tmp_path / "x.npz", traces=_session(1).traces, fs=5.0)
    assert [s.id for s in read([tmp_path / "x.npz", tmp_path / "stated.npz"])] == [f"{tmp_path.name}-x", "x"]


def test_a_text_file_lists_recordings_beside_it(folder, tmp_path):
    (tmp_path / "mine.txt").write_text("# the good ones\nb.npz\n\na*.npz\n")
    assert [s.id for s in read(str(tmp_path / "mine.txt"))] == ["b", "a"]
    (tmp_path / "mine.txt").write_text("b.npz\ngone.npz\n")
    with pytest.raises(UserError, match="gone.npz: no such file"):
        read(tmp_path / "mine.txt")


def test_a_folder_linked_into_itself_gives_each_file_once(folder):
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    assert [s.id for s in read(str(folder / "**" / "?.npz"))] == ["a", "b"]


def test_a_loop_of_links_is_said(tmp_path):
    (tmp_path / "a.npz").symlink_to("b.npz")
    (tmp_path / "b.npz").symlink_to("a.npz")
    with pytest.raises(UserError, match="a.npz: is a loop of symbolic links; give the file itself"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize("copy", ["same.npz", "copy.npz"])
def test_the_same_recording_twice_is_refused(tmp_path, copy):
    npz.write(_session(0, "x"), tmp_path / "same.npz")
    npz.write(_session(0, "y"), tmp_path / copy)
    with pytest.raises(UserError, match=f"given twice, as .*same.npz and as .*{copy}"):
        read([tmp_path / "same.npz", tmp_path / copy])


def _nothing(path): pass
def _empty(path): path.write_bytes(b"")
def _garbage(path): path.write_bytes(np.random.default_rng(0).bytes(5000))
def _text(path): path.write_text("cell 1, frame 2\ncell 2, frame 3\n")
def _folder(path): path.mkdir()
def _pipe(path): os.mkfifo(path)
def _pickle(path): path.write_bytes(pickle.dumps({"traces": [1]}))
def _npy(path): path.write_bytes(b"\x93NUMPY" + bytes(500))
def _hdf5_head(path): path.write_bytes(readers.HDF5 + bytes(200))
def _zip_head(path): path.write_bytes(readers.ZIP + bytes(200))
def _dangling(path): path.symlink_to("nowhere")


def _other_hdf5(path):
    with h5py.File(path, "w") as f:
        f["acquisition/x"] = 1


UNREADABLE = {_nothing: "no such file", _empty: "is empty", _garbage: "unknown format", _text: "unknown format",
              _folder: "is a folder; give its files", _pipe: "not a regular file", _pickle: "unknown format",
              _npy: "unknown format", _hdf5_head: "damaged or cut-off HDF5", _zip_head: "damaged or cut-off npz",
              _dangling: "no such file", _other_hdf5: "another layout .its top level: acquisition"}


@pytest.mark.parametrize("make, message", UNREADABLE.items(), ids=lambda v: getattr(v, "__name__", ""))
def test_what_is_no_recording_ends_naming_the_path(tmp_path, make, message):
    make(tmp_path / "thing.h5")
    with pytest.raises(UserError, match=f"thing.h5.*{message}") as caught:
        read(str(tmp_path / "thing.h5"))
    if any(word in message for word in ("format", "empty", "damaged", "layout")):
        assert "raycal npz, worm HDF5 (Atanas, Kim et al. 2023), Allen Brain Observatory NWB 1" in str(caught.value)


@pytest.mark.parametrize("make", [m for m in UNREADABLE if m is not _pipe], ids=lambda v: v.__name__)
def test_no_reader_claims_or_chokes_on_what_is_no_recording(tmp_path, make):
    make(tmp_path / "thing")
    assert not any(readers._reader(name).recognises(tmp_path / "thing") for name in READERS)


def test_pattern_without_match_and_no_session_at_all(tmp_path):
    with pytest.raises(UserError, match=r"\*.h5: no file matches"):
        read(str(tmp_path / "*.h5"))
    for nothing in ([], ",", ""):
        with pytest.raises(UserError, match="no session"):
            read(nothing)


def test_a_null_character_in_a_name_is_refused():
    with pytest.raises(UserError, match="no such file|cannot be read"):
        read_one("a\0b")


def test_a_file_one_may_not_read_is_refused(folder, monkeypatch):
    def refuse(path, mode):  # root, as in a container, may read whatever its permissions say
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(readers, "open", refuse, raising=False)
    with pytest.raises(UserError, match="a.npz: cannot be read .Permission denied.; check its permissions"):
        read_one(folder / "a.npz")


def test_allen_items_go_to_the_fetcher_with_the_numbers_that_follow(folder, monkeypatch):
    fetched = []

    def file(identifier, base_uri):
        fetched.append(identifier)
        npz.write(_session(100 + len(fetched), id=identifier), folder / identifier)
        return folder / identifier

    monkeypatch.setattr("raycal.sessions.allen.file", file)
    assert [s.id for s in read(f"allen:11,22,{folder}/a.npz,allen:33")] == ["11", "22", "a", "33"]
    assert fetched == ["11", "22", "33"]


def test_every_reader_keeps_the_protocol():
    for module in map(readers._reader, READERS):
        assert module.FORMAT and callable(module.recognises) and callable(module.read)
