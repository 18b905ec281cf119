"""The search: slots of Ray Train workers, the Optuna study as the one record, Tune between them.

`raycal.search(space, sessions, ...)` runs one: see raycal.api.search.
"""
from __future__ import annotations

import sys
import types
from typing import Any


class _Search(types.ModuleType):
    """Importing a module of this room binds `raycal.search` to the room, so the room answers calls of the verb."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        from raycal.api import search

        return search(*args, **kwargs)


sys.modules[__name__].__class__ = _Search
