"""Two-photon recordings as the DANDI archive keeps them: NWB 2, read by pynwb.

Rübel et al. 2022, eLife, doi 10.7554/eLife.78362; schema: https://nwb-schema.readthedocs.io. One series of ROI
responses is read, with the behaviour of acquisition and processing on its frames and the interval tables as stimuli.
"""
from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from raycal.errors import UserError
from raycal.sessions.clock import GAP
from raycal.sessions.readers import hdf5, nwb_file, nwb_series
from raycal.sessions.readers.nwb_series import numbers
from raycal.sessions.session import Session
from raycal.sessions.stimulus import Stimulus

if TYPE_CHECKING:
    from hdmf.common import DynamicTable, DynamicTableRegion
    from pynwb import NWBFile
    from pynwb.ophys import ImagingPlane, RoiResponseSeries

FORMAT = "NWB 2 (two-photon)"
DERIVED = ("neuropil", "deconv", "spike", "event", "background", "baseline", "chan2")  # in a path: no ROI's calcium
CURATION = ("accepted", "iscell", "is_cell", "valid_roi")  # ROI columns of CaImAn, suite2p, suite2p and Allen
LONG = 120  # characters of a text that are kept


def recognises(path: pathlib.Path) -> bool:
    """Tell whether the file is HDF5 that states NWB 2; NWB 1 states its version in a dataset."""
    try:
        with h5py.File(path, "r") as f:
            return hdf5.decoded(f.attrs.get("nwb_version", "")).startswith("2")
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return False


def read(path: pathlib.Path, traces: str = "") -> Session:
    """Return one series of ROI responses: of the only ROI table the dF/F, else the fluorescence.

    traces: the series' name, its imaging plane's name, or its path (module/container/series) or a part of that.
    Raise UserError naming what there is when none or several fit, and what is damaged or does not belong together.
    """
    return nwb_file.opened(path, lambda path, nwb: _session(path, nwb, traces))


def _session(path: pathlib.Path, nwb: NWBFile, key: str) -> Session:
    from pynwb.ophys import RoiResponseSeries

    series = nwb_series.all_series(nwb)
    responses = {name: each for name, each in series.items() if isinstance(each, RoiResponseSeries)}
    name = _chosen(path, responses, key)
    chosen = responses[name]
    traces, notes = _traces(path, name, chosen)
    times = nwb_series.stamps(path, name, chosen, len(traces))
    kept, labels, curation = _rois(path, name, chosen.rois)
    others = {name: each for name, each in series.items() if name not in responses}
    behavior, units, left_out = nwb_series.behavior(path, others, times)
    notes.update(curation, **({"left out": ", ".join(left_out)} if left_out else {}))
    return Session.build(  # session_id is often "1", identifier a UUID: the file's name tells recordings apart
        name=path.stem, traces=traces[:, kept], times=times, rate=_rate(chosen, times), neurons=labels[kept],
        segments=_segments(times, _intervals(path, nwb.invalid_times, times)),
        behavior=np.stack(list(behavior.values()), axis=1) if behavior else None, behavior_names=behavior,
        behavior_units=units, unit="dF/F" if _kind(chosen) == "DfOverF" else nwb_series.unit(chosen),
        metadata={"traces": name, **notes, **_metadata(nwb, _plane(chosen))}, source=str(path),
        stimuli=_stimuli(path, nwb, times))


def _chosen(path: pathlib.Path, responses: Mapping[str, RoiResponseSeries], key: str) -> str:
    """Return the path of the series to read: of each ROI table's the best, and of those the only one."""
    if not responses:
        raise UserError(f"{path}: has no ROI responses (RoiResponseSeries) in processing or acquisition; raycal reads "
                        "NWB files of two-photon imaging after ROIs were found")
    exact = [name for name, each in responses.items() if key in (name, each.name, _plane_name(each))]
    fitting = exact or [name for name in responses if key.lower() in name.lower()]
    tables: dict[int, list[str]] = {}
    for name in fitting:
        tables.setdefault(id(responses[name].rois.table), []).append(name)
    best: list[str] = []
    for names in tables.values():
        ranks = [_rank(name, responses[name]) for name in names]
        best += [name for name, rank in zip(names, ranks) if rank == min(ranks)]
    if len(best) != 1:
        listed = ", ".join(f"{name} (plane {_plane_name(each)!r})" for name, each in responses.items())
        raise UserError(f"{path}: {f'{key!r} fits {len(best)} of its series' if key else 'has several series'}: "
                        f"{listed}; name one, its plane, or a part of its path that no other has, with --set "
                        "sessions.traces=")
    return best[0]


def _rank(name: str, series: RoiResponseSeries) -> int:
    if any(word in name.lower() for word in DERIVED):
        return 3
    return {"DfOverF": 0, "Fluorescence": 1}.get(_kind(series), 2)


def _kind(series: RoiResponseSeries) -> str:
    return type(series.parent).__name__


def _plane(series: RoiResponseSeries) -> ImagingPlane | None:
    return getattr(series.rois.table, "imaging_plane", None)


def _plane_name(series: RoiResponseSeries) -> str | None:
    return getattr(_plane(series), "name", None)


