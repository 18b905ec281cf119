"""Bring a series that runs on a clock of its own onto the frames of a recording."""
from __future__ import annotations

import numpy as np

GAP = 2.5  # steps of the slower clock that two samples may lie apart and still be joined by a line


def on_frames(values: np.ndarray, stamps: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return values (S, ...) stamped at stamps (S,) s at the frames' times (T,) s: (T, ...) float32.

    Faster series are averaged over the frame, slower ones joined by a line, whole numbers and truth values taken
    from the nearest sample; where both clocks agree the samples come back as they are. NaN where no sample lies
    near: before and after the series, and in its gaps (longer than GAP steps of the slower clock).
    Stamps may be in any order and may be NaN (their samples are left out).
    """
    values, stamps = _ordered(np.asarray(values), np.asarray(stamps, np.float64))
    if not len(stamps) or not len(times):
        return np.full((len(times), *values.shape[1:]), np.nan, np.float32)
    own, frame = _step(stamps), _step(times)
    if np.isnan(frame):
        frame = own
    own = frame if np.isnan(own) else own
    if values.dtype.kind == "f" and own < frame / 2:
        return _averaged(values, stamps, times, frame)
    return _joined(values, stamps, times, max(own, frame)).astype(np.float32)


def _ordered(values: np.ndarray, stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = np.isfinite(stamps)
    order = np.argsort(stamps[known], kind="stable")
    return values[known][order], stamps[known][order]


def _step(stamps: np.ndarray) -> float:
    steps = np.diff(stamps)
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else np.nan


def _averaged(values: np.ndarray, stamps: np.ndarray, times: np.ndarray, frame: float) -> np.ndarray:
    """Average the samples within half a frame of each time; NaN samples do not count."""
    start, stop = (np.searchsorted(stamps, times + side * frame / 2) for side in (-1, 1))
    missing = np.isnan(values)
    totals = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(np.where(missing, 0.0, values), axis=0)])
    counts = np.concatenate([np.zeros((1, *values.shape[1:]), int), np.cumsum(~missing, axis=0)])
    count = counts[stop] - counts[start]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, (totals[stop] - totals[start]) / count, np.nan).astype(np.float32)


def _joined(values: np.ndarray, stamps: np.ndarray, times: np.ndarray, step: float) -> np.ndarray:
    after = np.searchsorted(stamps, times).clip(max=len(stamps) - 1)
    before = (after - 1).clip(min=0)
    nearest = np.where(np.abs(stamps[before] - times) <= np.abs(stamps[after] - times), before, after)
    distance = np.abs(stamps[nearest] - times)
    found = values[nearest].astype(np.float64)
    reach = np.expand_dims(distance <= step / 2 * (1 + 1e-9), tuple(range(1, values.ndim)))
    result = np.where(reach, found, np.nan)
    if values.dtype.kind != "f":
        return result
    between = (distance > 1e-3 * step) & (stamps[before] < times) & (times < stamps[after])
    between &= stamps[after] - stamps[before] <= GAP * step
    a, b = before[between], after[between]
    weight = np.expand_dims((times[between] - stamps[a]) / (stamps[b] - stamps[a]), tuple(range(1, values.ndim)))
    result[between] = (1 - weight) * values[a] + weight * values[b]
    return result
