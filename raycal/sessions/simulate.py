"""A recording whose ground truth is known: latents drive behaviour and rates, rates spikes, spikes calcium.

    simulation = simulate(n_neurons=60, seed=1)
    simulation.session, simulation.ceiling["running"]

visual.py has a second world, of gratings and movies; what both need is here without an underscore.
Shapes: T frames, N neurons, L latents, S sources (what drives the neurons), K behaviours.
"""
from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raycal.errors import UserError
from raycal.sessions.session import MIN_FRAMES, MIN_NEURONS, Session

SMOOTH = (0.5, 1.5)  # s, sd of the Gaussian that smooths a latent: forgotten within the 8 s gap of a split
DWELL = 3.0  # s a stimulus level lasts
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
SPEED, SPEED_NOISE = 12.0, 1.0  # cm/s: running at a latent of 1, and the sd of what the wheel adds
RATE, RATE_SPREAD, GAIN = 10.0, 0.4, 0.8  # median spikes/s (high: shared dynamics outweigh spiking noise), log spreads
RISE, DECAY = 0.05, 0.6  # s, double exponential like GCaMP6f in vivo (Chen et al. 2013, doi 10.1038/nature12354)
SETTLE = 5.0  # s simulated and thrown away, so that calcium starts in its steady state


@dataclass(frozen=True, eq=False)
class Simulation:
    """A simulated session with everything it was made from.

    ceiling holds, for each behaviour, the R2 of the best linear readout of the true log rates of all neurons at
    the same frame, times the share of the behaviour that is not sensor noise. It is computed from the
    loadings and the covariance of what drives them, not fitted. At coupling 1 and with at least as many
    neurons as sources it is the bound that no decoder passes; decoders of calcium, which sees rates through
    spikes, decay and noise, stay below. At coupling 0 it is 0.
    """

    session: Session
    latents: np.ndarray  # (T, L) mean 0, sd 1
    spikes: np.ndarray  # (T, N) counts a frame
    rates: np.ndarray  # (T, N) spikes/s
    clean: np.ndarray  # (T, N) dF/F before noise
    behavior_clean: np.ndarray  # (T, K) behaviours before sensor noise
    ceiling: dict[str, float]


def simulate(n_neurons: int = 60, n_frames: int = 6000, rate: float = 10.0, n_latents: int = 6, coupling: float = 1.0,
             noise: float = 0.3, seed: int = 0, id: str | None = None,
             population: int | None = None) -> Simulation:
    """Simulate one session; the same arguments give the same numbers.

    rate: frames/s. coupling: share of the variance of every log rate that latents and behaviour drive, the rest is
    private to the neuron. noise: sd of the fluorescence noise as a share of the sd of the clean trace; its
    variance grows with the signal. population: seed of what sources weigh in each neuron, so that sessions of one
    population share their first neurons, and their labels; None: that of the session. Raise UserError when a number is out of range.
    """
    check_ranges("simulate", n_neurons, n_frames, rate, n_latents, coupling, noise)
    rng = np.random.default_rng(seed)
    skip = math.ceil(SETTLE * rate)
    total = n_frames + skip
    latents = smooth_noise(rng, total, np.geomspace(*SMOOTH, n_latents) * rate)
    clean_behavior = np.stack([SPEED * np.maximum(latents[:, -1], 0.0), _stimulus(rng, total, rate)], axis=1)
    sources = standardised(np.hstack([latents, clean_behavior]))
    loadings = draw_loadings(rng, sources, n_neurons) if population is None else _scaled(
        np.random.default_rng(population).standard_normal((n_neurons, sources.shape[1])).T, sources)
    rates, spikes, clean = activity(rng, sources @ loadings, coupling, rate)
    clean = clean[skip:]
    behavior = clean_behavior + SPEED_NOISE * rng.standard_normal((total, 1)) * (1.0, 0.0)
    behavior[:, 0] = np.maximum(behavior[:, 0], 0.0)
    kept = {"latents": latents[skip:], "spikes": spikes[skip:], "rates": rates[skip:], "clean": clean,
            "behavior_clean": clean_behavior[skip:]}
    session = Session.build(
        id=id or f"simulated-{seed}", traces=with_noise(rng, clean, noise), rate=rate, behavior=behavior[skip:],
        behavior_names=("running", "stimulus"), behavior_units=("cm/s", ""), unit="dF/F",
        neurons=[f"cell {k} of {seed if population is None else population}" for k in range(n_neurons)],
        metadata={"latents": n_latents, "coupling": coupling, "noise": noise, "seed": seed},
        source=f"simulated by raycal, seed {seed}")
    ceiling = linear_ceiling(sources, loadings, coupling, clean_behavior[skip:], behavior[skip:])
    return Simulation(session=session, ceiling=dict(zip(session.behavior_names, ceiling)), **kept)


