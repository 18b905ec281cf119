"""Time series of NWB files: finding them, their numbers and time stamps, and behaviour on the frames of a recording."""
from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from raycal.errors import UserError
from raycal.sessions.clock import on_frames
from raycal.sessions.readers.limits import check_declared

if TYPE_CHECKING:
    from pynwb import NWBFile, TimeSeries

MAX_COLUMNS = 8  # a wider series is no behaviour
NO_UNIT = ("unknown", "n.a.", "n/a", "na", "no unit")


def all_series(nwb: NWBFile) -> dict[str, TimeSeries]:
    """Return the time series of the processing modules and of acquisition, but movies, by their path, each once."""
    places = [*((name, module.data_interfaces) for name, module in sorted(nwb.processing.items())),
              ("acquisition", nwb.acquisition)]
    found: dict[int, tuple[str, TimeSeries]] = {}
    for place, items in places:
        for name, item in sorted(items.items()):
            for path, series in _walk(f"{place}/{name}", item):
                found.setdefault(id(series), (path, series))  # a module may link to what lies elsewhere
    return dict(found.values())


def _walk(path: str, item: Any) -> Iterator[tuple[str, TimeSeries]]:
    from pynwb import TimeSeries
    from pynwb.image import ImageSeries
    from pynwb.ophys import CorrectedImageStack

    if isinstance(item, TimeSeries):
        if not isinstance(item, ImageSeries):
            yield path, item
    elif not isinstance(item, CorrectedImageStack):  # its shifts say how the image moved, not what the animal did
        for child in sorted(item.children, key=lambda child: child.name):
            yield from _walk(f"{path}/{child.name}", child)


def numbers(path: pathlib.Path, name: str, data: Any) -> np.ndarray:
    """Return a dataset's numbers; raise UserError when it holds others, declares too much or lies elsewhere."""
    if isinstance(data, h5py.Dataset):
        if data.external or data.is_virtual:
            raise UserError(f"{path}: {name} lies in other files; write it into this one")
        check_declared(path, name, data.nbytes, os.path.getsize(data.file.filename))
    array = np.asarray(data[()] if hasattr(data, "shape") else data)
    if array.dtype.kind not in "biuf":
        raise UserError(f"{path}: {name} holds {array.dtype} values; real numbers are needed")
    return array


def values(path: pathlib.Path, name: str, series: TimeSeries) -> np.ndarray:
    """Return a series' data in its unit."""
    stored = numbers(path, f"{name}/data", series.data)
    if (series.conversion, series.offset) == (1, 0):
        return stored
    return stored * float(series.conversion) + float(series.offset)


def stamps(path: pathlib.Path, name: str, series: TimeSeries, n_samples: int) -> np.ndarray:
    """Return the samples' times in s, as stated or counted from the starting time."""
    if series.timestamps is not None:
        return numbers(path, f"{name}/timestamps", series.timestamps)
    if not 0 < series.rate < np.inf:
        raise UserError(f"{path}: {name} has a rate of {series.rate:g} Hz; it must be above 0")
    return float(series.starting_time) + np.arange(n_samples) / float(series.rate)


def unit(series: TimeSeries) -> str:
    return "" if series.unit.strip().lower() in NO_UNIT else series.unit


def behavior(path: pathlib.Path, series: Mapping[str, TimeSeries],
             times: np.ndarray) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """Return the behaviours by name on the frames, (T,) each, their units, and what was left out and why."""
    found: dict[str, np.ndarray] = {}
    units, left_out = [], []
    for name, each in series.items():
        unfit = _unfit(each)
        if unfit:
            left_out.append(f"{name} ({unfit})")
            continue
        own = values(path, name, each)
        aligned = on_frames(own, stamps(path, name, each, len(own)), times).reshape(len(times), -1)
        labels = _labels(each, aligned.shape[1])
        prefix = name if any(each.name + label in found for label in labels) else each.name
        for label, column in zip(labels, aligned.T):
            unfit = "all NaN" if np.isnan(column).all() else "infinite values" if np.isinf(column).any() else ""
            if unfit:
                left_out.append(f"{prefix}{label} ({unfit})")
            else:
                found[prefix + label] = column
                units.append(unit(each))
    return found, units, left_out


def _unfit(series: TimeSeries) -> str:
    """Say why a series is no behaviour in time, "" when it is one."""
    from pynwb.behavior import BehavioralEpochs, BehavioralEvents
    from pynwb.misc import IntervalSeries

    if isinstance(series, IntervalSeries) or isinstance(series.parent, (BehavioralEpochs, BehavioralEvents)):
        return "events, not samples"
    shape, dtype = getattr(series.data, "shape", ()), getattr(series.data, "dtype", object)
    if np.dtype(dtype).kind not in "biuf":
        return "no numbers"
    if len(shape) not in (1, 2) or not 0 < shape[-1] or shape[1:] > (MAX_COLUMNS,):
        return f"shape {shape}"
    if series.timestamps is not None and len(series.timestamps) != shape[0]:
        return f"{shape[0]} samples, {len(series.timestamps)} time stamps"
    return "" if series.timestamps is not None or 0 < series.rate < np.inf else f"a rate of {series.rate:g} Hz"


def _labels(series: TimeSeries, n_columns: int) -> list[str]:
    from pynwb.behavior import SpatialSeries

    if n_columns == 1:
        return [""]
    spatial = isinstance(series, SpatialSeries) and n_columns <= 3
    return [f"_{'xyz'[column] if spatial else column}" for column in range(n_columns)]
