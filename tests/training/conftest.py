from __future__ import annotations

import pytest
import torch

from raycal.config import Config
from raycal.sessions.prepare import prepare
from raycal.sessions.simulate import simulate


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small():
    """Settings of a model that trains in a tenth of a second an epoch."""
    return Config().replace({
        "windows.length": 16, "windows.min_steps": 1, "windows.batch": 16, "windows.stride": 16,
        "model.width": 16, "model.residual_width": 8,
        "model.residual_blocks": 1, "model.behavior_width": 8, "quantizer.codebook_size": 16, "quantizer.code_dim": 8,
        "optimizer.lr": 3e-3, "training.epochs": 5, "training.device": "cpu"})


@pytest.fixture(scope="session")
def recordings():
    return [simulate(n_neurons=n, n_frames=1500, rate=5.0, seed=n, id=f"s{n}").session for n in (12, 9)]


@pytest.fixture(scope="session")
def dataset(small, recordings):
    """Two sessions of 12 and 9 neurons."""
    return prepare(recordings, small.sessions, 16)
