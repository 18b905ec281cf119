"""How much the error at each time counts."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from raycal.errors import UserError
from raycal.models.embeddings import waves
from raycal.models.flow.process import TARGETS, Process


class Even(nn.Module):
    """Every time counts the same."""

    def forward(self, error: Tensor, t: Tensor) -> Tensor:
        """Return the loss (b,) of errors (b,) at times (b,)."""
        return error


class MinSNR(nn.Module):
    """The error of x_0 counts min(a^2 / s^2, cap), whatever the target (Hang et al. 2023, arXiv 2303.09556).

    An error e of the target is one of s e / (a d - s c) in x_0; for epsilon the weight is min(SNR, cap) / SNR.
    """

    def __init__(self, process: Process, cap: float = 5.0):
        super().__init__()
        if not cap > 0:
            raise UserError(f"min-SNR weighting with cap={cap}: must be above 0; 5 is the paper's")
        self.process, self.cap = process, cap

    def forward(self, error: Tensor, t: Tensor) -> Tensor:
        return error * self.weight(t)

    def weight(self, t: Tensor) -> Tensor:
        """Return (b,)."""
        at = self.process.solvable(t)
        c, d = TARGETS[self.process.target](at)
        # min(a^2 / s^2, cap) s^2, without the division that overflows at s = 0
        capped = torch.minimum(at.data.square(), self.cap * at.noise.square())
        return (capped / (at.data * d - at.noise * c).square())[:, 0, 0]


class Learned(nn.Module):
    """error / exp(u(t)) + u(t), where u learns the log of the mean error at t (EDM2, arXiv 2312.02696, eq. 21).

    All times then pull equally hard. It begins at u = 0, where it is the error itself. Its value is no yardstick.
    """

    def __init__(self, channels: int = 32):
        super().__init__()
        self.channels = channels
        self.log_error = nn.Linear(channels, 1)
        nn.init.zeros_(self.log_error.weight)
        nn.init.zeros_(self.log_error.bias)

    def forward(self, error: Tensor, t: Tensor) -> Tensor:
        u = self.log_error(waves(t, self.channels))[:, 0]
        return error * torch.exp(-u) + u


WEIGHTS = ("even", "min_snr", "learned")


def build(name: str, process: Process) -> nn.Module:
    """Return the weighting of that name; raise UserError for another."""
    if name not in WEIGHTS:
        raise UserError(f"weighting={name!r}: must be one of {', '.join(WEIGHTS)}")
    return {"even": Even, "min_snr": lambda: MinSNR(process), "learned": Learned}[name]()
