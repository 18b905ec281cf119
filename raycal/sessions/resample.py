"""Bring a session to another frame rate, and what a model says of it back to the session's own frames.

Shapes: T frames of the session, F new frames, N neurons, K behaviours.
"""
from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from raycal import config
from raycal.errors import UserError
from raycal.sessions.clock import GAP
from raycal.sessions.session import MIN_FRAMES
from raycal.sessions.split import Run, rate_of
from raycal.sessions.stimulus import Stimulus

SAME = 1e-6  # relative difference of rates that counts as none
BLOCK = 64  # columns at a time in float64
FASTEST = 10.0  # times its own rate that a session may be brought to: more frames hold nothing more


@dataclass(frozen=True, eq=False)
class Grid:
    """Which frames of a session each new frame is made of."""

    times: np.ndarray  # (F,) s
    runs: tuple[tuple[Run, Run], ...]  # [start, stop) of the session's frames and of the new ones made of them
    first: np.ndarray  # (F,) int, a new frame is made of the frames first to last
    last: np.ndarray  # (F,) int
    weight: np.ndarray  # (F,) of `last` where the two are joined by a line; NaN: the mean of all from first to last

    @property
    def segments(self) -> tuple[Run, ...]:
        """The runs of new frames."""
        return tuple(new for _, new in self.runs)


def conditioned(session, settings: config.Sessions):
    """Return the session at the rate of sessions.resample, the session itself where none is asked for.

    Raise UserError where neither the session nor sessions.rate states the rate it has.
    """
    return resample(paced(session, rate_of(session, settings)), settings.resample) if settings.resample else session


def paced(session, rate: float):
    """Return a session that states no rate as one of `rate` Hz, whose times so far are frame numbers."""
    if math.isfinite(session.rate):
        return session
    return dataclasses.replace(session, rate=rate, times=np.arange(session.n_frames) / rate)


def resample(session, rate: float):
    """Return a Session of `rate` Hz; the session itself where it has that rate already.

    Down, a new frame is the mean over the frames whose time lies in its 1/rate s, which also keeps what is too fast
    for the new rate from coming back as something slow; up, neighbours are joined by a line. Frames are counted from
    the beginning of each segment, none is made of frames of two, and a rest shorter than a new frame is left out, as
    are frames outside segments. Where nothing was recorded for longer than GAP steps of the slower clock a segment
    ends. NaN and frames not measured do not count in means and make lines NaN.
    Behaviours follow the same way: means of codes (0, 1, 2) are fractions, as nothing says that numbers are codes;
    stimuli, which may hold codes, keep their values, and their frames follow the times. A new frame is in a part of
    the file's own split when all its frames are.
    Raise UserError where the rate is unknown, and where too few or senselessly many frames would be left.
    """
    grid = grid_of(session, rate)
    if grid is None:
        return session
    if len(grid.times) < MIN_FRAMES:
        raise UserError(f"session {session.id}: sessions.resample={rate:g} Hz leaves {len(grid.times)} of "
                        f"{session.n_frames} frames; at least {MIN_FRAMES} are needed: raise it, or leave the "
                        "session out")
    weights = _weights(grid, session.n_frames)
    missing = np.isnan(session.traces)
    if session.valid is not None:
        missing |= ~session.valid
    valid = None if session.valid is None else ~_missing(~session.valid, grid, weights)
    moved = _edges(session, grid)
    return dataclasses.replace(
        session, rate=float(rate), times=_frozen(grid.times), traces=_values(session.traces, missing, grid, weights),
        behavior=_values(session.behavior, np.isnan(session.behavior), grid, weights),
        valid=None if valid is None else _frozen(valid), segments=grid.segments,
        masks={part: _frozen(weights @ (~mask).astype(np.float32) == 0) for part, mask in session.masks.items()},
        stimuli=tuple(Stimulus(s.name, moved[s.frames], s.columns) for s in session.stimuli))


def restored(values: np.ndarray, grid: Grid | None, session) -> np.ndarray:
    """Return values (F, C) of new frames at the session's own frames, (T, C): joined by lines inside each run.

    Before the first and after the last new frame of a run its value holds; NaN outside the runs.
    """
    if grid is None:
        return values
    result = np.full((session.n_frames, values.shape[1]), np.nan, values.dtype)
    for (start, stop), (first, last) in grid.runs:
        before, after, weight = _line(grid.times[first:last], session.times[start:stop])
        weight = weight.astype(values.dtype)[:, None]
        result[start:stop] = (1 - weight) * values[first + before] + weight * values[first + after]
    return result


def grid_of(session, rate: float) -> Grid | None:
    """Return how the session's frames become those of `rate` Hz; None where it has that rate already."""
    if not math.isfinite(session.rate):
        raise UserError(f"session {session.id} states no sampling rate, so it cannot be resampled; give it with "
                        "--set sessions.rate=HZ")
    if abs(rate / session.rate - 1) < SAME:
        return None
    if rate > FASTEST * session.rate:
        raise UserError(f"session {session.id}: sessions.resample={rate:g} Hz is more than {FASTEST:g} times its own "
                        f"{session.rate:g} Hz, and the added frames would hold nothing new; lower it")
    cut = _binned if rate < session.rate else _interpolated
    parts, runs, count = [], [], 0
    for start, stop in _unbroken(session, rate):
        times, first, last, weight = cut(session.times[start:stop], session.rate, rate)
        if len(times):
            parts.append((times, start + first, start + last, weight))
            runs.append(((start, stop), (count, count + len(times))))
            count += len(times)
    columns = (np.concatenate(column) for column in zip(*parts)) if parts else [np.empty(0, int)] * 4
    times, first, last, weight = columns
    return Grid(times, tuple(runs), first, last, weight)


