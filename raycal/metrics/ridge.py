"""Ridge regression of behaviour on a few frames around each frame, penalty by blocked cross-validation inside train.

Memory does not grow with the recording: the normal equations are added up block by block.
Shapes: F frames, N inputs (neurons or latents), K outputs, D = N * (2 lags + 1) features.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

ALPHAS = tuple(10.0 ** p for p in range(-3, 4))  # penalty a training frame; features have unit variance
MAX_FEATURES = 4096  # the normal equations then take 134 MB a fold; more inputs are reduced to principal components
ROWS = 1024  # frames at a time: 14 MB of features for 150 neurons and +-5 frames


class Ridge(NamedTuple):
    """A fitted linear map from lagged inputs to outputs."""

    inputs: Inputs
    weights: np.ndarray  # (D, K) on standardised inputs, lag-major
    intercept: np.ndarray  # (K,)
    alpha: np.ndarray  # (K,) penalty a training frame that was chosen

    def predict(self, x: np.ndarray, pieces, valid: np.ndarray | None = None) -> np.ndarray:
        """Return (F, K) predictions for x (F, N), NaN outside the pieces; no lag reaches beyond its piece."""
        out = np.full((len(x), len(self.intercept)), np.nan)
        for frames, features in self.inputs.blocks(x, pieces, valid):
            out[frames] = features @ self.weights + self.intercept
        return out

    def raw(self) -> tuple[np.ndarray, np.ndarray]:
        """Return weights (2 lags + 1, N, K) on inputs as they come, and the intercept (K,) that goes with them."""
        weights = self.weights.reshape(2 * self.inputs.lags + 1, -1, self.weights.shape[1])
        if self.inputs.components is not None:
            weights = self.inputs.components @ weights
        weights = weights / self.inputs.spread[:, None]
        return weights, self.intercept - self.inputs.center @ weights.sum(0)


class Inputs(NamedTuple):
    """How raw inputs become features; all of it fitted on train."""

    center: np.ndarray  # (N,)
    spread: np.ndarray  # (N,)
    components: np.ndarray | None  # (N, P) principal axes, None = as they are
    lags: int

    @property
    def n_features(self) -> int:
        n = len(self.center) if self.components is None else self.components.shape[1]
        return n * (2 * self.lags + 1)

    def blocks(self, x, pieces, valid=None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (frames (m,), features (m, D)) over the pieces; a lag beyond the piece repeats its edge frame."""
        offsets = np.arange(-self.lags, self.lags + 1)
        for start, stop in pieces:
            for first in range(start, stop, ROWS):
                last = min(first + ROWS, stop)
                low, high = max(first - self.lags, start), min(last + self.lags, stop)
                z = self.standard(x[low:high], None if valid is None else valid[low:high])
                frames = np.arange(first, last)
                rows = np.clip(frames[:, None] + offsets, start, stop - 1) - low
                yield frames, z[rows].reshape(len(frames), -1)

    def standard(self, x, valid=None) -> np.ndarray:
        z = (np.asarray(x, np.float64) - self.center) / self.spread
        if valid is not None:
            z[~valid] = 0.0
        return z if self.components is None else z @ self.components


