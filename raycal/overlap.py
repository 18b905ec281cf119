"""Windows over whole segments, and how much each of those that overlap says of a frame."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from raycal.sessions.split import Run

BATCH = 256  # windows at a time

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


def told(function: Callable, session: int, traces: np.ndarray, valid: np.ndarray | None, windows: Sequence[Window],
         device: Any = "cpu") -> Iterator[tuple[Window, np.ndarray]]:
    """Yield every window with its row of function(Part), of traces (T, N) in the unit of training; valid: as in Part."""
    import torch

    from raycal.sessions.windows import Part

    for group in batches(windows, BATCH):
        cut = [slice(w.start, w.start + w.length) for w in group]
        part = Part(session, torch.from_numpy(np.stack([traces[c].T for c in cut])).to(device),
                    torch.empty(len(cut), 0, group[0].length, device=device),
                    None if valid is None else torch.from_numpy(np.stack([valid[c].T for c in cut])).to(device))
        with torch.inference_mode():
            values = function(part).cpu().numpy()
        yield from zip(group, values)


def blended(model: Any, session: int, traces: np.ndarray, valid: np.ndarray | None, segments: Sequence[Run],
            length: int) -> np.ndarray:
    """Return a model's latents (T, D) of every frame of the segments, NaN outside; windows overlap by half."""
    windows, out = cover(segments, length, (length + 1) // 2), np.full((len(traces), 0), np.nan, np.float32)
    found = told(lambda p: model.encode(p.traces, p.session, p.valid).float(), session, traces, valid, windows,
                 next(model.parameters()).device)
    for share, (window, values) in zip(shares(windows, segments), found):
        if not out.shape[1]:
            out = np.full((len(traces), values.shape[1]), np.nan, np.float32)
            for start, stop in segments:
                out[start:stop] = 0.0
        out[window.start:window.start + window.length] += share[:, None] * values
    return out


def batches(windows: Sequence[Window], most: int) -> Iterator[list[Window]]:
    """Yield runs of neighbouring windows of one length, at most `most`."""
    for _, run in itertools.groupby(windows, key=lambda w: w.length):
        while group := list(itertools.islice(run, most)):
            yield group
