"""Recordings read and prepared by Ray tasks: the same as in one process, in order, with every mistake said."""
from __future__ import annotations

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from raycal.config import Config
from raycal.errors import UserError
from raycal.search import recordings
from raycal.sessions import store
from raycal.sessions.agreement import agree
from raycal.sessions.prepare import prepare
from raycal.sessions.readers import npz, read, read_one
from raycal.sessions.session import Session
from raycal.sessions.simulate import simulate

SETTINGS = Config().sessions


def counted(items, total):
    return items


@pytest.fixture
def folder(tmp_path):
    for k, n in enumerate((6, 4, 5)):
        npz.write(simulate(n_neurons=n, n_frames=1500, rate=5.0, seed=k, id="abc"[k]).session, tmp_path / f"{k}.npz")
    return tmp_path


def test_tasks_give_what_one_process_gives(folder, ray_session):
    found = recordings.read([str(folder / "*.npz")], SETTINGS, counted)
    assert [s.id for s in found.sketches] == ["a", "b", "c"] and [s.n_neurons for s in found.sketches] == [6, 4, 5]
    said = []
    agreement = agree(found.sketches, SETTINGS, 16)
    prepared = recordings.prepare(found, SETTINGS, agreement, say=said.append)
    there, here = store.get(prepared.refs, {}), prepare(read(str(folder / "*.npz")), SETTINGS, 16)
    assert there.fingerprint == here.fingerprint and there.n_neurons == here.n_neurons == (6, 4, 5)
    assert prepared.n_bytes == here.n_bytes and prepared.varying == (("running", "stimulus"),) * 3
    assert prepared.still == {"a": (), "b": (), "c": ()}
    for one, other in zip(there.recordings, here.recordings):
        np.testing.assert_array_equal(one.traces, other.traces)
        np.testing.assert_array_equal(one.behavior, other.behavior)
        assert one.pieces == other.pieces and not one.traces.flags.writeable


def test_sessions_and_places_together_and_files_of_several(folder, ray_session):
    with h5py.File(folder / "packed.h5", "w") as f:
        for uid in ("u1", "u2"):
            rng = np.random.default_rng(len(f))
            f[f"data/{uid}/X"], f[f"data/{uid}/B"] = rng.normal(size=(5, 90)), rng.normal(size=(3, 90))
            f[f"data/{uid}/I"] = np.zeros(5, int)
        f["B_norm_divisor"], f["label_name"] = np.ones(3), np.array([b"AVA"])
    given = simulate(n_neurons=3, n_frames=100, seed=9).session
    found = recordings.read([str(folder / "packed.h5"), given, folder / "1.npz"], SETTINGS, counted)
    assert [s.id for s in found.sketches] == ["simulated-9", "u1", "u2", "b"]
    sessions = ray_session.get(list(found.sessions))
    assert [s.n_neurons for s in sessions] == [3, 5, 5, 4] and all(isinstance(s, Session) for s in sessions)


def test_the_first_mistake_is_said_as_in_one_process(folder, ray_session):
    (folder / "1.npz").write_bytes((folder / "1.npz").read_bytes()[:900])
    with pytest.raises(UserError) as here:
        read_one(folder / "1.npz")
    with pytest.raises(UserError) as there:
        recordings.read([str(folder / "*.npz")], SETTINGS, counted)
    assert str(there.value) == str(here.value)


def test_what_is_left_out_is_said_in_the_order_of_the_recordings(folder, ray_session):
    for k in (2, 0):
        session = read_one(folder / f"{k}.npz")
        traces = session.traces.copy()
        traces[:, 1] = 1.0
        npz.write(Session.build(id=session.id, traces=traces, rate=5.0), folder / f"{k}.npz")
    found = recordings.read([str(folder / "?.npz")], SETTINGS, counted)
    said = []
    recordings.prepare(found, SETTINGS, agree(found.sketches, SETTINGS, 16, log=said.append), say=said.append)
    assert [line for line in said if "constant" in line] == [
        f"session {id}: 1 of {n} neurons constant or not measured over the train part left out: 1" for id, n in (("a", 6), ("c", 5))]


def test_the_same_recording_twice_and_a_stated_id_twice_are_refused(folder, ray_session):
    shutil.copy(folder / "0.npz", folder / "copy.npz")
    with pytest.raises(UserError, match="the same recording is given twice, as .*0.npz and as .*copy.npz"):
        recordings.read([str(folder / "0.npz"), str(folder / "copy.npz")], SETTINGS, counted)


