"""Parts of one-dimensional networks over time. Shapes: b windows, N neurons, C channels, L frames, S code steps."""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "elu": nn.ELU}


class Residual(nn.Module):
    """Pre-activation bottleneck (He et al. 2016, arXiv 1603.05027) over channels; group norm suits small batches."""

    def __init__(self, width: int, hidden: int, activation: str, dropout: float):
        super().__init__()
        act = ACTIVATIONS[activation]
        self.body = nn.Sequential(norm(width), act(), nn.Conv1d(width, hidden, 3, padding=1),
                                  norm(hidden), act(), nn.Dropout(dropout), nn.Conv1d(hidden, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def norm(width: int) -> nn.GroupNorm:
    """Return a group norm of 8 groups, or of the most below 8 that divide the width."""
    return nn.GroupNorm(math.gcd(8, width), width)


def residuals(count: int, width: int, hidden: int, activation: str, dropout: float) -> list[nn.Module]:
    return [Residual(width, hidden, activation, dropout) for _ in range(count)]


def halving(width: int, downsample: int) -> list[nn.Module]:
    """Return log2(downsample) convolutions that halve the frames exactly: kernel 4, stride 2, padding 1."""
    return [nn.Conv1d(width, width, 4, 2, 1) for _ in range(int(math.log2(downsample)))]


def doubling(width: int, downsample: int) -> list[nn.Module]:
    """Return the mirror of `halving`."""
    return [nn.ConvTranspose1d(width, width, 4, 2, 1) for _ in range(int(math.log2(downsample)))]


class Beside(nn.Module):
    """A linear path and a network that adds to it."""

    def __init__(self, linear: list[nn.Module], network: nn.Sequential):
        super().__init__()
        self.linear, self.network = nn.Sequential(*linear), network

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.network(x)


def pad_to(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last frame of (b, C, L) until L is a multiple."""
    surplus = -x.shape[-1] % multiple
    return F.pad(x, (0, surplus), mode="replicate") if surplus else x


class PerSession(nn.Module):
    """The 1x1 convolutions between neurons and channels: one a session, or one that all share.

    The shared one has the neurons of the largest session and is sliced to those present, which equals
    padding the others with zeros and costs nothing.
    """

    def __init__(self, n_neurons: Sequence[int], shared: bool):
        super().__init__()
        self.n_neurons, self.shared = tuple(n_neurons), shared
        self.sizes = (max(n_neurons),) if shared else self.n_neurons

    def _map(self, session: int) -> nn.Conv1d:
        return self.maps[0 if self.shared else session]


class ReadIn(PerSession):
    """(b, N of the session, L) -> (b, width, L)."""

    def __init__(self, n_neurons: Sequence[int], width: int, shared: bool):
        super().__init__(n_neurons, shared)
        self.maps = nn.ModuleList(nn.Conv1d(n, width, 1) for n in self.sizes)

    def forward(self, traces: Tensor, session: int, valid: Tensor | None = None) -> Tensor:
        n = self.n_neurons[session]
        if traces.shape[1] != n:
            raise ValueError(f"session {session} has {n} neurons; the traces given have {traces.shape[1]}")
        if valid is not None:  # what was not measured reaches nothing, whatever value it holds
            traces = torch.where(valid, traces, 0.0)
        conv = self._map(session)
        return F.conv1d(traces, conv.weight[:, :n], conv.bias)


class ReadOut(PerSession):
    """(b, width, L) -> (b, N of the session, L)."""

    def __init__(self, n_neurons: Sequence[int], width: int, shared: bool):
        super().__init__(n_neurons, shared)
        self.maps = nn.ModuleList(nn.Conv1d(width, n, 1) for n in self.sizes)

    def forward(self, x: Tensor, session: int) -> Tensor:
        conv, n = self._map(session), self.n_neurons[session]
        return F.conv1d(x, conv.weight[:n], conv.bias[:n])


class StepHead(nn.Module):
    """Predict the values of a step from the code steps around it alone: (b, D, S) -> (b, outputs, S)."""

    def __init__(self, dim: int, hidden: int, outputs: int, activation: str, dropout: float):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(dim, hidden, 3, padding=1), ACTIVATIONS[activation](),
                                  nn.Dropout(dropout), nn.Conv1d(hidden, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class LinearHead(PerSession):
    """The same by a linear map of +-lags steps that each session has to itself, for its latents are its own axes."""

    def __init__(self, n_neurons: Sequence[int], dim: int, outputs: int, lags: int, shared: bool):
        super().__init__(n_neurons, shared)
        self.lags = lags
        self.maps = nn.ModuleList(nn.Conv1d(dim, outputs, 2 * lags + 1, padding=lags, padding_mode="replicate")
                                  for _ in self.sizes)

    def forward(self, x: Tensor, session: int) -> Tensor:
        return self._map(session)(x)


def frames_of(steps: Tensor, downsample: int) -> Tensor:
    """Return (b, K, S * downsample) of the values (b, K * downsample, S) of code steps."""
    return steps.unflatten(1, (-1, downsample)).transpose(2, 3).flatten(2)
