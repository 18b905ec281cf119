"""Fixtures all tests share: real recordings where there are any, and one Ray for the whole test session."""
from __future__ import annotations

import os
import pathlib
import shutil
import tempfile

import pytest


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real recordings; without it the tests that read them say what they did not test."""
    folder = os.environ.get("RAYCAL_DATA")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip("RAYCAL_DATA names no folder: real recordings were not tested")
    return pathlib.Path(folder)


@pytest.fixture(scope="session")
def ray_session():
    """One local Ray, ended with everything it started."""
    ray = pytest.importorskip("ray")
    from raycal.config import Config
    from raycal.search import connection

    temp_dir = tempfile.mkdtemp(prefix="rc", dir="/tmp")  # short: a socket's path holds 107 bytes
    os.environ.pop("RAY_ADDRESS", None)
    connection.connect(Config().replace({"training.workers": 3}), temp_dir=temp_dir)
    yield ray
    ray.shutdown()
    shutil.rmtree(temp_dir, ignore_errors=True)


@pytest.fixture
def space_file(tmp_path):
    """Write a search space of a few seconds and return its path."""
    path = tmp_path / "tiny.py"
    path.write_text('''
from raycal.config import Config

BASE = Config().replace({"quantizer.codebook_size": 16, "quantizer.code_dim": 8, "model.width": 16,
                         "model.residual_blocks": 0, "model.residual_width": 8, "windows.length": 16,
                         "training.epochs": 3, "windows.min_steps": 4, "windows.stride": 32})


def propose(trial, base):
    trial.suggest_categorical("quantizer.type", ["ema", "vq"])
    trial.suggest_int("quantizer.codebook_size", 8, 64, log=True)
    trial.suggest_float("optimizer.lr", 1e-3, 1e-2, log=True)
    return base.replace(trial.params)
''')
    return str(path)
