"""A few windows of a part beside what a model made of them, or drew anew, for pictures."""
from __future__ import annotations

from typing import Any

import numpy as np

from raycal.metrics.blocks import evenly
from raycal.metrics.window_distances import power

NEURONS, WINDOWS = 6, 4
FRAMES, CORRELATED = 128, 48  # what a checkpoint holds of windows that were drawn


def chosen(recording, target: np.ndarray, prediction: np.ndarray) -> dict[str, Any]:
    """Return a few of the windows (b, N, L) of the neurons that vary most in them, in the normalised unit."""
    neurons = np.sort(np.argsort(-target[:WINDOWS].var(axis=(0, 2)), kind="stable")[:NEURONS])
    return _cut(recording, target, prediction, neurons)


def ranked(recording, target: np.ndarray, prediction: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Return the same of neurons that stand evenly from the best score (N,) to the worst, and their "scores"."""
    order = np.argsort(-scores, kind="stable")[:int((~np.isnan(scores)).sum())]  # NaN stands last
    neurons = order[np.unique(np.linspace(0, len(order) - 1, min(NEURONS, len(order))).round().astype(int))]
    return {**_cut(recording, target, prediction, neurons), "scores": scores[neurons].astype(np.float32)}


def _cut(recording, target: np.ndarray, prediction: np.ndarray, neurons: np.ndarray) -> dict[str, Any]:
    target, prediction = target[:WINDOWS], prediction[:WINDOWS]
    return {"session": recording.id, "rate": float(recording.rate), "neurons": neurons,
            "labels": [recording.neurons[n] for n in neurons], "target": target[:, neurons].copy(),
            "reconstruction": prediction[:, neurons].copy()}


def beside(recording, real: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    """Return what pictures show of real windows (n, N, L) and of drawn ones, in train sd.

    "neurons": the examples, those that vary most; "shown": at most CORRELATED of all, evenly, neurons that go together
    beside each other; "real", "drawn": their `portrait`.
    """
    frames = np.moveaxis(real, 1, 0).reshape(real.shape[1], -1)
    neurons = np.sort(np.argsort(-frames.var(1), kind="stable")[:NEURONS])
    shown = evenly(len(frames), CORRELATED)
    shown = shown[np.argsort(np.linalg.eigh(np.cov(frames[shown]))[1][:, -1], kind="stable")]
    return {"session": recording.id, "rate": float(recording.rate), "neurons": neurons, "shown": shown,
            "labels": [recording.neurons[n] for n in neurons], "length": real.shape[2],
            "real": portrait(real, neurons, shown), "drawn": portrait(drawn, neurons, shown)}


def portrait(windows: np.ndarray, neurons: np.ndarray, shown: np.ndarray) -> dict[str, np.ndarray]:
    """Return of windows (n, N, L), float32: "windows" (w, k, l), a few of the example neurons, at most FRAMES long;
    "decibels" (F,), their power at each frequency, a mean over all neurons; "correlations" (m, m) of the shown ones."""
    few = windows[evenly(len(windows), WINDOWS)][:, neurons, :FRAMES]
    frames = np.moveaxis(windows[:, shown], 1, 0).reshape(len(shown), -1)
    decibels = 10.0 * np.log10(power(windows).mean(0) + 1e-9)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlations = np.nan_to_num(np.corrcoef(frames))
    return {name: np.asarray(x, np.float32) for name, x in
            (("windows", few), ("decibels", decibels), ("correlations", correlations))}
