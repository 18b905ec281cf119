"""Two-photon sessions of the Allen Brain Observatory (Visual Coding): NWB 1, read by h5py alone.

de Vries et al. 2020, Nat Neurosci, doi 10.1038/s41593-019-0550-9. The paths are those that AllenSDK
2.16.2 reads (core/brain_observatory_nwb_data_set.py).
"""
from __future__ import annotations

import pathlib
from collections.abc import Iterator

import h5py
import numpy as np

from raycal.errors import UserError, nearest
from raycal.sessions.clock import on_frames
from raycal.sessions.readers import hdf5
from raycal.sessions.readers.allen_stimuli import stimuli
from raycal.sessions.readers.limits import check_declared
from raycal.sessions.session import Session

FORMAT = "Allen Brain Observatory NWB 1"
PIPELINE = "processing/brain_observatory_pipeline"
TRACES = f"{PIPELINE}/DfOverF/imaging_plane_1"
FLUORESCENCE = f"{PIPELINE}/Fluorescence/imaging_plane_1"
NEUROPIL = f"{FLUORESCENCE}_neuropil_response"
KINDS = {"DfOverF": (f"{TRACES}/data",), "Fluorescence": (f"{FLUORESCENCE}/data",),
         "demixed": (f"{FLUORESCENCE}_demixed_signal/data",),  # from pipeline 2.0 on, as the second place of neuropil
         "neuropil": (f"{NEUROPIL}/data", f"{FLUORESCENCE}/neuropil_traces")}
CORRECTED = "corrected"  # what demixing left, less the neuropil times its weight r
WEIGHTS = (f"{NEUROPIL}/r", f"{FLUORESCENCE}/r")
CELLS = f"{PIPELINE}/ImageSegmentation/cell_specimen_ids"
BEHAVIORS = {"BehavioralTimeSeries/running_speed": {"running_speed": "cm/s"},
             "PupilTracking/pupil_size": {"pupil_size": "px"},  # area
             "EyeTracking/pupil_location": {"pupil_x": "cm", "pupil_y": "cm"},  # on the monitor, from its centre
             "EyeTracking/pupil_location_spherical": {"pupil_altitude": "deg", "pupil_azimuth": "deg"}}
PLANE = "general/optophysiology/imaging_plane_1"
METADATA = {"area": f"{PLANE}/location", "depth": f"{PLANE}/imaging depth", "indicator": f"{PLANE}/indicator",
            "session type": "general/session_type", "genotype": "general/subject/genotype",
            "container": "general/experiment_container_id", "specimen": "general/specimen_name",
            "age": "general/subject/age", "sex": "general/subject/sex", "start": "session_start_time"}
BLOCK = 2**25  # bytes of a trace array read at a time: a whole one would double the memory it takes


def recognises(path: pathlib.Path) -> bool:
    """Tell whether the file is HDF5 written by Allen's pipeline."""
    return hdf5.holds(path, PIPELINE)


def read(path: pathlib.Path, traces: str = "") -> Session:
    """Return the recording: traces at their time stamps, behaviours aligned to them, NaN where they have none.

    traces: DfOverF (default), Fluorescence, demixed, neuropil or corrected. Raise UserError naming what is missing,
    damaged or does not fit.
    """
    return hdf5.opened(path, lambda path, f: _session(path, f, traces or "DfOverF"))


def _session(path: pathlib.Path, f: h5py.File, kind: str) -> Session:
    traces = _traces(path, f, kind)
    group = TRACES if kind == "DfOverF" else FLUORESCENCE
    times = _array(path, f, f"{group}/timestamps")
    if times.shape != traces.shape[:1]:
        raise UserError(f"{path}: {group} has data of shape {traces.shape[::-1]} and time stamps of shape "
                        f"{times.shape}; they must be (cells, frames) and (frames,)")
    step = float(np.median(np.diff(times))) if len(times) > 1 else np.nan
    behavior, left_out = _behavior(path, f, times)
    notes = {"left out": ", ".join(f"{name} (all NaN)" for name in left_out)} if left_out else {}
    units = {name: unit for columns in BEHAVIORS.values() for name, unit in columns.items()}
    return Session.build(
        id=hdf5.text(f, "general/session_id"), name=path.stem, traces=traces, times=times,
        rate=1.0 / step if step > 0 else np.nan, unit="dF/F" if kind == "DfOverF" else "F",
        behavior=np.stack(list(behavior.values()), axis=1) if behavior else None, behavior_names=behavior,
        behavior_units=[units[name] for name in behavior],
        neurons=_array(path, f, CELLS).tolist() if CELLS in f else None, metadata=_metadata(f) | notes,
        source=str(path), stimuli=stimuli(path, f, len(times)))


