"""The ways from data to noise: x_t = a x_0 + s eps, with data at t = 0 and noise at t = 1."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from raycal.errors import UserError


class Coefficients(NamedTuple):
    """Of one path at times (b,), shaped (b, 1, 1) to scale windows."""

    data: Tensor  # a
    noise: Tensor  # s
    data_slope: Tensor  # da/dt
    noise_slope: Tensor  # ds/dt


@dataclass(frozen=True)
class Linear:
    """Straight lines: a = 1 - t, s = sigma_min + (1 - sigma_min) t (Lipman et al. 2023, arXiv 2210.02747).

    Raise UserError where sigma_min is not from 0 to 0.1.
    """

    sigma_min: float = 0.0  # noise that is left in the data at t = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.sigma_min <= 0.1:
            raise UserError(f"sigma_min={self.sigma_min}: must be from 0 to 0.1, the noise left in the data")

    def at(self, t: Tensor) -> Coefficients:
        t = t[:, None, None]
        one = torch.ones_like(t)
        return Coefficients(1.0 - t, self.sigma_min + (1.0 - self.sigma_min) * t, -one, (1.0 - self.sigma_min) * one)

    def time_of(self, ratio: Tensor) -> Tensor:
        """Return the times at which s / a is `ratio`."""
        return (ratio - self.sigma_min) / (ratio + 1.0 - self.sigma_min)


@dataclass(frozen=True)
class Cosine:
    """A quarter circle: a = cos(pi t / 2), s = sin(pi t / 2), so the variance stays 1 (arXiv 2202.00512).

    a is exactly 0 at t = 1: a schedule that ends in a little signal trains for noise that no sampler starts from
    (Lin et al. 2024, arXiv 2305.08891).
    """

    def at(self, t: Tensor) -> Coefficients:
        t = t[:, None, None]
        data, noise = torch.sin(math.pi / 2 * (1.0 - t)), torch.sin(math.pi / 2 * t)  # sin is exact at both ends
        return Coefficients(data, noise, -math.pi / 2 * noise, math.pi / 2 * data)

    def time_of(self, ratio: Tensor) -> Tensor:
        """Return the times at which s / a is `ratio`."""
        return 2.0 / math.pi * torch.atan(ratio)


Path = Linear | Cosine
PATHS = {"linear": Linear, "cosine": Cosine}
