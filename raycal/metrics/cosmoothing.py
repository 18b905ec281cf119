"""Co-smoothing: held-out neurons predicted from the others of the same frames, and what classical models reach at it.

A session's neurons are cut into folds that are hidden in turn, so that each is predicted once, and R2 is pooled over
all neurons and frames of a part, about the train mean (co-smoothing: Macke et al. 2011; Pei et al., arXiv 2109.04463).

Shapes: F frames, N neurons, D latents.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from raycal.metrics.blocks import FIT_FRAMES, evenly, fit_axes, standardised
from raycal.metrics.reconstruction import ReconstructionSums, nmse
from raycal.metrics.ridge import fit_ridge

FOLDS = 5  # 20 % of the neurons are hidden at a time


def folds(n_neurons: int) -> np.ndarray:
    """Return (folds, N) bool, True = hidden: every neuron in one fold, the same at every call."""
    order = np.random.default_rng(0).permutation(n_neurons)
    return np.arange(min(FOLDS, n_neurons))[:, None] == order % FOLDS


def r2(sums: Sequence[ReconstructionSums]) -> float:
    """Return the R2 about the train mean of what was predicted of hidden neurons, sessions pooled."""
    return 1.0 - nmse(sums)


def baselines(dataset, latents: int, part: str = "validation") -> dict[str, float]:
    """Return {model: co-smoothing R2} of classical models that are fitted session by session on train frames.

    ridge: of the hidden neurons on the others, penalty by blocked cross-validation inside train; PCA, factor analysis:
    `latents` axes of all neurons, whose values the visible neurons tell (least squares; posterior mean).
    """
    models = {"ridge": _ridge, f"PCA {latents}": _axes, f"factor analysis {latents}": _factors}
    return {name: r2([_scored(recording, part, predict, latents) for recording in dataset.recordings])
            for name, predict in models.items()}


def _scored(recording, part: str, predict: Callable, latents: int) -> ReconstructionSums:
    """Return the sums of a session's part, each neuron from the fold that hides it."""
    sums = ReconstructionSums.of(recording, "zscore")
    train, x = standardised(recording, "train")[0], standardised(recording, part)[0]
    prediction = np.zeros(x.shape)
    for hidden in folds(x.shape[1]):
        prediction[:, hidden] = predict(recording, train, x, hidden, latents)
    rows = np.concatenate([np.arange(a, b) for a, b in recording.pieces[part]])
    valid = None if recording.valid is None else recording.valid[rows].T[None]
    sums.add(x.T[None], prediction.T[None], valid=valid)
    return sums


def _ridge(recording: Any, train: np.ndarray, x: np.ndarray, hidden: np.ndarray, latents: int) -> np.ndarray:
    """Return (F, hidden) by ridge regression on the visible neurons of the same frame."""
    target = train[:, hidden].astype(np.float64)
    if recording.valid is not None:
        rows = np.concatenate([np.arange(a, b) for a, b in recording.pieces["train"]])
        target[~recording.valid[rows][:, hidden]] = np.nan
    pieces = standardised(recording, "train")[1]
    fitted = fit_ridge(train[:, ~hidden], target, pieces, lags=0, gap=recording.gap)
    return fitted.predict(x[:, ~hidden], [(0, len(x))])


def _axes(recording: Any, train: np.ndarray, x: np.ndarray, hidden: np.ndarray, latents: int) -> np.ndarray:
    """Return (F, hidden) from the place on the principal axes that is nearest to the visible neurons."""
    axes = fit_axes(train)
    loadings = axes.components_[:latents].T
    z = np.linalg.lstsq(loadings[~hidden], (x - axes.mean_)[:, ~hidden].T, rcond=None)[0]
    return (loadings[hidden] @ z).T + axes.mean_[hidden]


def _factors(recording: Any, train: np.ndarray, x: np.ndarray, hidden: np.ndarray, latents: int) -> np.ndarray:
    """Return (F, hidden) as the mean of a Gaussian with the factor model's covariance, given the visible neurons."""
    from sklearn.decomposition import FactorAnalysis  # half a second that only a baseline pays

    rows = evenly(len(train), FIT_FRAMES)
    model = FactorAnalysis(min(latents, train.shape[1] - 1), random_state=0).fit(train[rows])
    loadings, noise = model.components_.T, model.noise_variance_
    seen = loadings[~hidden] / noise[~hidden, None]
    precision = np.eye(loadings.shape[1]) + loadings[~hidden].T @ seen
    z = np.linalg.solve(precision, seen.T @ (x - model.mean_)[:, ~hidden].T)
    return (loadings[hidden] @ z).T + model.mean_[hidden]
