"""At which times a network is trained: distributions on the open interval (0, 1), by their quantile functions."""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from raycal.errors import UserError

EDGE = 1e-5  # no time is nearer to 0 or 1: there one of data and noise is absent and some target undefined


@dataclass(frozen=True)
class Uniform:
    def quantile(self, u: Tensor) -> Tensor:
        return u


@dataclass(frozen=True)
class LogitNormal:
    """sigmoid(mean + spread z) of a standard normal z: the middle more often (arXiv 2403.03206, section 3.1)."""

    mean: float = 0.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        if not self.spread > 0 or not math.isfinite(self.mean):
            raise UserError(f"logit-normal times with mean={self.mean}, spread={self.spread}: give a finite mean and a "
                            "spread above 0")

    def quantile(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.spread * torch.special.ndtri(u))


@dataclass(frozen=True)
class Mode:
    """1 - u - scale (cos^2(pi u / 2) - 1 + u) of a uniform u: heavy at the middle, yet no end left out (ibid.).

    A scale above 2 / (pi - 2) or below -1 would fold the interval over itself, and is refused.
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        if not -1.0 <= self.scale <= 2.0 / (math.pi - 2.0):
            raise UserError(f"mode times with scale={self.scale}: must be from -1 to {2.0 / (math.pi - 2.0):.4g}")

    def quantile(self, u: Tensor) -> Tensor:
        u = 1.0 - u  # the formula falls as its argument rises
        return 1.0 - u - self.scale * (torch.cos(math.pi / 2 * u).square() - 1.0 + u)


Times = Uniform | LogitNormal | Mode
TIMES = {"uniform": Uniform, "logit_normal": LogitNormal, "mode": Mode}


def draw(times: Times, n: int, generator: torch.Generator | None = None, device="cpu") -> Tensor:
    """Return n times (n,), one from each n-th of the distribution, in random order.

    Each alone is distributed as `times`; together they cover it, which takes noise from the loss
    (variational diffusion models, arXiv 2107.00630, appendix I.1).
    """
    u = (torch.arange(n, device=device) + torch.rand(n, generator=generator, device=device)) / n
    u = u[torch.randperm(n, generator=generator, device=device)]
    return inside(times.quantile(u.clamp(EDGE, 1.0 - EDGE)))


def grid(n: int, device="cpu") -> Tensor:
    """Return n times (n,), the middles of n equal parts of (0, 1)."""
    return (torch.arange(n, device=device) + 0.5) / n


def inside(t: Tensor) -> Tensor:
    return t.clamp(EDGE, 1.0 - EDGE)