def _array(path: pathlib.Path, f: h5py.File, key: str) -> np.ndarray:
    return hdf5.array(path, f, key, "it is not a whole Visual Coding session file")


def _traces(path: pathlib.Path, f: h5py.File, kind: str) -> np.ndarray:
    """Return the traces of a kind as (frames, cells) float32."""
    there = {name: found for name, keys in KINDS.items() if (found := _first(f, keys))}
    if kind == CORRECTED and "neuropil" in there and _first(f, WEIGHTS):
        return _corrected(path, f, there)
    if kind not in there and kind != "DfOverF":
        known = [*there, *([CORRECTED] if "neuropil" in there and _first(f, WEIGHTS) else [])]
        raise UserError(f"{path}: has no traces {kind!r}{nearest(kind, known)} (it has {', '.join(known) or 'none'}); "
                        "give one with --set sessions.traces=KEY")
    return _transposed(path, f, there.get(kind, KINDS[kind][0]))


def _corrected(path: pathlib.Path, f: h5py.File, there: dict[str, str]) -> np.ndarray:
    traces = _transposed(path, f, there.get("demixed") or there.get("Fluorescence", KINDS["Fluorescence"][0]))
    weights = _array(path, f, _first(f, WEIGHTS))
    neuropil = f[there["neuropil"]]
    if neuropil.shape != traces.shape[::-1] or weights.shape != traces.shape[1:]:
        raise UserError(f"{path}: traces of shape {traces.shape[::-1]}, neuropil of shape {neuropil.shape} and its "
                        f"weights of shape {weights.shape} do not fit together; read another kind of traces")
    for cells, frames in _blocks(neuropil):
        traces[frames, cells] -= neuropil[cells, frames].T * weights[cells]
    return traces


def _first(f: h5py.File, keys: tuple[str, ...]) -> str:
    return next((key for key in keys if isinstance(f.get(key), h5py.Dataset)), "")


def _transposed(path: pathlib.Path, f: h5py.File, key: str) -> np.ndarray:
    """Return a dataset (cells, frames) as (frames, cells) float32, turned block by block."""
    dataset = f.get(key)
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim != 2 or dataset.dtype.kind not in "fiu":
        found = _array(path, f, key)  # says what is missing
        raise UserError(f"{path}: {key} holds {found.dtype} values of shape {found.shape}; it must hold numbers, cells "
                        "x frames")
    check_declared(path, repr(key), dataset.size * max(dataset.dtype.itemsize, 4))
    traces = np.empty(dataset.shape[::-1], np.float32)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused
        for cells, frames in _blocks(dataset):
            traces[frames, cells] = dataset[cells, frames].T
    return traces


def _blocks(dataset: h5py.Dataset) -> Iterator[tuple[slice, slice]]:
    """Yield (cells, frames) that cover the dataset in whole chunks, so that each is unpacked once."""
    n_cells, n_frames = dataset.shape
    chunk_cells, chunk_frames = dataset.chunks or (1, 1)
    width = -(-16 // chunk_cells) * chunk_cells  # 16 float32 fill a cache line of the transposed array
    length = max(BLOCK // (width * dataset.dtype.itemsize) // chunk_frames, 1) * chunk_frames
    for cell in range(0, n_cells, width):
        for frame in range(0, n_frames, length):
            yield slice(cell, cell + width), slice(frame, frame + length)


def _behavior(path: pathlib.Path, f: h5py.File, times: np.ndarray) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the behaviours at the frames' times, and the names of those never observed."""
    observed, left_out = {}, []
    for key, columns in BEHAVIORS.items():
        if f"{PIPELINE}/{key}" not in f:
            continue
        for name, values in zip(columns, _aligned(path, f, key, len(columns), times).T):
            if np.isnan(values).all():
                left_out.append(name)
            else:
                observed[name] = values
    return observed, left_out


def _aligned(path: pathlib.Path, f: h5py.File, key: str, width: int, times: np.ndarray) -> np.ndarray:
    values = _array(path, f, f"{PIPELINE}/{key}/data")
    stamps = _array(path, f, f"{PIPELINE}/{key}/timestamps").reshape(-1)
    if values.dtype.kind not in "fiu" or values.size != len(stamps) * width:  # (T', 1) in pipeline 0.9
        raise UserError(f"{path}: {key} has {values.dtype} values of shape {values.shape} for {len(stamps)} time "
                        f"stamps; give {width} number(s) a time stamp")
    return on_frames(values.reshape(-1, width), stamps, times)


def _metadata(f: h5py.File) -> dict[str, str]:
    found = {name: hdf5.text(f, key) for name, key in METADATA.items()}
    found["cre"] = found["genotype"].split(";")[0]  # as AllenSDK reads the cre line
    return {name: text for name, text in found.items() if text}
