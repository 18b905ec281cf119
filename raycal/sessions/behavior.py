"""The behaviours a run decodes: columns of a session or parameters of its stimuli, as they are or as features.

Shapes: T frames, K behaviours.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from raycal import config
from raycal.sessions.smoothing import smoothed
from raycal.sessions.split import Run

FEATURES = ("mean", "std", "max", "change")
VALUES = 1 << 20  # of windows laid out side by side at a time


def stimulus_names(stimuli: Iterable[tuple[str, Iterable[str]]]) -> dict[str, tuple[str, str]]:
    """Return {"STIMULUS.PARAMETER": (stimulus, parameter)} of (stimulus, parameters)."""
    return {f"{name}.{column}": (name, column) for name, columns in stimuli for column in columns}


def series(session, names: Sequence[str], runs: Sequence[Run], sd: float) -> np.ndarray:
    """Return the behaviours (T, K) float32, smoothed inside each run by a Gaussian of sd frames; NaN stays NaN.

    A name is that of a behaviour, else STIMULUS.PARAMETER, which is NaN while the stimulus is not shown. What was
    shown is known exactly, and its values may be codes: stimuli are not smoothed.
    """
    parameters = stimulus_names((s.name, s.columns) for s in session.stimuli)
    stimuli = {s.name: s for s in session.stimuli}
    found = np.empty((session.n_frames, len(names)), np.float32)
    for k, name in enumerate(names):
        if name in session.behavior_names:
            column = session.behavior[:, [session.behavior_names.index(name)]]
            found[:, k] = smoothed(column, np.isnan(column), runs, sd)[:, 0]
        else:
            stimulus, column = parameters[name]
            found[:, k] = stimuli[stimulus].series(column, session.n_frames)
    return found


def feature_frames(settings: config.Sessions, rate: float) -> int:
    """Return the frames of the window of sessions.features: odd, so that it has a middle; 1 for none."""
    return 2 * round(settings.features * rate / 2) + 1


def feature_names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{name}_{feature}" for name in names for feature in FEATURES)


def source_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the behaviours that these `feature_names` are of."""
    return tuple(name.removesuffix(f"_{FEATURES[0]}") for name in names[::len(FEATURES)])


def having(session, names: Sequence[str]):
    """Return the session with these behaviours and no others; NaN, in "sd" of training, where it has none of a name.

    Those that are parameters of its stimuli are left to the stimuli.
    """
    shown = stimulus_names((s.name, s.columns) for s in session.stimuli)
    own = {name: k for k, name in enumerate(session.behavior_names)}
    names = tuple(name for name in names if name in own or name not in shown)
    found = np.full((session.n_frames, len(names)), np.nan, np.float32)
    for k, name in enumerate(names):
        if name in own:
            found[:, k] = session.behavior[:, own[name]]
    units = tuple(session.behavior_units[own[name]] if name in own else "sd" for name in names)
    return dataclasses.replace(session, behavior=found, behavior_names=names, behavior_units=units)


def named(session, names: Sequence[str], settings: config.Sessions, rate: float, sd: float = 0.0) -> np.ndarray:
    """Return what a model calls by these names (T, K) of a session, features included, smoothed by sd frames.

    NaN where the session has none of a name.
    """
    wanted = source_names(names) if settings.features else names
    found = series(having(session, wanted), wanted, session.segments, sd)
    return features(found, session.segments, feature_frames(settings, rate)) if settings.features else found


def observed(session, names: Sequence[str]) -> tuple[str, ...]:
    """Return those of the names that the session has, as a behaviour seen at some frame or a stimulus' parameter."""
    own = {name for name, column in zip(session.behavior_names, session.behavior.T) if not np.isnan(column).all()}
    shown = set(stimulus_names((s.name, s.columns) for s in session.stimuli)) - set(session.behavior_names)
    return tuple(name for name in names if name in own or name in shown)


def features(values: np.ndarray, runs: Iterable[Run], width: int) -> np.ndarray:
    """Return mean, sd, maximum and last - first of each behaviour over a window of width frames: (T, 4 K) float32.

    A frame stands in the middle of its window. NaN where the window is not wholly inside one run [start, stop), or
    holds a NaN.
    """
    found = np.full((*values.shape, len(FEATURES)), np.nan, np.float32)
    step = max(1, VALUES // width)
    for start, stop in runs:
        for k in range(values.shape[1] if stop - start >= width else 0):
            windows = np.lib.stride_tricks.sliding_window_view(values[start:stop, k], width)
            middle = start + width // 2
            for first in range(0, len(windows), step):
                w = windows[first:first + step].astype(np.float64)
                whole = ~np.isnan(w).any(axis=1)
                found[np.flatnonzero(whole) + middle + first, k] = _features(w[whole])
    return found.reshape(len(values), -1)


def _features(windows: np.ndarray) -> np.ndarray:
    return np.stack([windows.mean(axis=1), windows.std(axis=1), windows.max(axis=1),
                     windows[:, -1] - windows[:, 0]], axis=1)
