"""Searches whose parts are killed, by the courses of benchmarks/faults.py; there the whole table is one command."""
from __future__ import annotations

import json
import os
import pathlib
import shutil
import sys

import optuna
import pytest

import raycal

sys.path.insert(0, str(pathlib.Path(raycal.__file__).parents[1] / "benchmarks"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def folder():
    """A scratch folder with a short name: Ray's sockets lie in it."""
    import common

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with common.scratch() as path:
        yield path


def test_a_search_outlives_its_worker_its_slot_its_pool_and_its_tune_actor(folder):
    import faults

    assert len(list(faults.parts(folder, epochs=16, trials=3))) == 4


def test_a_search_that_is_interrupted_or_killed_resumes_as_if_nothing_had_been(folder):
    import faults

    assert len(list(faults.driver(folder, epochs=16, trials=3, only=("SIGTERM", "SIGKILL of the driver")))) == 2


def test_random_kills_change_nothing(folder):
    import soak

    assert soak.soak(folder, kills=6, trials=6, seed=1, epochs=8).total() == 6


@pytest.fixture(scope="module")
def finished(ray_session, tmp_path_factory):
    """A finished search of two trials by one slot, and what it was given: (run folder, arguments)."""
    import searching

    folder = tmp_path_factory.mktemp("made")
    arguments = searching.given(folder, epochs=3)
    search(arguments, folder / "run")
    return folder / "run", arguments


def search(arguments, out, *more):
    from raycal.cli import main

    assert main([*arguments, "--trials", "2", "--max-concurrent", "1", "--out", str(out), "-q", *more]) == 0


def test_the_same_seed_gives_the_same_study_bit_for_bit_with_ray_and_without(finished, tmp_path):
    import searching

    run, arguments = finished
    searching.check_same(trials_of(run), searching.undisturbed(tmp_path / "u", arguments, {"search.trials": 2}))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["slots"] == [1] and summary["seed"] == 0


def test_a_run_goes_on_from_a_copy_on_another_machine_with_another_number_of_slots(finished, tmp_path, monkeypatch):
    import searching
    from raycal.cli import main

    run, arguments = finished
    before = list(map(searching.essence, trials_of(run)))
    there = tmp_path / "elsewhere"  # as it is after a transfer: other paths, a lock file that nobody holds
    shutil.copytree(run, there / "run")
    (there / "run" / "lock").write_text("host far-away, pid 1")
    hidden = pathlib.Path(arguments[1]).rename(tmp_path / "not_here.py")
    recordings = [shutil.copy(path, there) for path in arguments[3:5]]
    monkeypatch.chdir(there)
    try:
        moved = ["--resume", "run", "--sessions", *recordings, "--more", "2", "--max-concurrent", "2", "-q"]
        assert main(moved) == 2, "a space that is a file there is executed where that is asked for"
        assert main([*moved, "--space", "run/space.py"]) == 0
    finally:
        hidden.rename(arguments[1])
    after = trials_of(there / "run")
    assert list(map(searching.essence, after[:2])) == before
    searching.check_whole(after)
    summary = json.loads((there / "run" / "summary.json").read_text())
    assert len(after) == 4 and summary["slots"] == [1, min(2, os.cpu_count())]


def test_other_data_and_another_split_are_named(finished, tmp_path, capsys):
    from raycal.cli import main

    run, arguments = finished
    shutil.copytree(run, tmp_path / "run")
    resume = ["--resume", str(tmp_path / "run"), "-q"]
    assert main([*resume, "--sessions", arguments[3]]) == 2
    assert "recording simulated-11: " in (said := capsys.readouterr().err) and "recording simulated-8" not in said
    assert main([*resume, "--set", "sessions.rounds=2"]) == 2
    assert "sessions.rounds: 3 then, 2 now" in capsys.readouterr().err
    assert main([*resume, "--set", "model.width=8"]) == 2
    assert "model.width: 16 then, 8 now" in capsys.readouterr().err


def trials_of(folder):
    from raycal.search.study import read_study

    return read_study(str(folder)).get_trials()
