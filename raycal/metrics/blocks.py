"""A part of a recording as classical codes take it: z-scored on train, on principal axes, cut into windows.

Shapes: F frames of the part, N neurons, P axes, b windows of L frames.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from raycal.metrics.reconstruction import ReconstructionSums
from raycal.sessions.split import Run, cover

MAX_AXES = 512  # beyond them a code at any rate of interest spends nothing
FIT_FRAMES = 20_000  # train frames, evenly spaced, that axes are fitted on: 100 for each of 200 neurons
ROWS = 4096  # frames at a time where float64 copies are made


class Windows(NamedTuple):
    """An exact cover of F frames: every frame is kept by exactly one window."""

    starts: np.ndarray  # (b,)
    fresh: np.ndarray  # (b,) first frame of each window that is kept
    length: int
    breaks: np.ndarray  # (b,) bool: the first window of its piece

    @classmethod
    def of(cls, pieces: tuple[Run, ...], length: int) -> Windows:
        starts, fresh = cover(pieces, length)
        return cls(starts, fresh, length, np.isin(starts, [a for a, _ in pieces]))

    @property
    def weight(self) -> np.ndarray:
        """(b,) kept share of each window: what an overlap costs is not charged, as it is not to a model's codes."""
        return 1.0 - self.fresh / self.length

    def cut(self, x_fp: np.ndarray) -> np.ndarray:
        """Return (b, L, P)."""
        return cut(x_fp, self.starts, self.length)

    def runs(self, per_window: np.ndarray) -> list[np.ndarray]:
        """Return what stands for each window (b, ...) piece by piece: inside, windows follow each other in time."""
        return np.split(per_window, np.flatnonzero(self.breaks)[1:])

    def join(self, x_blp: np.ndarray) -> np.ndarray:
        """Return (F, P), each frame from the window that keeps it; the inverse of `cut`."""
        steps = np.arange(self.length)
        keep = steps >= self.fresh[:, None]
        out = np.empty((int(keep.sum()), x_blp.shape[2]), x_blp.dtype)
        out[(self.starts[:, None] + steps)[keep]] = x_blp[keep]
        return out


def cut(x_fp: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Return (b, L, P): windows of `length` frames from `starts`."""
    return x_fp[starts[:, None] + np.arange(length)]


def offsets(pieces: tuple[Run, ...], length: int, limit: int) -> np.ndarray:
    """Return the starts of at most `limit` windows, evenly spaced over every offset that stays inside a piece."""
    starts = np.concatenate([np.arange(a, b - length + 1) for a, b in pieces])
    return starts[evenly(len(starts), limit)]


def standardised(recording, part: str, normalize: str = "zscore") -> tuple[np.ndarray, tuple[Run, ...]]:
    """Return the part's frames alone, (F, N) float32 scaled on train, 0 where not valid, and its pieces in them."""
    center, spread = recording.scalers[normalize]
    runs = recording.pieces[part]
    rows = np.concatenate([np.arange(a, b) for a, b in runs])
    x = recording.traces[rows]
    x -= center
    x /= spread
    if recording.valid is not None:
        x[~recording.valid[rows]] = 0.0
    ends = np.cumsum([b - a for a, b in runs]).tolist()
    return x, tuple(zip([0, *ends[:-1]], ends))


def shares(n: int, pieces: tuple[Run, ...], length: int, count: int) -> Iterator[tuple[Run, tuple[Run, ...]]]:
    """Yield ((low, high), pieces inside) for `count` contiguous shares of n frames that hold a whole window."""
    ends = [n * i // count for i in range(count + 1)]
    for low, high in zip(ends, ends[1:]):
        inside = tuple((max(a, low), min(b, high)) for a, b in pieces if min(b, high) - max(a, low) >= length)
        if inside:
            yield (low, high), inside


def evenly(n: int, limit: int) -> np.ndarray:
    """Return at most `limit` of 0..n-1, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, limit)).round().astype(int))


def fit_axes(x_fn: np.ndarray, left_out: Run = (0, 0)):
    """Return scikit-learn's PCA, at most MAX_AXES axes, of at most FIT_FRAMES evenly spaced frames not left out."""
    from sklearn.decomposition import PCA  # half a second that only a baseline pays

    rows = np.delete(np.arange(len(x_fn)), slice(*left_out))
    x_fn = x_fn[rows[evenly(len(rows), FIT_FRAMES)]]
    return PCA(min(MAX_AXES, *x_fn.shape), random_state=0).fit(x_fn)


def score(recording, part: str, axes, latents_fp: np.ndarray) -> ReconstructionSums:
    """Return the sums of decoded latents (F, P'), P' <= P leading axes, over every frame of the part once."""
    sums = ReconstructionSums.of(recording, "zscore")
    x, _ = standardised(recording, part)
    rows = np.concatenate([np.arange(a, b) for a, b in recording.pieces[part]])
    for first in range(0, len(x), ROWS):
        some = slice(first, first + ROWS)
        prediction = latents_fp[some] @ axes.components_[:latents_fp.shape[1]] + axes.mean_
        valid = None if recording.valid is None else recording.valid[rows[some]].T[None]
        sums.add(x[some].T[None], prediction.T[None], valid=valid)
    return sums
