"""Gaussian smoothing that stays inside the runs it is given and never fills in what was not measured."""
from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from raycal.sessions.split import Run

REACH = 4.0  # sd at which the kernel is cut off


def smoothed(values: np.ndarray, missing: np.ndarray | None, runs: Iterable[Run], sd: float) -> np.ndarray:
    """Return values (T, C) smoothed inside each run [start, stop) by a Gaussian of sd frames; a copy, unless sd is 0.

    A frame is the weighted mean of the measured frames of its run: near the borders of a run and beside missing
    values (True in missing (T, C)) the weights of what is there are scaled to 1, so that a constant stays one.
    Missing values and frames outside the runs come back as they are.
    """
    if sd <= 0:
        return values
    result = values.copy()
    for start, stop in runs:
        hole = None if missing is None else missing[start:stop]
        if hole is None or not hole.any():
            weight = _blurred(np.ones((stop - start, 1), values.dtype), sd)
            result[start:stop] = _blurred(values[start:stop], sd) / weight
        else:
            total = _blurred(np.where(hole, values.dtype.type(0), values[start:stop]), sd)
            weight = _blurred((~hole).astype(values.dtype), sd)
            np.divide(total, weight, out=result[start:stop], where=~hole)
    return result


def _blurred(values: np.ndarray, sd: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d

    radius = min(int(REACH * sd + 0.5), len(values) - 1)  # a run may be far shorter than the kernel
    return gaussian_filter1d(values, sd, axis=0, mode="constant", radius=radius)
