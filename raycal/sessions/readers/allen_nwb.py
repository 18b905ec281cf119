"""Two-photon sessions of the Allen Brain Observatory (Visual Coding): NWB 1, read by h5py alone.

de Vries et al. 2020, Nat Neurosci, doi 10.1038/s41593-019-0550-9. The paths are those that AllenSDK
2.16.2 reads (core/brain_observatory_nwb_data_set.py).
"""
from __future__ import annotations

import pathlib

import h5py
import numpy as np

from raycal.errors import UserError
from raycal.sessions.readers import hdf5
from raycal.sessions.session import Session

FORMAT = "Allen Brain Observatory NWB 1"
PIPELINE = "processing/brain_observatory_pipeline"
TRACES = f"{PIPELINE}/DfOverF/imaging_plane_1"
CELLS = f"{PIPELINE}/ImageSegmentation/cell_specimen_ids"
BEHAVIORS = {"running_speed": ("BehavioralTimeSeries/running_speed", "cm/s"),
             "pupil_size": ("PupilTracking/pupil_size", "px")}
PLANE = "general/optophysiology/imaging_plane_1"
METADATA = {"area": f"{PLANE}/location", "depth": f"{PLANE}/imaging depth", "indicator": f"{PLANE}/indicator",
            "session type": "general/session_type", "genotype": "general/subject/genotype",
            "container": "general/experiment_container_id", "specimen": "general/specimen_name",
            "age": "general/subject/age", "sex": "general/subject/sex", "start": "session_start_time"}


def recognises(path: pathlib.Path) -> bool:
    """Tell whether the file is HDF5 written by Allen's pipeline."""
    return hdf5.holds(path, PIPELINE)


def read(path: pathlib.Path) -> Session:
    """Return the recording: dF/F at its time stamps, behaviours aligned to them, NaN where they have none.

    Raise UserError naming what is missing, damaged or does not fit.
    """
    return hdf5.opened(path, _session)


def _session(path: pathlib.Path, f: h5py.File) -> Session:
    traces, times = _array(path, f, f"{TRACES}/data"), _array(path, f, f"{TRACES}/timestamps")
    if traces.ndim != 2 or times.shape != traces.shape[1:]:
        raise UserError(f"{path}: {TRACES} has data of shape {traces.shape} and time stamps of shape {times.shape}; "
                        "they must be (cells, frames) and (frames,)")
    step = float(np.median(np.diff(times))) if len(times) > 1 else np.nan
    behavior = {name: aligned for name, (key, _) in BEHAVIORS.items()
                if (aligned := _behavior(path, f, key, times, step)) is not None}
    return Session.build(
        id=_text(f, "general/session_id") or path.stem, traces=traces.T, times=times,
        rate=1.0 / step if step > 0 else np.nan, unit="dF/F",
        behavior=np.stack(list(behavior.values()), axis=1) if behavior else None, behavior_names=behavior,
        behavior_units=[BEHAVIORS[name][1] for name in behavior],
        neurons=_array(path, f, CELLS).tolist() if CELLS in f else None, metadata=_metadata(f), source=str(path))


def _array(path: pathlib.Path, f: h5py.File, key: str) -> np.ndarray:
    if not isinstance(f.get(key), h5py.Dataset):
        raise UserError(f"{path}: has no {key!r}; it is not a whole Visual Coding session file")
    return np.asarray(f[key][...])


def _behavior(path: pathlib.Path, f: h5py.File, key: str, times: np.ndarray, step: float) -> np.ndarray | None:
    """Return the series at the frames' times, or None where the session has none."""
    if f"{PIPELINE}/{key}" not in f:
        return None
    values = _array(path, f, f"{PIPELINE}/{key}/data").reshape(-1)  # (T', 1) in pipeline 0.9
    stamps = _array(path, f, f"{PIPELINE}/{key}/timestamps").reshape(-1)
    if len(values) != len(stamps):
        raise UserError(f"{path}: {key} has {len(values)} values and {len(stamps)} time stamps; they must agree")
    aligned = align(values, stamps, times, step / 2)
    return None if np.isnan(aligned).all() else aligned


def align(values: np.ndarray, stamps: np.ndarray, times: np.ndarray, reach: float) -> np.ndarray:
    """Return for each of times the value stamped nearest, NaN where none lies within reach (s)."""
    known = np.isfinite(stamps)
    order = np.argsort(stamps[known], kind="stable")
    values, stamps = values[known][order], stamps[known][order]
    if not len(stamps):
        return np.full(len(times), np.nan, np.float32)
    after = np.searchsorted(stamps, times).clip(max=len(stamps) - 1)
    before = (after - 1).clip(min=0)
    nearest = np.where(np.abs(stamps[before] - times) <= np.abs(stamps[after] - times), before, after)
    return np.where(np.abs(stamps[nearest] - times) <= reach, values[nearest], np.nan).astype(np.float32)


def _metadata(f: h5py.File) -> dict[str, str]:
    found = {name: _text(f, key) for name, key in METADATA.items()}
    found["cre"] = found["genotype"].split(";")[0]  # as AllenSDK reads the cre line
    return {name: text for name, text in found.items() if text}


def _text(f: h5py.File, key: str) -> str:
    if not isinstance(f.get(key), h5py.Dataset):
        return ""
    value = np.asarray(f[key][()]).reshape(-1)
    first = value[0] if len(value) else ""
    return (first.decode("utf-8", "replace") if isinstance(first, bytes) else str(first)).strip()
