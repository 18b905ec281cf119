"""Every reader against files broken in many ways: a Session or a UserError, never a hang or a crash.

RAYCAL_FUZZ_CASES=10000 pytest -m slow tests/sessions/readers/test_fuzz.py takes ten minutes of two cores.
"""
from __future__ import annotations

import importlib.util
import os
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from raycal.sessions.readers import READERS

HERE = pathlib.Path(__file__).parent
CASES = int(os.environ.get("RAYCAL_FUZZ_CASES", 1_000))


def _sibling(name):
    """Return the test module of a reader, which knows how to write a valid file."""
    spec = importlib.util.spec_from_file_location(f"seed_{name}", HERE / f"test_{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _of(name, function="_file"):
    return lambda folder, _: getattr(_sibling(name), function)(folder)


def _suite2p(folder, _):
    _sibling("suite2p")._plane(folder / "plane0")
    return folder / "plane0"


def _matlab(version):
    def write(folder, _):
        module = _sibling("matlab")
        getattr(module, f"_write{version}")(folder / f"v{version}.mat", module._typical())
        return folder / f"v{version}.mat"
    return write


# format -> function(folder, write_allen) that writes a valid file and returns its path; the one that takes longest first
SEEDS = {"nwb": _of("nwb"), "npz": _of("npz"), "worm": _of("worm"), "allen_nwb": lambda folder, write: write(folder / "a.nwb"),
         "suite2p": _suite2p, "caiman": _of("caiman"), "ceneurovae": _of("ceneurovae"),
         "wormwideweb": _of("wormwideweb"), "temporal": _of("temporal", "_brainsets"), "matlab-v5": _matlab(5),
         "matlab-v7.3": _matlab(73), "table": _of("table")}


def test_every_reader_has_a_seed():
    assert {name.split("-")[0] for name in SEEDS} >= set(READERS)


@pytest.fixture(scope="module")
def broken(tmp_path_factory, write_allen):
    """Start the processes that break and read, as many at a time as there are cores."""
    def run(seed):
        return subprocess.run([sys.executable, str(HERE / "fuzz.py"), str(seed), str(CASES)], capture_output=True,
                              text=True, timeout=1400)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {name: pool.submit(run, write(tmp_path_factory.mktemp("seed"), write_allen))
               for name, write in SEEDS.items()}


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", SEEDS)
def test_a_broken_file_gives_a_session_or_a_message(name, broken):
    done = broken[name].result()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4000:]}"
    print(done.stdout)
