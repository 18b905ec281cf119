"""A folder of bad things, and the command line run in it: no slot is to be reached."""
from __future__ import annotations

import os
import pathlib

import h5py
import numpy as np
import pytest

from raycal import cli
from raycal.search import connection
from raycal.search import run as _  # noqa: F401  what the first search imports is no part of its time
from raycal.sessions.readers import npz
from raycal.sessions.session import Session
from raycal.sessions.simulate import simulate

MARKER = "payload-was-executed"


class Reached(BaseException):
    """A slot was asked for."""


class Payload:
    """Writes a file where the process stands when it is unpickled."""

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(MARKER),)


def reached(*_, **__):
    raise Reached


@pytest.fixture(scope="session")
def payload():
    """What writes a file when it is unpickled, and that file's name."""
    return Payload(), MARKER


@pytest.fixture
def unreachable():
    """A function that no bad input may call."""
    return reached


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a good recording, bad ones, settings files and spaces."""
    folder = tmp_path_factory.mktemp("made")
    good = simulate(n_neurons=8, n_frames=1500, rate=5.0, seed=1).session
    npz.write(good, folder / "good.npz")
    _recordings(folder, good)
    for name, text in SETTINGS.items():
        (folder / name).write_text(text)
    for name, text in SPACES.items():
        (folder / name).write_text(BASE + text)
    (folder / "folder").mkdir()
    (folder / "used").mkdir()
    (folder / "used" / "notes.txt").write_text("mine")
    os.mkfifo(folder / "pipe.npz")
    return folder


def _recordings(folder, good):
    def write(name, frames=1500, **changed):
        fields = {"traces": good.traces[:frames], "rate": 5.0, "behavior": good.behavior[:frames],
                  "behavior_names": good.behavior_names, **changed}
        npz.write(Session.build(id=name, **fields), folder / f"{name}.npz")

    hole, still = good.traces.copy(), np.zeros_like(good.traces)
    hole[5, 3] = np.nan
    write("hole", traces=hole)
    write("still", traces=still)
    still[:, 4] = good.traces[:, 4]
    write("lonely", traces=still)
    write("short", 200)
    write("shortish", 420)
    write("rateless", rate=np.nan)
    write("blind", behavior=None, behavior_names=())
    write("hidden", valid=np.zeros(good.traces.shape, bool))
    write("unseen", behavior=np.full((1500, 1), np.nan), behavior_names=("running",))
    np.savez(folder / "one.npz", traces=good.traces[:, :1], fs=5.0)
    np.savez(folder / "few.npz", traces=good.traces[:10], fs=5.0)
    np.savez(folder / "infinite.npz", traces=np.where(np.arange(1500)[:, None] == 3, np.inf, good.traces), fs=5.0)
    np.savez(folder / "words.npz", traces=np.full((20, 4), "a"), fs=5.0)
    np.savez(folder / "pickled.npz", traces=np.array([Payload()], object), fs=5.0)
    np.savez(folder / "names.npz", traces=good.traces, fs=5.0, behavior=good.behavior,
             behavior_names=np.array(good.behavior_names, object))
    np.save(folder / "array.npy", good.traces)
    np.savez(folder / "masked.npz", traces=good.traces, fs=5.0, masks_train=np.ones(1499, bool))
    np.savez(folder / "back.npz", traces=good.traces, fs=5.0, time_s=np.r_[np.arange(1499), 7] / 5)
    for k in range(2):  # two files that state one id
        np.savez(folder / f"state{k}.npz", traces=good.traces + k, fs=5.0, id="mouse")
    (folder / "loop.npz").symlink_to("pool.npz")
    (folder / "pool.npz").symlink_to("loop.npz")
    with h5py.File(folder / "bomb.h5", "w") as f:
        f.create_dataset("gcamp/traces_array_F_F20", shape=(10**7, 10**6), dtype="f4", chunks=(100, 100))
        f["timing/timestamp_confocal"] = np.arange(10.0)
    (folder / "halved.h5").write_bytes((folder / "bomb.h5").read_bytes()[:700])
    (folder / "empty.npz").write_bytes(b"")
    (folder / "table.csv").write_text("a,b\n1,2\n")
    (folder / "cut.npz").write_bytes((folder / "good.npz").read_bytes()[:3000])
    with h5py.File(folder / "other.h5", "w") as f:
        f["x"] = [1, 2]


SETTINGS = {"list.yaml": "- a\n- b\n", "broken.yaml": "optimizer:\n  lr: [\n", "deep.yaml": "optimizer: {lr: {a: 1}}\n",
            "misspelt.yaml": "optimiser: {lr: 0.1}\n", "held.yaml": "run: {held: [a]}\n",
            "where.yaml": "run: {sessions: 3}\n",
            "what.yaml": "run: {space: 3}\n", "part.yaml": "run: {spaces: vq}\n"}
BASE = "from raycal import Config\n\nBASE = Config().replace({'windows.length': 16})\n"
SPACES = {
    "syntax.py": "def propose(trial base):\n",
    "import.py": "import no_such_module\n",
    "leaves.py": "raise SystemExit(0)\n",
    "bare.py": "x = 3\n",
    "base.py": "BASE = Config().replace({'optimizer.rl': 1})\n",
    "raises.py": "def propose(trial, base):\n    return base / 0\n",
    "branch.py": "def propose(trial, base):\n"
                 "    if trial.suggest_categorical('quantizer.type', ['ema', 'vq']) == 'vq':\n"
                 "        raise KeyError('one\\ntwo')\n    return base.replace(trial.params)\n",
    "nothing.py": "def propose(trial, base):\n    trial.suggest_float('optimizer.lr', 1e-3, 1e-2)\n",
    "unknown.py": "def propose(trial, base):\n    trial.suggest_float('optimizer.rl', 1e-3, 1e-2)\n"
                  "    return base.replace(trial.params)\n",
    "sometimes.py": "def propose(trial, base):\n"
                    "    if trial.suggest_categorical('quantizer.type', ['ema', 'vq']) == 'vq':\n"
                    "        trial.suggest_float('optimizer.rl', 0, 1)\n    return base\n",
    "beyond.py": "def propose(trial, base):\n    trial.suggest_int('quantizer.codebook_size', 1, 60000)\n"
                 "    return base.replace(trial.params)\n",
    "outside.py": "def propose(trial, base):\n    trial.suggest_float('optimizer.lr', 1e-6, 1e-5)\n"
                  "    return base.replace(trial.params)\n",
    "first.py": "FIRST = [{'optimizer.rl': 1}]\ndef propose(trial, base):\n    return base\n",
    "points.py": "FIRST = {'optimizer.lr': 1}\ndef propose(trial, base):\n    return base\n",
    "plain.py": "def propose(trial, base):\n    trial.suggest_int('quantizer.codebook_size', 64, 512)\n"
                "    return base.replace(trial.params)\n"}


@pytest.fixture
def program(made, monkeypatch, ray_session):
    """The command line in the folder of bad things; asking for a slot ends the test."""
    monkeypatch.chdir(made)
    monkeypatch.setattr(connection.Cluster, "grow", reached)
    return made


@pytest.fixture
def refused(program, capsys):
    """Run the command line on bad input; check its message, which holds the words, and that it leaves nothing."""
    def call(argv, *words):
        before = {str(p) for p in program.rglob("*")}
        assert cli.main(list(argv)) == 2
        out, err = capsys.readouterr()
        assert err.startswith("raycal: ") and "Traceback" not in err
        assert len((out + err).splitlines()) <= 8
        assert all(w in err for w in words), err
        assert {str(p) for p in program.rglob("*")} - before <= {str(program / "runs")}, "something is left behind"

    return call


@pytest.fixture
def accepted(program, tmp_path, capsys):
    """Run the command line on good input: it gets as far as its slots."""
    def call(argv):
        with pytest.raises(Reached):
            cli.main([*argv, *([] if "--resume" in argv else ["--out", str(tmp_path / "accepted")])])
        capsys.readouterr()

    return call
