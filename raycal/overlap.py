"""Windows over whole segments, and how much each of those that overlap says of a frame."""
from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from raycal.sessions.split import Run


class Window(NamedTuple):
    segment: int
    start: int  # frame
    length: int
    seen: int  # leading frames that the window before it covered already


def cover(segments: Sequence[Run], length: int, hop: int = 0) -> list[Window]:
    """Return windows over every frame of every segment, in time, `hop` frames apart (0: end to end).

    The last is moved back to end with its segment; a segment shorter than a window is one window.
    """
    windows = []
    for i, (start, stop) in enumerate(segments):
        size = min(length, stop - start)
        covered = start
        for at in itertools.count(start, min(hop or size, size)):
            begin = min(at, stop - size)
            windows.append(Window(i, begin, size, covered - begin))
            covered = begin + size
            if covered == stop:
                break
    return windows


def shares(windows: Sequence[Window], segments: Sequence[Run]) -> list[np.ndarray]:
    """Return how much each window says of each of its frames, (length,) float32; of a frame they sum to 1.

    A window counts by the frames to its nearer border, past which it saw nothing while others did. Nobody saw past the
    border of a segment, so that one takes nothing away.
    """
    raw = [_to_border(w, segments[w.segment]) for w in windows]
    total = np.zeros(max((stop for _, stop in segments), default=0))
    for window, weight in zip(windows, raw):
        total[window.start:window.start + window.length] += weight
    return [(weight / total[w.start:w.start + w.length]).astype(np.float32) for w, weight in zip(windows, raw)]


def _to_border(window: Window, segment: Run) -> np.ndarray:
    rising = np.arange(1.0, window.length + 1)
    whole = np.full(window.length, float(window.length))
    return np.minimum(rising if window.start > segment[0] else whole,
                      rising[::-1] if window.start + window.length < segment[1] else whole)


def batches(windows: Sequence[Window], most: int) -> Iterator[list[Window]]:
    """Yield runs of neighbouring windows of one length, at most `most`."""
    for _, run in itertools.groupby(windows, key=lambda w: w.length):
        while group := list(itertools.islice(run, most)):
            yield group
