"""How a generative model is measured: what it draws beside real windows, behaviour in what it draws, its error.

The number of windows, their seeds and the real ones are the same for every model; sampler, evaluations of the network
and guidance are the model's own, for they are searched. Shapes: n windows, N neurons, K behaviours, L frames.
"""
from __future__ import annotations

from typing import Any

import numpy as np
import torch

from raycal.config import Config
from raycal.metrics.blocks import evenly
from raycal.metrics.real_windows import DRAWS, RealWindows, pooled, real_windows
from raycal.models.diffusion import drawing
from raycal.sessions.windows import WindowSampler
from raycal.training.examples import beside

TOLD = 64  # windows that are drawn for held-out behaviour
COPIED = 0.1  # share of copied windows above which a model counts as memorising: classical generators copy none
LEVELS = 8  # times of the held-out error


def measure(model: torch.nn.Module, dataset, config: Config, part: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Return metrics by name, and arrays: "generated", of the first session, as `examples.beside` has it.

    generation, the score: distance from held-out windows over that of real train windows, and its parts
    generation/GROUP; c2st, copied, memorisation as metrics.real_windows has them; memorised: 1 where more than COPIED
    of the windows of some session are copies; behavior_r2 and behavior_r2/NAME: of held-out behaviour, decoded by a
    ridge of real windows from windows that were drawn for it, behavior_r2_real: from the real ones; flow: the
    flow-matching loss on a fixed grid of times and noise, fair between models of one prior; evaluations: of the network
    for each window that is drawn.
    """
    found, decoded, arrays = [], [], {}
    for session, real in enumerate(real_windows(dataset, config.windows.length, part)):
        draws = [_drawn(model, dataset, config, session, real.n, seed=seed) for seed in range(DRAWS)]
        found.append(real.of_draws(draws))
        arrays = arrays or {"generated": beside(dataset.recordings[session], real.held_out, draws[0])}
        if dataset.behavior_names:
            decoded.append(_decoded(model, dataset, config, session, real))
    metrics = pooled(found)
    metrics["memorised"] = float(metrics.get("copied", 0.0) > COPIED)
    sampler = WindowSampler(dataset, config.windows, config.sessions.normalize, next(model.parameters()).device)
    parts = [windows for (windows,), _ in sampler.cover(part)]
    metrics |= {"flow": model.held_out_loss(parts, LEVELS), "evaluations": float(config.diffusion.evaluations)}
    return metrics | _behavior(decoded, dataset.behavior_names), arrays


def _drawn(model: torch.nn.Module, dataset, config: Config, session: int, n: int,
           behavior: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Return n new windows (n, N, L) in train-sd units."""
    given = None if behavior is None else torch.from_numpy(np.ascontiguousarray(behavior))
    x = model.draw(n, config.windows.length, session, given, drawing(config), seed).float().cpu().numpy()
    scalers = dataset.recordings[session].scalers
    (center, spread), (mean, sd) = ([v[:, None] for v in scalers[name]] for name in (config.sessions.normalize,
                                                                                     "zscore"))
    return (x * spread + center - mean) / sd


def _decoded(model: torch.nn.Module, dataset, config: Config, session: int,
             real: RealWindows) -> tuple[np.ndarray, np.ndarray]:
    """Return R2 (K,) of behaviour from windows drawn for it, and from the real windows it is of."""
    rows = evenly(len(real.held_out), TOLD)
    return real.decoded(_drawn(model, dataset, config, session, len(rows), real.behavior[rows]), rows)


def _behavior(decoded: list[tuple[np.ndarray, np.ndarray]], names: tuple[str, ...]) -> dict[str, float]:
    """Return means over sessions, of behaviours that vary in some held-out windows."""
    out: dict[str, float] = {}
    for key, each in zip(("behavior_r2", "behavior_r2_real"), zip(*decoded)):
        told = pooled([{name: float(v) for name, v in zip(names, one)} for one in each])
        out |= {f"{key}/{name}": value for name, value in told.items()}
        if told:
            out[key] = sum(told.values()) / len(told)
    return out
