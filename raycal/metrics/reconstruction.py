"""How well traces are reconstructed, from sums over a whole split.

The unit is fixed: raw traces less their train mean, over their train sd. Whichever normalisation a model was
trained in, its score is that of the same raw prediction.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FLAT = 1e-10  # variance in train-sd units below which a trace has no correlation to speak of


class ReconstructionSums:
    """Per-neuron sums of one session: add batches, then read nmse and r.

    scaler: (center (N,), spread (N,)) of the unit that targets and predictions come in; reference: that of the
    train z-score. Without both the arrays are taken as z-scored already.
    """

    def __init__(self, n_neurons: int, scaler: tuple | None = None, reference: tuple | None = None) -> None:
        center, spread = (np.asarray(v, np.float64) for v in scaler or (0.0, 1.0))
        mean, sd = (np.asarray(v, np.float64) for v in reference or scaler or (0.0, 1.0))
        self._gain = np.broadcast_to(spread / sd, n_neurons)[:, None]
        self._offset = np.broadcast_to((center - mean) / sd, n_neurons)[:, None]
        # rows: n, sse, sst about the train mean, sum of target, of prediction, of their squares' and products' sums
        self.sums = np.zeros((7, n_neurons))  # float64; add those of ranks to merge them

    @classmethod
    def of(cls, recording, normalize: str) -> ReconstructionSums:
        """Return empty sums for a Recording whose traces were normalised so."""
        return cls(recording.traces.shape[1], recording.scalers[normalize], recording.scalers["zscore"])

    def add(self, target, prediction, keep=None, valid=None) -> None:
        """Add a batch: target, prediction (b, N, L); keep (b, L) and valid (b, N, L) bool, None = all count."""
        target, prediction = np.asarray(target, np.float64), np.asarray(prediction, np.float64)
        x = target * self._gain + self._offset
        y = prediction * self._gain + self._offset
        used = np.ones(x.shape, bool) if valid is None else np.asarray(valid, bool)
        if keep is not None:
            used = used & np.asarray(keep, bool)[:, None, :]
        if not used.all():
            x, y = np.where(used, x, 0.0), np.where(used, y, 0.0)
        error = x - y
        self.sums += (used.sum((0, 2)), _dot(error, error), _dot(x, x), x.sum((0, 2)), y.sum((0, 2)), _dot(y, y),
                      _dot(x, y))

    @property
    def nmse(self) -> float:
        """Squared error over squared deviation from the train mean, all neurons pooled: 0 perfect, 1 the mean."""
        return nmse([self])

    @property
    def neuron_nmse(self) -> np.ndarray:
        """(N,) the same neuron by neuron; NaN where a neuron never leaves its train mean."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.sums[2] > 0, self.sums[1] / self.sums[2], np.nan)

    @property
    def r(self) -> np.ndarray:
        """(N,) Pearson correlation; NaN for a flat target, 0 for a flat prediction, which must not raise a mean."""
        n, _, xx, x, y, yy, xy = self.sums
        with np.errstate(invalid="ignore", divide="ignore"):
            var_x, var_y, cov = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2, xy / n - x * y / n**2
            r = np.where(var_y > FLAT, cov / np.sqrt(var_x * var_y), 0.0)
        return np.clip(np.where(var_x > FLAT, r, np.nan), -1.0, 1.0)


def nmse(sums: Sequence[ReconstructionSums]) -> float:
    """Return the pooled NMSE of several sessions: total squared error over total squared deviation."""
    error, deviation = (sum(float(s.sums[row].sum()) for s in sums) for row in (1, 2))
    return error / deviation if deviation > 0 else float("nan")


def mean_r(sums: Sequence[ReconstructionSums]) -> float:
    """Return the mean over all neurons of all sessions of the correlation, flat targets left out."""
    r = np.concatenate([s.r for s in sums])
    return float(np.nanmean(r)) if np.isfinite(r).any() else float("nan")


def _dot(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.einsum("bnl,bnl->n", x, y)