class _Moments:
    """Sums that a centred least-squares fit needs; those of disjoint frames add up."""

    def __init__(self, d: int, k: int) -> None:
        self.n, self.xx, self.xy, self.x, self.y = 0, np.zeros((d, d)), np.zeros((d, k)), np.zeros(d), np.zeros(k)

    def add(self, x, y) -> None:
        self.n += len(x)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.x += x.sum(0)
        self.y += y.sum(0)

    def merge(self, other: _Moments) -> None:
        self.n += other.n
        for name in ("xx", "xy", "x", "y"):
            getattr(self, name).__iadd__(getattr(other, name))

    def solve(self, alphas: Sequence[float]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (weights (D, K), intercept (K,)) for every penalty; the intercept is not penalised."""
        centred = self.xx - np.outer(self.x, self.x / self.n)
        target = self.xy - np.outer(self.x, self.y / self.n)
        diagonal = np.diagonal(centred).copy()
        fits = []
        for alpha in alphas:
            np.fill_diagonal(centred, diagonal + alpha * self.n)
            weights = np.linalg.solve(centred, target)
            fits.append((weights, (self.y - self.x @ weights) / self.n))
        return fits


def fit_ridge(x: np.ndarray, y: np.ndarray, pieces, lags: int = 5, alphas: Sequence[float] = ALPHAS, folds: int = 3,
              gap: int = 0, valid: np.ndarray | None = None) -> Ridge:
    """Fit y (F, K) on x (F, N) at -lags..lags frames, on the frames of `pieces` where y is not NaN.

    The penalty alpha * frames is chosen output by output among `alphas` on `folds` contiguous blocks in turn,
    leaving max(gap, 2 lags) frames unscored beside a cut. An output never observed gets weights and intercept 0.
    """
    y = np.asarray(y, np.float64)
    inputs = _inputs(x, pieces, lags, valid)
    weights, intercept = np.zeros((inputs.n_features, y.shape[1])), np.zeros(y.shape[1])
    alpha = np.full(y.shape[1], np.nan)
    frames = np.concatenate([np.arange(a, b) for a, b in pieces])
    patterns: dict[bytes, list[int]] = {}  # outputs observed at the same frames share their normal equations
    for k in range(y.shape[1]):
        patterns.setdefault(np.isnan(y[frames, k]).tobytes(), []).append(k)
    for columns in patterns.values():
        if np.count_nonzero(~np.isnan(y[frames, columns[0]])) < 2:
            continue
        problem = _Problem(x, y[:, columns], pieces, valid, inputs)
        weights[:, columns], intercept[columns], alpha[columns] = problem.fit(alphas, folds, max(gap, 2 * lags))
    return Ridge(inputs, weights, intercept, alpha)


def _inputs(x, pieces, lags: int, valid) -> Inputs:
    """Measure center and spread, and principal axes where there are too many inputs, on the pieces."""
    n, first, second = np.zeros((3, x.shape[1]))
    shift = np.asarray(x[pieces[0][0]], np.float64)  # keeps the sum of squares of a trace far from 0 exact
    for a, b in ((i, min(i + ROWS, b)) for a, b in pieces for i in range(a, b, ROWS)):
        seen = np.ones((b - a, x.shape[1]), bool) if valid is None else valid[a:b]
        part = np.where(seen, x[a:b] - shift, 0.0)
        n, first, second = n + seen.sum(0), first + part.sum(0), second + (part**2).sum(0)
    mean = first / np.maximum(n, 1)
    spread = np.sqrt(np.maximum(second / np.maximum(n, 1) - mean**2, 0.0))
    inputs = Inputs(mean + shift, np.where(spread > 0, spread, 1.0), None, lags)
    limit = MAX_FEATURES // (2 * lags + 1)
    if x.shape[1] <= limit:
        return inputs
    covariance = _Moments(x.shape[1], 0)
    for frames, z in inputs._replace(lags=0).blocks(x, pieces, valid):
        covariance.add(z, np.zeros((len(z), 0)))
    return inputs._replace(components=np.linalg.eigh(covariance.xx)[1][:, :-limit - 1:-1])


class _Problem:
    """One set of outputs that are observed at the same frames of the pieces."""

    def __init__(self, x, y, pieces, valid, inputs: Inputs) -> None:
        self._x, self._y, self._pieces, self._valid, self._inputs = x, y, pieces, valid, inputs
        self._seen = ~np.isnan(y[:, 0])
        self._piece = np.concatenate([np.full(int(self._seen[a:b].sum()), i) for i, (a, b) in enumerate(pieces)])
        self._n = len(self._piece)
        self._few = self._rotate() if self._n <= inputs.n_features else None

    def _blocks(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield (observed rows, features, y) over the pieces."""
        row = 0
        for frames, features in self._inputs.blocks(self._x, self._pieces, self._valid):
            frames, features = frames[self._seen[frames]], features[self._seen[frames]]
            rows = slice(row, row + len(frames))
            yield rows, features if self._few is None else self._few[0][rows], self._y[frames]
            row += len(frames)

    def _rotate(self) -> tuple[np.ndarray, np.ndarray]:
        """With fewer frames than features, return the features on axes that span the frames, and these axes (D, r).

        Ridge is the same in any rotated basis; on 6 worms of 480 frames and 1540 features solving is 30x cheaper.
        """
        self._few = None
        features = np.concatenate([f for _, f, _ in self._blocks()])
        values, vectors = np.linalg.eigh(features @ features.T)
        good = values > values[-1] * 1e-12
        axes = features.T @ (vectors[:, good] / np.sqrt(values[good]))
        return vectors[:, good] * np.sqrt(values[good]), axes

    def fit(self, alphas, folds: int, gap: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return weights (D, K), intercept (K,) and the chosen alphas (K,)."""
        folds = max(1, min(folds, self._n // 2))
        cuts = [self._n * i // folds for i in range(folds + 1)]
        moments = self._fold_moments(cuts)
        chosen = self._choose(alphas, cuts, gap, moments)
        whole = self._sum(moments)
        weights, intercept = np.zeros(whole.xy.shape), np.zeros(whole.xy.shape[1])
        for i in np.unique(chosen):
            [(w, c)] = whole.solve([alphas[i]])
            weights[:, chosen == i], intercept[chosen == i] = w[:, chosen == i], c[chosen == i]
        weights = weights if self._few is None else self._few[1] @ weights
        return weights, intercept, np.asarray(alphas, float)[chosen]

    def _fold_moments(self, cuts: list[int]) -> list[_Moments]:
        d = self._inputs.n_features if self._few is None else self._few[0].shape[1]
        moments = [_Moments(d, self._y.shape[1]) for _ in cuts[1:]]
        for rows, features, y in self._blocks():
            for fold, (a, b) in enumerate(zip(cuts, cuts[1:])):
                part = slice(max(a - rows.start, 0), max(b - rows.start, 0))
                if len(y[part]):
                    moments[fold].add(features[part], y[part])
        return moments

    def _sum(self, moments: Sequence[_Moments]) -> _Moments:
        total = _Moments(*moments[0].xy.shape)
        for m in moments:
            total.merge(m)
        return total

    def _choose(self, alphas, cuts: list[int], gap: int, moments: list[_Moments]) -> np.ndarray:
        """Return (K,) the index of the penalty with the least squared error on the folds left out."""
        middle = np.full(self._y.shape[1], len(alphas) // 2)
        if len(alphas) == 1 or len(moments) == 1:
            return middle
        fits = [self._sum(moments[:f] + moments[f + 1:]).solve(alphas) for f in range(len(moments))]
        fold = np.repeat(np.arange(len(moments)), np.diff(cuts))
        scored = self._scored(cuts, gap)
        errors = np.zeros((len(alphas), self._y.shape[1]))
        for rows, features, y in self._blocks():
            for f in np.unique(fold[rows][scored[rows]]):
                mine = (fold[rows] == f) & scored[rows]
                for i, (weights, intercept) in enumerate(fits[f]):
                    errors[i] += ((y[mine] - features[mine] @ weights - intercept) ** 2).sum(0)
        return errors.argmin(0) if scored.any() else middle

    def _scored(self, cuts: list[int], gap: int) -> np.ndarray:
        """Mark the rows further than the gap from a cut through their own piece."""
        scored = np.ones(self._n, bool)
        for cut in cuts[1:-1]:
            near = slice(max(cut - gap, 0), cut + gap)
            if self._piece[cut - 1] == self._piece[cut]:
                scored[near] &= self._piece[near] != self._piece[cut]
        return scored
