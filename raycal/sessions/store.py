"""Prepared sessions in the Ray object store: put once, shared by every worker of a node without a copy.

The arrays stay numpy: what Ray hands out is read-only, and a tensor made over it could be written
through, which would corrupt every other trial. Batches are gathered into new memory (windows.py).
"""
from __future__ import annotations

import dataclasses
from typing import Any


def put(dataset) -> list:
    """Put a prepared Dataset into the store; keep the returned references as long as it is needed."""
    import ray

    return [ray.put(dataclasses.replace(dataset, recordings=())), *map(ray.put, dataset.recordings)]


def get(refs: list, cache: dict[str, Any]):
    """Return the Dataset behind the references; one worker process maps it once, whatever the number of jobs."""
    import ray

    key = refs[0].hex()
    if key not in cache:
        cache.clear()
        shell, *recordings = ray.get(refs)
        cache[key] = dataclasses.replace(shell, recordings=tuple(recordings))
    return cache[key]
