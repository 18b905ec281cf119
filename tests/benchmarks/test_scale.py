"""The arithmetic of limits: each in closed form, and moved by what it hangs on alone."""
from __future__ import annotations

import argparse
import importlib.util
import pathlib
import sys

import pytest

import raycal

BENCHMARKS = pathlib.Path(raycal.__file__).parents[1] / "benchmarks"
COST = {"driver_cpu": 0.2, "pool_cpu": 0.1, "slot_cpu": 0.1, "pool_idle": 0.0, "slot_idle": 0.01, "slot_bytes": 5e8,
        "fsync": 0.001, "writes": 100.0, "trial_bytes": 1e4, "upload_cpu": 0.005, "state_bytes": 2e6,
        "save_every": 10.0}
GIVEN = {"epoch": 10.0, "epochs": 10, "hours": 10.0, "sessions": 1000.0, "cores": 4.0, "memory": 10.0, "network": 1.0,
         "store": 0.1}


@pytest.fixture(scope="module")
def scale():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("scale", BENCHMARKS / "scale.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_limits_in_closed_form(scale):
    """Trials of 100 s; a slot writes 360 of them, 3.6 MB of study."""
    found = scale.limits(COST, argparse.Namespace(**GIVEN))
    expected = {"the driver's loop": 500, "writes of the study": 1000, "the pool": 1000, "head, CPU": 4 / 0.011,
                "head, memory": 14, "whole, every 30 s": 0.1e9 * 30 / 3.6e6, "CPU of the driver": 30 / 0.018,
                "states that travel": 5000, "broadcast": 60e9 / (1000 * 2**20), "trainables": 1000}
    assert {next(k for k in expected if k in name): value for name, value in found.items()} == pytest.approx(expected)


@pytest.mark.parametrize("what, factor", [
    ("memory", "head, memory"), ("cores", "head, CPU"), ("store", "whole, every")])
def test_twice_of_what_a_limit_hangs_on_moves_that_limit_alone(scale, what, factor):
    before = scale.limits(COST, argparse.Namespace(**GIVEN))
    after = scale.limits(COST, argparse.Namespace(**{**GIVEN, what: 2 * GIVEN[what]}))
    assert {name: after[name] / before[name] for name in before if after[name] != before[name]} == {
        name: pytest.approx(2.0) for name in before if factor in name}