def write(folder: str | os.PathLike, sizes: Sequence[tuple[int, int]], seed: int = 0) -> dict[str, dict]:
    """Write an .npz a size (neurons, frames) with seeds seed, seed + 1, ...; return what goes into its ceilings.json.

    That is, for each id: the ceilings as in Simulation, and the "seed", "cells" and "frames" that make it again.
    """
    from raycal.sessions.readers import npz

    folder = pathlib.Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"{folder}: cannot be made ({e.strerror or e}); give a folder that you may write to") from None
    ceilings = {}
    for k, (n_neurons, n_frames) in enumerate(sizes):
        simulation = simulate(n_neurons, n_frames, seed=seed + k)
        npz.write(simulation.session, folder / f"{simulation.session.id}.npz")
        ceilings[simulation.session.id] = {**simulation.ceiling, "seed": seed + k, "cells": n_neurons,
                                           "frames": n_frames}
    (folder / "ceilings.json").write_text(json.dumps(ceilings, indent=1))
    return ceilings


def check_ranges(world: str, n_neurons: int, n_frames: int, rate: float, n_latents: int, coupling: float,
                 noise: float) -> None:
    for name, value, fits, wanted in (
            ("n_neurons", n_neurons, n_neurons >= MIN_NEURONS, f"at least {MIN_NEURONS}"),
            ("n_frames", n_frames, n_frames >= MIN_FRAMES, f"at least {MIN_FRAMES}"),
            ("rate", rate, 0 < rate < math.inf, "a number of frames/s above 0"),
            ("n_latents", n_latents, n_latents >= 1, "at least 1"),
            ("coupling", coupling, 0 <= coupling <= 1, "from 0 to 1"),
            ("noise", noise, 0 <= noise < math.inf, "0 or more")):
        if not fits:
            raise UserError(f"{world}: {name}={value}: must be {wanted}")


def smooth_noise(rng: np.random.Generator, n_frames: int, widths: np.ndarray) -> np.ndarray:
    """Return (T, len(widths)) Gaussian processes, mean 0 and sd 1, each smoothed over its width (sd, frames)."""
    from scipy.ndimage import gaussian_filter1d

    white = rng.standard_normal((n_frames, len(widths)))
    return standardised(np.stack([gaussian_filter1d(column, width, mode="wrap")
                                  for column, width in zip(white.T, widths)], axis=1))


