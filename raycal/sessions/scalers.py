"""Centre and spread of neurons and behaviours, from the frames they are given: those of the train part.

Shapes: T frames, N neurons, K behaviours.
"""
from __future__ import annotations

import numpy as np

SPAN_OF_GAUSSIAN = 3.29  # from the 5th to the 95th percentile of a normal variable, in sd

Scaler = tuple[np.ndarray, np.ndarray]  # center, spread


def scalers(traces: np.ndarray, missing: np.ndarray | None, rows: np.ndarray,
            neurons: np.ndarray) -> dict[str, Scaler]:
    """Return {normalisation: (center, spread)} of `neurons` in float64, from the frames `rows` where measured.

    traces and missing are (T, N). zscore: mean and sd; robust: median and the span of the middle 90 %, in units that
    make a Gaussian's 1; minmax: least value and range; none: 0 and 1. NaN where no frame was measured.
    """
    table = np.full((7, len(neurons)), np.nan)
    for i, n in enumerate(neurons):  # a column at a time: sorting needs a copy, and one column is small
        column = traces[rows, n] if missing is None else traces[rows, n][~missing[rows, n]]
        if len(column):
            column = column.astype(np.float64)
            table[:, i] = column.mean(), column.std(), *np.percentile(column, (0, 5, 50, 95, 100))
    mean, sd, least, low, median, high, most = table
    return {"zscore": (mean, sd), "robust": (median, (high - low) / SPAN_OF_GAUSSIAN),
            "minmax": (least, most - least), "none": (np.zeros(len(neurons)), np.ones(len(neurons)))}


def behavior_scaler(train: np.ndarray) -> Scaler:
    """Return mean and sd of behaviour (T, K) over its observed frames; 0 and 1 for one that is never observed."""
    columns = [c[~np.isnan(c)].astype(np.float64) for c in train.T]
    center = np.array([c.mean() if len(c) else 0.0 for c in columns], np.float64)
    spread = np.array([c.std() if len(c) else 1.0 for c in columns], np.float64)
    return float32(center, spread)


def float32(center: np.ndarray, spread: np.ndarray) -> Scaler:
    """Return a scaler as it is stored and divided by: a spread of 0 becomes 1."""
    spread = spread.astype(np.float32)
    return center.astype(np.float32), np.where(spread > 0, spread, np.float32(1.0))
