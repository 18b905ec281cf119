"""Whole-brain recordings of C. elegans as the Flavell lab's ANTSUN writes them (HDF5).

Atanas, Kim et al. 2023, Cell, doi 10.1016/j.cell.2023.07.035; Dag, Nwabudike, Kang et al. 2023, Cell,
doi 10.1016/j.cell.2023.04.023. Julia writes column-major and counts from 1: h5py sees every array
transposed, and ranges include their last frame.
"""
from __future__ import annotations

import pathlib

import h5py
import numpy as np

from raycal.errors import UserError
from raycal.sessions.readers import hdf5
from raycal.sessions.session import Session

FORMAT = "worm HDF5 (Atanas, Kim et al. 2023)"
TRACES = "gcamp/traces_array_F_F20"  # trace_array is z-scored over the whole recording, test frames included
TIMES = "timing/timestamp_confocal"
SPLITS = "gcamp/idx_splits"
UNITS = {"velocity": "mm/s", "head_angle": "rad", "worm_curvature": "", "angular_velocity": "", "reversal_vec": "",
         "pumping": ""}


def recognises(path: pathlib.Path) -> bool:
    """Tell whether the file is HDF5 with this layout's groups."""
    return hdf5.holds(path, "gcamp", "timing")


def read(path: pathlib.Path, traces: str = "") -> Session:
    """Return the recording: traces as F/F20, rate = 1 / median step of its time stamps.

    Raise UserError naming what is missing, damaged or does not fit.
    """
    return hdf5.opened(path, _session)


def _session(path: pathlib.Path, f: h5py.File) -> Session:
    traces = _array(path, f, TRACES)
    if traces.ndim != 2:
        raise UserError(f"{path}: {TRACES} has shape {traces.shape}; it must be volumes x neurons")
    times, notes = _times(path, f, len(traces))
    behavior, left_out = _behavior(path, f, len(traces))
    notes.update({"left out": ", ".join(left_out)} if left_out else {})
    segments = _segments(path, f, len(traces))
    return Session.build(
        name=path.stem.removesuffix("-data"),
        traces=traces, times=times, rate=_rate(times), segments=segments, unit="F/F20",
        behavior=np.stack(list(behavior.values()), axis=1) if behavior else None, behavior_names=behavior,
        behavior_units=[UNITS[name] for name in behavior], source=str(path),
        metadata={"species": "C. elegans", **notes})


def _array(path: pathlib.Path, f: h5py.File, key: str) -> np.ndarray:
    return hdf5.array(path, f, key, f"a worm file has {TRACES} and {TIMES}")


def _times(path: pathlib.Path, f: h5py.File, n_frames: int) -> tuple[np.ndarray, dict[str, str]]:
    """Return one time stamp (s) a volume: recordings list those of volumes that were cut off their end, too."""
    times = _array(path, f, TIMES)
    if times.ndim != 1 or len(times) < n_frames:
        raise UserError(f"{path}: {TIMES} has shape {times.shape} for {n_frames} volumes; every volume needs one")
    surplus = len(times) - n_frames
    notes = {"time stamps": f"{surplus} beyond the last volume cut"} if surplus else {}
    return times[:n_frames], notes


def _rate(times: np.ndarray) -> float:
    step = float(np.median(np.diff(times))) if len(times) > 1 else np.nan
    return 1.0 / step if step > 0 else np.nan


def _segments(path: pathlib.Path, f: h5py.File, n_frames: int) -> list[tuple[int, int]] | None:
    if SPLITS not in f:
        return None
    splits = _array(path, f, SPLITS)
    if splits.ndim != 2 or len(splits) != 2:
        raise UserError(f"{path}: {SPLITS} has shape {splits.shape}; it must be 2 x runs, first and last volume")
    if splits.size and (splits.min() < 1 or splits.max() > n_frames):
        raise UserError(f"{path}: {SPLITS} names volumes {splits.min()} to {splits.max()}, but the traces have volumes "
                        f"1 to {n_frames}")
    return [(int(first) - 1, int(last)) for first, last in splits.T]


def _behavior(path: pathlib.Path, f: h5py.File, n_frames: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the behaviours observed at all, and what was left out and why."""
    observed, left_out = {}, []
    for name in UNITS:
        if f"behavior/{name}" not in f:
            left_out.append(f"{name} (absent)")
            continue
        values = _array(path, f, f"behavior/{name}")
        if values.shape != (n_frames,):
            raise UserError(f"{path}: behavior/{name} has shape {values.shape}, the traces {n_frames} volumes; they "
                            "must agree")
        if np.isnan(values).all():
            left_out.append(f"{name} (all NaN)")
        else:
            observed[name] = values
    return observed, left_out
