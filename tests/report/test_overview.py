from __future__ import annotations

import numpy as np
import pytest

from raycal import cli
from raycal.report.overview import examine, table
from raycal.sessions.readers import npz
from raycal.sessions.session import Session


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two good recordings, one of them with a hole and a still neuron, and one that is cut off."""
    rng = np.random.default_rng(0)
    traces = rng.normal(size=(60, 4))
    npz.write(Session.build(id="mouse", traces=traces, rate=10.0, behavior=rng.normal(size=(60, 2)),
                            behavior_names=("running", "pupil")), tmp_path / "mouse.npz")
    traces = rng.normal(size=(80, 5))
    traces[3, 1], traces[:, 2] = np.nan, 1.0
    npz.write(Session.build(id="worm", traces=traces, segments=[(0, 30), (30, 80)],
                            masks={"train": np.arange(80) < 40}), tmp_path / "worm.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "worm.npz").read_bytes()[:500])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_recording_has_a_line_of_its_figures(folder):
    rows, problems = examine(["mouse.npz", "worm.npz"])
    lines = [line.split() for line in table(rows).splitlines()]
    assert not problems and lines[0][:3] == ["session", "frames", "neurons"]
    assert lines[1][:8] == ["mouse", "60", "4", "10", "running,pupil", "0", "0", "1"]
    assert lines[2][:9] == ["worm", "80", "5", "unknown", "none", "1", "1", "2", "train"]
    assert [line[-1] for line in lines[1:]] == [s.fingerprint for s in (npz.read(folder / "mouse.npz"),
                                                                        npz.read(folder / "worm.npz"))]


def test_a_bad_recording_is_said_and_the_others_are_read(folder, capsys):
    assert cli.main(["sessions", "check", "*.npz", "gone.npz"]) == 1
    out, err = capsys.readouterr()
    assert "cut.npz" in err and "damaged" in err and "gone.npz: no such file" in err and "Traceback" not in err
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["mouse", "worm"]
    assert out.splitlines()[-1] == "2 read, 2 refused"


def test_the_same_recording_twice_is_a_problem(folder, capsys):
    npz.write(npz.read(folder / "mouse.npz"), folder / "again.npz")
    assert cli.main(["sessions", "check", "mouse.npz", "again.npz"]) == 1
    assert "the same recording is given twice" in capsys.readouterr().err


def test_when_all_can_be_used_the_next_command_is_said(folder, capsys):
    assert cli.main(["sessions", "check", "mouse.npz", "worm.npz"]) == 0
    out, err = capsys.readouterr()
    assert not err and out.splitlines()[-2] == "all 2 read" and "Hz unknown: give the rate" in out
    assert out.splitlines()[-1].endswith("run_search.py --space grvq --sessions mouse.npz worm.npz")


def test_wide_cells_are_cut(folder):
    names = [f"behaviour_{k}" for k in range(9)]
    npz.write(Session.build(id="many", traces=np.random.default_rng(1).normal(size=(20, 2)), rate=1.0,
                            behavior=np.zeros((20, 9)), behavior_names=names), folder / "many.npz")
    line = table(examine(["many.npz"])[0]).splitlines()[1]
    assert "behaviour_0,behaviour_1" in line and "..." in line and len(line) < 140
