"""Where a VAE starts from: factor analysis of each session's train part, as its identities, encoder and decoder.

A neuron's identity begins with its loadings and the precision of its noise; loadings are what decodes it. Sessions that
share neurons begin on the same axes. The encoder's linear path begins as what best tells the factors from the pooled
neurons. The networks beside add nothing yet. Started at random, a VAE loses to factor analysis on recordings of a few
hundred frames; from here, what it learns is what a network adds.

Shapes: F train frames, N neurons, D factors, E numbers of an identity.
"""
from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from raycal.checks import check_conditions
from raycal.errors import UserError
from raycal.metrics.blocks import FIT_FRAMES, evenly, standardised
from raycal.metrics.cosmoothing import folds

if TYPE_CHECKING:
    from raycal.config import Config
    from raycal.models.vae import VAE

RIDGE = 1e-3  # a frame, of the regression of factors on pooled neurons


@torch.no_grad()
def start(model: VAE, dataset: Any, config: Config) -> None:
    """Set the weights of a VAE from train frames alone; draws nothing at random besides what it was built with."""
    check_conditions(config, dataset.behavior_names, {r.id: r.still for r in dataset.recordings})
    if config.vae.reconstruction == "poisson":  # its readings go through a softplus: no linear model is near
        _check_counts(dataset)
        return
    x, n = _frames(dataset, config), factors(config, dataset.n_neurons)
    _set_identities(model, x, n, torch.zeros(len(model.identities.rows)))
    _set_decoder(model, n)
    _set_encoder(model, [torch.from_numpy(one) for one in x], n)


@torch.no_grad()
def identify(model: VAE, dataset: Any, config: Config, n: int, known: Mapping[str, Tensor]) -> None:
    """Set the identities of sessions that a trained model has not seen, from their train frames and nothing else.

    n: the factors that it started from. known: the identities (E,) of neurons that it has seen, by label: they stay,
    and give the axes of the others.
    """
    times = torch.zeros(len(model.identities.rows))
    for session, labels in enumerate(dataset.neurons):
        for row, label in zip(model.identities.of(session).tolist(), labels, strict=True):
            if label in known:
                model.identities.rows[row], times[row] = known[label], torch.inf
    if config.vae.reconstruction != "poisson":
        _set_identities(model, _frames(dataset, config), n, times)


def factors(config: Config, n_neurons: Sequence[int]) -> int:
    """Return how many factors a model of sessions of so many neurons starts from."""
    return min(config.vae.latents, config.vae.identity - 1, config.model.width, *(n - 1 for n in n_neurons))


def _frames(dataset: Any, config: Config) -> list[np.ndarray]:
    """Return train frames (F, N) of every session, evenly spaced where there are many."""
    x = [standardised(r, "train", config.sessions.normalize)[0] for r in dataset.recordings]
    return [one[evenly(len(one), FIT_FRAMES)] for one in x]


def _set_identities(model: VAE, x: list[np.ndarray], n: int, times: Tensor) -> None:
    """Set loadings and log precision of every neuron; times (identities,): how often each was set before."""
    rows = model.identities.rows
    for session, one in enumerate(x):
        of, (loadings, log_precision) = model.identities.of(session), _factors(one, min(n, one.shape[1] - 1))
        loadings = turned(nn.functional.pad(loadings, (0, n - loadings.shape[1])), rows[of, :n], times[of] > 0)
        share = 1.0 / (times[of] + 1.0)  # a neuron of several sessions begins with their mean
        rows[of, :n] = rows[of, :n].lerp(loadings, share[:, None])
        rows[of, n] = rows[of, n].lerp(log_precision, share)
        times[of] += 1


def _check_counts(dataset: Any) -> None:
    for recording in dataset.recordings:
        if (least := float(recording.traces.min())) < 0:
            raise UserError(f"vae.reconstruction=poisson: session {recording.id} has traces down to {least:.4g}, "
                            "counts are not below 0; give deconvolved events, or use another loss")


def _factors(x: np.ndarray, n: int) -> tuple[Tensor, Tensor]:
    """Return loadings (N, D) and the log precision of the noise (N,), of factor analysis."""
    from sklearn.decomposition import FactorAnalysis

    with warnings.catch_warnings(action="ignore"):  # that it did not converge in the last digit
        found = FactorAnalysis(n, random_state=0).fit(x)
    return torch.tensor(found.components_.T).float(), -torch.tensor(found.noise_variance_).clamp_min(1e-3).log().float()


def turned(loadings: Tensor, others: Tensor, known: Tensor) -> Tensor:
    """Return loadings (N, D) turned to the axes on which the known ones of their neurons (N,) have the others (N, D).

    Factors of a session are found up to a turn, which neurons that have an identity already settle (orthogonal
    Procrustes, Schönemann 1966); without any they stay.
    """
    if not known.any():
        return loadings
    u, _, v = torch.linalg.svd(loadings[known].mT @ others[known])
    return loadings @ (u @ v)


def _set_decoder(model: VAE, n: int) -> None:
    for part in (model.readings.loading, model.decoder_linear, model.decoder[-1]):
        _zero(part)
    for i in range(n):
        model.readings.loading.weight[i, i] = model.decoder_linear.weight[i, i] = 1.0
    if model.log_variance is not None:
        _zero(model.log_variance)
        model.log_variance.weight[0, n] = -1.0


def _set_encoder(model: VAE, x: list[Tensor], n: int) -> None:
    """Make the linear path what best tells the factors from the pooled neurons, of which some are hidden in turn."""
    pool, exact = model.pooling, hasattr(model.pooling, "log_precision")
    if exact:
        for part in (pool.loading, pool.log_precision, pool.out):
            _zero(part)
        for i in range(n):
            pool.loading.weight[i, i] = pool.out.weight[i, i] = 1.0
        pool.log_precision.weight[0, n] = 1.0
    if model.behavior_in is not None:
        nn.init.zeros_(model.behavior_in.weight)
    _zero(model.frames)
    _zero(model.frames_linear)
    latents = model.settings.latents
    pooled, factors = (torch.cat(some) for some in zip(*(_told(model, s, one, n) for s, one in enumerate(x))))
    gram = pooled.T @ pooled + RIDGE * len(pooled) * torch.eye(pooled.shape[1])
    model.frames_linear.weight[:n] = torch.linalg.solve(gram, pooled.T @ factors).T
    rest = (factors - pooled @ model.frames_linear.weight[:n].T).var(0) + (1.0 - factors.var(0)).clamp(0.01, 1.0)
    model.frames_linear.bias[latents:latents + n] = rest.clamp(1e-4, 1.0).log()


def _told(model: VAE, session: int, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return pooled neurons (M, C) under each fold of hidden ones, and the factors (M, D) that all of them tell."""
    identity = model.identities(session)
    loadings, precision = identity[:, :n], identity[:, n].exp()
    scaled = loadings * precision[:, None]
    z = torch.linalg.solve(torch.eye(n) + scaled.T @ loadings, scaled.T @ x.T).T
    hidden = [np.zeros(x.shape[1], bool), *folds(x.shape[1])]
    pooled = [model.pooling(x.T[None], identity, torch.from_numpy(~h)[None, :, None].expand(1, *x.T.shape))[0]
              for h in hidden]
    return torch.cat(pooled), z.repeat(len(hidden), 1)


def _zero(part: nn.Linear) -> None:
    for parameter in part.parameters():
        nn.init.zeros_(parameter)
