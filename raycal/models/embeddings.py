"""What a network over time is told beside the traces: the time of the noise, behaviour, positions."""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LONGEST = 10_000.0  # as in arXiv 1706.03762, for times in thousandths


def waves(t: Tensor, channels: int) -> Tensor:
    """Return sines and cosines (b, channels) of t (b,) in [0, 1] at frequencies a factor apart; channels is even."""
    frequencies = torch.exp(-math.log(LONGEST) * torch.arange(channels // 2, device=t.device) / (channels // 2))
    angles = 1000.0 * t[:, None] * frequencies.to(t.dtype)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """Times (b,) -> (b, width)."""

    def __init__(self, width: int, channels: int = 64):
        super().__init__()
        self.channels = channels
        self.body = nn.Sequential(nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:
        return self.body(waves(t, self.channels))


class BehaviorEmbedding(nn.Module):
    """Behaviour (b, K, L), NaN = unknown -> (b, width, L), frame by frame.

    Beside each value goes whether it is known. So what a file lacks, what guidance leaves out and a window without
    behaviour are one thing, and no value stands in for it.
    """

    def __init__(self, n_behaviors: int, width: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(2 * n_behaviors, width, 5, padding=2), nn.SiLU(),
                                  nn.Conv1d(width, width, 1))

    def forward(self, behavior: Tensor) -> Tensor:
        known = ~behavior.isnan()
        return self.body(torch.cat([torch.where(known, behavior, 0.0), known.to(behavior.dtype)], dim=1))


def rotary(x: Tensor) -> Tensor:
    """Turn queries or keys (b, heads, S, D) by angles that grow with their step (RoFormer, arXiv 2104.09864).

    A product of two then depends on how far apart they are, so a network takes windows of any length. D is even.
    """
    steps, half = torch.arange(x.shape[-2], device=x.device), x.shape[-1] // 2
    speeds = torch.exp(-math.log(LONGEST) * torch.arange(half, device=x.device) / half)
    angles = steps[:, None] * speeds
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
