"""What the network is asked for on a path, and what its answer says of data and noise.

Every target is c x_0 + d eps. With x_t = a x_0 + s eps these are two equations in two unknowns, whose determinant
a d - s c tells where a target leaves one of them open: epsilon at t = 1 (a = 0), x0 at t = 0 (s = 0).
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from raycal.errors import UserError, nearest
from raycal.models.flow.paths import Coefficients, Linear, Path

# target -> (c, d)
TARGETS = {
    "velocity": lambda at: (at.data_slope, at.noise_slope),  # dx_t/dt, arXiv 2210.02747
    "epsilon": lambda at: (torch.zeros_like(at.data), torch.ones_like(at.data)),  # arXiv 2006.11239
    "x0": lambda at: (torch.ones_like(at.data), torch.zeros_like(at.data)),
    "v": lambda at: (-at.noise, at.data),  # arXiv 2202.00512
}
FLOOR = 0.01  # least a or s that is divided by: the other unknown is at most 100 times as wrong as the network


class Estimate(NamedTuple):
    """What x_t is believed to be made of."""

    data: Tensor  # (b, N, L)
    noise: Tensor  # (b, N, L)


@dataclass(frozen=True)
class Process:
    """A path and the target that a network learns on it; raise UserError for an unknown target."""

    path: Path = field(default_factory=Linear)
    target: str = "velocity"

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise UserError(f"target={self.target!r}: must be one of {', '.join(TARGETS)}"
                            f"{nearest(self.target, TARGETS)}")

    def noised(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t (b, N, L)."""
        at = self.path.at(t)
        return at.data * data + at.noise * noise

    def target_of(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return what the network should answer, (b, N, L)."""
        c, d = TARGETS[self.target](self.path.at(t))
        return c * data + d * noise

    def estimate(self, answer: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """Return data and noise that the network's answer (b, N, L) stands for."""
        at = self.solvable(t)
        c, d = TARGETS[self.target](at)
        determinant = at.data * d - at.noise * c
        return Estimate((d * x_t - at.noise * answer) / determinant, (at.data * answer - c * x_t) / determinant)

    def velocity(self, estimate: Estimate, t: Tensor) -> Tensor:
        """Return dx_t/dt (b, N, L)."""
        at = self.path.at(t)
        return at.data_slope * estimate.data + at.noise_slope * estimate.noise

    def solvable(self, t: Tensor) -> Coefficients:
        """Return the path's coefficients, kept from where the target leaves an unknown open."""
        at = self.path.at(t)
        if self.target == "epsilon":
            return at._replace(data=at.data.clamp(min=FLOOR))
        return at._replace(noise=at.noise.clamp(min=FLOOR)) if self.target == "x0" else at


def with_data(estimate: Estimate, data: Tensor, at: Coefficients) -> Estimate:
    """Return the estimate with other data, and with the noise that makes the same x_t of it."""
    return Estimate(data, estimate.noise + at.data * (estimate.data - data) / at.noise.clamp(min=FLOOR))
