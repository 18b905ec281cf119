"""What a probe in a slot says of a run: which corners cannot be trained, how many trials fit, how long it will take."""
from __future__ import annotations

import functools
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raycal.config import Config
from raycal.errors import UserError
from raycal.search import jobs
from raycal.search.corners import corners
from raycal.search.plan import Plan
from raycal.search.study import first_rung

CONTROLLER = 560 * 2**20  # bytes that a slot takes besides its workers, on the head (benchmarks/scale.py)


@dataclass(frozen=True)
class Estimate:
    """Measured by one probe; times leave out the start of the workers."""

    corners: int
    broken: tuple[tuple[str, str], ...]  # (corner, what happened): trials there will fail
    epoch: tuple[float, float, float]  # s of the default, of the fastest and of the slowest corner
    peak: dict[str, int]  # bytes a worker takes at most: "host", "gpu", of the "gpu_has" of its GPU
    disk: tuple[int, int]  # bytes of a running trial's checkpoint and of a finished model, at most
    gpus: float  # of a worker
    slots: int  # trials at a time
    fitting: int  # trials that the memory would hold
    trials: int
    search: tuple[float, float, float]  # s: expected; all stopped at the first look at a quick corner; none, at a slow
    confirm: tuple[int, float]  # trainings, s


def estimate(plan: Plan, cluster, trials: int, trainings: int, say: Callable[[str], None] = print) -> Estimate:
    """Step every corner once in a slot, and derive the rest; raise UserError when the default cannot be trained.

    trials: still to be trained; trainings: of the confirmation after them. cluster.slots shrinks to what fits.
    """
    from raycal.training.probe import probe

    found = corners(plan.space)
    largest = plan.space.extremes(np.random.default_rng(0))
    trainer = functools.partial(probe, corners=[_changed(plan.config, c.config) for c in found],
                                largest=[_changed(plan.config, c) for c in largest])
    payload = {"config": plan.config.flat(), "folder": os.devnull, "trainer": trainer}
    (_, event), = jobs.complete(cluster, [("probe", payload)], say=say)
    if event["kind"] != "epoch":
        raise UserError(f"the probe ended ({event['kind']}), so no trial could be trained\n{event['message']}")
    measured, disk = event["extras"].pop("corners"), event["extras"].pop("disk")
    if "error" in measured[0]:
        raise UserError(f"the default configuration of --space {plan.space.name} cannot be trained: "
                        f"{measured[0]['error']}")
    fitting = cluster.bound(event["extras"]["host"], CONTROLLER)
    broken = tuple((c.name, m["error"]) for c, m in zip(found, measured) if "error" in m)
    seen = [m for c, m in zip(found, measured) if "error" not in m and _admitted(plan, c.config)]
    return Estimate(corners=len(found), broken=broken, peak=event["extras"], disk=tuple(disk), fitting=fitting,
                    gpus=cluster.slots.resources.get("GPU", 0.0),
                    **derived(plan.config, seen, trials, trainings, cluster.slots.count))


def derived(config: Config, measured: Sequence[Mapping[str, float]], trials: int, trainings: int,
            slots: int) -> dict[str, Any]:
    """Return what follows from steps that were measured, the default's first: epoch, slots, trials and times."""
    judging = measured[0]["judging"]
    epochs, whole = [m["step"] * m["steps"] + judging for m in measured], config.training.epochs
    low, _, high = statistics.quantiles(epochs, n=4) if len(epochs) > 1 else epochs * 3
    mean = statistics.fmean(epochs)
    low, high = min(low, mean), max(high, mean)  # a few corners may outweigh the quarters

    def lasting(epochs_each: float, seconds: float) -> float:
        return (epochs[0] * whole + seconds * epochs_each * (trials - 1)) / min(slots, trials) if trials else 0.0

    first, expected = stopped_after(config.search.pruner, whole)
    return {"epoch": (epochs[0], min(epochs), max(epochs)), "slots": slots, "trials": trials,
            "search": (lasting(expected, mean), lasting(first, low), lasting(whole, high)),
            "confirm": (trainings, epochs[0] * whole * math.ceil(trainings / slots))}


def stopped_after(pruner: str, epochs: int) -> tuple[float, float]:
    """Return the epochs of a trial that the first look stops, and those that one trains on average.

    Successive halving lets one in three pass each rung; the median rule, half of the trials at any look.
    """
    first = first_rung(epochs)
    if pruner in ("asha", "hyperband"):
        rungs = [0, *(r for k in range(20) if (r := first * 3**k) < epochs), epochs]
        return first, sum((b - a) / 3**k for k, (a, b) in enumerate(zip(rungs, rungs[1:])))
    if pruner == "median":
        return first, (first + epochs) / 2
    return epochs, epochs


def _changed(base: Config, config: Config) -> dict[str, Any]:
    known = base.flat()
    return {name: value for name, value in config.flat().items() if value != known[name]}


def _admitted(plan: Plan, config: Config) -> bool:
    """Say whether the rate limit lets a configuration train; what it keeps out costs nothing."""
    return config == plan.config or not plan.rate_limit or plan.rate(config) <= plan.rate_limit + 1e-9
