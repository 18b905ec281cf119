"""Recordings written by temporaldata (HDF5): what the POYO and kirby pipelines left, and what brainsets writes now.

temporaldata 0.1.6, https://github.com/neuro-galaxy/temporaldata; Allen's two-photon sessions as written by
https://github.com/neuro-galaxy/brainsets, pipeline allen_visual_coding_ophys_2016. Every group says in its attribute
`object` what it is. The calcium traces are (T, N); older files have `units` and, beside the traces, a mask for each
part; newer ones have `rois` and each part's domain, [start, end) in seconds.
"""
from __future__ import annotations

import dataclasses
import functools
import pathlib

import h5py
import numpy as np

from raycal.errors import UserError
from raycal.sessions.clock import GAP, on_frames
from raycal.sessions.readers import hdf5
from raycal.sessions.session import Session
from raycal.sessions.stimulus import Stimulus

FORMAT = "temporaldata HDF5 (POYO/kirby, brainsets)"
SERIES = ("RegularTimeSeries", "IrregularTimeSeries")
TRACES = "calcium_traces"
PARTS = {"train": "train", "valid": "validation", "test": "test"}  # its names -> raycal's
DOMAINS = ("domain", *(f"{part}_domain" for part in PARTS))
TIMES = {"start", "end", "timestamps", "timestamp_indices_1s"}
BEHAVIORS = ("running", "pupil")  # any other series may be neural, and a target must not be
UNITS = {"df_over_f": "dF/F", "running_speed": "cm/s", "pupil_size": "px", "pupil_location": "deg"}  # as in AllenSDK
IDS = (("session", "id"), ("/", "session_id"), ("/", "id"))
METADATA = {"area": (("device", "target_area"), ("subject", "target_area")),
            "depth": (("device", "imaging_depth"), ("subject", "depth")), "cre": (("subject", "cre_line"),),
            "subject": (("subject", "id"), ("/", "subject_id")), "species": (("subject", "species"),),
            "sex": (("subject", "sex"),), "genotype": (("subject", "genotype"),),
            "start": (("session", "recording_date"),), "brainset": (("brainset", "id"),)}


def recognises(path: pathlib.Path) -> bool:
    """Tell whether the file is HDF5 whose root says that it is temporaldata's Data."""
    try:
        with h5py.File(path, "r") as f:
            return _attribute(f, "object") == "Data"
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return False


def read(path: pathlib.Path, traces: str = "") -> Session:
    """Return the recording; traces names its dataset, as calcium_traces/df_over_f or df_over_f.

    Behaviours come at the frames' times, stimuli as the frames with start <= t < end; a new segment begins where the
    clock jumps by more than GAP steps. Raise UserError naming what is missing, damaged or does not fit.
    """
    return hdf5.opened(path, functools.partial(_session, key=traces))


def _session(path: pathlib.Path, f: h5py.File, key: str) -> Session:
    group, name = _chosen(path, f, key)
    traces = _numbers(path, f, f"{group}/{name}")
    if 0 in traces.shape:
        raise UserError(f"{path}: {group}/{name} is empty: its shape is {traces.shape}; give frames x neurons")
    stamps, measured = _clock(path, f, group, len(traces))
    times, masks = stamps[measured], _masks(path, f, group, stamps, measured)
    rate, segments = _rate_and_segments(path, f, group, times)
    behavior, left_out = _behavior(path, f, times)
    stimuli, not_numbers = _stimuli(path, f)
    left_out = ", ".join(left_out + not_numbers)
    session = Session.build(
        id=_first(f, IDS), name=path.stem, traces=traces[measured], times=times, rate=rate, segments=segments,
        unit=UNITS.get(name, ""), behavior=np.stack(list(behavior.values()), axis=1) if behavior else None,
        behavior_names=behavior, behavior_units=[UNITS.get(k.rstrip("_0123456789"), "") for k in behavior],
        masks=masks, neurons=_neurons(path, f), source=str(path),
        metadata={**_metadata(f), **({"left out": left_out} if left_out else {})})
    return dataclasses.replace(session, stimuli=tuple(
        Stimulus.at_times(name, *intervals.T, times, columns) for name, (intervals, columns) in stimuli.items()))


