"""How a model with latents is measured: hidden neurons, reconstruction, likelihood, and behaviour decoded from latents.

All of it from traces alone: behaviour is given to neither encoder nor decoder, or it would be decoded from itself; only
cosmoothing_r2_given_behavior is not. What is drawn at random is drawn from fixed seeds.

Shapes: b windows, N neurons, L frames, D latents, S draws from the posterior.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from raycal.config import Config
from raycal.metrics import cosmoothing
from raycal.metrics.baselines import LAGS
from raycal.metrics.decoding import DecodingSums, decoded
from raycal.metrics.reconstruction import ReconstructionSums, mean_r, nmse
from raycal.metrics.ridge import fit_ridge
from raycal.sessions.windows import Part, WindowSampler
from raycal.training.examples import WINDOWS, chosen, ranked

BATCH_VALUES = 1 << 20  # trace values at a time; a few draws of each are in memory at once
DRAWS = 64  # from the posterior, of the bound on the likelihood
ACTIVE = 0.01  # variance of a latent's posterior mean from which it counts (arXiv 1509.00519, appendix C)
LEAST_NOISE = 1e-4  # variance of z-scored traces


def measure(model: torch.nn.Module, dataset, config: Config, part: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Return metrics by name, and arrays: "kl" (D,) in nats a frame, "latents" of the train part, "examples", "hidden".

    latents: "mean" and "sd" (D,) of the aggregate posterior, draws of all frames pooled; "moved" (D,) the variance of
    its mean from frame to frame. hidden: windows of neurons from the best predicted of the others to the worst, their
    R2 as "scores", and "r2", that of all neurons (N,), a session each.

    cosmoothing_r2: R2 of neurons that are hidden fold by fold, from the others; cosmoothing_r2_given_behavior: with
    behaviour besides; nmse, r: of all neurons, seen; rate, distortion, elbo (their negative sum), iwae (a tighter
    bound, of 64 draws): nats a frame of z-scored traces, under one likelihood whatever was trained with, a Gaussian
    whose variances are the squared errors on train; active_units: latents whose mean varies; behavior_r2: of ridge on
    the latents of +-5 frames, fitted on train.
    """
    return _Judge(model, dataset, config, part).found()


class _Session(NamedTuple):
    """What the posterior says of a session's part, frame by frame in time (F frames)."""

    mean: np.ndarray  # (F, D)
    variance: np.ndarray  # (F, D)
    kl: np.ndarray  # (F, D) nats
    errors: np.ndarray  # (N,) mean squared error of one draw's reconstruction, z-scored


