"""Fill in frames and neurons that were not measured."""
from __future__ import annotations

import torch
from torch import Tensor

from raycal.errors import UserError
from raycal.models.flow.priors import Independent, Prior
from raycal.models.flow.process import Process
from raycal.models.flow.samplers import Estimator, times


def inpaint(estimate: Estimator, process: Process, traces: Tensor, measured: Tensor, evaluations: int = 100,
            repeats: int = 10, prior: Prior = Independent(), generator: torch.Generator | None = None) -> Tensor:
    """Return traces (b, N, L) with what is not measured (b, N, L) drawn to fit what is; that stays bit for bit.

    At each time the measured values are put in with their noise (RePaint, arXiv 2201.09865, algorithm 1), and each
    DDIM step is taken `repeats` times, noised back in between, for what is filled in to agree with them. One pass alone
    hardly looks at them: of a correlated Gaussian its mean follows the exact conditional mean at a slope of about
    0.4, ten at about 0.9. Values that are not measured may be anything, NaN also. The network is evaluated
    `evaluations` times. Raise UserError unless repeats divides evaluations.
    """
    if repeats < 1 or evaluations < 1 or evaluations % repeats:
        raise UserError(f"inpainting with evaluations={evaluations}, repeats={repeats}: repeats must divide "
                        f"evaluations; use evaluations={max(1, -(-evaluations // max(1, repeats))) * max(1, repeats)}")
    known = torch.where(measured, traces, 0.0)
    x = prior.draw(tuple(traces.shape), generator, traces.device)
    at = times(evaluations // repeats, x)
    for t, then in zip(at[:-1, None].expand(-1, len(x)), at[1:, None].expand(-1, len(x))):
        for turn in range(repeats):
            if turn:
                x = _noised_back(process, x, then, t, prior.draw(tuple(x.shape), generator, x.device))
            fresh = prior.draw(tuple(x.shape), generator, x.device)
            x = torch.where(measured, process.noised(known, fresh, t), x)
            x = process.noised(*estimate(x, t), then)
    return torch.where(measured, traces, x)


def _noised_back(process: Process, x: Tensor, now: Tensor, then: Tensor, fresh: Tensor) -> Tensor:
    """Return x_t of x at an earlier time, as the path has it: the signal fades to a_t, noise fills up to s_t."""
    early, late = process.path.at(now), process.path.at(then)
    fade = late.data / early.data
    return fade * x + (late.noise.square() - (fade * early.noise).square()).clamp(min=0.0).sqrt() * fresh
