"""raycal finds, confirms and delivers the best model of a calcium recording.

    python run_search.py --space grvq --sessions 'worms/*.h5'

The same in Python: `read`, `simulate`, `train`, `search`, `load`. Importing raycal loads no framework.
"""
from __future__ import annotations

import importlib

__version__ = "0.1.0"

_HOMES = {"read": "raycal.sessions.readers", "simulate": "raycal.sessions.simulate", "train": "raycal.api",
          "load": "raycal.inference", "Config": "raycal.config",
          "UserError": "raycal.errors", "Session": "raycal.sessions.session"}
__all__ = sorted([*_HOMES, "search"])


def __getattr__(name: str):
    if name == "search":
        return importlib.import_module("raycal.search")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'raycal' has no attribute {name!r}")
