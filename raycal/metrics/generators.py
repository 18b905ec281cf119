"""Classical generators of windows, which a learnt one has to beat: a Gaussian, and an autoregression.

    gaussian = Gaussian.fit(train)
    windows = gaussian.sample(100, seed=0)

Windows are (w, N, T). Shapes: w windows, N neurons, T frames, p lags.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raycal.metrics.ridge import ALPHAS

STABLE = 0.995  # largest size of an eigenvalue of an autoregression: it forgets within about 200 frames
SETTLE = 1000  # frames simulated and thrown away


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Normal windows with the covariance, over neurons and frames alike, that the train windows have."""

    center: np.ndarray  # (N, 1)
    off: np.ndarray  # (w, N, T) train windows about it

    @classmethod
    def fit(cls, train: np.ndarray) -> Gaussian:
        """Fit on windows (w, N, T); as a trace does not know where its window began, its mean is one over frames."""
        center = train.mean((0, 2))[:, None]
        return cls(center, train - center)

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """Return n windows: normal mixtures of all train windows, so that no matrix of (N T)^2 is ever made."""
        weights = np.random.default_rng(seed).standard_normal((n, len(self.off))) / np.sqrt(len(self.off))
        return self.center + np.tensordot(weights, self.off, axes=1)


@dataclass(frozen=True, eq=False)
class Autoregression:
    """x_t = center + sum_k A_k (x_{t-k} - center) + e_t with normal e_t, correlated over neurons."""

    center: np.ndarray  # (N,)
    weights: np.ndarray  # (p N, N), lag 1 first
    noise: np.ndarray  # (N, N), whose product with its transpose is the covariance of e
    alpha: float  # penalty a row that was chosen

    @classmethod
    def fit(cls, train: np.ndarray, lags: int = 2, alphas: Sequence[float] = ALPHAS, folds: int = 4,
            gap: int = 0) -> Autoregression:
        """Fit by ridge on windows (w, N, T) in time order, the penalty by prediction of windows left out in blocks.

        gap: windows on either side of a block that are left out too, as many as overlap it. The covariance of e is that
        of the errors on windows left out, which neither the weights nor their shrinkage made small.
        """
        x, y, window, center = _lagged(train, lags)
        errors = {alpha: [] for alpha in alphas}
        ends = np.linspace(0, len(train), folds + 1).astype(int)
        for first, stop in zip(ends, ends[1:]):
            fitted = (window < first - gap) | (window >= stop + gap)
            tested = (window >= first) & (window < stop)
            if not fitted.any():
                continue
            for alpha, weights in zip(alphas, _ridge(x[fitted], y[fitted], alphas)):
                errors[alpha].append(y[tested] - x[tested] @ weights)
        if not errors[alphas[0]]:
            raise ValueError(f"{len(train)} windows with gap={gap} leave nothing to fit an autoregression on")
        errors = {alpha: np.concatenate(e) for alpha, e in errors.items()}
        alpha = min(alphas, key=lambda a: np.square(errors[a]).sum())
        [weights] = _ridge(x, y, [alpha])
        covariance = errors[alpha].T @ errors[alpha] / len(errors[alpha])
        values, vectors = np.linalg.eigh(covariance)
        return cls(center, stable(weights), vectors * np.sqrt(np.maximum(values, 0.0)), alpha)

    def sample(self, n: int, length: int, seed: int = 0) -> np.ndarray:
        """Return n windows (n, N, length) of the stationary process."""
        rng, neurons = np.random.default_rng(seed), len(self.center)
        past = np.zeros((n, len(self.weights)))
        out = np.empty((n, neurons, length))
        for t in range(-SETTLE, length):
            now = past @ self.weights + rng.standard_normal((n, neurons)) @ self.noise.T
            past = np.concatenate([now, past[:, :-neurons]], axis=1)
            if t >= 0:
                out[..., t] = now
        return out + self.center[:, None]


def stable(weights: np.ndarray) -> np.ndarray:
    """Return weights (p N, N) that forget: lag k times r^k, which scales every eigenvalue of the process by r."""
    neurons = weights.shape[1]
    lags = len(weights) // neurons
    companion = np.eye(len(weights), k=neurons)  # past @ companion shifts every lag by one
    companion[:, :neurons] = weights
    largest = np.abs(np.linalg.eigvals(companion)).max()
    shrink = min(1.0, STABLE / largest) if largest > 0 else 1.0
    return weights * np.repeat(shrink ** np.arange(1, lags + 1), neurons)[:, None]


def _lagged(train: np.ndarray, lags: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the past (r, p N), the present (r, N), the window of each row (r,) and the mean (N,)."""
    w, neurons, length = train.shape
    if length <= lags:
        raise ValueError(f"windows of {length} frames hold no frame after {lags} lags")
    center = train.mean((0, 2))
    frames = np.swapaxes(train, 1, 2) - center  # (w, T, N)
    past = np.concatenate([frames[:, lags - k:length - k] for k in range(1, lags + 1)], axis=2)
    return (past.reshape(-1, lags * neurons), frames[:, lags:].reshape(-1, neurons),
            np.repeat(np.arange(w), length - lags), center)


def _ridge(x: np.ndarray, y: np.ndarray, alphas: Sequence[float]) -> list[np.ndarray]:
    """Return the weights of each penalty, in units of the mean variance of x."""
    xx, xy = x.T @ x, x.T @ y
    unit = np.trace(xx) / len(xx)
    return [np.linalg.solve(xx + alpha * unit * np.eye(len(xx)), xy) for alpha in alphas]
