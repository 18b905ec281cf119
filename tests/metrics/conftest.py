"""Windows of a process with everything a generator may get wrong: shared, skewed, slow, each neuron its own."""
from __future__ import annotations

import numpy as np
import pytest


def _recording(n_frames: int, seed: int, n_neurons: int = 16, n_latents: int = 4) -> np.ndarray:
    """Return (N, F): rectified slow latents through fixed loadings, with noise of each neuron's own."""
    fixed, rng = np.random.default_rng(99), np.random.default_rng(seed)
    decay = fixed.uniform(0.7, 0.95, n_latents)[:, None]
    loadings, noise = fixed.exponential(1.0, (n_neurons, n_latents)), fixed.uniform(0.2, 0.6, (n_neurons, 1))
    shocks = rng.standard_normal((n_latents, n_frames + 200)) * np.sqrt(1 - decay**2)
    latents = np.zeros((n_latents, n_frames + 200))
    for t in range(1, n_frames + 200):
        latents[:, t] = decay[:, 0] * latents[:, t - 1] + shocks[:, t]
    return loadings @ np.maximum(latents[:, 200:] - 0.5, 0.0) + noise * rng.standard_normal((n_neurons, n_frames))


def _cut(x_nf: np.ndarray, length: int = 24, stride: int = 24) -> np.ndarray:
    starts = np.arange(0, x_nf.shape[1] - length + 1, stride)
    return np.stack([x_nf[:, s:s + length] for s in starts])


def _draw(n: int, seed: int, length: int = 24) -> np.ndarray:
    """Return n windows (n, N, length) one after the other."""
    return _cut(_recording(n * length, seed), length, length)


@pytest.fixture(scope="session")
def recording():
    return _recording


@pytest.fixture(scope="session")
def cut():
    return _cut


@pytest.fixture(scope="session")
def draw():
    return _draw
