"""Can a classifier tell generated windows from real ones: the classifier two-sample test (arXiv 1610.06545)."""
from __future__ import annotations

import numpy as np

from raycal.metrics.window_distances import Slow

SHRINKAGE = 0.1  # of the within-class covariance towards a multiple of the identity: windows are few, features many


def c2st(generated: np.ndarray, real: np.ndarray, folds: int = 5, gap: int = 0) -> float:
    """Return the AUC of Fisher's discriminant between windows (w, N, T) and (w', N, T): 0.5 alike, 1 told apart.

    Judged on contiguous blocks of windows that it was not fitted on: real windows come in time order, and neighbours
    know each other. gap: windows on either side of a block that are left out too, as many as overlap it. Raise
    ValueError for fewer windows than folds.
    """
    if min(len(generated), len(real)) < folds:
        raise ValueError(f"{len(generated)} generated and {len(real)} real windows do not make {folds} folds")
    x = features(np.concatenate([generated, real]))
    sets = x[:len(generated)], x[len(generated):]
    values = []
    for fold in range(folds):
        tested, fitted = zip(*(_fold(s, fold, folds, gap) for s in sets))
        if min(len(f) for f in fitted) > 1:
            direction = _fisher(*fitted)
            values.append(auc(*(t @ direction for t in tested)))
    return float(np.mean(values)) if values else float("nan")


def features(windows: np.ndarray) -> np.ndarray:
    """Return (w, D) of windows (w, N, T), standardised: what a straight line through windows themselves cannot see.

    The slow components; the log power, and that of changes, of each principal axis and of all beyond them; skewness and
    kurtosis of the window; the largest mean activity.
    """
    frames = np.moveaxis(windows, 1, 0).reshape(windows.shape[1], -1)
    center, spread = frames.mean(1)[:, None], frames.std(1)[:, None]
    x = (windows - center) / np.where(spread > 0, spread, 1.0)
    slow = Slow.of(x)
    latents = slow.latents(x)
    beyond = (x - np.einsum("wpt,np->wnt", latents, slow.axes, optimize=True)).reshape(len(x), 1, -1, x.shape[2])
    powers = [np.square(latents).mean(2), np.square(np.diff(latents)).mean(2),
              np.square(beyond).mean((2, 3)), np.square(np.diff(beyond)).mean((2, 3))]
    moments = [np.cbrt((x**3).mean((1, 2))), np.log((x**4).mean((1, 2)) + 1e-9), x.mean(1).max(1)]
    out = np.concatenate([slow.components(x), *(np.log(p + 1e-9) for p in powers), np.stack(moments, 1)], axis=1)
    return (out - out.mean(0)) / np.where(out.std(0) > 0, out.std(0), 1.0)


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the share of pairs in which the positive one scores higher, ties counting half."""
    negative = np.sort(negative)
    wins = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(wins.mean() / (2 * len(negative)))


def _fold(x: np.ndarray, fold: int, folds: int, gap: int) -> tuple[np.ndarray, np.ndarray]:
    first, stop = (len(x) * f // folds for f in (fold, fold + 1))
    return x[first:stop], np.concatenate([x[:max(first - gap, 0)], x[stop + gap:]])


def _fisher(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Return the direction (D,) along which two sets differ most for their scatter."""
    scatter = sum(np.cov(s, rowvar=False) for s in (positive, negative)) / 2
    scale = np.trace(scatter) / len(scatter) or 1.0
    ridge = (1.0 - SHRINKAGE) * scatter + SHRINKAGE * scale * np.eye(len(scatter))
    return np.linalg.solve(ridge, positive.mean(0) - negative.mean(0))
