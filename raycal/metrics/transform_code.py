"""Traces coded as pictures are: principal axes over neurons, cosines over time, one quantizer step, a Laplace model.

Every coefficient is divided by the same step, values within two thirds of a step of zero become zero (the dead
zone), and the integers are charged what an arithmetic coder spends on them under Laplace distributions whose
scales were fitted on train. One step for all is reverse water-filling: the variance of an axis and a frequency
decides its bits (Goyal 2001, doi 10.1109/79.952802; dead zone and centroid: Sullivan 1996, doi 10.1109/18.532878).

Shapes: F frames, N neurons, b windows of L frames, P axes.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.fft import dct, idct

from raycal.metrics.blocks import cut, fit_axes, offsets, shares
from raycal.sessions.split import Run

DEAD = 2 / 3  # of a step, on either side of zero
ESCAPE = 2.0**-16  # probability kept for integers that the Laplace model holds impossible: 16 bits, then 1/(2n(n+1))
FIT_WINDOWS = 1024  # train windows, at every offset, that a fold's scales are measured on
FINEST = 2.0**-20  # of the largest coefficient: the finest step, so that integers stay well inside int32


class TransformCode(NamedTuple):
    """A fitted code; all of it comes from train frames."""

    axes: Any  # scikit-learn's PCA of frames
    scales: np.ndarray  # (L, P) mean size of each coefficient: the Laplace model's

    def coefficients(self, windows_blp: np.ndarray) -> np.ndarray:
        """Return the cosine coefficients (b, L, P) of windows on the axes."""
        return dct(windows_blp, axis=1, norm="ortho")

    def encode(self, coefficients: np.ndarray, step: float) -> np.ndarray:
        """Return (b, L, P) int32."""
        integers = np.zeros(coefficients.shape, np.int32)
        size = np.abs(coefficients)
        hit = size >= DEAD * step
        integers[hit] = np.copysign(np.floor(size[hit] / step - DEAD) + 1, coefficients[hit])
        return integers

    def decode(self, integers: np.ndarray, step: float) -> np.ndarray:
        """Return windows (b, L, P) on the axes from the integers alone: each at its interval's Laplace centroid."""
        depth = step / self.scales
        with np.errstate(over="ignore"):
            centroid = self.scales - step / np.expm1(depth)  # from an interval's near end; 0 where expm1 overflows
        n = np.abs(integers)
        size = np.where(n > 0, (n - 1 + DEAD) * step + centroid, 0.0)
        return idct(np.copysign(size, integers), axis=1, norm="ortho")

    def bits(self, integers: np.ndarray, step: float) -> np.ndarray:
        """Return the code length of each window (b,), in bits; finite whatever the integers."""
        b, row, column = np.nonzero(integers)
        depth = step / self.scales
        zero = self._zero(depth)
        n = np.abs(integers[b, row, column]).astype(np.float64)
        more = self._nonzero(n, depth[row, column]) - zero[row, column]
        return zero.sum() + np.bincount(b, more, len(integers))

    @staticmethod
    def _zero(depth: np.ndarray) -> np.ndarray:
        return -np.log2((1 - ESCAPE) * -np.expm1(-DEAD * depth))

    @staticmethod
    def _nonzero(n: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Return the bits of a sign and a size n >= 1; summed with `_zero` over all integers, 2 ** -bits is 1."""
        laplace = 0.5 * np.exp(-(n - 1 + DEAD) * depth) * -np.expm1(-depth)
        return -np.log2((1 - ESCAPE) * laplace + ESCAPE * 0.5 / (n * (n + 1)))


def fit(x_fn: np.ndarray, pieces: tuple[Run, ...], length: int, folds: int = 3) -> TransformCode:
    """Fit a code for windows of `length` frames on train frames x (F, N) in pieces.

    Scales are measured on each of `folds` contiguous shares of the frames in turn, on axes fitted to the others: on
    the frames that chose them, trailing axes look quieter than they are (six worms at 14 bits a frame: mean NMSE 0.39
    in place of 0.29). One fold, or shares without a whole window, measures on all frames.
    """
    axes = fit_axes(x_fn)
    sums, n = 0.0, 0
    for share, inside in shares(len(x_fn), pieces, length, folds) if folds > 1 else ():
        size, windows = _size(x_fn, inside, length, fit_axes(x_fn, share), axes.n_components_)
        sums, n = sums + size, n + windows
    if not n:
        sums, n = _size(x_fn, pieces, length, axes, axes.n_components_)
    scales = np.maximum(sums / n, np.finfo(np.float32).tiny)
    return TransformCode(axes, np.maximum(scales, scales.max() * 1e-9))


def _size(x_fn, pieces, length: int, axes, n_axes: int) -> tuple[np.ndarray, int]:
    """Return the summed size (L, P) of the coefficients of train windows, and how many windows.

    A share of few frames has fewer axes: those beyond are taken to be as loud as its last.
    """
    starts = offsets(pieces, length, FIT_WINDOWS)
    total = np.zeros((length, axes.n_components_))
    for start in np.array_split(starts, -(-len(starts) // 64)):
        latents = axes.transform(cut(x_fn, start, length).reshape(-1, x_fn.shape[1]))
        total += np.abs(dct(latents.reshape(len(start), length, -1), axis=1, norm="ortho")).sum(0)
    return np.pad(total, ((0, 0), (0, n_axes - total.shape[1])), mode="edge"), len(starts)


def step_at(bits: float, cost: Callable[[float], float], largest: float) -> float:
    """Return the step whose cost comes closest to `bits` from below, by bisection; `largest` coefficient there is.

    The cost falls as the step grows, but for single integers that change; where even the finest step costs less
    than `bits`, it is the answer.
    """
    coarse = 2.0 * largest  # all integers are zero
    fine = coarse / 2
    while cost(fine) < bits:
        coarse, fine = fine, fine / 2
        if coarse < FINEST * largest:
            return coarse
    for _ in range(24):
        middle = (coarse * fine) ** 0.5
        found = cost(middle)
        if 0.998 * bits <= found <= bits:
            return middle
        coarse, fine = (middle, fine) if found < bits else (coarse, middle)
    return coarse
