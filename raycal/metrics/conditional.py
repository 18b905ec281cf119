"""Do generated windows hold the behaviour that they were asked for."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from raycal.metrics.decoding import r2
from raycal.metrics.ridge import Ridge, fit_ridge


class Decoded(NamedTuple):
    """R2 about the train mean, (K,) each; NaN where the behaviour does not vary."""

    generated: np.ndarray
    real: np.ndarray  # of the same decoder on real windows with the same behaviour: what there is to reach


def decoded_behavior(train: tuple[np.ndarray, np.ndarray], generated: np.ndarray, real: np.ndarray,
                     behavior: np.ndarray, lags: int = 5) -> Decoded:
    """Decode the behaviour (w, K, T) that windows (w, N, T) were generated for, by ridge fitted on real train windows.

    train: windows (w', N, T) and behaviour (w', K, T), NaN = unknown, in time order. real: the held-out windows
    (w, N, T) that the behaviour was taken from.
    """
    x, y = train
    ridge = fit_ridge(_frames(x), _frames(y), _pieces(x), lags)
    return Decoded(*(_r2(ridge, windows, behavior, y) for windows in (generated, real)))


def _r2(ridge: Ridge, windows: np.ndarray, behavior: np.ndarray, train: np.ndarray) -> np.ndarray:
    predicted = ridge.predict(_frames(windows), _pieces(windows))
    mean, spread = np.nanmean(train, axis=(0, 2)), np.nanstd(train, axis=(0, 2))
    return r2(_frames(behavior), predicted, mean, np.where(spread > 0, spread, 1.0)).train


def _frames(x_wct: np.ndarray) -> np.ndarray:
    """Return (w T, c)."""
    return np.swapaxes(x_wct, 1, 2).reshape(-1, x_wct.shape[1])


def _pieces(x_wct: np.ndarray) -> tuple[tuple[int, int], ...]:
    length = x_wct.shape[2]
    return tuple((i * length, (i + 1) * length) for i in range(len(x_wct)))
