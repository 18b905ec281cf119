"""What is done to an estimate before a sampler uses it: classifier-free guidance by behaviour, and thresholds."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from raycal.errors import UserError, nearest
from raycal.models.flow.process import Estimate, Process, with_data
from raycal.models.flow.samplers import Estimator

THRESHOLDS = ("none", "static", "dynamic")


def guided(network: nn.Module, process: Process, behavior: Tensor | None = None, scale: float = 1.0,
           session: int = 0) -> Estimator:
    """Return the estimate of windows that go with behaviour (b, K, L), NaN = unknown (arXiv 2207.12598).

    scale: 0 pays no heed to it, 1 follows the conditional distribution, more exaggerates what the behaviour changes.
    An evaluation with and one without behaviour are one call of the network on twice the windows.
    """
    def estimate(x_t: Tensor, t: Tensor) -> Estimate:
        if behavior is None or scale in (0.0, 1.0):
            return process.estimate(network(x_t, t, behavior if scale else None, session), x_t, t)
        both = torch.cat([behavior, torch.full_like(behavior, torch.nan)])
        given, free = network(torch.cat([x_t, x_t]), torch.cat([t, t]), both, session).chunk(2)
        return process.estimate(free + scale * (given - free), x_t, t)

    return estimate


def dropped(behavior: Tensor, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Return behaviour (b, K, L) that is unknown, NaN, in a share of the windows: each alone, not the whole batch."""
    if not 0.0 <= share <= 1.0:
        raise UserError(f"guidance dropout={share}: must be from 0 to 1")
    gone = torch.rand((len(behavior), 1, 1), generator=generator, device=behavior.device) < share
    return torch.where(gone, torch.nan, behavior)


def thresholded(estimate: Estimator, process: Process, name: str, low: Tensor | float,
                high: Tensor | float) -> Estimator:
    """Return the estimate under the threshold of that name; raise UserError for an unknown one or for empty bounds."""
    if name not in THRESHOLDS:
        raise UserError(f"threshold={name!r}: must be one of {', '.join(THRESHOLDS)}{nearest(name, THRESHOLDS)}")
    if name == "none":
        return estimate
    if not bool((torch.as_tensor(high) > (0.0 if name == "dynamic" else torch.as_tensor(low))).all()):
        raise UserError(f"threshold={name} with low={low}, high={high}: high must be above "
                        f"{'0' if name == 'dynamic' else 'low'}; take the range of the train part")
    return clipped(estimate, process, low, high) if name == "static" else shrunk(estimate, process, high)


def clipped(estimate: Estimator, process: Process, low: Tensor | float, high: Tensor | float) -> Estimator:
    """Return the estimate with its data, never x_t, between low and high: numbers or (N, 1) (static thresholding)."""
    def within(x_t: Tensor, t: Tensor) -> Estimate:
        found = estimate(x_t, t)
        return with_data(found, torch.clamp(found.data, _like(low, x_t), _like(high, x_t)), process.path.at(t))

    return within


def shrunk(estimate: Estimator, process: Process, limit: Tensor | float, share: float = 0.995) -> Estimator:
    """Return the estimate with windows that overshoot brought back within +-limit (Imagen, arXiv 2205.11487, 2.3).

    limit: a number or (N, 1). Where more than 1 - share of a window's |data| / limit is above 1, what lies above that
    quantile is clipped and the whole window divided by it (dynamic thresholding).
    """
    if not 0.0 < share <= 1.0:
        raise UserError(f"dynamic thresholding with share={share}: must be above 0 and at most 1")

    def within(x_t: Tensor, t: Tensor) -> Estimate:
        found, most = estimate(x_t, t), _like(limit, x_t)
        relative = found.data / most
        bound = torch.quantile(relative.abs().flatten(1), share, dim=1).clamp(min=1.0)[:, None, None]
        return with_data(found, torch.clamp(relative, -bound, bound) / bound * most, process.path.at(t))

    return within


def _like(value: Tensor | float, x: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=x.dtype, device=x.device)
