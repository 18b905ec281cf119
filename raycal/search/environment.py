"""What a number may depend on besides its settings and data: versions and the machine."""
from __future__ import annotations

import importlib.metadata
import platform

PACKAGES = ("raycal", "torch", "numpy", "scipy", "ray", "optuna")


def environment(use_gpu: bool) -> dict[str, str]:
    """Return versions, device and processor; nothing heavy is imported for it."""
    return {**{name: importlib.metadata.version(name) for name in PACKAGES}, "python": platform.python_version(),
            "device": "cuda" if use_gpu else "cpu", "processor": _processor()}


def _processor() -> str:
    """Return the name of the CPU: kernels, and with them last digits, differ between kinds."""
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