def _traces(path: pathlib.Path, name: str, series: RoiResponseSeries) -> tuple[np.ndarray, dict[str, str]]:
    """Return the responses (T, N); files that keep them (N, T) are told by their ROIs and time stamps."""
    values = nwb_series.values(path, name, series)
    values = values[:, None] if values.ndim == 1 else values
    n_rois, n_stamps = len(series.rois.data), None if series.timestamps is None else len(series.timestamps)
    if values.ndim == 2 and values.shape[1] == n_rois and n_stamps in (None, values.shape[0]):
        return values, {}
    if values.ndim == 2 and values.shape[0] == n_rois and n_stamps in (None, values.shape[1]):
        return values.T, {"orientation": "kept as ROIs x frames in the file, turned"}
    stamps = "no time stamps" if n_stamps is None else f"{n_stamps} time stamps"
    raise UserError(f"{path}: {name} has data of shape {values.shape} for {n_rois} ROIs and {stamps}; it must be "
                    "frames x ROIs")


def _rate(series: RoiResponseSeries, times: np.ndarray) -> float:
    if series.timestamps is None:
        return float(series.rate)
    step = float(np.median(np.diff(times))) if len(times) > 1 else np.nan
    return 1.0 / step if step > 0 else np.nan


def _rois(path: pathlib.Path, name: str, rois: DynamicTableRegion) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Return which ROIs the curation kept, (N,) bool, the id of each, (N,), and what to say of it."""
    table, rows = rois.table, numbers(path, f"{name}/rois", rois.data)
    labels, kept = numbers(path, f"{table.name}/id", table.id.data)[rows], np.ones(len(rows), bool)
    column = next((column for column in table.colnames if column.lower() in CURATION), None)
    if column is None:
        return kept, labels, {}
    flags = numbers(path, f"{table.name}/{column}", table[column].data)[rows]
    accepted = (flags[:, 0] if flags.ndim == 2 else flags) > 0  # suite2p keeps the classifier's probability beside
    if not accepted.any():
        return kept, labels, {"ROIs": f"{column!r} keeps none of {len(rows)}: not applied"}
    return accepted, labels, {"ROIs": f"{accepted.sum()} of {len(rows)} kept by {column!r}"}


def _segments(times: np.ndarray, invalid: Stimulus | None) -> list[tuple[int, int]]:
    """Return the runs of frames without a gap in time, outside the intervals marked as invalid."""
    covered = np.zeros(len(times) + 1, int)
    if invalid is not None:
        np.add.at(covered, invalid.frames[:, 0], 1)
        np.add.at(covered, invalid.frames[:, 1], -1)
    usable = np.cumsum(covered)[:-1] == 0
    steps = np.diff(times)
    apart = steps > GAP * np.median(steps) if len(steps) else np.zeros(0, bool)
    edges = [0, *(np.flatnonzero(apart | (usable[1:] != usable[:-1])) + 1).tolist(), len(times)]
    return [(start, stop) for start, stop in zip(edges, edges[1:]) if usable[start:stop].any()]


def _stimuli(path: pathlib.Path, nwb: NWBFile, times: np.ndarray) -> list[Stimulus]:
    tables = {table.name: table for table in (nwb.epochs, nwb.trials, *nwb.intervals.values()) if table is not None}
    tables.pop("invalid_times", None)
    return [stimulus for table in tables.values() if (stimulus := _intervals(path, table, times)) is not None]


def _intervals(path: pathlib.Path, table: DynamicTable | None, times: np.ndarray) -> Stimulus | None:
    """Return the rows of a table that have a start, in frames, with its columns of numbers; None without rows."""
    if table is None or not len(table):
        return None
    ragged = {column.target.name for column in table.columns if hasattr(column, "target")}
    columns = {}
    for column in table.columns:
        shape, dtype = getattr(column.data, "shape", ()), getattr(column.data, "dtype", object)
        plain = type(column).__name__ == "VectorData" and column.name not in ragged  # no index, no reference
        if plain and shape == (len(table),) and np.dtype(dtype).kind in "biuf":
            columns[column.name] = numbers(path, f"{table.name}/{column.name}", column.data).astype(float)
    start, stop = columns.pop("start_time"), columns.pop("stop_time")
    known = np.isfinite(start)
    stop = np.where(stop >= start, stop, start)  # NaN where a trial was broken off
    return Stimulus.at_times(table.name, start[known], stop[known], times, {k: v[known] for k, v in columns.items()})


def _metadata(nwb: NWBFile, plane: ImagingPlane | None) -> dict[str, str]:
    origin, excitation = (getattr(plane, field, None) for field in ("origin_coords", "excitation_lambda"))
    found: dict[str, Any] = {
        "plane": getattr(plane, "name", None), "area": getattr(plane, "location", None),
        "indicator": getattr(plane, "indicator", None),
        "depth": f"{origin[2]} {plane.origin_coords_unit}" if origin is not None and len(origin) == 3 else None,
        "excitation": f"{excitation:g} nm" if excitation and np.isfinite(excitation) else None,
        "plane description": getattr(plane, "description", None),
        "subject": getattr(nwb.subject, "subject_id", None),
        **{field: getattr(nwb.subject, field, None) for field in ("species", "sex", "age", "genotype")},
        "session": nwb.session_id, "identifier": nwb.identifier, "institution": nwb.institution, "lab": nwb.lab,
        "start": nwb.session_start_time, "description": nwb.session_description}
    texts = {name: hdf5.decoded(value)[:LONG] for name, value in found.items() if value is not None}
    return {name: text for name, text in texts.items() if text}