def _unbroken(session, rate: float) -> list[Run]:
    """Return the segments, cut where nothing was recorded for longer than GAP steps of the slower clock."""
    longest, runs = GAP / min(rate, session.rate), []
    for start, stop in session.segments:
        edges = start + 1 + np.flatnonzero(np.diff(session.times[start:stop]) > longest)
        edges = [start, *edges.tolist(), stop]
        runs += list(zip(edges, edges[1:]))
    return runs


def _binned(times: np.ndarray, rate: float, new: float) -> tuple[np.ndarray, ...]:
    """Return times, first, last, weight of the whole bins of 1/new s that begin half a frame before the first time."""
    begin, tolerance = times[0] - 0.5 / rate, 1e-6  # of a bin: a time on an edge belongs to the bin that begins there
    bins = np.floor((times - begin) * new + tolerance).astype(np.int64)
    numbers = np.arange(math.floor((times[-1] + 0.5 / rate - begin) * new + tolerance))
    centers = begin + (numbers + 0.5) / new
    first, last = np.searchsorted(bins, numbers), np.searchsorted(bins, numbers, side="right") - 1
    before, after, weight = _line(times, centers)
    empty = last < first  # a frame came late: its neighbours are joined
    return centers, np.where(empty, before, first), np.where(empty, after, last), np.where(empty, weight, np.nan)


def _interpolated(times: np.ndarray, rate: float, new: float) -> tuple[np.ndarray, ...]:
    """Return times, first, last, weight of frames 1/new s apart from the first time to the last."""
    found = times[0] + np.arange(math.floor((times[-1] - times[0]) * new + 1e-6) + 1) / new
    return found, *_line(times, found)


def _line(known: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the neighbours before and after each wanted time among the known ones, and the weight of the second.

    Both are the same where a wanted time is a known one, or lies before or after all.
    """
    before = (np.searchsorted(known, wanted, side="right") - 1).clip(min=0)
    after = np.minimum(before + 1, len(known) - 1)
    step = known[after] - known[before]
    weight = np.where(step > 0, (wanted - known[before]) / np.where(step > 0, step, 1.0), 0.0).clip(0.0, 1.0)
    weight = np.where(weight < SAME, 0.0, np.where(weight > 1 - SAME, 1.0, weight))
    return np.where(weight == 1.0, after, before), np.where(weight == 0.0, before, after), weight


def _weights(grid: Grid, n_frames: int):
    """Return a sparse (F, T) matrix: the weight of every frame in every new one; rows add up to 1."""
    from scipy.sparse import csr_matrix

    counts = grid.last - grid.first + 1
    ends = np.concatenate(([0], np.cumsum(counts)))
    frames = np.repeat(grid.first - ends[:-1], counts) + np.arange(ends[-1])
    weights = np.repeat(1.0 / counts, counts)
    joined = np.flatnonzero(~np.isnan(grid.weight) & (counts == 2))
    weights[ends[joined]], weights[ends[joined] + 1] = 1 - grid.weight[joined], grid.weight[joined]
    return csr_matrix((weights, frames, ends), shape=(len(counts), n_frames))


def _missing(missing: np.ndarray, grid: Grid, weights) -> np.ndarray:
    """Return (F, C) bool: no frame of a mean is there, or one of a line is not."""
    mean = np.isnan(grid.weight)[:, None]
    return np.where(mean, weights @ (~missing).astype(np.float32) == 0, weights @ missing.astype(np.float32) > 0)


def _values(values: np.ndarray, missing: np.ndarray, grid: Grid, weights) -> np.ndarray:
    """Return values (F, C) float32 of the new frames; NaN where _missing."""
    result = np.empty((len(grid.times), values.shape[1]), np.float32)
    for first in range(0, values.shape[1], BLOCK):
        columns = np.s_[:, first:first + BLOCK]
        result[columns] = _mixed(values[columns], missing[columns], grid, weights)
    return _frozen(result)


def _mixed(values: np.ndarray, missing: np.ndarray, grid: Grid, weights) -> np.ndarray:
    values = values.astype(np.float64)  # in float32 a constant would come back with its last digit changing
    if not missing.any():
        return weights @ values
    total, share = weights @ np.where(missing, 0.0, values), weights @ (~missing).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(_missing(missing, grid, weights), np.nan, total / share)


def _edges(session, grid: Grid) -> np.ndarray:
    """Return (T + 1,) int: how many new frames lie before the beginning of each frame, and after the last."""
    moved = np.zeros(session.n_frames + 1, np.int64)
    stop, count = 0, 0
    for (start, end), (first, last) in grid.runs:
        moved[stop:start] = count
        begins = session.times[start:end] - (0.5 + SAME) / session.rate  # a new frame at a beginning lies behind it
        moved[start:end] = first + np.searchsorted(grid.times[first:last], begins)
        stop, count = end, last
    moved[stop:] = count
    return moved


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
