"""Searches in which memory, the disk or every trial fails: real limits on real workers, a real disk that is full."""
from __future__ import annotations

import os
import pathlib
import resource
import signal
import subprocess
import threading
import time

import pytest

import raycal
from raycal.errors import UserError
from raycal.search import patience
from raycal.search.study import read_study
from raycal.sessions.simulate import simulate

SPACE = '''
from raycal.config import Config

BASE = Config().replace({"quantizer.codebook_size": 16, "quantizer.code_dim": 8, "model.width": 16,
                         "model.residual_blocks": 0, "windows.length": 16, "windows.min_steps": 4,
                         "windows.stride": 32, "training.epochs": 3, "search.pruner": "none"})


def propose(trial, base):
    trial.suggest_float("optimizer.lr", 1e-3, 1e-2, log=True)
    return base.replace(trial.params)
'''


@pytest.fixture
def search(ray_session, tmp_path):
    """Run or resume a search of one slot over a small space."""
    (tmp_path / "tiny.py").write_text(SPACE)
    session = simulate(n_neurons=8, n_frames=1500, rate=5.0, seed=1).session

    def call(settings, out=None, **options):
        folder = {"out": str(out)} if out else {}
        return raycal.search(str(tmp_path / "tiny.py"), [session], settings={"search.confirm_top": 0, **settings},
                             max_concurrent=1, **folder, **options)

    return call


def within(seconds: float, condition) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())


def workers() -> list:
    """The Train workers below this process."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found += [process] if "RayTrainWorker" in " ".join(process.cmdline()) else []
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_trials_that_outgrow_the_memory_are_oom_and_three_of_them_end_the_search(search, tmp_path, capsys):
    """The worker's own address space is limited from outside to the least it had and 60 MiB; activations take 32 each."""
    limits, over, run = {}, threading.Event(), tmp_path / "run"

    def limit():
        while not over.wait(0.05):
            for process in workers() if epochs(run) else ():  # with the first epoch it has all its libraries
                least = min(process.memory_info().vms + 60 * 2**20, limits.get(process.pid, 2**63 - 1))
                if limits.get(process.pid) != least:
                    resource.prlimit(process.pid, resource.RLIMIT_AS, (least, resource.RLIM_INFINITY))
                    limits[process.pid] = least

    thread = threading.Thread(target=limit)
    thread.start()
    try:
        with pytest.raises(UserError) as stopped:
            search({"model.width": 256, "windows.batch": 512, "windows.length": 64, "windows.min_steps": 1,
                    "training.epochs": 500}, run, trials=6)
    finally:
        over.set()
        thread.join()
    assert "the first 3 trials all ended for one reason, so the search stops: oom" in str(stopped.value)
    assert "windows.batch" in str(stopped.value) and f"--resume {run}" in str(stopped.value)
    trials = read_study(str(run)).trials
    assert [(t.state.name, t.user_attrs["reason"]) for t in trials[:3]] == [("PRUNED", "oom")] * 3
    assert all(t.state.name != "RUNNING" for t in trials)
    for trial in trials[:3]:
        assert trial.user_attrs["batch"] == 512 and trial.user_attrs["memory"] > 2**27
        assert "allocate memory" in trial.user_attrs["message"]
    assert "oom at epoch" in capsys.readouterr().out and len(limits) == 1, "one worker took all three"


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 24 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "raycal", str(disk)]).returncode:
        pytest.skip("file systems cannot be mounted here: a full disk was not tested")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: pathlib.Path) -> pathlib.Path:
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as f:
        try:
            while f.write(b"\0" * 4096):
                pass
        except OSError:
            pass
    return filler


@pytest.mark.root
@pytest.mark.parametrize("change, why", [("full", "No space left"), ("read-only", "Read-only file system")])
def test_a_study_waits_for_a_disk_that_is_full_or_read_only(small_disk, change, why, monkeypatch, space):
    from raycal.search.folder import RunFolder
    from raycal.search.study import open_study

    monkeypatch.setattr(patience, "RETRY", 0.05)
    folder, said = RunFolder.create(str(small_disk / "run"), "small"), []
    study = open_study(folder, space.base, ["minimize"], space)
    study.add_trial(_told(1.0))

    def mend():
        within(30, lambda: said)
        if change == "full":
            (small_disk / "filler").unlink()
        else:
            subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)

    folder.patiently = patience.Patience(folder.path, said.append, over=lambda: False)
    if change == "full":
        fill(small_disk)
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    thread = threading.Thread(target=mend)
    thread.start()
    for value in range(200):
        study.add_trial(_told(float(value)))
    thread.join()
    assert len(said) == 2 and why in said[0] and "goes on" in said[1]
    assert [t.value for t in read_study(str(folder.path)).trials] == [1.0, *map(float, range(200))]


def _told(value):
    import optuna

    return optuna.trial.create_trial(state=optuna.trial.TrialState.COMPLETE, value=value,
                                     user_attrs={"note": "x" * 300})


@pytest.mark.slow
@pytest.mark.root
def test_a_search_waits_for_its_disk_and_stops_cleanly_when_told_to(search, small_disk, monkeypatch, capsys):
    """The disk is full, then the run folder is away, then it is away and ctrl-C ends the wait; a resume finishes."""
    run, gone, waits = small_disk / "run", small_disk / "gone", []
    original = patience.Patience._wait

    def wait(self, error, seconds, said):
        waits.append(error.errno)
        return original(self, error, seconds, said)

    monkeypatch.setattr(patience.Patience, "_wait", wait)
    failed = []

    def hurt():
        try:
            for break_it, mend_it in ((lambda: fill(small_disk), lambda: (small_disk / "filler").unlink()),
                                      (lambda: run.rename(gone), lambda: gone.rename(run)),
                                      (lambda: run.rename(gone), lambda: os.kill(os.getpid(), signal.SIGINT))):
                waits.clear()
                assert within(500, lambda: (run / "study.journal").exists() and epochs(run) > 2)
                seen = epochs(run)
                assert within(60, lambda: epochs(run) > seen + 2)
                break_it()
                assert within(60, lambda: len(waits) > 2), "the search did not wait"
                mend_it()
        except BaseException as e:
            failed.append(e)

    thread = threading.Thread(target=hurt)
    thread.start()
    with pytest.raises(UserError, match=rf"cannot be written \(No such file or directory\).*\n.*--resume {run}"):
        search({"training.epochs": 150}, run, trials=3)
    thread.join()
    assert not failed
    said = capsys.readouterr().out
    assert said.count("the search waits up to") == 3 and said.count("can be written again") == 2
    gone.rename(run)
    search({"training.epochs": 150}, resume=str(run), trials=3)
    trials = read_study(str(run)).trials
    assert [t.state.name for t in trials] == ["COMPLETE"] * 3
    for trial in trials:
        assert [e for e, _ in trial.user_attrs["objective_by_epoch"]] == list(range(1, 151))
    assert (run / "best" / "model.pt").is_file() and not list(run.rglob(".*"))


def epochs(run: pathlib.Path) -> int:
    try:
        return (run / "study.journal").read_bytes().count(b'"op_code":7')  # an epoch that was reported
    except OSError:
        return 0