def _stimulus(rng: np.random.Generator, n_frames: int, rate: float) -> np.ndarray:
    """Return (T,) a level, such as a contrast, drawn anew every DWELL seconds."""
    dwell = max(1, round(DWELL * rate))
    return np.repeat(rng.choice(LEVELS, n_frames // dwell + 1), dwell)[:n_frames]


def standardised(columns: np.ndarray) -> np.ndarray:
    centred = columns - columns.mean(axis=0)
    spread = centred.std(axis=0)
    return centred / np.where(spread > 1e-9, spread, 1.0)  # a mouse that never runs drives nothing


def draw_loadings(rng: np.random.Generator, sources: np.ndarray, n_neurons: int,
                  strength: np.ndarray | float = 1.0) -> np.ndarray:
    """Return (S, N) weights of sd strength (one, or one a source), scaled so that each drive has variance 1."""
    return _scaled(rng.standard_normal((sources.shape[1], n_neurons)) * np.reshape(strength, (-1, 1)), sources)


def _scaled(weights: np.ndarray, sources: np.ndarray) -> np.ndarray:
    variance = np.einsum("sn,st,tn->n", weights, np.cov(sources.T, bias=True), weights)
    return weights / np.sqrt(np.maximum(variance, 1e-12))


def activity(rng: np.random.Generator, drive: np.ndarray, coupling: float, rate: float,
             median: float = RATE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (T, N) rates (spikes/s), spike counts and dF/F of neurons that follow a drive (T, N) of variance 1."""
    log_rates = _log_rates(rng, drive, coupling, rate)
    rates = np.exp(GAIN * log_rates + np.log(median) + RATE_SPREAD * rng.standard_normal(drive.shape[1]) - GAIN**2 / 2)
    spikes = rng.poisson(rates / rate)
    return rates, spikes, _calcium(rng, spikes, rate)


def _log_rates(rng: np.random.Generator, shared: np.ndarray, coupling: float, rate: float) -> np.ndarray:
    """Return (T, N) of variance 1: the shared drive, and a private one as slow, mixed by variance."""
    if coupling == 1.0:
        return shared
    private = smooth_noise(rng, len(shared), np.full(shared.shape[1], SMOOTH[0] * rate))
    return math.sqrt(coupling) * shared + math.sqrt(1.0 - coupling) * private


def _calcium(rng: np.random.Generator, spikes: np.ndarray, rate: float) -> np.ndarray:
    """Return (T, N) dF/F: every spike adds a double exponential that peaks at the neuron's amplitude."""
    from scipy.signal import lfilter

    slow, fast = math.exp(-1.0 / (DECAY * rate)), math.exp(-1.0 / (RISE * rate))
    peak_time = math.log(DECAY / RISE) * DECAY * RISE / (DECAY - RISE)
    peak = math.exp(-peak_time / DECAY) - math.exp(-peak_time / RISE)
    # exp(-t/DECAY) - exp(-t/RISE) sampled at frames has this z-transform: one exact recursion, no long kernel
    clean = lfilter([0.0, slow - fast], [1.0, -(slow + fast), slow * fast], spikes, axis=0)
    return clean * (rng.uniform(0.05, 0.2, spikes.shape[1]) / peak)


def with_noise(rng: np.random.Generator, clean: np.ndarray, noise: float) -> np.ndarray:
    """Add noise whose variance is half constant and half grows with the signal, like photon shot noise."""
    mean = np.maximum(clean.mean(axis=0), 1e-12)
    scale = noise * clean.std(axis=0) * np.sqrt(0.5 + 0.5 * np.maximum(clean, 0.0) / mean)
    return (clean + scale * rng.standard_normal(clean.shape)).astype(np.float32)


def linear_ceiling(sources: np.ndarray, loadings: np.ndarray, coupling: float, clean: np.ndarray,
                   observed: np.ndarray) -> list[float]:
    """Return for each behaviour (the last K sources) the linear R2 from log rates times the noise-free share.

    sources (T', S), loadings (S, N), clean and observed (T, K): the behaviours before and after sensor noise.
    """
    covariance = np.cov(sources.T, bias=True)
    shared = math.sqrt(coupling) * loadings.T @ covariance  # (N, sources): covariance of log rates and sources
    log_rates = coupling * loadings.T @ covariance @ loadings + (1.0 - coupling) * np.eye(loadings.shape[1])
    explained = np.einsum("ns,ns->s", shared, np.linalg.pinv(log_rates, hermitian=True) @ shared)
    r2 = np.clip(explained[-clean.shape[1]:], 0.0, 1.0)
    residual = np.mean((observed - clean) ** 2, axis=0)
    variance = observed.var(axis=0)
    return [float(r * max(0.0, 1.0 - e / v)) if v > 0 else 0.0 for r, e, v in zip(r2, residual, variance)]
