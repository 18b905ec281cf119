"""What a recording is: traces in time, behaviour beside them, and everything needed to trust both.

    session = Session.build(id="mouse", traces=array_TN, rate=30.0)

Shapes: T frames, N neurons, K behaviours.
"""
from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from raycal.errors import UserError
from raycal.sessions.stimulus import Stimulus

MIN_NEURONS, MIN_FRAMES = 2, 16  # below, neither a split nor a model over neurons exists
MASKS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Session:
    """One recording, checked when made; its arrays are read-only.

    Raise UserError naming the session, the value and the fix when the parts do not belong together.
    """

    id: str
    traces: np.ndarray  # (T, N) float32, C-contiguous; NaN only where the reader found it
    times: np.ndarray  # (T,) float64 s; the frame number where the source states neither times nor a rate
    rate: float  # Hz, NaN where the source states none
    behavior: np.ndarray  # (T, K) float32; NaN = not observed at this frame
    behavior_names: tuple[str, ...]
    behavior_units: tuple[str, ...]  # "" = unknown
    valid: np.ndarray | None  # (T, N) bool, False = not measured; None = all measured
    segments: tuple[tuple[int, int], ...]  # contiguous runs [start, stop), ordered, disjoint
    neurons: tuple[str, ...]  # "" = unknown
    masks: Mapping[str, np.ndarray]  # the file's own split: part -> (T,) bool; may be empty
    unit: str
    metadata: Mapping[str, str]
    source: str
    stimuli: tuple[Stimulus, ...] = ()
    id_from_name: bool = False  # True: the source states no id, its file's name serves

    def __post_init__(self) -> None:
        _check_traces(self)
        _check_segments(self)
        _check_times(self)
        _check_behavior(self)
        _check_masks(self)
        _check_stimuli(self)

    @classmethod
    def build(cls, *, traces: Any, id: str = "", name: str = "", rate: float = math.nan, times: Any = None, behavior: Any = None,
              behavior_names: Iterable[str] = (), behavior_units: Iterable[str] | None = None, valid: Any = None,
              segments: Iterable[Sequence[int]] | None = None, neurons: Iterable[Any] | None = None,
              masks: Mapping[str, Any] | None = None, unit: str = "", metadata: Mapping[str, Any] | None = None,
              source: str = "", stimuli: Iterable[Stimulus] = ()) -> Session:
        """Convert whatever array-likes are at hand and fill in what a recording may leave out.

        traces (T, N) and behavior (T, K) or (T,) are kept without a copy when already float32 and
        C-contiguous. Without times they follow from rate; without segments the recording is one run. name (of the
        file) serves where the source states no id.
        """
        id, from_name = (id, False) if id or not name else (name, True)
        traces = _numbers(id, "traces", traces, np.float32, 2)
        n_frames, n_neurons = traces.shape
        behavior_names = tuple(map(str, behavior_names))
        behavior = np.empty((n_frames, 0), np.float32) if behavior is None else behavior
        rate = float(_numbers(id, "rate", rate, np.float64, 0))
        if times is None:
            times = np.arange(n_frames) / (rate if rate > 0 else 1.0)
        return cls(
            id=id, traces=traces, times=_numbers(id, "times", times, np.float64, 1), rate=rate,
            behavior=_numbers(id, "behavior", behavior, np.float32, 2), behavior_names=behavior_names,
            behavior_units=("",) * len(behavior_names) if behavior_units is None else tuple(map(str, behavior_units)),
            valid=None if valid is None else _flags(id, "valid", valid),
            segments=((0, n_frames),) if segments is None else _runs(id, segments),
            neurons=("",) * n_neurons if neurons is None else tuple(map(str, neurons)),
            masks={str(part): _flags(id, f"masks[{part!r}]", mask) for part, mask in (masks or {}).items()},
            unit=str(unit), metadata={str(k): str(v) for k, v in (metadata or {}).items()}, source=str(source),
            stimuli=tuple(stimuli), id_from_name=from_name)

    @property
    def n_frames(self) -> int:
        return self.traces.shape[0]

    @property
    def n_neurons(self) -> int:
        return self.traces.shape[1]

    @property
    def duration(self) -> float:
        """Seconds recorded, segments only; NaN where the source states no rate."""
        return sum(stop - start for start, stop in self.segments) / self.rate

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of a sha256 over everything a model could learn from; not over id or metadata."""
        digest = hashlib.sha256()
        valid = np.zeros(0, bool) if self.valid is None else self.valid
        for array in (self.traces, valid, self.behavior, np.array(self.segments, np.int64), self.times,
                      np.array([self.rate])):
            array = np.ascontiguousarray(array)
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.reshape(-1).view(np.uint8))
        digest.update("\0".join(self.behavior_names).encode())
        for stimulus in self.stimuli:
            digest.update("\0".join([stimulus.name, *stimulus.columns]).encode())
            for array in (stimulus.frames, *stimulus.columns.values()):
                digest.update(np.ascontiguousarray(array).view(np.uint8))
        return digest.hexdigest()[:16]

    def constant_neurons(self) -> np.ndarray:
        """Return the indices of neurons that never change where measured, or are measured nowhere."""
        unmeasured = np.isnan(self.traces)
        if self.valid is not None:
            unmeasured |= ~self.valid
        low = np.where(unmeasured, np.inf, self.traces).min(axis=0)
        high = np.where(unmeasured, -np.inf, self.traces).max(axis=0)
        return np.flatnonzero(low >= high)

    def nan_neurons(self) -> np.ndarray:
        """Return the indices of neurons with a NaN at a frame that counts as measured."""
        missing = np.isnan(self.traces)
        if self.valid is not None:
            missing &= self.valid
        return np.flatnonzero(missing.any(axis=0))

    def summary(self) -> str:
        """Return what `raycal sessions show` prints: at most 25 lines."""
        rows = [("traces", f"{self.n_frames} frames x {self.n_neurons} neurons, {self.unit or 'unit unknown'}"),
                ("time", self._describe_time()), ("segments", _listed(f"{a}-{b}" for a, b in self.segments)),
                ("neurons", f"{sum(map(bool, self.neurons))} of {self.n_neurons} labelled"),
                *self._describe_behavior(),
                *([("stimuli", _listed(f"{k.name} {len(k.frames)}" for k in self.stimuli))] if self.stimuli else []),
                ("file's split", _listed(f"{k} {int(v.sum())} frames" for k, v in self.masks.items()) or "none"),
                ("NaN", self._describe_neurons(self.nan_neurons())),
                ("constant", self._describe_neurons(self.constant_neurons())),
                *list(self.metadata.items())[:5], ("source", self.source or "not stated"),
                ("fingerprint", self.fingerprint)]
        return "\n".join([self.id, *(f"  {name:<16} {' '.join(text.split())}" for name, text in rows)])

    def _describe_time(self) -> str:
        if math.isnan(self.rate):
            return "no sampling rate stated; give it with --set sessions.rate=HZ"
        steps = np.concatenate([np.diff(self.times[start:stop]) for start, stop in self.segments])
        longest = f", longest step {steps.max():.4g} s" if len(steps) else ""
        return f"{self.rate:.6g} Hz, {self.duration:.6g} s{longest}"

    def _describe_behavior(self) -> list[tuple[str, str]]:
        if not self.behavior_names:
            return [("behaviour", "none")]
        rows = []
        for name, unit, values in list(zip(self.behavior_names, self.behavior_units, self.behavior.T))[:8]:
            seen = values[~np.isnan(values)]
            span = f"{seen.min():.4g} to {seen.max():.4g} {unit}".strip() if len(seen) else "never observed"
            rows.append((name, f"{span}, {100 * (1 - len(seen) / len(values)):.3g} % NaN"))
        more = len(self.behavior_names) - len(rows)
        return rows + ([("...", f"and {more} more behaviours")] if more else [])

    def _describe_neurons(self, indices: np.ndarray) -> str:
        return f"{len(indices)} neurons: {_listed(map(str, indices))}" if len(indices) else "no neuron"


def _check_stimuli(s: Session) -> None:
    names = [stimulus.name for stimulus in s.stimuli]
    if len(set(names)) != len(names):
        raise UserError(f"session {s.id!r}: stimuli {names} are not all different; rename")
    for stimulus in s.stimuli:
        if stimulus.frames.size and stimulus.frames.max() > s.n_frames:
            raise UserError(f"session {s.id!r}: stimulus {stimulus.name!r} is shown up to frame "
                            f"{int(stimulus.frames.max())}, the traces have {s.n_frames}; cut what was not recorded")


def _listed(items: Iterable[str], limit: int = 6) -> str:
    items = list(items)
    return ", ".join(items[:limit]) + (f", ... {len(items)} in all" if len(items) > limit else "")


def _numbers(id: str, name: str, value: Any, dtype: type, ndim: int) -> np.ndarray:
    """Return value as a read-only contiguous array of dtype, or raise naming what it is instead."""
    try:
        array = np.asarray(value)
    except ValueError:  # numpy 2 refuses rows of different lengths
        raise UserError(f"session {id!r}: {name} has rows of different lengths; give one rectangular array") from None
    if array.dtype.kind not in "fiub":
        raise UserError(f"session {id!r}: {name} holds {array.dtype} values; give real numbers")
    if name == "behavior" and array.ndim == 1:
        array = array[:, None]
    if array.ndim != ndim:
        wanted = {0: "one number", 1: "one value a frame", 2: "frames x columns"}[ndim]
        raise UserError(f"session {id!r}: {name} has shape {array.shape}; it must be {ndim}-dimensional, {wanted}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused below
        array = np.asarray(array, dtype, order="C").view()
    if ndim == 2 and np.isinf(array).any():
        where = tuple(int(i) for i in np.argwhere(np.isinf(array))[0])
        raise UserError(f"session {id!r}: {name} is infinite at index {where}; mark what was not measured as NaN")
    array.flags.writeable = False
    return array


def _flags(id: str, name: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype != bool and not (array.dtype.kind in "iuf" and np.isin(array, (0, 1)).all()):
        raise UserError(f"session {id!r}: {name} holds {array.dtype} values; give True and False, or 1 and 0")
    array = np.asarray(array, bool, order="C").view()
    array.flags.writeable = False
    return array


def _runs(id: str, segments: Iterable[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    try:
        array = np.asarray(list(segments))
    except (TypeError, ValueError):
        raise UserError(f"session {id!r}: segments are not rows of [start, stop) frame numbers") from None
    pairs = array.ndim == 2 and array.shape[1] == 2 and array.dtype.kind in "fiu"
    if not pairs or not np.array_equal(array, np.rint(array)):
        raise UserError(f"session {id!r}: segments have shape {array.shape}; give rows of [start, stop) frame numbers")
    return tuple((int(start), int(stop)) for start, stop in array)


def _check_traces(s: Session) -> None:
    if not isinstance(s.id, str) or not s.id.strip():
        raise UserError(f"session id {s.id!r}: give a short name that is not empty")
    n_frames, n_neurons = s.traces.shape
    if n_frames < MIN_FRAMES or n_neurons < MIN_NEURONS:
        raise UserError(f"session {s.id!r}: traces have {n_frames} frames x {n_neurons} neurons; at least {MIN_FRAMES} "
                        f"frames and {MIN_NEURONS} neurons are needed (rows are frames, columns neurons)")
    if s.valid is not None and s.valid.shape != s.traces.shape:
        raise UserError(f"session {s.id!r}: valid has shape {s.valid.shape}, traces {s.traces.shape}; make them equal")
    if len(s.neurons) != n_neurons:
        raise UserError(f"session {s.id!r}: {len(s.neurons)} neuron labels for {n_neurons} neurons; give one a column")


def _check_segments(s: Session) -> None:
    end = 0
    for start, stop in s.segments:
        if not 0 <= start < stop <= s.n_frames:
            raise UserError(f"session {s.id!r}: segment [{start}, {stop}) is empty or outside frames 0 to "
                            f"{s.n_frames}; segments are [start, stop) counted from 0")
        if start < end:
            raise UserError(f"session {s.id!r}: segment [{start}, {stop}) begins before the one ahead of it ends "
                            f"({end}); order them and cut the overlap")
        end = stop
    if not s.segments:
        raise UserError(f"session {s.id!r}: has no segment; give at least one, such as [0, {s.n_frames})")


def _check_times(s: Session) -> None:
    if not (math.isnan(s.rate) or 0 < s.rate < math.inf):
        raise UserError(f"session {s.id!r}: rate={s.rate:g} Hz; it must be above 0, or NaN where it is unknown")
    if s.times.shape != (s.n_frames,):
        raise UserError(f"session {s.id!r}: {len(s.times)} time stamps for {s.n_frames} frames; give one a frame")
    if not np.isfinite(s.times).all():
        frame = int(np.flatnonzero(~np.isfinite(s.times))[0])
        raise UserError(f"session {s.id!r}: time stamp of frame {frame} is {s.times[frame]}; fill it in or leave the "
                        "frame out")
    for start, stop in s.segments:
        back = np.flatnonzero(np.diff(s.times[start:stop]) <= 0)
        if len(back):
            frame = start + int(back[0]) + 1
            raise UserError(f"session {s.id!r}: time stamps do not increase at frame {frame} ({s.times[frame]:.10g} s "
                            f"after {s.times[frame - 1]:.10g} s); repair them, or begin a new segment there")


def _check_behavior(s: Session) -> None:
    names, shape = s.behavior_names, s.behavior.shape
    if shape[0] != s.n_frames:
        raise UserError(f"session {s.id!r}: behavior has {shape[0]} frames, traces {s.n_frames}; align them, with NaN "
                        "where nothing was observed")
    if shape[1] != len(names) or len(s.behavior_units) != len(names):
        raise UserError(f"session {s.id!r}: {shape[1]} behaviours, {len(names)} names {list(names)} and "
                        f"{len(s.behavior_units)} units; give one name and one unit a column")
    if len(set(names)) != len(names) or not all(names):
        raise UserError(f"session {s.id!r}: behaviour names {list(names)} are not all different and non-empty; rename")


def _check_masks(s: Session) -> None:
    taken = np.zeros(s.n_frames, int)
    for part, mask in s.masks.items():
        if part not in MASKS:
            raise UserError(f"session {s.id!r}: mask {part!r} is unknown; use {', '.join(MASKS)}")
        if mask.shape != (s.n_frames,):
            raise UserError(f"session {s.id!r}: mask {part!r} has shape {mask.shape}; give one value for each of the "
                            f"{s.n_frames} frames")
        taken += mask
    if (taken > 1).any():
        frame = int(np.flatnonzero(taken > 1)[0])
        raise UserError(f"session {s.id!r}: frame {frame} is in more than one of the masks {', '.join(s.masks)}; "
                        "give each frame to one part at most")
