"""A probe: one step of training at each of many configurations, to know what they cost and which cannot be trained."""
from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from raycal.config import Config
from raycal.errors import UserError
from raycal.training import checkpoint, distributed
from raycal.training.loop import Epoch, Run


def probe(config: Config, dataset, *, corners: Sequence[Mapping[str, Any]], largest: Sequence[Mapping[str, Any]] = (),
          resume=None, rank: int = 0, world: int = 1, save=None) -> Iterator[Epoch]:
    """A trainer as slots take it; its one epoch holds, as extras, "corners" (see `_stepped`), "disk" and peak_memory().

    The first corner alone starts as a training does, and is judged on the validation part. "disk" is what a checkpoint
    and a finished model take at most, in bytes, among the corners and what is `largest`.
    """
    found = []
    for values in corners:
        try:
            found.append(_stepped(config.replace(values), dataset, rank, world, whole=not found))
        except Exception as e:
            if "CUDA error" in str(e):  # the context is broken: no later corner would work
                raise
            found.append({"error": f"{type(e).__name__}: {e}".splitlines()[0]})
    extras = {"corners": found, "disk": _disk(config, [*corners, *largest], dataset), **peak_memory()}
    yield Epoch(1, {}, math.nan, 0, math.nan, True, "epochs", extras)


def _disk(config: Config, changes: Sequence[Mapping[str, Any]], dataset) -> tuple[int, int]:
    sizes = [(0, 0)]
    for values in changes:
        with contextlib.suppress(UserError):  # said where it is stepped
            sizes.append(checkpoint.size(config.replace(values), dataset.n_neurons, len(dataset.behavior_names)))
    states, exports = zip(*sizes)
    return max(states), max(exports)


def _stepped(config: Config, dataset, rank: int, world: int, whole: bool) -> dict[str, float]:
    """Return "step" and "judging" (s), and the "steps" of an epoch.

    The first step, which starts codebooks, is not timed where an epoch has another.
    """
    run, seconds = Run(config, dataset, None, rank, world, {}, begun=whole), math.nan
    loss = distributed.parallel(run.trained, world, len(dataset.n_neurons), run.shards)
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time  # others may keep the cores busy
    run.seed(0)
    run.trained.train()
    for _, batches in itertools.islice(run.steps(0), 2):
        began = clock()
        run.update(loss, batches, 0.0)
        seconds = _since(began, clock)
    began = clock()
    if whole:
        distributed.from_first(run.measure, rank, world)
    return {"step": seconds, "steps": run.n_steps / config.training.epochs,
            "judging": _since(began, clock) if whole else math.nan}


def _since(began: float, clock) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - began


def peak_memory() -> dict[str, int]:
    """Return bytes: the most that this process has taken so far, "host", and on its GPU, "gpu", of "gpu_has"."""
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "gpu": 0, "gpu_has": 0}
    if torch.cuda.is_available():
        peak |= {"gpu": torch.cuda.max_memory_reserved(), "gpu_has": torch.cuda.mem_get_info()[1]}
    return peak
