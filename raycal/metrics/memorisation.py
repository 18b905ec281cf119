"""Does a generator copy the windows it was trained on."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from raycal.metrics.blocks import evenly

COPIED = 0.5  # a window this many times as far from train as from held-out windows, or less, counts as copied


class Memorisation(NamedTuple):
    ratio: float  # median distance to the nearest train window over that to the nearest held-out one: about 1, or less
    copied: float  # share of the windows at most COPIED times as far from some train window as from every held-out one


def memorisation(generated: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> Memorisation:
    """Compare generated windows (w, N, T) with real ones, by Euclidean distance in train-sd units.

    The ratio is with as many train windows as there are held-out ones, for the nearest of more is nearer. The copied
    share is with all of them: give train windows at every offset, for a copy may begin anywhere.
    """
    spread = train.std((0, 2))[:, None]
    generated, train, held_out = (_flat(x / np.where(spread > 0, spread, 1.0)) for x in (generated, train, held_out))
    n = min(len(train), len(held_out))
    to_train, to_held_out = nearest(generated, train), nearest(generated, held_out)
    few = nearest(generated, train[evenly(len(train), n)]), nearest(generated, held_out[evenly(len(held_out), n)])
    return Memorisation(float(np.median(few[0] / np.maximum(few[1], 1e-12))),
                        float(np.mean(to_train <= COPIED * to_held_out)))


def nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distance (w,) of each of points (w, D) to the nearest of others (w', D)."""
    squares = np.square(points).sum(1)[:, None] + np.square(others).sum(1) - 2.0 * points @ others.T
    return np.sqrt(np.maximum(squares, 0.0).min(1))


def _flat(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float64).reshape(len(x), -1)
