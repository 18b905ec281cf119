"""How unlike two sets of windows are: one number for each thing a generator of traces may get wrong.

A Frame is fitted on train windows and then frozen, so that no model has a say in what it is measured by. Windows are
(w, N, T), real or generated, as many on both sides. Shapes: w windows, N neurons, T frames, P principal axes.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from raycal.metrics.events import Events, events

AXES = 32  # slow components: on whole windows a sliced distance takes white noise for real
PROJECTIONS = 512
BINS = 20  # of population activity
POWER_FLOOR = 1e-6  # of a neuron's mean power on train: below it, decibels tell of rounding


class Frame(NamedTuple):
    """What windows are measured in, from train windows alone."""

    center: np.ndarray  # (N, 1)
    spread: np.ndarray  # (N, 1)
    slow: Slow
    projections: np.ndarray  # (AXES, PROJECTIONS) unit columns
    bins: np.ndarray  # (BINS - 1,) inner edges, train quantiles of population activity
    power: np.ndarray  # (N, 1) mean power
    rate: float  # Hz

    @classmethod
    def of(cls, train: np.ndarray, rate: float, seed: int = 0) -> Frame:
        center, spread = train.mean((0, 2))[:, None], train.std((0, 2))[:, None]
        spread = np.where(spread > 0, spread, 1.0)
        x = (train - center) / spread
        slow = Slow.of(x)
        projections = np.random.default_rng(seed).standard_normal((len(slow.chosen), PROJECTIONS))
        return cls(center, spread, slow, projections / np.linalg.norm(projections, axis=0),
                   np.quantile(x.mean(1), np.arange(1, BINS) / BINS),
                   np.maximum(power(x).mean(-1, keepdims=True), 1e-300), rate)

    def describe(self, windows: np.ndarray) -> Description:
        x = (np.asarray(windows, np.float64) - self.center) / self.spread
        w, n, length = x.shape
        frames = np.moveaxis(x, 1, 0).reshape(n, -1)
        covariance = np.cov(frames)
        sd = np.sqrt(np.diag(covariance))
        sd = np.where(sd > 0, sd, 1.0)
        return Description(
            np.sort(frames, axis=1),
            10.0 * np.log10(power(x) / self.power + POWER_FLOOR),
            autocorrelation(x),
            (covariance / sd / sd[:, None])[np.triu_indices(n, 1)],
            np.linalg.eigvalsh(covariance)[::-1],
            np.bincount(np.searchsorted(self.bins, x.mean(1).ravel()), minlength=BINS),
            np.sort(self.slow.components(x) @ self.projections, axis=0),
            events(x, self.rate))


class Description(NamedTuple):
    """What is compared of a set of windows, in train-sd units about the train mean."""

    values: np.ndarray  # (N, w T) sorted
    decibels: np.ndarray  # (N, F) power at each frequency
    autocorrelation: np.ndarray  # (N, T // 2) at lags 1, 2, ...
    correlations: np.ndarray  # (N (N - 1) / 2,)
    spectrum: np.ndarray  # (N,) eigenvalues of the covariance, falling
    population: np.ndarray  # (BINS,) frames at each level of the mean over neurons
    projected: np.ndarray  # (w, PROJECTIONS) each column sorted
    events: Events

    def distances(self, reference: Description) -> dict[str, float]:
        """Return every distance by name; 0 for the same windows.

        marginals: Wasserstein-1 of each neuron's values, in train sd. power: dB, and autocorrelation, both mean
        absolute difference. correlations: RMSE. covariance_spectrum: absolute difference over the reference's sum.
        population: root of the KL of the histogram of mean activity, for KL is a square. sliced: sliced Wasserstein-2
        of the slow components. event_rate: per s, event_amplitude: train sd, event_decay: s.
        """
        return {
            "marginals": float(np.abs(self.values - reference.values).mean()),
            "power": float(np.abs(self.decibels - reference.decibels).mean()),
            "autocorrelation": float(np.abs(self.autocorrelation - reference.autocorrelation).mean()),
            "correlations": float(np.sqrt(np.mean((self.correlations - reference.correlations) ** 2))),
            "covariance_spectrum": float(np.abs(self.spectrum - reference.spectrum).sum() / reference.spectrum.sum()),
            "population": float(np.sqrt(_divergence(reference.population, self.population))),
            "sliced": float(np.sqrt(np.mean((self.projected - reference.projected) ** 2))),
            **self.events.distances(reference.events)}


class Slow(NamedTuple):
    """The components of windows that hold most variance: principal axes over neurons times cosines over time."""

    axes: np.ndarray  # (N, P)
    cosines: np.ndarray  # (T, T) orthonormal, slowest first
    chosen: np.ndarray  # (c,) into the P x T products

    @classmethod
    def of(cls, x: np.ndarray, count: int = AXES) -> Slow:
        frames = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
        axes = np.linalg.eigh(np.cov(frames))[1][:, ::-1][:, :count]
        steps = np.arange(x.shape[2])
        cosines = np.cos(np.pi * (steps[:, None] + 0.5) * steps / len(steps)) * np.sqrt(2.0 / len(steps))
        cosines[:, 0] /= np.sqrt(2.0)
        variance = (np.swapaxes(x, 1, 2) @ axes).swapaxes(1, 2) @ cosines
        variance = np.square(variance).mean(0).ravel()
        return cls(axes, cosines, np.argsort(-variance, kind="stable")[:count])

    def latents(self, x: np.ndarray) -> np.ndarray:
        """Return (w, P, T) of windows (w, N, T)."""
        return np.einsum("wnt,np->wpt", x, self.axes, optimize=True)

    def components(self, x: np.ndarray) -> np.ndarray:
        """Return (w, c) of windows (w, N, T)."""
        return (self.latents(x) @ self.cosines).reshape(len(x), -1)[:, self.chosen]


def power(x: np.ndarray) -> np.ndarray:
    """Return each neuron's power (N, T // 2 + 1), a mean over windows under Hann's (Welch, a window a segment)."""
    taper = np.hanning(x.shape[2] + 2)[1:-1]  # without its zeros, so that a window of 2 frames still counts
    return np.square(np.abs(np.fft.rfft(x * taper))).mean(0) / np.square(taper).sum()


def autocorrelation(x: np.ndarray) -> np.ndarray:
    """Return each neuron's autocorrelation (N, T // 2) about 0, the train mean, from products inside windows."""
    length = x.shape[2]
    spectrum = np.square(np.abs(np.fft.rfft(x, 2 * length))).sum(0)
    products = np.fft.irfft(spectrum, 2 * length)[:, :length // 2 + 1] / (length - np.arange(length // 2 + 1))
    return products[:, 1:] / np.where(products[:, :1] > 0, products[:, :1], 1.0)


def _divergence(reference: np.ndarray, other: np.ndarray) -> float:
    """Return KL(reference || other) of counts, one added to each: an empty bin is rare, not impossible."""
    p, q = (reference + 1.0) / (reference + 1.0).sum(), (other + 1.0) / (other + 1.0).sum()
    return float(max((p * np.log(p / q)).sum(), 0.0))
