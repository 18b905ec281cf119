"""A few windows of a part beside what a model made of them, to draw."""
from __future__ import annotations

from typing import Any

import numpy as np

NEURONS, WINDOWS = 6, 4


def chosen(recording, target: np.ndarray, prediction: np.ndarray) -> dict[str, Any]:
    """Return a few of the windows (b, N, L) of the neurons that vary most in them, in the normalised unit."""
    target, prediction = target[:WINDOWS], prediction[:WINDOWS]
    neurons = np.sort(np.argsort(-target.var(axis=(0, 2)), kind="stable")[:NEURONS])
    return {"session": recording.id, "rate": float(recording.rate), "neurons": neurons,
            "labels": [recording.neurons[n] for n in neurons], "target": target[:, neurons].copy(),
            "reconstruction": prediction[:, neurons].copy()}
