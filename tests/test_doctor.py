"""raycal doctor on machines that something is wrong with; where the wrong cannot be made here, a stand-in is named."""
from __future__ import annotations

import contextlib
import importlib.metadata
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest

import raycal
from raycal import cli, doctor
from raycal.search import leftovers
from raycal.search.folder import RunFolder

ROOT = pathlib.Path(raycal.__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def test_a_line_a_check_and_a_status_that_says_whether_one_is_bad(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    status = cli.main(["doctor", "--out", str(tmp_path / "runs"), "--storage", f"file://{tmp_path}/bucket"])
    *lines, last = capsys.readouterr().out.splitlines()
    assert {line[:6] for line in lines} <= {"ok    ", "note  ", "bad   "}
    named = [line[6:20].strip() for line in lines]
    assert named[:5] == ["python", "torch", "ray", "optuna", "numpy"]
    assert {"disk", "Ray's disk", "open files", "GPU", "ports", "clock", "storage", "dead runs"} <= set(named)
    bad = [line for line in lines if line.startswith("bad")]
    assert status == bool(bad) and ("nothing stands in the way" in last) == (not bad) and all("; fix: " in b for b in bad)
    assert not (tmp_path / "runs").exists() and not list((tmp_path / "bucket").iterdir()), "it leaves nothing"


def test_a_low_limit_of_open_files_stands_in_the_way(tmp_path):
    done = subprocess.run([sys.executable, "-m", "raycal.cli", "doctor", "--out", str(tmp_path)], env=ENVIRONMENT,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)),
                          capture_output=True, text=True)
    line, = [line for line in done.stdout.splitlines() if "open files" in line]
    assert done.returncode == 1 and line.startswith("bad   open files    200 at most") and "ulimit -n 65536" in line
    assert "stand in the way" in done.stdout.splitlines()[-1]


def test_a_soft_limit_that_ray_raises_does_not(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 100_000))
    assert doctor.open_files() == doctor.Finding("open files", "256, Ray raises it to 65536")


@pytest.mark.parametrize("uri, words", [("nope://x", "not a storage"), ("file:///proc/none/x", "cannot be used")])
def test_a_storage_that_cannot_be_used(uri, words):
    found = doctor.reach(uri)
    assert found.state == "bad" and uri in found.found and words in found.found and "credentials" in found.fix


@pytest.mark.slow
def test_a_storage_that_nothing_answers_for():
    """pyarrow tries for 13 s."""
    found = doctor.reach("s3://lab/runs?endpoint_override=http://127.0.0.1:1&region=us-east-1")
    assert found.state == "bad" and "Could not connect to server)" in found.found


def test_a_folder_that_cannot_be_written():
    found = doctor.disk(pathlib.Path("/proc"))
    assert found.state == "bad" and "/proc cannot be written" in found.found and "--out" in found.fix
    assert doctor.clock(pathlib.Path("/proc")).state == "note"


def test_rooms_that_are_too_small():
    found = doctor._room("/dev/shm", 64 * 2**20, doctor.FREE_SHM, "free", "docker run --shm-size=8g")
    assert str(found) == "bad   /dev/shm      0.0625 GiB free, 0.25 wanted; fix: docker run --shm-size=8g"


def test_a_clock_apart_from_the_file_systems(tmp_path, monkeypatch):
    now = time.time
    monkeypatch.setattr(doctor.time, "time", lambda: now() + 42)
    found = doctor.clock(tmp_path)
    assert found.state == "bad" and "42 s ahead of the file system" in found.found and "NTP" in found.fix


def test_a_cluster_that_does_not_answer_and_one_that_does():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "127.0.0.1:{}".format(server.getsockname()[1])
        assert doctor.ports(address) == doctor.Finding("ports", f"{address} answers")
    found = doctor.ports(address)
    assert found.state == "bad" and address in found.found and "ray up" in found.fix


@pytest.mark.parametrize("package, version, words", [
    ("ray", "2.59.0", "2.59.0; raycal wants ==2.60.*"), ("numpy", None, "not installed; raycal wants")])
def test_versions_that_raycal_does_not_take(package, version, words, monkeypatch):
    real = importlib.metadata.version

    def installed(name):
        if name == package and version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version if name == package else real(name)

    monkeypatch.setattr(importlib.metadata, "version", installed)
    bad, = [f for f in doctor.versions() if f.state == "bad"]
    assert bad.name == package and words in bad.found and "constraints.txt" in bad.fix


