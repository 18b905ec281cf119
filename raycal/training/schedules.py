"""Learning-rate schedules: pure functions of how far the training is, never of their own last value.

A schedule that multiplies its own output decays doubly and, past its end, rises or turns negative;
these take progress in [0, 1] (clamped) and never exceed the value at the end of the warm-up.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

from raycal.config import Optimizer

PATIENCE = 4  # epochs without a better objective before plateau halves; 4 such halvings fit the default 27 epochs
TAIL = 0.25  # share of the steps after the warm-up that cosine_plateau holds its last value for


def warmup(step: int, steps: int) -> float:
    """Return (step + 1) / steps while warming up, 1 afterwards; the first step is never 0."""
    return min(1.0, (step + 1) / steps) if steps > 0 else 1.0


def constant(progress: float, final: float = 0.0) -> float:
    """Return 1."""
    return 1.0


def cosine(progress: float, final: float = 0.0) -> float:
    """Return final + (1 - final) (1 + cos(pi progress)) / 2 (SGDR without restarts, arXiv 1608.03983)."""
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * _clamp(progress)))


def cosine_plateau(progress: float, final: float = 0.0) -> float:
    """Return `cosine` run through before the last TAIL of the steps, and final from there on.

    The small steps of a tail let an objective settle that is measured after every epoch.
    """
    return cosine(progress / (1.0 - TAIL), final)


def step(progress: float, final: float = 0.0) -> float:
    """Return 1, 0.1 after half and 0.01 after three quarters (the drops of arXiv 1512.03385, section 4.2)."""
    return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))


def plateau(history: Sequence[float], final: float = 0.0, patience: int = PATIENCE) -> float:
    """Return 0.5^n, at least final; n counts the runs of `patience` epochs without a lower value.

    history holds one value an epoch, lower is better. Adding an epoch never raises the result.
    """
    best, waited, halvings = math.inf, 0, 0
    for value in history:
        best, waited = (value, 0) if value < best else (best, waited + 1)
        if waited == patience:
            waited, halvings = 0, halvings + 1
    return max(final, 0.5 ** halvings)


SHAPES = {"constant": constant, "cosine": cosine, "cosine_plateau": cosine_plateau, "step": step}


def learning_rate(settings: Optimizer, at: int, steps: int, history: Sequence[float] = ()) -> float:
    """Return the learning rate of optimizer step `at` of `steps`.

    history: the objective of every finished epoch, turned so that lower is better; only plateau asks for it.
    """
    warm = math.ceil(settings.warmup * steps)
    if settings.schedule == "plateau":
        return settings.lr * warmup(at, warm) * plateau(history, settings.final)
    progress = (at - warm) / max(1, steps - 1 - warm)  # the last step of the run is at the very end of the shape
    return settings.lr * warmup(at, warm) * SHAPES[settings.schedule](_clamp(progress), settings.final)


def _clamp(progress: float) -> float:
    return min(1.0, max(0.0, progress))
