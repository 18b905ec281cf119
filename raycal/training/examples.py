"""A few windows of a part beside what a model made of them, to draw."""
from __future__ import annotations

from typing import Any

import numpy as np

NEURONS, WINDOWS = 6, 4


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