class _Judge:
    def __init__(self, model: torch.nn.Module, dataset, config: Config, part: str):
        self._model, self._dataset, self._normalize, self._part = model, dataset, config.sessions.normalize, part
        self._device = next(model.parameters()).device
        self._sampler = WindowSampler(dataset, config.windows, self._normalize, self._device)
        self._batch = max(1, min(256, BATCH_VALUES // (config.windows.length * max(*dataset.n_neurons, 64))))
        self._gain = [torch.tensor(r.scalers[self._normalize][1] / r.scalers["zscore"][1], device=self._device)
                      for r in dataset.recordings]  # what makes errors those of z-scored traces

    def found(self) -> tuple[dict[str, float], dict[str, Any]]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            train, here = self._told("train"), self._told(self._part)
            bounds = self._bounds([s.errors for s in train])
        mean, kl = (np.concatenate(some) for some in zip(*((s.mean, s.kl) for s in here)))
        active, rate, (sums, examples) = mean.var(0) > ACTIVE, float(kl.sum(1).mean()), self._reconstructed()
        cosmoothing_r2, hidden = self._cosmoothing(given=False)
        metrics = {"cosmoothing_r2": cosmoothing_r2, "nmse": nmse(sums), "r": mean_r(sums),
                   "rate": rate, "distortion": bounds[0], "elbo": -rate - bounds[0], "iwae": bounds[1],
                   "active_units": float(active.sum()), "active_share": float(active.mean()),
                   **self._decoded(train, here)}
        if self._model.n_behaviors:
            metrics["cosmoothing_r2_given_behavior"] = self._cosmoothing(given=True)[0]
        return metrics, {"kl": kl.mean(0), "latents": _aggregate(train), "examples": examples, "hidden": hidden}

    def _windows(self, part: str) -> Iterator[tuple[Part, Tensor]]:
        for (windows,), keep in self._sampler.cover(part, self._batch):
            yield windows, keep

    def _posterior(self, windows: Part):
        return self._model.posterior(windows.traces, windows.session, windows.valid)

    def _reconstructed(self) -> tuple[list[ReconstructionSums], dict[str, Any]]:
        sums, examples = self._sums(), {}
        for windows, keep in self._windows(self._part):
            said = self._model.decode(self._posterior(windows).mean, windows.session)
            self._add(sums, windows, said, keep)
            examples = examples or chosen(self._dataset.recordings[windows.session], _numpy(windows.traces),
                                          _numpy(said))
        return sums, examples

    def _cosmoothing(self, given: bool) -> tuple[float, dict[str, Any]]:
        """Return the R2 of hidden neurons, and what is to be drawn of them; given: the model is told the behaviour."""
        sums, first = self._sums(), ()
        for windows, keep in self._windows(self._part):
            said, behavior = torch.empty_like(windows.traces), windows.behavior if given else None
            for hidden in cosmoothing.folds(windows.traces.shape[1]):
                hidden = torch.from_numpy(hidden).to(self._device)
                seen = (~hidden)[:, None].expand_as(windows.traces)
                seen = seen if windows.valid is None else seen & windows.valid
                z = self._model.encode(windows.traces, windows.session, seen, behavior)
                said[:, hidden] = self._model.decode(z, windows.session, behavior)[:, hidden].to(said)
            self._add(sums, windows, said, keep)
            first = first or (windows.session, _numpy(windows.traces[:WINDOWS]), _numpy(said[:WINDOWS]))
        each, (session, target, prediction) = [1.0 - s.neuron_nmse for s in sums], first
        shown = ranked(self._dataset.recordings[session], target, prediction, each[session])
        return cosmoothing.r2(sums), {**shown, "r2": [r2.astype(np.float32) for r2 in each]}

    def _told(self, part: str) -> list[_Session]:
        """Return what the posteriors of a part say, session by session."""
        found: list[list[tuple[np.ndarray, ...]]] = [[] for _ in self._dataset.recordings]
        for windows, keep in self._windows(part):
            q = self._posterior(windows)
            error = self._error(windows, self._model.decode(q.sample(), windows.session)).square()
            counted = keep[:, None] if windows.valid is None else keep[:, None] & windows.valid
            found[windows.session].append((*(_numpy(x)[_numpy(keep)] for x in (q.mean, q.variance, q.kl())), np.stack(
                (_numpy((error * counted).double().sum((0, 2))), _numpy(counted.expand_as(error).sum((0, 2)))), 1)))
        told = []
        for batches in found:
            *frames, errors = zip(*batches)
            total, count = sum(errors).T
            told.append(_Session(*map(np.concatenate, frames), total / np.maximum(count, 1)))
        return told

    def _bounds(self, noise: list[np.ndarray]) -> tuple[float, float]:
        """Return the distortion and the importance-weighted bound (arXiv 1509.00519), nats a frame; noise: variances.

        Decoding is frame by frame and the prior independent, so that the bound is one of each frame, and of whole
        windows only where they have latents of their own.
        """
        distortion, bound, frames = 0.0, 0.0, 0
        for windows, keep in self._windows(self._part):
            variance = torch.tensor(noise[windows.session], device=self._device).float().clamp_min(LEAST_NOISE)[:, None]
            q, logs, ratios = self._posterior(windows), [], []
            for z, ratio in (q.drawn() for _ in range(DRAWS)):
                error = self._error(windows, self._model.decode(z, windows.session))
                log = -0.5 * (error.square() / variance + (2 * math.pi * variance).log())
                logs.append((log if windows.valid is None else log * windows.valid).sum(1))
                ratios.append(ratio)
            log, ratio = torch.stack(logs).double(), torch.stack(ratios).double()  # (S, b, L)
            weight = log + ratio
            if q.window.mean.shape[-1]:
                length = weight.shape[2]
                each = ((weight.sum(2).logsumexp(0) - math.log(DRAWS)) / length)[:, None].expand(-1, length)
            else:
                each = weight.logsumexp(0) - math.log(DRAWS)
            distortion -= float(log.mean(0)[keep].sum())
            bound += float(each[keep].sum())
            frames += int(keep.sum())
        return distortion / frames, bound / frames

    def _decoded(self, train: list[_Session], here: list[_Session]) -> dict[str, float]:
        """Return R2 of behaviour that ridge decodes from the latents, fitted on train."""
        sums = []
        for recording, fitted, told in zip(self._dataset.recordings, train, here):
            y = (recording.behavior - recording.behavior_center) / recording.behavior_spread
            latents = np.zeros((len(y), told.mean.shape[1]), np.float32)
            rows = {name: np.concatenate([np.arange(a, b) for a, b in recording.pieces[name]])
                    for name in ("train", self._part)}
            latents[rows["train"]] = fitted.mean
            latents[rows[self._part]] = told.mean
            ridge = fit_ridge(latents, y, recording.pieces["train"], LAGS, gap=recording.gap)
            said = ridge.predict(latents, recording.pieces[self._part])
            sums.append(DecodingSums(y.shape[1]))
            sums[-1].add_rows(y[rows[self._part]], said[rows[self._part]])
        return decoded(sums, self._dataset.behavior_names) if self._dataset.behavior_names else {}

    def _sums(self) -> list[ReconstructionSums]:
        return [ReconstructionSums.of(r, self._normalize) for r in self._dataset.recordings]

    def _error(self, windows: Part, said: Tensor) -> Tensor:
        """Return the error (b, N, L) in train sd."""
        return (windows.traces - said.float()) * self._gain[windows.session][:, None]

    @staticmethod
    def _add(sums: list[ReconstructionSums], windows: Part, said: Tensor, keep: Tensor) -> None:
        valid = None if windows.valid is None else _numpy(windows.valid)
        sums[windows.session].add(_numpy(windows.traces), _numpy(said), _numpy(keep), valid)


def _aggregate(told: list[_Session]) -> dict[str, np.ndarray]:
    """Return mean and sd (D,) of draws from the posteriors of all frames pooled, and how their mean moves."""
    mean, variance = (np.concatenate(some) for some in zip(*((s.mean, s.variance) for s in told)))
    moved = mean.var(0)
    return {"mean": mean.mean(0), "sd": np.sqrt(moved + variance.mean(0)), "moved": moved}


def _numpy(x: Tensor) -> np.ndarray:
    return (x.float() if x.is_floating_point() and x.dtype != torch.float64 else x).cpu().numpy()
