"""Whole-brain recordings of C. elegans as the Flavell lab's ANTSUN writes them (HDF5).

Atanas, Kim et al. 2023, Cell, doi 10.1016/j.cell.2023.07.035; Dag, Nwabudike, Kang et al. 2023, Cell,
doi 10.1016/j.cell.2023.04.023. Julia writes column-major and counts from 1: h5py sees every array
transposed, and ranges include their last frame. Labels of neurons are in a table beside the file (neuropal.py).
"""
from __future__ import annotations

import pathlib

import h5py
import numpy as np

from raycal.errors import UserError
from raycal.sessions.readers import hdf5, neuropal
from raycal.sessions.session import Session

FORMAT = "worm HDF5 (Atanas, Kim et al. 2023)"
TRACES = "gcamp/traces_array_F_F20"
Z_SCORED = "z-scored over the whole recording, test frames included"
TRACE_UNITS = {"traces_array_F_F20": "F/F20", "trace_array_original": "F", "trace_array": "z-score"}
TIMES = "timing/timestamp_confocal"
SPLITS = "gcamp/idx_splits"
UNITS = {"velocity": "mm/s", "head_angle": "rad", "worm_curvature": "rad", "angular_velocity": "rad/s",
         "reversal_vec": "", "pumping": "pumps/s"}


def recognises(path: pathlib.Path) -> bool:
    """Tell whether the file is HDF5 with this layout's groups."""
    return hdf5.holds(path, "gcamp", "timing")


def read(path: pathlib.Path, traces: str = "") -> Session:
    """Return the recording: traces as F/F20 or as the dataset `traces` of gcamp, rate = 1 / median step of its times.

    Raise UserError naming what is missing, damaged or does not fit.
    """
    return hdf5.opened(path, lambda path, f: _session(path, f, traces))


def _session(path: pathlib.Path, f: h5py.File, wanted: str) -> Session:
    key = _trace_key(path, f, wanted)
    traces = _array(path, f, key)
    if traces.ndim != 2:
        raise UserError(f"{path}: {key} has shape {traces.shape}; it must be volumes x neurons")
    times, notes = cut_times(path, TIMES, _array(path, f, TIMES), len(traces))
    notes.update({"traces": f"{key}, {Z_SCORED}"} if key == "gcamp/trace_array" else {})
    behavior, left_out = _behavior(path, f, len(traces))
    notes.update({"left out": ", ".join(left_out)} if left_out else {})
    segments = _segments(path, f, len(traces))
    name = path.stem.removesuffix("-data")
    neurons, told = neuropal.identities(path, name, f, traces.shape[1])
    return Session.build(
        name=name, traces=traces, times=times, rate=rate(times), segments=segments, neurons=neurons,
        unit=TRACE_UNITS.get(key.removeprefix("gcamp/"), ""),
        behavior=np.stack(list(behavior.values()), axis=1) if behavior else None, behavior_names=behavior,
        behavior_units=[UNITS[name] for name in behavior], source=str(path),
        metadata={"species": "C. elegans", **notes, **told})


def _trace_key(path: pathlib.Path, f: h5py.File, wanted: str) -> str:
    if not wanted:
        return TRACES
    group = f["gcamp"]
    known = [f"gcamp/{name}" for name in group if name.startswith("trace")] if isinstance(group, h5py.Group) else []
    key = f"gcamp/{wanted.removeprefix('gcamp/')}"
    if key not in known:
        raise UserError(f"{path}: has no traces {wanted!r}; it has {', '.join(known) or 'none'}")
    return key


def _array(path: pathlib.Path, f: h5py.File, key: str) -> np.ndarray:
    return hdf5.array(path, f, key, f"a worm file has {TRACES} and {TIMES}")


def cut_times(path: pathlib.Path, key: str, times: np.ndarray, n_frames: int) -> tuple[np.ndarray, dict[str, str]]:
    """Return one time stamp (s) a volume: recordings list those of volumes that were cut off their end, too."""
    if times.ndim != 1 or len(times) < n_frames:
        raise UserError(f"{path}: {key} has shape {times.shape} for {n_frames} volumes; every volume needs one")
    surplus = len(times) - n_frames
    notes = {"time stamps": f"{surplus} beyond the last volume cut"} if surplus else {}
    return times[:n_frames], notes


def rate(times: np.ndarray) -> float:
    """Return 1 / median step (Hz), NaN where there is none."""
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