@pytest.mark.parametrize("script, state, words", [
    ("echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9", "bad", "has failed"),
    ("echo 'NVIDIA H100, 570.10'", "bad", "1 x NVIDIA H100, driver 570.10, but torch"), (None, "note", "none")])
def test_gpus_that_cannot_be_used(script, state, words, tmp_path, monkeypatch):
    """A stand-in for nvidia-smi: that a real driver fails, or a real GPU is seen, was not tested."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if script else str(tmp_path))
    if script:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    found = doctor.gpu()
    assert found.state == state and words in found.found


LOCKS = "import sys, time; from raycal.search.folder import RunFolder; f = RunFolder.create(sys.argv[1], 'x'); f.lock(); " \
        "print('held', flush=True); time.sleep(60)"


def test_the_lock_of_a_killed_driver_is_named_and_that_of_a_live_one_is_not(tmp_path):
    with subprocess.Popen([sys.executable, "-c", LOCKS, str(tmp_path / "dead")], stdout=subprocess.PIPE, text=True,
                          env=ENVIRONMENT) as driver:
        assert driver.stdout.readline() == "held\n"
        assert not list(leftovers._locks(tmp_path))
        driver.send_signal(signal.SIGKILL)
    live = RunFolder.create(str(tmp_path / "live"), "x")
    live.lock()
    assert list(leftovers._locks(tmp_path)) == list(leftovers._locks(tmp_path / "dead")) == [tmp_path / "dead" / "lock"]
    line, = [str(f) for f in doctor.leftovers(str(tmp_path)) if "locks" in f.found]
    assert line.startswith("note") and "--resume takes a run over" in line and str(tmp_path / "dead" / "lock") in line
    live.unlock()


def test_sessions_and_scratch_folders_of_dead_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "session_2026-01-02_live"]) as process:
        for name in ("ray/session_2026-01-01_dead", "ray/session_2026-01-02_live", f"raycal-{socket.gethostname()}-{process.pid}-abc"):
            (tmp_path / name).mkdir(parents=True)
        (tmp_path / "ray" / "session_latest").symlink_to("session_2026-01-01_dead")
        found = {kind: paths for kind, paths, _ in leftovers.find(tmp_path)}
        assert found["Ray sessions"] == [tmp_path / "ray" / "session_2026-01-01_dead"] and not found["scratch folders"]
        process.kill()
    found = {kind: paths for kind, paths, _ in leftovers.find(tmp_path)}
    assert len(found["Ray sessions"]) == 2 and found["scratch folders"] == [tmp_path / f"raycal-{socket.gethostname()}-{process.pid}-abc"]


@contextlib.contextmanager
def sleeping(name, session):
    """A process of that name, as Ray gives its own, that holds a log of a session open."""
    session.mkdir(parents=True, exist_ok=True)
    with open(session / "a.log", "w") as log:
        process = subprocess.Popen([name, "60"], executable=shutil.which("sleep"), stdout=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_ray_processes_of_a_killed_driver_are_named_and_swept(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with subprocess.Popen(["true"]) as driver:
        driver.wait()
    dead, live, foreign = (tmp_path / "ray" / f"session_2026-01-0{n}" for n in (1, 2, 3))
    with (sleeping("ray::IDLE", dead) as orphan, sleeping("editor", dead) as other, sleeping("ray::IDLE", live) as ours,
          sleeping("ray::IDLE", foreign) as theirs):
        leftovers.mark(live)
        (dead / leftovers.DRIVER).write_text(str(driver.pid))
        line, = [str(f) for f in doctor.leftovers(str(tmp_path)) if "Ray processes" in f.found]
        assert line.startswith("note") and f"kill {orphan.pid} (" in line
        leftovers.sweep()
        assert orphan.wait(10) == -signal.SIGKILL
        assert other.poll() is ours.poll() is theirs.poll() is None


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no /dev/shm: shared memory was not tested")
def test_shared_memory_that_nobody_holds():
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="torch_", delete=False) as f:
        path = pathlib.Path(f.name)
        assert path not in list(leftovers._segments(path.parent))
    assert path in list(leftovers._segments(path.parent))
    path.unlink()
