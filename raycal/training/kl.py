"""Weights of a KL divergence over a training: pure functions of progress in [0, 1], never of their own last value.

A schedule that multiplies what it returned before decays to nothing within a few epochs. Warm-ups end at `warmup`, a
share of the training; shapes go from 0 to 1 and are multiplied by the most that the weight comes to.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

from raycal.config import Kl

STEEPNESS = 12.0  # of the sigmoid over its warm-up, whose ends are then 0.0025 off 0 and 1
GAIN = 0.5  # of the controller: the log of the weight moves by this for a rate off by as much as the target, an epoch
LOWEST = 1e-6  # share of its most that the controller leaves of a weight


def constant(progress: float, warmup: float, cycles: int) -> float:
    """Return 1."""
    return 1.0


def linear(progress: float, warmup: float, cycles: int) -> float:
    """Return progress / warmup, at most 1 (arXiv 1511.06349)."""
    return _within(progress, warmup)


def cosine(progress: float, warmup: float, cycles: int) -> float:
    """Return (1 - cos(pi progress / warmup)) / 2, 1 after the warm-up."""
    return 0.5 * (1.0 - math.cos(math.pi * _within(progress, warmup)))


def sigmoid(progress: float, warmup: float, cycles: int) -> float:
    """Return a logistic curve centred on half the warm-up, 1 after it (arXiv 1511.06349)."""
    u = _within(progress, warmup)
    return 1.0 if u == 1.0 else 1.0 / (1.0 + math.exp(-STEEPNESS * (u - 0.5)))


def cyclical(progress: float, warmup: float, cycles: int) -> float:
    """Return `linear` begun anew in each of `cycles` parts of the training, warmup a share of one (arXiv 1903.10145).

    The very end belongs to the last cycle.
    """
    at = min(max(progress, 0.0), 1.0) * cycles
    return _within(1.0 if at >= cycles else at % 1.0, warmup)


def step(progress: float, warmup: float, cycles: int) -> float:
    """Return 0 during the warm-up, 1 after it."""
    return float(progress >= warmup)


SHAPES = {"constant": constant, "linear": linear, "cosine": cosine, "sigmoid": sigmoid, "cyclical": cyclical,
          "step": step}


def target(rates: Sequence[float], wanted: float) -> float:
    """Return the share of the most that holds the rate at `wanted`: prod exp(GAIN (rate / wanted - 1)), within bounds.

    rates: nats a frame in every finished epoch. A function of them all, so a resumed run goes on as it would have
    (an integral controller, as in arXiv 2004.05988).
    """
    share = 1.0
    for rate in rates:
        error = min(1.0, rate / wanted - 1.0) if wanted > 0 else 1.0
        share = min(1.0, max(LOWEST, share * math.exp(GAIN * error)))
    return share


def weight(settings: Kl, progress: float, rates: Sequence[float] = ()) -> float:
    """Return the weight at `progress` of a training; rates: nats a frame in every epoch, which only target asks for."""
    if settings.schedule == "target":
        return settings.weight * target(rates, settings.target)
    return settings.weight * SHAPES[settings.schedule](progress, settings.warmup, settings.cycles)


def _within(progress: float, warmup: float) -> float:
    """Return how far the warm-up is, in [0, 1]."""
    return min(1.0, max(0.0, progress / warmup)) if warmup > 0 else 1.0
