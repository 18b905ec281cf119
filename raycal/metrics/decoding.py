"""How well behaviour is decoded: pooled R2 with its null and interval, and ridge regression with lags.

R2 of a dimension = 1 - sum (y - yhat)^2 / sum (y - ybar)^2 over all held-out frames together, never a mean over
windows, never clipped at 0. ybar is the train mean; with the held-out mean it is given beside (kinder to none:
under drift the two differ about twofold).
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FLOOR = 1e-6  # held-out variance, as a share of the train variance, below which R2 says nothing


class R2(NamedTuple):
    """Per dimension (K,), NaN where dropped, and over the dimensions that are not."""

    train: np.ndarray  # about the train mean: what is ranked by
    held_out: np.ndarray  # about the held-out mean, as scikit-learn has it
    mean: float  # uniform mean of `train`
    weighted: float  # 1 - all squared error / all squared deviation from the train means, in train-sd units
    dropped: tuple[int, ...]  # dimensions that are (nearly) constant or unobserved here


class DecodingSums:
    """Sums of one session's held-out frames: add batches, then read them with `combine`."""

    def __init__(self, n_behaviors: int, train_mean=0.0, train_spread=1.0) -> None:
        self._mean = np.broadcast_to(np.asarray(train_mean, np.float64), n_behaviors)
        self._spread = np.broadcast_to(np.asarray(train_spread, np.float64), n_behaviors)
        self.sums = np.zeros((4, n_behaviors))  # n, squared error, sum and squared sum of y, in train-sd units

    def add(self, y, prediction, keep=None) -> None:
        """Add y, prediction (b, K, L), NaN in y = not observed; keep (b, L) bool, None = all count."""
        y = np.moveaxis(np.asarray(y, np.float64), 1, -1)
        prediction = np.moveaxis(np.asarray(prediction, np.float64), 1, -1)
        used = np.ones(y.shape[:-1], bool) if keep is None else np.asarray(keep, bool)
        self.add_rows(y[used], prediction[used])

    def add_rows(self, y, prediction) -> None:
        """Add y, prediction (F, K)."""
        self.sums += _terms(y, prediction, self._mean, self._spread).sum(axis=1)


def _terms(y, prediction, mean, spread) -> np.ndarray:
    """Return (4, F, K): what each frame adds to the sums; nothing where y was not observed."""
    y, prediction = np.asarray(y, np.float64), np.asarray(prediction, np.float64)
    seen = ~np.isnan(y)
    z, error = np.where(seen, (y - mean) / spread, 0.0), np.where(seen, (y - prediction) / spread, 0.0)
    return np.stack((seen, error**2, z, z**2))


def combine(sums: Sequence[DecodingSums], floor: float = FLOOR) -> R2:
    """Return the R2 of several sessions: their squared errors and deviations added, each about its own means."""
    return _r2(np.stack([s.sums for s in sums]), floor)


def decoded(sums: Sequence[DecodingSums], names: Sequence[str]) -> dict[str, float]:
    """Return the metrics of behaviours that vary here, none where none does; sums are of train-sd units."""
    found = combine(sums)
    if len(found.dropped) == len(names):
        return {}
    return {"behavior_r2": found.mean, "behavior_r2_weighted": found.weighted,
            "behavior_r2_heldout_mean": float(np.nanmean(found.held_out)),
            **{f"behavior_r2/{n}": float(v) for n, v in zip(names, found.train) if not np.isnan(v)}}


def r2(y, prediction, train_mean=0.0, train_spread=1.0, floor: float = FLOOR) -> R2:
    """Return the R2 of prediction (F, K) for y (F, K); frames where y is NaN do not count for that dimension.

    train_mean and train_spread, (K,) or a number, are the behaviour's on the train part.
    """
    y = np.asarray(y, np.float64)
    sums = DecodingSums(y.shape[1], train_mean, train_spread)
    sums.add_rows(y, prediction)
    return combine([sums], floor)


def _r2(sums_s4k: np.ndarray, floor: float) -> R2:
    n, error, first, second = np.moveaxis(sums_s4k, 1, 0)
    about_held_out = (second - first**2 / np.maximum(n, 1)).sum(0)
    n, error, about_train = n.sum(0), error.sum(0), second.sum(0)
    good = (n > 1) & (about_held_out > floor * n)
    with np.errstate(invalid="ignore", divide="ignore"):
        train = np.where(good, 1.0 - error / about_train, np.nan)
        held_out = np.where(good, 1.0 - error / about_held_out, np.nan)
    if not good.any():
        return R2(train, held_out, float("nan"), float("nan"), tuple(range(len(good))))
    weighted = 1.0 - float(error[good].sum() / about_train[good].sum())
    return R2(train, held_out, float(train[good].mean()), weighted, tuple(np.flatnonzero(~good).tolist()))


class Spread(NamedTuple):
    """Where R2 lies under resampling, per dimension (K,)."""

    mean: np.ndarray
    low: np.ndarray  # 2.5th percentile of a bootstrap, 5th of a null
    high: np.ndarray  # 97.5th of a bootstrap, 95th of a null


def shift_null(y, prediction, pieces, gap: int, n: int = 200, train_mean=0.0, train_spread=1.0) -> Spread:
    """Return the R2 (about the train mean) of up to n circular shifts by more than `gap` frames.

    The frames of the pieces are joined and the prediction turned around them; the shifts are spaced evenly, so no
    seed enters. High for periodic behaviour (a position that repeats every lap: 0.75): such a target proves nothing.
    """
    rows = np.concatenate([np.arange(a, b) for a, b in pieces])
    y, prediction = np.asarray(y, np.float64)[rows], np.asarray(prediction, np.float64)[rows]
    shifts = np.arange(gap + 1, len(rows) - gap)
    if not len(shifts):
        nothing = np.full(y.shape[1], np.nan)
        return Spread(nothing, nothing, nothing)
    shifts = shifts[np.unique(np.linspace(0, len(shifts) - 1, min(n, len(shifts))).round().astype(int))]
    values = [r2(y, np.roll(prediction, s, axis=0), train_mean, train_spread).train for s in shifts]
    return _spread(np.array(values), 5, 95)


def bootstrap(y, prediction, pieces, block: int, n: int = 500, train_mean=0.0, train_spread=1.0,
              seed: int = 0) -> Spread:
    """Return the 95 % interval of R2 (about the train mean) over blocks of `block` frames drawn again."""
    terms = _terms(y, prediction, train_mean, train_spread)
    starts = [(i, min(i + block, b)) for a, b in pieces for i in range(a, b, block)]
    sums_mqk = np.stack([terms[:, i:j].sum(axis=1) for i, j in starts])
    drawn = np.random.default_rng(seed).integers(len(starts), size=(n, len(starts)))
    return _spread(np.array([_r2(sums_mqk[d].sum(axis=0)[None], FLOOR).train for d in drawn]), 2.5, 97.5)


def _spread(values_nk: np.ndarray, low: float, high: float) -> Spread:
    out = np.full((3, values_nk.shape[1]), np.nan)
    for k, column in enumerate(values_nk.T):
        column = column[~np.isnan(column)]
        if len(column):
            out[:, k] = column.mean(), *np.percentile(column, (low, high))
    return Spread(*out)
