"""The stimulus tables of Allen's NWB 1 files, with the rows, order and columns of AllenSDK's get_stimulus_table.

AllenSDK 2.16.2, core/brain_observatory_nwb_data_set.py. Rows count in imaging frames, [start, end); a row whose end is
its start fell between two frames. Shapes: P presentations, C features.
"""
from __future__ import annotations

import pathlib

import h5py
import numpy as np

from raycal.errors import UserError
from raycal.sessions.readers import hdf5
from raycal.sessions.stimulus import Stimulus

PRESENTATIONS = "stimulus/presentation"
NEEDS = "a stimulus has 'data' and 'frame_duration', gratings 'features', too"


def stimuli(path: pathlib.Path, f: h5py.File, n_frames: int) -> list[Stimulus]:
    """Return the stimuli shown, by name; what was shown after the last frame is cut.

    Raise UserError naming the stimulus whose parts are missing or do not fit.
    """
    group = f.get(PRESENTATIONS)
    names = [name for name in group if isinstance(group[name], h5py.Group)] if isinstance(group, h5py.Group) else []
    return [_stimulus(path, group, name, n_frames) for name in names]


def _stimulus(path: pathlib.Path, group: h5py.Group, key: str, n_frames: int) -> Stimulus:
    name = key.replace("_stimulus", "")
    data = hdf5.array(path, group, f"{key}/data", NEEDS)
    frames = hdf5.array(path, group, f"{key}/frame_duration", NEEDS)
    numbers = not {data.dtype.kind, frames.dtype.kind} - set("iuf")
    if data.ndim not in (1, 2) or frames.shape != (len(data), 2) or not numbers:
        raise UserError(f"{path}: stimulus {name!r} has {data.dtype} data of shape {data.shape} and {frames.dtype} "
                        f"frames of shape {frames.shape}; they must be numbers, one row and one pair a presentation")
    if not np.isfinite(frames).all():
        raise UserError(f"{path}: stimulus {name!r} has a presentation without frames (NaN); leave it out of the file")
    frames = frames.astype(np.int64)
    if name == "spontaneous":
        frames, columns = _spontaneous(path, data, frames), {}
    elif data[:1].size > 1 or f"{key}/features" in group:
        columns = _features(path, group, key, data.reshape(len(data), -1))
    else:
        columns = {"frame": data.reshape(-1)}
    order = np.lexsort((frames[:, 1], frames[:, 0]))
    columns = {column: values[order] for column, values in columns.items()}
    if name.startswith("natural_movie") and "frame" in columns:
        columns |= _repeats(columns["frame"])
    try:
        return Stimulus(name, np.minimum(frames[order], n_frames), columns)
    except UserError as e:
        raise UserError(f"{path}: {e}") from None


def _spontaneous(path: pathlib.Path, events: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Join rows that mark a start (1) and a stop (-1): each has its frame in the first column."""
    events = events.reshape(-1)
    start, stop = frames[events == 1, 0], frames[events == -1, 0]
    if len(start) != len(stop):
        raise UserError(f"{path}: stimulus 'spontaneous' has {len(start)} starts and {len(stop)} stops; they must "
                        "agree")
    return np.stack([start, stop], axis=1)


def _features(path: pathlib.Path, group: h5py.Group, key: str, data: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns (P,) of data (P, C), named by `features` (C,)."""
    names = [hdf5.decoded(name) for name in hdf5.array(path, group, f"{key}/features", NEEDS).reshape(-1)]
    if len(names) != data.shape[1] or len(set(names)) != len(names):
        raise UserError(f"{path}: stimulus {key!r} has {data.shape[1]} columns and the features {names}; give each "
                        "column a name of its own")
    return dict(zip(names, data.T))


def _repeats(movie_frames: np.ndarray) -> dict[str, np.ndarray]:
    """Count the showings of a movie; not where one is incomplete, as the count could not be trusted."""
    shown, length = len(movie_frames), len(np.unique(movie_frames))
    return {"repeat": np.arange(shown) // length} if length and shown % length == 0 else {}
