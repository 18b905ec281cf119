import importlib
import json
import pathlib
import subprocess
import sys

import pytest

import raycal
from raycal.models.quantizers import bits_per_code

BENCHMARKS = pathlib.Path(raycal.__file__).parents[1] / "benchmarks"


@pytest.fixture
def s1_table(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("s1_table")


def test_rows_have_the_rates_of_s1_and_equal_ones(s1_table):
    for rows, rates in ((s1_table.rows(512, (3, 1, 8)), [9, 9, 56, 9, 56]),
                        (s1_table.rows(32, (5, 1, 2)), [5, 5, 24, 5, 24])):
        assert [bits_per_code(s1_table.S1.replace(row.settings).quantizer) for row in rows] == rates


def test_an_interval_is_that_of_student(s1_table):
    mean, half = s1_table.interval([1.0, 2.0, 3.0])
    assert (mean, half) == pytest.approx((2.0, 4.3026527 / 3**0.5))


def test_the_command_fills_its_table(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "s1_table.py"), "--quick", "--frames", "6000", "--epochs", "1",
               "--out", str(tmp_path / "table.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    for row in ("vq", "ema", "grvq", "grvq_9", "rvq_56"):
        assert 0 < found[f"{row}_usage"] <= 1 and 0 < found[f"{row}_nmse"] < 1.5
    assert found["ema_mse"] / found["ema_nmse"] == pytest.approx(
        found["vq_mse"] / found["vq_nmse"], rel=1e-3), "one unit for all"
    assert 0.9 < found["ema_ceiling"] <= 1, "only the noise of the wheel is left to explain"
    table = (tmp_path / "table.md").read_text()
    assert table.strip() in done.stdout and table.count("- S1's README") == 3
