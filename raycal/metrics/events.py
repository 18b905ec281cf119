"""Transients in windows of traces: how often, how high, how long they take to fall."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

THRESHOLD = 2.0  # train sd above the train mean: a Gaussian trace is above it for 2.3 % of the time


class Events(NamedTuple):
    """Of a set of windows."""

    rate: np.ndarray  # (N,) events/s
    amplitude: np.ndarray  # (E,) peak of each event, train sd
    decay: np.ndarray  # (E,) s from the peak until it is below the threshold again, or the window ends

    def distances(self, reference: Events) -> dict[str, float]:
        """Return the mean absolute difference of rates, and Wasserstein-1 of amplitudes and decays."""
        return {"event_rate": float(np.abs(self.rate - reference.rate).mean()),
                "event_amplitude": wasserstein(self.amplitude, reference.amplitude),
                "event_decay": wasserstein(self.decay, reference.decay)}


def events(x: np.ndarray, rate: float, threshold: float = THRESHOLD) -> Events:
    """Return the events of windows (w, N, T) in train-sd units: runs above the threshold that begin inside a window."""
    w, n, length = x.shape
    above = np.zeros((w, n, length + 1), bool)  # a frame after the end keeps windows apart
    above[..., :length] = x > threshold
    edges = np.diff(above.reshape(-1).astype(np.int8))
    starts, stops = np.flatnonzero(edges == 1) + 1, np.flatnonzero(edges == -1) + 1
    if above.reshape(-1)[:1].any():
        starts = np.concatenate(([0], starts))
    inside = starts % (length + 1) > 0
    starts, stops = starts[inside], stops[inside]
    values = np.pad(x, ((0, 0), (0, 0), (0, 1))).reshape(-1)
    peaks = _peaks(values, starts, stops)
    neuron = starts // (length + 1) % n
    return Events(np.bincount(neuron, minlength=n) * rate / (w * length), values[peaks], (stops - peaks) / rate)


def _peaks(values: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Return where each run [start, stop) is highest."""
    lengths = stops - starts
    run = np.repeat(np.arange(len(starts)), lengths)
    frames = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths) + starts[run]
    order = np.lexsort((-frames, values[frames], run))  # highest last; of equals the first frame
    return frames[order][np.cumsum(lengths) - 1]


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Wasserstein-1 distance of two samples of any sizes; an empty one counts as all zeros."""
    a, b = (np.sort(x) if len(x) else np.zeros(1) for x in (a, b))
    both = np.sort(np.concatenate([a, b]))
    shares = [np.searchsorted(x, both[:-1], side="right") / len(x) for x in (a, b)]
    return float((np.abs(shares[0] - shares[1]) * np.diff(both)).sum())
