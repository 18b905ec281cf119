"""What was shown while a recording ran: presentations with their parameters, counted in frames.

Shapes: P presentations, T frames.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raycal.errors import UserError


@dataclass(frozen=True, eq=False)
class Stimulus:
    """The presentations of one stimulus, in the order of the source; its arrays are read-only.

    Raise UserError naming the stimulus when the parts do not belong together.
    """

    name: str
    frames: np.ndarray  # (P, 2) int64, [start, stop); empty where the presentation fell between two frames
    columns: Mapping[str, np.ndarray]  # parameter -> (P,) float64, NaN = none (a blank sweep)

    def __post_init__(self) -> None:
        frames = np.array(self.frames, np.int64)
        if frames.ndim != 2 or frames.shape[1] != 2:
            raise UserError(f"stimulus {self.name!r}: its frames have shape {frames.shape}; give rows of [start, stop)")
        columns = {str(k): np.array(v, np.float64).reshape(-1) for k, v in self.columns.items()}
        wrong = [k for k, v in columns.items() if len(v) != len(frames)]
        if wrong:
            raise UserError(f"stimulus {self.name!r}: {wrong[0]} has {len(columns[wrong[0]])} values for {len(frames)} "
                            "presentations; give one a presentation")
        if (frames[:, 0] > frames[:, 1]).any() or (frames < 0).any():
            row = int(np.flatnonzero((frames[:, 0] > frames[:, 1]) | (frames < 0).any(axis=1))[0])
            raise UserError(f"stimulus {self.name!r}: presentation {row} takes frames {frames[row].tolist()}; give "
                            "[start, stop) counted from 0")
        for array in (frames, *columns.values()):
            array.flags.writeable = False
        object.__setattr__(self, "frames", frames)
        object.__setattr__(self, "columns", columns)

    @classmethod
    def at_times(cls, name: str, start: np.ndarray, stop: np.ndarray, times: np.ndarray,
                 columns: Mapping[str, np.ndarray]) -> Stimulus:
        """Count presentations [start, stop) s in frames by the frames' times (T,) s: those with start <= t < stop."""
        edges = np.searchsorted(times, np.stack([np.asarray(start, float), np.asarray(stop, float)], axis=1))
        return cls(name, edges, columns)

    def series(self, column: str, n_frames: int) -> np.ndarray:
        """Return the parameter frame by frame, (T,) float32: NaN where the stimulus was not shown."""
        series = np.full(n_frames, np.nan, np.float32)
        for (start, stop), value in zip(self.frames, self.columns[column]):
            series[start:stop] = value
        return series
