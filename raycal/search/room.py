"""The disk that the checkpoints of a run may take at most, known before its first trial."""
from __future__ import annotations

import shutil
from typing import Any

from raycal.search.plan import Plan


def sentence(plan: Plan, folder: Any, sizes: tuple[int, int], slots: int, trials: int) -> str:
    """Return in a line what checkpoints take at most, and how much the disk of the run folder has left.

    sizes: bytes of the checkpoint of a running trial and of a finished model; trials: of the whole run.
    """
    bound, kept = total(plan, *sizes, slots, trials)
    free = shutil.disk_usage(folder).free
    short = "" if free > bound else f"\nonly {_megabytes(free)} MB are free there: the search will wait when it is full"
    return f"checkpoints take at most {_megabytes(bound)} MB: the last of {slots} running trials, {kept}{short}"


def total(plan: Plan, state: int, model: int, slots: int, trials: int) -> tuple[int, str]:
    """Return (bytes at most, what is kept); a file that is replaced stands beside the new one for a moment."""
    running = slots * (2 * state + model)
    if len(plan.objectives) > 1:
        return running + (2 * trials + 3) * model, "every trial on the Pareto front"
    keep = plan.config.search.keep
    return running + (keep + 3) * model, f"the default and the {keep} best"  # the winner also stands in best/


def _megabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:.3g}" if n_bytes < 1e9 else f"{n_bytes / 1e6:.0f}"
