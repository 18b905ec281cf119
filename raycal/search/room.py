"""The disk that the checkpoints of a run may take at most, known before its first trial."""
from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from raycal.config import Config
from raycal.search.plan import Plan

SLACK = 2**16  # bytes of a file beside its weights: names, settings, metrics
HISTORY = 2**11  # bytes that the metrics of an epoch take at most


def sentence(plan: Plan, folder: Any, slots: int, trials: int) -> str:
    """Return in a line what checkpoints take at most, and how much the disk of the run folder has left."""
    import ray

    # In a task: building a model takes torch, which the driver does without.
    state, model = ray.get(ray.remote(num_cpus=0)(sizes).remote(*_extremes(plan)))
    bound, kept = total(plan, state, model, slots, trials)
    free = shutil.disk_usage(folder).free
    short = "" if free > bound else f"\nonly {_megabytes(free)} MB are free there: the search will wait when it is full"
    return f"checkpoints take at most {_megabytes(bound)} MB: the last of {slots} running trials, {kept}{short}"


def total(plan: Plan, state: int, model: int, slots: int, trials: int) -> tuple[int, str]:
    """Return (bytes at most, what is kept); a file that is replaced stands beside the new one for a moment.

    state, model: bytes of the checkpoint of a running trial and of a finished model. trials: of the whole run.
    """
    running = slots * (2 * state + model)
    if len(plan.objectives) > 1:
        return running + (2 * trials + 3) * model, "every trial on the Pareto front"
    keep = plan.config.search.keep
    return running + (keep + 3) * model, f"the default and the {keep} best"  # the winner also stands in best/


def sizes(configs: Sequence[Config], n_neurons: Sequence[int], n_behaviors: int) -> tuple[int, int]:
    """Return the bytes of the largest checkpoint and of the largest finished model that these settings make."""
    import torch

    from raycal import models

    found = []
    for config in configs:
        with torch.device("meta"):
            model = models.build(config, n_neurons, n_behaviors)
        weights = sum(t.nbytes for t in model.state_dict().values())
        trained = sum(p.nbytes for p in model.parameters())
        files = SLACK + 2**9 * len(model.state_dict()) + HISTORY * config.training.epochs
        moments = {"sgd": 1}.get(config.optimizer.name, 2)  # of the optimizer, each as large as the weights
        # of a running trial: the last weights, the best ones, the moments, the averaged weights
        found.append((2 * weights + moments * trained + bool(config.optimizer.ema) * weights + 2 * files,
                      weights + files))
    return max(state for state, _ in found), max(model for _, model in found)


def _extremes(plan: Plan) -> tuple[list[Config], list[int], int]:
    sessions, rng = plan.config.sessions, np.random.default_rng(0)
    neurons = [min(s.n_neurons, sessions.neurons or s.n_neurons) for s in plan.sketches]
    if sessions.mode == "pad":
        neurons = [max(neurons)] * len(neurons)
    behaviors = len(plan.agreement.behavior_names) * (4 if sessions.features else 1)
    return [plan.config, *plan.space.extremes(rng)], neurons, behaviors


def _megabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:.3g}" if n_bytes < 1e9 else f"{n_bytes / 1e6:.0f}"