def _chosen(path: pathlib.Path, f: h5py.File, key: str) -> tuple[str, str]:
    """Return group and name of the traces: those asked for, else dF/F, else the only ones."""
    found = [(group, name) for group in _groups(f, *SERIES) if group not in BEHAVIORS
             for name in _columns(f[group]) if f[group][name].ndim == 2]
    own = [(group, name) for group, name in found if group == TRACES]
    fits = [k for k in found if key.strip("/") in ("/".join(k), k[1])] if key else \
        [k for k in own if k[1] == "df_over_f"] or own
    if len(fits) == 1:
        return fits[0]
    asked = f"sessions.traces={key!r} fits {len(fits)} of its series" if key else f"{TRACES} has {len(own)} series"
    raise UserError(f"{path}: {asked} of frames x neurons; give one with --set sessions.traces=KEY: "
                    f"{', '.join(map('/'.join, found)) or 'the file has none'}")


def _clock(path: pathlib.Path, f: h5py.File, group: str, n_samples: int) -> tuple[np.ndarray, np.ndarray | slice]:
    """Return a series' time stamps (S,) s and which of its samples were measured.

    A regular series counts from the start of its domain; in the gaps of its domain it holds fill values.
    """
    if f"{group}/timestamps" in f:
        return _numbers(path, f, f"{group}/timestamps", n_samples).astype(np.float64), slice(None)
    rate, domain = _rate(path, f, group), _intervals(path, f, f"{group}/domain")
    if not len(domain):
        raise UserError(f"{path}: {group}/domain is empty; it must say when the first sample was taken")
    stamps = domain[0, 0] + np.arange(n_samples) / rate
    return stamps, slice(None) if len(domain) == 1 else _within(stamps + 0.5 / rate, domain)


def _rate(path: pathlib.Path, f: h5py.File, group: str) -> float:
    rate = np.asarray(f[group].attrs.get("sampling_rate", np.nan)).reshape(-1)
    if rate.dtype.kind not in "fiu" or rate.size != 1 or not 0 < rate[0] < np.inf:
        raise UserError(f"{path}: {group} has no timestamps and its sampling_rate is {rate.tolist()}; write one "
                        "number in Hz, above 0")
    return float(rate[0])


def _rate_and_segments(path: pathlib.Path, f: h5py.File, group: str,
                       times: np.ndarray) -> tuple[float, list[tuple[int, int]] | None]:
    steps = np.diff(times)
    step = float(np.median(steps)) if len(steps) else np.nan
    if not step > 0:  # the session says at which frame time runs back
        return np.nan, None
    edges = [0, *(np.flatnonzero(steps > GAP * step) + 1).tolist(), len(times)]
    regular = f"{group}/timestamps" not in f
    return _rate(path, f, group) if regular else 1 / step, list(zip(edges[:-1], edges[1:]))


def _masks(path: pathlib.Path, f: h5py.File, group: str, stamps: np.ndarray,
           measured: np.ndarray | slice) -> dict[str, np.ndarray]:
    """Return the file's own split: its masks where it has any, else the frames inside its domains."""
    masks = {part: _numbers(path, f, f"{group}/{name}_mask", len(stamps)) for name, part in PARTS.items()
             if f"{group}/{name}_mask" in f}
    masks = masks or {part: _within(stamps, _intervals(path, f, f"{name}_domain")) for name, part in PARTS.items()
                      if f"{name}_domain" in f}
    return {part: mask[measured] for part, mask in masks.items()}


