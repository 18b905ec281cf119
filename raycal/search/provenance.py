"""What a run says of where it comes from: command, versions, machine, and the split of its recordings."""
from __future__ import annotations

import os
import platform
import shlex
import sys
from typing import Any

from raycal.sessions.split import rate_of

VERSIONED = ("raycal", "torch", "ray", "optuna", "numpy", "scipy", "scikit-learn")


def environment() -> dict[str, Any]:
    """Return the command as it was typed, the versions a number may depend on, and the driver's machine."""
    from importlib import metadata

    versions = {name: metadata.version(name) for name in VERSIONED}
    return {"command": shlex.join(sys.orig_argv), "folder": os.getcwd(),
            "versions": {"python": platform.python_version(), **versions},
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"}


def drawn(plan: Any) -> dict[str, Any]:
    """Return {session id: its frames, rate (Hz), gap (frames) and pieces}: a raycal.search.plan.Plan as a picture."""
    return {s.id: {"frames": s.n_frames, "rate": rate_of(s, plan.config.sessions), "gap": cut.gap,
                   "pieces": {part: [list(run) for run in runs] for part, runs in cut.pieces.items()}}
            for s, cut in zip(plan.sketches, plan.agreement.splits)}
