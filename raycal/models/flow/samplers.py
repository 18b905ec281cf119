"""From noise to data: solvers of dx/dt from t = 1 to t = 0 with exactly so many evaluations of the network.

    windows = sample("heun", estimate, process, noise, evaluations=32)

`estimate` is any function of x_t (b, N, L) and t (b,) to an Estimate: guidance, thresholds and inpainting wrap it.
Steps are shorter towards both ends: what neurons and frames have in common comes out of noise much larger than a value,
what is fast and private at last, and equal steps miss both.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from raycal.errors import UserError, nearest
from raycal.models.flow.process import Estimate, Process

EVEN = 0.3  # of the steps' lengths; the rest is what makes them shorter towards both ends
LATE = 2.0  # noise over data on the linear path is so many times as much: more steps where there is much noise
Estimator = Callable[[Tensor, Tensor], Estimate]


def sample(name: str, estimate: Estimator, process: Process, noise: Tensor, evaluations: int) -> Tensor:
    """Return windows (b, N, L) that the sampler makes of noise (b, N, L), evaluating the network `evaluations` times.

    Raise UserError for an unknown sampler or for no evaluation.
    """
    check(name, evaluations)
    return SAMPLERS[name](estimate, process, noise, evaluations)


def check(name: str, evaluations: int) -> None:
    """Raise UserError for an unknown sampler or for no evaluation."""
    if name not in SAMPLERS:
        raise UserError(f"sampler={name!r}: must be one of {', '.join(SAMPLERS)}{nearest(name, SAMPLERS)}")
    if evaluations < 1:
        raise UserError(f"evaluations={evaluations}: a sampler needs at least 1; 16 to 64 are usual")


def euler(estimate: Estimator, process: Process, x: Tensor, evaluations: int) -> Tensor:
    """Return x at t = 0 by steps along the tangent (first order)."""
    for t, then, _ in _steps(evaluations, 1, x):
        x = x + (then - t) * _velocity(estimate, process, x, t)
    return x


def midpoint(estimate: Estimator, process: Process, x: Tensor, evaluations: int) -> Tensor:
    """Return x at t = 0 by steps along the tangent at their middle (second order); an odd last step is Euler's."""
    for t, then, twice in _steps(evaluations, 2, x):
        slope = _velocity(estimate, process, x, t)
        if twice:
            slope = _velocity(estimate, process, x + (then - t) / 2 * slope, (t + then) / 2)
        x = x + (then - t) * slope
    return x


def heun(estimate: Estimator, process: Process, x: Tensor, evaluations: int) -> Tensor:
    """Return x at t = 0 by steps along the mean of the tangents at both ends (EDM, arXiv 2206.00364, algorithm 1).

    Second order; an odd last step is Euler's, which costs the order nothing.
    """
    for t, then, twice in _steps(evaluations, 2, x):
        slope = _velocity(estimate, process, x, t)
        if twice:
            slope = (slope + _velocity(estimate, process, x + (then - t) * slope, then)) / 2
        x = x + (then - t) * slope
    return x


def ddim(estimate: Estimator, process: Process, x: Tensor, evaluations: int) -> Tensor:
    """Return x at t = 0 by making x_t' of the data and the noise believed to be in x_t (arXiv 2010.02502, eq. 12).

    Exact where the estimate is; on the linear path it is Euler's method.
    """
    for t, then, _ in _steps(evaluations, 1, x):
        x = process.noised(*estimate(x, _all(t, x)), _all(then, x))
    return x


SAMPLERS = {"euler": euler, "midpoint": midpoint, "heun": heun, "ddim": ddim}


def times(steps: int, x: Tensor) -> Tensor:
    """Return the times (steps + 1,) from 1 to 0 that steps run between, like x.

    In part even, in part shorter towards both ends as squared sines of an even angle are, then all shifted towards
    noise (arXiv 2403.03206, eq. 23). Being smooth, they leave every sampler its order.
    """
    u = torch.linspace(1.0, 0.0, steps + 1, device=x.device, dtype=x.dtype)
    u = torch.lerp(torch.sin(math.pi / 2 * u).square(), u, EVEN)
    return LATE * u / (1.0 + (LATE - 1.0) * u)


def _steps(evaluations: int, each: int, x: Tensor) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Yield (t, next t, whether the step has all of its `each` evaluations) from 1 to 0."""
    whole, rest = divmod(evaluations, each)
    at = times(whole + bool(rest), x)
    for i, (t, then) in enumerate(zip(at, at[1:])):
        yield t, then, i < whole


def _velocity(estimate: Estimator, process: Process, x: Tensor, t: Tensor) -> Tensor:
    at = _all(t, x)
    return process.velocity(estimate(x, at), at)


def _all(t: Tensor, x: Tensor) -> Tensor:
    return t.expand(len(x))