def test_names_of_files_are_made_unique(tmp_path, ray_session):
    for k, part in enumerate(("x", "y")):
        (tmp_path / part).mkdir()
        np.savez(tmp_path / part / "mouse.npz", traces=simulate(n_neurons=3, n_frames=900, seed=k).session.traces, fs=5.0)
    found = recordings.read([str(tmp_path / "*" / "mouse.npz")], SETTINGS, counted)
    assert [s.id for s in found.sketches] == ["x-mouse", "y-mouse"]
    prepared = recordings.prepare(found, SETTINGS, agree(found.sketches, SETTINGS, 8))
    assert [r.id for r in store.get(prepared.refs, {}).recordings] == ["x-mouse", "y-mouse"]


def test_a_task_that_hangs_is_ended_and_said(write_nothing, ray_session, monkeypatch):
    monkeypatch.setattr(recordings, "reading_time", lambda path: 1.0)
    stream = ray_session.remote(num_cpus=0, num_returns="streaming", max_retries=0)(write_nothing).remote(60)
    with pytest.raises(UserError, match="not read after 1 s: .*hangs"):
        recordings._take(pathlib.Path(__file__), stream)


def test_a_task_whose_process_dies_is_said(kill_myself, ray_session):
    stream = ray_session.remote(num_cpus=0, num_returns="streaming", max_retries=0)(kill_myself).remote()
    with pytest.raises(UserError, match="a.h5: the library that reads it crashed"):
        recordings._take("a.h5", stream)


@pytest.fixture
def write_nothing():
    def task(seconds):
        time.sleep(seconds)
        yield 1

    return task


@pytest.fixture
def kill_myself():
    def task():
        os.kill(os.getpid(), signal.SIGSEGV)
        yield 1

    return task


DRIVER = """
import sys, time, ray
from raycal.config import Config
from raycal.search import connection, recordings
connection.connect(Config(), address=sys.argv[1])
until = time.monotonic() + 90
while sum(node["Alive"] for node in ray.nodes()) < 2 and time.monotonic() < until:
    time.sleep(0.5)
found = recordings.read([sys.argv[2]], Config().sessions, lambda items, total: items)
print("read", [s.id for s in found.sketches], len(ray.nodes()))
try:
    recordings.read([sys.argv[2] + ".gone"], Config().sessions, lambda items, total: items)
except Exception as e:
    print(type(e).__name__, e)
"""


def _wait_for(port):
    """Wait until something listens at the port."""
    until = time.monotonic() + 90
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.5)


def _kill_with_children(process):
    """End a `ray start --block`: what it started has sessions of its own."""
    import ray  # noqa: F401  its own copy of psutil becomes importable
    import psutil

    for one in [*psutil.Process(process.pid).children(recursive=True), process]:
        one.kill()
    process.wait(30)


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None,
                    reason="needs root and unshare: reading a file that only another node has was not tested")
def test_a_file_that_only_another_node_has_is_read_there(folder, tmp_path):
    """Two raylets on this machine; the second one sees a folder of its own in place of an empty one."""
    hidden, ray = tmp_path / "hidden", pathlib.Path(sys.executable).with_name("ray")
    hidden.mkdir()
    temp = pathlib.Path("/tmp") / f"rc{os.getpid()}"
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled",
                   "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    port = 20000 + os.getpid() % 20000
    address = f"127.0.0.1:{port}"
    head = [str(ray), "start", "--head", f"--port={port}", "--num-cpus=1", "--include-dashboard=false", "--block",
            f"--temp-dir={temp}", "--min-worker-port=0", "--max-worker-port=0"]
    other = ["unshare", "-m", "sh", "-c", f"mount -t tmpfs none {hidden} && cp {folder}/1.npz {hidden}/ && exec {ray} "
             f"start --address={address} --num-cpus=1 --block --min-worker-port=0 --max-worker-port=0"]
    started = []
    try:
        for command in (head, other):
            started.append(subprocess.Popen(command, env=environment, start_new_session=True,
                                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            _wait_for(port)
        done = subprocess.run([sys.executable, "-c", DRIVER, address, str(hidden / "1.npz")], env=environment,
                              capture_output=True, text=True, timeout=200)
    finally:
        for process in started[::-1]:
            _kill_with_children(process)
        shutil.rmtree(temp, ignore_errors=True)
    assert "read ['b'] 2" in done.stdout, done.stdout + done.stderr[-2000:]
    assert "1.npz.gone: no such file" in done.stdout and "looked for on 2 nodes" in done.stdout, done.stdout
