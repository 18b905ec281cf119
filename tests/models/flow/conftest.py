"""A Gaussian whose flow is known in closed form, for processes of every kind."""
from __future__ import annotations

import pytest
import torch

from raycal.models.flow.process import TARGETS, Estimate


def _exact(process, mean=0.0, sd=0.5):
    """Return the estimator of independent values N(mean, sd^2): conditional means given x_t."""
    def estimate(x_t, t):
        at = process.path.at(t)
        off, variance = x_t - at.data * mean, at.data**2 * sd**2 + at.noise**2
        return Estimate(mean + at.data * sd**2 / variance * off, at.noise / variance * off)

    return estimate


def _answering(process, estimator):
    """Return a network that answers in the process's target what the estimator believes, and counts its calls."""
    def network(x_t, t, behavior=None, session=0):
        network.calls += 1
        found = estimator(x_t, t)
        c, d = TARGETS[process.target](process.path.at(t))
        return c * found.data + d * found.noise

    network.calls = 0
    return network


@pytest.fixture(scope="session")
def exact():
    return _exact


@pytest.fixture(scope="session")
def answering():
    return _answering


@pytest.fixture
def noise():
    return torch.randn(64, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
