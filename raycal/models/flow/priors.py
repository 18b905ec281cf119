"""What noise is: distributions of eps (b, N, L) whose every value has mean 0 and variance 1."""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from raycal.errors import UserError


@dataclass(frozen=True)
class Independent:
    def spectrum(self, length: int) -> Tensor:
        """Return the variance (L,) on each orthonormal cosine of a window."""
        return torch.ones(length)

    def draw(self, shape: tuple[int, int, int], generator: torch.Generator | None = None, device="cpu") -> Tensor:
        return torch.randn(shape, generator=generator, device=device)


@dataclass(frozen=True)
class Mixed:
    """A share of the variance is common to all frames of a neuron's window (PYoCo, arXiv 2305.10474, section 4).

    Raise UserError unless 0 <= share < 1: at 1 a window of noise would hold one number a neuron.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.share < 1.0:
            raise UserError(f"mixed noise with share={self.share}: must be at least 0 and below 1")

    def spectrum(self, length: int) -> Tensor:
        """Return the variance (L,) on each orthonormal cosine of a window; the first holds all that is common."""
        out = torch.full((length,), 1.0 - self.share)
        out[0] += self.share * length
        return out

    def draw(self, shape: tuple[int, int, int], generator: torch.Generator | None = None, device="cpu") -> Tensor:
        own = torch.randn(shape, generator=generator, device=device)
        common = torch.randn((*shape[:2], 1), generator=generator, device=device)
        return math.sqrt(1.0 - self.share) * own + math.sqrt(self.share) * common


@dataclass(frozen=True)
class HeavyTailed:
    """Multivariate Student's t, one scale a window, divided by its sd (Pandey et al. 2024, arXiv 2410.14171).

    Raise UserError for fewer than 3 degrees of freedom: the variance would be infinite.
    """

    freedom: int = 8

    def __post_init__(self) -> None:
        if self.freedom < 3:
            raise UserError(f"heavy-tailed noise with freedom={self.freedom}: its variance is finite from 3 upwards")

    def spectrum(self, length: int) -> Tensor:
        """Return the variance (L,) on each orthonormal cosine of a window."""
        return torch.ones(length)

    def draw(self, shape: tuple[int, int, int], generator: torch.Generator | None = None, device="cpu") -> Tensor:
        normal = torch.randn(shape, generator=generator, device=device)
        chi2 = torch.randn((shape[0], self.freedom), generator=generator, device=device).square().sum(1)
        return normal * torch.sqrt((self.freedom - 2) / chi2)[:, None, None]


Prior = Independent | Mixed | HeavyTailed
PRIORS = {"independent": Independent, "mixed": Mixed, "heavy_tailed": HeavyTailed}
