"""The best linear denoiser of a recording, fitted without training: what a network should start from, not relearn.

    base = Wiener(process, n_neurons, length)
    base.fit(0, windows)

Traces are taken for Gaussian, independent on principal axes over neurons times cosines over time; each such
coefficient is then denoised by its own Wiener filter, exactly and for every time, path and target alike. A network
beside it that begins at 0 begins as the generator of that Gaussian.
Shapes: b windows, N neurons, L frames, P axes; the N - P axes beyond share their variance.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycal.models.flow.priors import Independent, Prior
from raycal.models.flow.process import TARGETS, Process
from raycal.models.flow.times import grid

AXES = 64
SHRINKAGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # towards the mean over axes
FOLDS = 3
FLOOR = 1e-4  # least variance: nothing is ever quite absent
LEVELS = 16


class Wiener(nn.Module):
    """Filters of sessions of these neuron counts for windows of `length` frames; others are interpolated."""

    def __init__(self, process: Process, n_neurons: Sequence[int], length: int, prior: Prior = Independent()):
        super().__init__()
        self.process, self.prior, self.length = process, prior, length
        self.register_buffer("turn", cosines(length), persistent=False)
        self.register_buffer("noise", prior.spectrum(length), persistent=False)
        for session, n in enumerate(n_neurons):
            axes = min(AXES, n - 1)
            self.register_buffer(f"axes_{session}", torch.eye(n, axes))
            self.register_buffer(f"variance_{session}", torch.ones(axes + 1, length))

    @torch.no_grad()
    def fit(self, session: int, windows: Tensor) -> float:
        """Fit on train windows (b, N, L) in time order; return the shrinkage that denoises blocks left out best."""
        folds = [f for f in torch.arange(len(windows)).chunk(FOLDS) if len(f) < len(windows)]
        errors, n = torch.zeros(len(SHRINKAGES)), windows.shape[1]
        for fold in folds:
            rest = torch.ones(len(windows), dtype=torch.bool)
            rest[fold] = False
            axes, variance = _moments(windows[rest])
            seen = torch.square(_coefficients(windows[fold], axes)).mean(0)
            errors += torch.stack([_error(_shrunk(variance, s, n), seen, n) for s in SHRINKAGES])
        axes, variance = _moments(windows)
        shrinkage = SHRINKAGES[int(errors.argmin())]
        getattr(self, f"axes_{session}").copy_(axes)
        getattr(self, f"variance_{session}").copy_(_shrunk(variance, shrinkage, n))
        return shrinkage

    def forward(self, x_t: Tensor, t: Tensor, session: int = 0) -> Tensor:
        """Return the best linear answer (b, N, L) to windows (b, N, L) at times (b,)."""
        with torch.autocast(x_t.device.type, enabled=False):  # what it leaves to the network is small beside rounding
            axes, turn = getattr(self, f"axes_{session}").to(x_t), self._turn(x_t.shape[-1]).to(x_t)
            gain = self._gain(session, x_t, t)
            common, own = gain[:, -1:], gain[:, :-1] - gain[:, -1:]
            z = x_t @ turn
            return (common * z + axes @ (own * (axes.T @ z))) @ turn.T

    def _turn(self, length: int) -> Tensor:
        return self.turn if length == self.length else cosines(length)

    def _gain(self, session: int, x_t: Tensor, t: Tensor) -> Tensor:
        """Return what each coefficient is multiplied by, (b, P + 1, L): E[c x_0 + d eps | x_t] / x_t."""
        at, length = self.process.path.at(t), x_t.shape[-1]
        c, d = TARGETS[self.process.target](at)
        signal, noise = getattr(self, f"variance_{session}").to(x_t), self.noise.to(x_t)
        if length != self.length:  # the same spectrum on another grid of frequencies
            signal = F.interpolate(signal[None], size=length, mode="linear")[0]
            noise = self.prior.spectrum(length).to(x_t)
        return (c * at.data * signal + d * at.noise * noise) / (at.data**2 * signal + at.noise**2 * noise)


def cosines(length: int) -> Tensor:
    """Return the orthonormal cosines over time (L, L), slowest first: x @ cosines is the DCT-II of x."""
    steps = torch.arange(length, dtype=torch.float64)
    out = torch.cos(math.pi / length * (steps[:, None] + 0.5) * steps) * math.sqrt(2.0 / length)
    out[:, 0] /= math.sqrt(2.0)
    return out


def _moments(windows: Tensor) -> tuple[Tensor, Tensor]:
    """Return principal axes (N, P), and the variance of their coefficients and of the rest, (P + 1, L)."""
    frames = windows.double().transpose(0, 1).flatten(1)
    axes = torch.linalg.eigh(frames @ frames.T)[1].flip(1)[:, :min(AXES, len(frames) - 1)]
    return axes, torch.square(_coefficients(windows, axes)).mean(0)


def _coefficients(windows: Tensor, axes: Tensor) -> Tensor:
    """Return (b, P + 1, L): coefficients on the axes, and the root mean square over the axes beyond them."""
    z = windows.double() @ cosines(windows.shape[-1])
    own = axes.T @ z
    rest = (z.square().sum(1, keepdim=True) - own.square().sum(1, keepdim=True)).clamp(min=0.0)
    return torch.cat([own, torch.sqrt(rest / (axes.shape[0] - axes.shape[1]))], dim=1)


def _shrunk(variance: Tensor, share: float, n_neurons: int) -> Tensor:
    """Return variances nearer to their mean over all N axes: of few windows, leading ones come out too large."""
    mean = (_each(variance, n_neurons) * variance).sum(0) / n_neurons
    return ((1.0 - share) * variance + share * mean).clamp(min=FLOOR)


def _each(variance: Tensor, n_neurons: int) -> Tensor:
    """Return how many axes each row of (P + 1, L) stands for, (P + 1, 1): the last for all beyond the P."""
    each = torch.ones(len(variance), 1)
    each[-1] = n_neurons - len(variance) + 1
    return each


def _error(variance: Tensor, seen: Tensor, n_neurons: int) -> Tensor:
    """Return the error in x_0, over t^2 as a velocity's, of filters for `variance` on coefficients of square `seen`."""
    t = grid(LEVELS)[:, None, None]
    noise = (t / (1.0 - t)) ** 2
    kept = variance / (variance + noise)
    error = ((1.0 - kept) ** 2 * seen + kept**2 * noise) / t**2
    return (_each(variance, n_neurons) * error).sum().float()
