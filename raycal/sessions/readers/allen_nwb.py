"""Two-photon sessions of the Allen Brain Observatory (Visual Coding): NWB 1, read by h5py alone.

de Vries et al. 2020, Nat Neurosci, doi 10.1038/s41593-019-0550-9. The paths are those that AllenSDK
2.16.2 reads (core/brain_observatory_nwb_data_set.py).
"""
from __future__ import annotations

import pathlib

import h5py
import numpy as np

from raycal.errors import UserError
from raycal.sessions.clock import on_frames
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


def read(path: pathlib.Path, traces: str = "") -> Session:
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
                if (aligned := _behavior(path, f, key, times)) is not None}
    return Session.build(
        id=hdf5.text(f, "general/session_id"), name=path.stem, traces=traces.T, times=times,
        rate=1.0 / step if step > 0 else np.nan, unit="dF/F",
        behavior=np.stack(list(behavior.values()), axis=1) if behavior else None, behavior_names=behavior,
        behavior_units=[BEHAVIORS[name][1] for name in behavior],
        neurons=_array(path, f, CELLS).tolist() if CELLS in f else None, metadata=_metadata(f), source=str(path))


def _array(path: pathlib.Path, f: h5py.File, key: str) -> np.ndarray:
    return hdf5.array(path, f, key, "it is not a whole Visual Coding session file")


def _behavior(path: pathlib.Path, f: h5py.File, key: str, times: np.ndarray) -> np.ndarray | None:
    """Return the series at the frames' times, or None where the session has none."""
    if f"{PIPELINE}/{key}" not in f:
        return None
    values = _array(path, f, f"{PIPELINE}/{key}/data").reshape(-1)  # (T', 1) in pipeline 0.9
    stamps = _array(path, f, f"{PIPELINE}/{key}/timestamps").reshape(-1)
    if len(values) != len(stamps):
        raise UserError(f"{path}: {key} has {len(values)} values and {len(stamps)} time stamps; they must agree")
    aligned = on_frames(values, stamps, times)
    return None if np.isnan(aligned).all() else aligned


def _metadata(f: h5py.File) -> dict[str, str]:
    found = {name: hdf5.text(f, key) for name, key in METADATA.items()}
    found["cre"] = found["genotype"].split(";")[0]  # as AllenSDK reads the cre line
    return {name: text for name, text in found.items() if text}
