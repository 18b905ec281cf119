"""The best linear denoiser of a recording, fitted without training: what a network should start from, not relearn.

    base = Wiener(process, n_neurons, length)
    base.fit(0, windows)

Traces are taken for Gaussian and stationary: cosines over time do not go together, and at each of them neurons have
principal axes of their own (principal components in the frequency domain; Brillinger 1981, Time Series, chapter 9).
Every coefficient is then denoised by its own Wiener filter, exactly and for every time, path and target alike. A
network beside it that begins at 0 begins as the generator of that Gaussian. Axes common to all frequencies would be
fewer numbers, but give no neuron its own spectrum, which windows drawn from them lack; and variances are what the train
windows have: shrunk to denoise others better, they make windows whose neurons go together less than real ones.
Shapes: b windows, N neurons, L frames or frequencies, P axes; the axes beyond share their variance.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raycal.models.flow.priors import Independent, Prior
from raycal.models.flow.process import TARGETS, Process

AXES = 32  # of each frequency
FLOOR = 1e-4  # least variance: nothing is ever quite absent


class Wiener(nn.Module):
    """Filters of sessions of these neuron counts for windows of `length` frames; others take the nearest frequency."""

    def __init__(self, process: Process, n_neurons: Sequence[int], length: int, prior: Prior = Independent()):
        super().__init__()
        self.process, self.prior, self.length = process, prior, length
        self.register_buffer("turn", cosines(length), persistent=False)
        self.register_buffer("noise", prior.spectrum(length), persistent=False)
        for session, n in enumerate(n_neurons):
            axes = min(AXES, n - 1)
            self.register_buffer(f"axes_{session}", torch.eye(n, axes).repeat(length, 1, 1))
            self.register_buffer(f"variance_{session}", torch.ones(length, axes + 1))

    @torch.no_grad()
    def fit(self, session: int, windows: Tensor) -> None:
        """Fit on train windows (b, N, L)."""
        axes, variance = _moments(windows, getattr(self, f"axes_{session}").shape[2])
        getattr(self, f"axes_{session}").copy_(axes)
        getattr(self, f"variance_{session}").copy_(variance)

    def forward(self, x_t: Tensor, t: Tensor, session: int = 0) -> Tensor:
        """Return the best linear answer (b, N, L) to windows (b, N, L) at times (b,)."""
        with torch.autocast(x_t.device.type, enabled=False):  # what it leaves to the network is small beside rounding
            axes, variance = (self._nearest(f"{name}_{session}", x_t) for name in ("axes", "variance"))
            gain, turn = self._gain(variance, x_t, t), self._turn(x_t.shape[-1]).to(x_t)
            z = (x_t @ turn).permute(2, 0, 1)  # (L, b, N)
            own = (z @ axes) * (gain[..., :-1] - gain[..., -1:])
            return (z * gain[..., -1:] + own @ axes.mT).permute(1, 2, 0) @ turn.T

    def _turn(self, length: int) -> Tensor:
        return self.turn if length == self.length else cosines(length)

    def _nearest(self, name: str, x_t: Tensor) -> Tensor:
        """Return a buffer at the frequencies of windows of x_t's length."""
        found, length = getattr(self, name).to(x_t), x_t.shape[-1]
        return found if length == self.length else found[torch.arange(length) * self.length // length]

    def _gain(self, signal: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return what each coefficient is multiplied by, (L, b, P + 1): E[c x_0 + d eps | x_t] / x_t."""
        at, length = self.process.path.at(t), x_t.shape[-1]
        c, d = TARGETS[self.process.target](at)
        noise = (self.noise if length == self.length else self.prior.spectrum(length)).to(x_t)
        signal, noise = signal[:, None], noise[:, None, None]
        a, s, c, d = (v[:, :, 0] for v in (at.data, at.noise, c, d))  # (b, 1)
        return (c * a * signal + d * s * noise) / (a**2 * signal + s**2 * noise)


def cosines(length: int) -> Tensor:
    """Return the orthonormal cosines over time (L, L), slowest first: x @ cosines is the DCT-II of x."""
    steps = torch.arange(length, dtype=torch.float64)
    out = torch.cos(math.pi / length * (steps[:, None] + 0.5) * steps) * math.sqrt(2.0 / length)
    out[:, 0] /= math.sqrt(2.0)
    return out


def _moments(windows: Tensor, n_axes: int) -> tuple[Tensor, Tensor]:
    """Return principal axes (L, N, P) of each frequency, 0 where there are fewer windows, and variances (L, P + 1)."""
    z = (windows.double() @ cosines(windows.shape[-1])).permute(2, 0, 1)
    length, count, neurons = z.shape
    _, values, axes = torch.linalg.svd(z, full_matrices=False)
    variance, found = values.square() / count, min(n_axes, values.shape[1])
    out, own = z.new_zeros(length, neurons, n_axes), z.new_zeros(length, n_axes + 1)
    out[..., :found], own[:, :found] = axes[:, :found].mT, variance[:, :found]
    own[:, -1] = variance[:, found:].sum(1) / (neurons - found)
    return out, own.clamp(min=FLOOR)
