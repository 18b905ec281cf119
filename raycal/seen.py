"""A session as a trained model sees it: at its rate, the neurons it knows, in the unit of training; and the way back.

An entry is what an export says of a session it was trained on (raycal.training.checkpoint.describe).
"""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raycal.sessions.resample import Grid, grid_of, paced, resample
from raycal.sessions.smoothing import smoothed

if TYPE_CHECKING:
    from raycal.sessions.session import Session


class Seen(NamedTuple):
    """A session before it is normalised."""

    entry: dict[str, Any]
    recorded: Session
    session: Session  # at the model's rate
    grid: Grid | None  # how its frames come from the recorded ones; None: they are the same

    @classmethod
    def of(cls, session: Session, entry: dict[str, Any]) -> Seen:
        """Bring a session to the rate that the model was trained at."""
        resample_to = entry.get("resample", 0.0)  # exports of before there was such a thing lack it
        if not resample_to:
            return cls(entry, session, session, None)
        recorded = paced(session, entry["recorded_rate"])
        return cls(entry, recorded, resample(recorded, resample_to), grid_of(recorded, resample_to))

    def origin(self, segment: int) -> int:
        """Return the recorded segment that a segment of the session comes from."""
        if self.grid is None:
            return segment
        first = self.grid.runs[segment][0][0]
        return next(i for i, (start, stop) in enumerate(self.recorded.segments) if start <= first < stop)

    def normalized(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Return traces (T, N kept) in the unit of training, 0 where not measured, and where they were measured."""
        session, entry = self.session, self.entry
        traces = session.traces[:, entry["kept"]]
        valid = ~np.isnan(traces) if session.valid is None else session.valid[:, entry["kept"]] & ~np.isnan(traces)
        rate = session.rate if math.isfinite(session.rate) else entry["rate"]
        traces = smoothed(traces, None if valid.all() else ~valid, session.segments, entry.get("smooth", 0.0) * rate)
        traces = (traces - entry["center"].numpy()) / entry["spread"].numpy()
        if valid.all():
            return traces, None
        return np.where(valid, traces, np.float32(0.0)), valid


def in_own_unit(traces: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    """Return traces (T, N kept) of the unit of training as (T, N) float32 in the session's own, other neurons NaN."""
    whole = np.full((len(traces), entry["n_neurons"]), np.nan, np.float32)
    whole[:, entry["kept"]] = traces * entry["spread"].numpy() + entry["center"].numpy()
    return whole
