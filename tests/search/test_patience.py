"""A run folder whose disk fails and comes back: real limits, real folders that vanish."""
from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest
import torch

import raycal
from raycal.errors import UserError
from raycal.search import patience, saver
from raycal.search.patience import Patience
from raycal.training import checkpoint


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(patience, "RETRY", 0.05)
    monkeypatch.setattr(saver, "RETRY", 0.05)


def away(folder: pathlib.Path, until) -> threading.Thread:
    """Take a folder away and bring it back once until() is true."""
    gone = folder.with_name("gone")
    folder.rename(gone)

    def bring_back():
        while not until():
            time.sleep(0.01)
        gone.rename(folder)

    thread = threading.Thread(target=bring_back)
    thread.start()
    return thread


def test_a_folder_that_vanishes_is_waited_for_and_said_once(tmp_path):
    said, attempts, folder = [], [], tmp_path / "run"
    folder.mkdir()

    def write():
        attempts.append(1)
        return (folder / "x").write_text("four")

    thread = away(folder, lambda: len(attempts) > 3)
    assert Patience(folder, said.append, over=lambda: False)(write) == 4
    thread.join()
    assert len(said) == 2 and "cannot be written (No such file or directory)" in said[0]
    assert "bring it back" in said[0] and f"--resume {folder}" in said[0] and "goes on" in said[1]


@pytest.mark.parametrize("over, longest", [(True, 3600.0), (False, 0.1)])
def test_waiting_ends_when_the_user_or_the_hour_says_so(tmp_path, monkeypatch, over, longest):
    monkeypatch.setattr(patience, "LONGEST", longest)
    with pytest.raises(UserError, match=f"what was written stands\nfix: bring it back .*--resume {tmp_path}"):
        Patience(tmp_path, lambda text: None, over=lambda: over)(lambda: (tmp_path / "none" / "x").write_text(""))


def test_a_study_goes_on_in_a_journal_that_was_away_and_nowhere_else(run, complete):
    record, said = run.open(), []
    complete(record, [0.5, 0.4])
    run.folder.patiently = Patience(run.path, said.append, over=lambda: False)
    thread = away(run.path, lambda: said)
    complete(record, [0.6, 0.3])
    thread.join()
    assert len(said) == 2
    record = run.open()
    assert [t.value for t in record.study.get_trials()] == [0.4, 0.3]
    run.path.rename(run.path.with_name("gone"))
    run.path.mkdir()  # a mount point without its disk
    with pytest.raises(UserError, match="cannot be written"):
        complete(record, [0.1])
    assert not list(run.path.iterdir())


FULL_DISK = '''
import json, pathlib, resource, sys
import optuna
from raycal.search.folder import RunFolder
from raycal.search.patience import Patience
from raycal.search import patience, study
from tests_space import space

optuna.logging.set_verbosity(optuna.logging.ERROR)
patience.RETRY = 0.01
folder = RunFolder.create(sys.argv[1], "small")
folder.lock()
one = study.open_study(folder, space.base, ["minimize"], space)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
said = []

def say(text):
    said.append(text)
    if len(said) % 2:  # the disk has room again, after one attempt that found none
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

folder.patiently = Patience(folder.path, say, over=lambda: False)
for number in range(40):
    size = folder.journal.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 7 * number % 90, hard))  # cuts inside a line
    trial = one.ask()
    trial.report(float(number), 1)
    one.tell(trial, float(number))
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
print(json.dumps([said, [t.value for t in one.get_trials()], [t.value for t in study.read_study(sys.argv[1]).trials]]))
'''


def test_a_journal_is_never_torn_by_a_full_disk(tmp_path):
    """RLIMIT_FSIZE lets a write begin and fail in the middle, as a disk that fills up does."""
    import json

    (tmp_path / "tests_space.py").write_text('from raycal.search.space import load\nspace = load("vq")\n')
    root = str(pathlib.Path(raycal.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path / "run")], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": f"{root}:{tmp_path}"})
    assert done.returncode == 0, done.stderr[-2000:]
    said, values, stored = json.loads(done.stdout)
    assert values == stored == [float(n) for n in range(40)]
    assert len(said) >= 40 and "File too large" in said[0] and "free some space" in said[0]


class Link:
    """What a saver needs of a worker's line to the pool."""

    def __init__(self, keep=True):
        self.posted, self._keep = [], keep

    def post(self, event):
        self.posted.append(event)

    def wanted(self):
        return self._keep


class Watch:
    def suspended(self):
        import contextlib

        return contextlib.nullcontext()


STATE = {"format": checkpoint.FORMAT, "done": True, "epoch": 1, "history": [{"val/nmse": 0.5}], "config": {}, "data": {},
         "fingerprint": "f", "versions": {}, "objective": "val/nmse", "ended_by": "epochs",
         "best": {"epoch": 1, "value": 0.5, "model": {"w": torch.ones(3)}}}


def saver_in(trials, link):
    """Return the saver of a job whose states are written whenever it is asked to."""
    job = {"folder": str(trials / "0003"), "config": {"training.save_every": 0.0}}
    return saver.Saver(job, saver.Near(job["folder"]), link, Watch())


def test_the_last_state_of_a_trial_waits_for_its_folder(tmp_path):
    trials, link = tmp_path / "run" / "trials", Link()
    trials.mkdir(parents=True)
    thread = away(tmp_path / "run", lambda: link.posted)
    saver_in(trials, link).save(STATE)
    thread.join()
    assert [e["kind"] for e in link.posted] == ["paused"] and "No such file" in link.posted[0]["message"]
    assert checkpoint.load(trials / "0003" / "model.pt")["model"]["w"].tolist() == [1, 1, 1]
    assert not list(trials.rglob(".*"))


def test_a_worker_whose_job_is_taken_back_waits_no_longer(tmp_path):
    with pytest.raises(saver.Released):
        saver_in(tmp_path / "none", Link(keep=False)).save(STATE)


def test_a_state_on_the_way_that_cannot_be_written_is_left_out(tmp_path):
    running = saver_in(tmp_path / "run", Link())
    running.save({**STATE, "done": False})
    (tmp_path / "run").mkdir()
    running.save({**STATE, "done": False})
    assert [p.name for p in (tmp_path / "run" / "0003").iterdir()] == ["checkpoint.pt"]


CHECKPOINT = '''
import resource, sys
import torch
from raycal.training import checkpoint

resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    checkpoint.save(sys.argv[1], {"w": torch.zeros(10**5)})
except OSError as e:
    print(type(e).__name__, e.strerror)
'''


def test_a_checkpoint_on_a_full_disk_says_what_the_disk_said_and_leaves_nothing(tmp_path):
    """torch.save hides the error of the file behind one of its own."""
    done = subprocess.run([sys.executable, "-c", CHECKPOINT, str(tmp_path / "model.pt")], capture_output=True, text=True)
    assert done.stdout.strip() == "OSError File too large", done.stderr
    assert not list(tmp_path.iterdir())