def _within(times: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Tell which of the times (T,) lie in one of the intervals (P, 2): start <= t < end."""
    change = np.zeros(len(times) + 1, int)
    for edges, sign in zip(np.searchsorted(times, intervals).T, (1, -1)):
        np.add.at(change, edges, sign)
    return np.cumsum(change)[:-1] > 0


def _intervals(path: pathlib.Path, f: h5py.File, key: str) -> np.ndarray:
    """Return the rows of an Interval, (P, 2): start and end in seconds."""
    start = _numbers(path, f, f"{key}/start").astype(np.float64).reshape(-1)
    end = _numbers(path, f, f"{key}/end", len(start)).astype(np.float64)
    wrong = np.flatnonzero(~(np.isfinite(start) & np.isfinite(end) & (start <= end)))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(f"{path}: interval {row} of {key} runs from {start[row]:.10g} to {end[row]:.10g} s; give times "
                        "with start <= end")
    return np.stack([start, end], axis=1)


def _stimuli(path: pathlib.Path, f: h5py.File) -> tuple[dict[str, tuple[np.ndarray, dict[str, np.ndarray]]], list[str]]:
    """Return rows and columns of every Interval but the domains, and what in them is no list of numbers."""
    stimuli, left_out = {}, []
    for group in _groups(f, "Interval"):
        if group in DOMAINS:
            continue
        intervals, columns = _intervals(path, f, group), {}
        for name in _columns(f[group]):
            values = f[group][name]
            if values.dtype.kind in "fiub" and (values.ndim == 1 or values.shape[1:] == (1,)):
                columns[name] = _numbers(path, f, f"{group}/{name}", len(intervals))
            else:
                left_out.append(f"{group}/{name} ({values.dtype}, shape {values.shape})")
        stimuli[group] = intervals, columns
    return stimuli, left_out


def _behavior(path: pathlib.Path, f: h5py.File, times: np.ndarray) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the behaviours observed at all, (T,) each, and what was left out and why."""
    observed, left_out = {}, []
    for group, name in [(group, name) for group in _groups(f, *SERIES) if group in BEHAVIORS
                        for name in _columns(f[group])]:
        label = name if name.startswith(group) else f"{group}_{name}"
        values = _numbers(path, f, f"{group}/{name}")
        if values.ndim not in (1, 2) or not values.size:
            left_out.append(f"{label} (shape {values.shape})")
            continue
        stamps, measured = _clock(path, f, group, len(values))
        aligned = on_frames(values.reshape(len(values), -1)[measured], stamps[measured], times)
        for k, column in enumerate(aligned.T):
            column_label = label if aligned.shape[1] == 1 else f"{label}_{k}"
            if np.isnan(column).all():
                left_out.append(f"{column_label} (all NaN)")
            else:
                observed[column_label] = column
    return observed, left_out


def _neurons(path: pathlib.Path, f: h5py.File) -> list[str] | None:
    for key in ("rois/id", "units/id"):
        if key in f:
            return [hdf5.decoded(id) for id in hdf5.array(path, f, key, "it must list the neurons").reshape(-1)]
    return None


def _metadata(f: h5py.File) -> dict[str, str]:
    found = {name: _first(f, places) for name, places in METADATA.items()}
    return {name: text for name, text in found.items() if text}


def _first(f: h5py.File, places: tuple[tuple[str, str], ...]) -> str:
    return next((text for group, name in places if group in f and (text := _attribute(f[group], name))), "")


def _numbers(path: pathlib.Path, f: h5py.File, key: str, length: int | None = None) -> np.ndarray:
    """Return a dataset of real numbers; given a length, it must be (length,) or (length, 1), and is flattened."""
    array = hdf5.array(path, f, key, "temporaldata writes it, so the file is not whole")
    if array.dtype.kind not in "fiub":
        raise UserError(f"{path}: {key} holds {array.dtype} values; it must hold real numbers")
    if length is None:
        return array
    if array.shape not in ((length,), (length, 1)):
        raise UserError(f"{path}: {key} has shape {array.shape} beside {length} others; they must agree")
    return array.reshape(-1)


def _groups(f: h5py.File, *kinds: str) -> list[str]:
    """Return the top groups that say they are one of these kinds."""
    return [k for k in _names(f) if isinstance(f.get(k), h5py.Group) and _attribute(f[k], "object") in kinds]


def _columns(group: h5py.Group) -> list[str]:
    """Return a group's datasets without masks and times, which lie on the recording's clock and are no parameters."""
    times = TIMES.union(map(hdf5.decoded, np.asarray(group.attrs.get("timekeys", [])).reshape(-1)))
    return [k for k in _names(group)
            if isinstance(group.get(k), h5py.Dataset) and k not in times and not k.endswith("_mask")]


def _names(group: h5py.Group) -> list[str]:
    """Return the names in a group but those that could be neither shown nor hashed: h5py gives no text as bytes."""
    return [name for name in group if isinstance(name, str) and name.isprintable()]


def _attribute(group: h5py.Group, name: str) -> str:
    return hdf5.decoded(group.attrs.get(name, "")).encode("utf-8", "replace").decode()
