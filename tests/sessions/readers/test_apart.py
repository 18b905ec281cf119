from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions.readers import apart, npz, read_one
from raycal.sessions.readers.apart import Apart, is_risky
from raycal.sessions.session import Session
from raycal.sessions.stimulus import Stimulus


@pytest.fixture
def file(write_allen, tmp_path):
    return write_allen(tmp_path / "a.nwb")


def test_what_was_read_apart_is_what_is_read_here(file):
    with Apart() as reader:
        session, = reader.read(file)
    here = read_one(file)
    assert session.fingerprint == here.fingerprint and session.metadata == here.metadata
    assert isinstance(session, Session) and session.source == here.source and session.id == here.id


def test_one_process_reads_file_after_file_and_ends(file, write_allen, tmp_path):
    with Apart() as reader:
        first = reader.read(file)
        process = reader._process
        second = reader.read(write_allen(tmp_path / "b.nwb"))
        assert reader._process is process and process.poll() is None
    assert process.poll() is not None and first[0].id == second[0].id


def test_a_bad_file_is_said_as_its_reader_says_it_and_the_next_is_read(file, tmp_path):
    bad = tmp_path / "bad.nwb"
    bad.write_bytes(file.read_bytes()[:20_000])
    with pytest.raises(UserError) as here:
        read_one(bad)
    with Apart() as reader:
        with pytest.raises(UserError) as there:
            reader.read(bad)
        assert str(there.value) == str(here.value) and "bad.nwb" in str(here.value)
        assert reader.read(file)[0].n_neurons == 6


@pytest.fixture
def stopped(monkeypatch):
    """A reader whose child is stopped before it can answer, so that it is found hanging."""
    def read(reader, path, limit):
        reader._start()
        os.kill(reader._process.pid, signal.SIGSTOP)
        return reader.read(path, limit=limit)

    return read


def test_a_reader_that_hangs_is_ended_and_the_next_file_is_read(file, stopped):
    with Apart() as reader:
        began = time.monotonic()
        with pytest.raises(UserError, match="a.nwb: not read after 1 s: .*hangs.*leave it out"):
            stopped(reader, file, 1.0)
        assert time.monotonic() - began < 20
        assert reader.read(file)[0].n_neurons == 6


def test_a_reader_that_crashes_is_said_and_the_next_file_is_read(file):
    with Apart() as reader:
        reader._start()
        os.kill(reader._process.pid, signal.SIGSTOP)
        threading.Timer(0.5, os.kill, (reader._process.pid, signal.SIGSEGV)).start()
        threading.Timer(0.6, os.kill, (reader._process.pid, signal.SIGCONT)).start()
        with pytest.raises(UserError, match="a.nwb: the library that reads it crashed .status -11."):
            reader.read(file)
        assert reader.read(file)[0].n_neurons == 6


def test_only_what_a_compiled_library_reads_is_risky(file, tmp_path):
    npz.write(Session.build(id="x", traces=np.zeros((20, 3)), rate=1.0), tmp_path / "x.npz")
    (tmp_path / "block.mat").write_bytes(b"x" * 512 + apart.HDF5 + bytes(10))
    (tmp_path / "v5.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    assert is_risky(file) and is_risky(tmp_path / "block.mat") and is_risky(tmp_path / "v5.mat")
    assert not is_risky(tmp_path / "x.npz") and not is_risky(tmp_path) and not is_risky(tmp_path / "gone")
    with Apart() as reader:
        assert reader.read(tmp_path / "x.npz")[0].id == "x" and reader._process is None


def test_everything_of_a_session_passes(tmp_path, monkeypatch):
    shown = Stimulus("gratings", np.array([[0, 5]]), {"angle": [45.0]})
    session = Session.build(name="x", traces=np.ones((20, 3)), rate=1.0, stimuli=[shown], masks={"test": np.ones(20)})
    npz.write(session, tmp_path / "x.npz")
    monkeypatch.setattr(apart, "is_risky", lambda path: True)
    with Apart() as reader:
        back, = reader.read(tmp_path / "x.npz")
    assert back.fingerprint == session.fingerprint and back.masks["test"].all()
    assert back.stimuli[0].columns["angle"].tolist() == [45.0]
