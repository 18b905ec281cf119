"""Co-smoothing: held-out neurons predicted from the others of the same frames, and what classical models reach at it.

A session's neurons are cut into folds that are hidden in turn, so that each is predicted once, and R2 is pooled over
all neurons and frames of a part, about the train mean (co-smoothing: Macke et al. 2011; Pei et al., arXiv 2109.04463).

Shapes: F frames, N neurons, D latents.
"""
from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from raycal.metrics.blocks import FIT_FRAMES, evenly, fit_axes, standardised
from raycal.metrics.reconstruction import ReconstructionSums, nmse
from raycal.metrics.ridge import fit_ridge

FOLDS = 5  # 20 % of the neurons are hidden at a time
SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64)  # latents of which a classical model's best is looked for
Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]  # frames (F, N), hidden (N,) bool -> hidden neurons of them


def folds(n_neurons: int) -> np.ndarray:
    """Return (folds, N) bool, True = hidden: every neuron in one fold, the same at every call."""
    order = np.random.default_rng(0).permutation(n_neurons)
    return np.arange(min(FOLDS, n_neurons))[:, None] == order % FOLDS


def r2(sums: Sequence[ReconstructionSums]) -> float:
    """Return the R2 about the train mean of what was predicted of hidden neurons, sessions pooled."""
    return 1.0 - nmse(sums)


def baselines(dataset, latents: int, part: str = "validation",
              sizes: Mapping[str, int] | None = None) -> dict[str, float]:
    """Return {model: co-smoothing R2} of classical models that are fitted session by session on train frames.

    ridge: of the hidden neurons on the others, penalty by blocked cross-validation inside train; PCA, factor analysis:
    `latents` axes of all neurons, whose values the visible neurons tell (least squares; posterior mean). sizes: other
    numbers of axes besides, as `best_sizes` gives them.
    """
    found = {"ridge": _scored(dataset, part, _ridge)}
    for name, fit in LATENT.items():
        for n in dict.fromkeys((latents, (sizes or {}).get(name, latents))):
            found[f"{name} {n}"] = _scored(dataset, part, functools.partial(fit, latents=n))
    return found


def best_sizes(dataset, part: str = "validation") -> dict[str, int]:
    """Return {model: latents} of PCA and factor analysis at which each does best on a part, of SIZES."""
    sizes = [n for n in SIZES if n < max(dataset.n_neurons)]
    return {name: max(sizes, key=lambda n: _scored(dataset, part, functools.partial(fit, latents=n)))
            for name, fit in LATENT.items()}


def _scored(dataset, part: str, fit: Callable[[Any, np.ndarray], Predict]) -> float:
    """Return the R2 of a part's neurons, each predicted in the fold that hides it."""
    found = []
    for recording in dataset.recordings:
        predict, x = fit(recording, standardised(recording, "train")[0]), standardised(recording, part)[0]
        prediction = np.zeros(x.shape)
        for hidden in folds(x.shape[1]):
            prediction[:, hidden] = predict(x, hidden)
        rows = np.concatenate([np.arange(a, b) for a, b in recording.pieces[part]])
        valid = None if recording.valid is None else recording.valid[rows].T[None]
        found.append(ReconstructionSums.of(recording, "zscore"))
        found[-1].add(x.T[None], prediction.T[None], valid=valid)
    return r2(found)


def _ridge(recording: Any, train: np.ndarray) -> Predict:
    """Predict by ridge regression on the visible neurons of the same frame."""
    target, pieces = train.astype(np.float64), standardised(recording, "train")[1]
    if recording.valid is not None:
        rows = np.concatenate([np.arange(a, b) for a, b in recording.pieces["train"]])
        target[~recording.valid[rows]] = np.nan

    def predict(x: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        fitted = fit_ridge(train[:, ~hidden], target[:, hidden], pieces, lags=0, gap=recording.gap)
        return fitted.predict(x[:, ~hidden], [(0, len(x))])

    return predict


def _axes(recording: Any, train: np.ndarray, latents: int) -> Predict:
    """Predict from the place on the principal axes that is nearest to the visible neurons."""
    axes = fit_axes(train)
    loadings, mean = axes.components_[:latents].T, axes.mean_

    def predict(x: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        z = np.linalg.lstsq(loadings[~hidden], (x - mean)[:, ~hidden].T, rcond=None)[0]
        return (loadings[hidden] @ z).T + mean[hidden]

    return predict


def _factors(recording: Any, train: np.ndarray, latents: int) -> Predict:
    """Predict by the mean of a Gaussian with the factor model's covariance, given the visible neurons."""
    from sklearn.decomposition import FactorAnalysis  # half a second that only a baseline pays

    rows = evenly(len(train), FIT_FRAMES)
    model = FactorAnalysis(min(latents, train.shape[1] - 1), random_state=0).fit(train[rows])
    loadings, noise, mean = model.components_.T, model.noise_variance_, model.mean_

    def predict(x: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        seen = loadings[~hidden] / noise[~hidden, None]
        precision = np.eye(loadings.shape[1]) + loadings[~hidden].T @ seen
        z = np.linalg.solve(precision, seen.T @ (x - mean)[:, ~hidden].T)
        return (loadings[hidden] @ z).T + mean[hidden]

    return predict


LATENT = {"PCA": _axes, "factor analysis": _factors}
