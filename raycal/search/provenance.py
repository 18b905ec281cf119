"""What a run says of where it comes from: command, versions, machine, and the split of its recordings."""
from __future__ import annotations

import os
import platform
import shlex
import sys
from typing import Any

from optuna.trial import TrialState

from raycal.sessions.remote import without_secrets
from raycal.sessions.split import rate_of

ENVIRONMENTS = "environments"
VERSIONED = ("raycal", "torch", "ray", "optuna", "numpy", "scipy", "scikit-learn")


def environment() -> dict[str, Any]:
    """Return the command as it was typed, the versions a number may depend on, and the driver's machine."""
    return {"command": without_secrets(shlex.join(sys.orig_argv)), "folder": os.getcwd(), "versions": versions(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"}


def versions() -> dict[str, str]:
    """Return the versions that a number may depend on; nothing heavy is imported for it."""
    from importlib import metadata

    return {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONED}}


def surroundings(use_gpu: bool) -> dict[str, str]:
    """Return what the bits of a training may depend on besides its settings and data."""
    return {**versions(), "device": "cuda" if use_gpu else "cpu", "processor": _processor()}


def note(study: Any, slots: Any) -> None:
    """Record what the next trials are trained with, and in how many slots: with several, TPE proposes by the order
    results came in."""
    study.set_user_attr("slots", [*study.user_attrs.get("slots", []), slots.count])
    known, here = study.user_attrs.get(ENVIRONMENTS, []), surroundings(slots.use_gpu)
    if not known or known[-1]["environment"] != here:
        begun = [t for t in study.get_trials(deepcopy=False) if t.state != TrialState.WAITING or t.intermediate_values]
        study.set_user_attr(ENVIRONMENTS, [*known, {"from_trial": len(begun), "environment": here}])


def of_trial(study: Any, number: int) -> dict[str, str]:
    """Return the surroundings that a trial was trained in; {} where they were not recorded."""
    return next((known["environment"] for known in reversed(study.user_attrs.get(ENVIRONMENTS, []))
                 if known["from_trial"] <= number), {})


def _processor() -> str:
    """Return the name of the CPU: kernels, and with them last digits, differ between kinds."""
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def drawn(plan: Any) -> dict[str, Any]:
    """Return {session id: its frames, rate (Hz), gap (frames) and pieces}: a raycal.search.plan.Plan as a picture."""
    return {s.id: {"frames": s.n_frames, "rate": rate_of(s, plan.config.sessions), "gap": cut.gap,
                   "pieces": {part: [list(run) for run in runs] for part, runs in cut.pieces.items()}}
            for s, cut in zip(plan.sketches, plan.agreement.splits)}
