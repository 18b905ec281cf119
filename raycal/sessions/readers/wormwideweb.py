"""Whole-brain recordings of C. elegans as WormWideWeb offers them: one JSON file a worm.

Two layouts: that of 2023 (flat: uid, num_neurons, avg_timestep in minutes, trace_original, labeled, ...) and that of
https://github.com/flavell-lab/WormWideWebData.jl (the same in metadata, timing, behavior, gcamp and label). Traces are
neurons x frames, neurons and frames are counted from 1; units as https://wormwideweb.org shows them. A reversal (a, b)
takes the frames after a up to b, for its writer looked for the steps of a 0/1 series; one that runs when the recording
begins has a = 1, too. In the second layout positive head curvature is dorsal in every worm; the worm HDF5 has the sign
of each animal.
"""
from __future__ import annotations

import json
import pathlib
import re
from collections import Counter
from typing import Any

import numpy as np

from raycal.errors import UserError
from raycal.sessions.readers import neuropal, worm
from raycal.sessions.readers.limits import SMALL, check_declared
from raycal.sessions.session import Session

FORMAT = "WormWideWeb JSON"
TRACES = ("trace_original", "trace_array_original", "trace_array")  # the first there is: trace_array is z-scored
UNITS = {"velocity": "mm/s", "head_curvature": "rad", "body_curvature": "rad", "angular_velocity": "rad/s",
         "pumping": "pumps/s"}
PARTS = ("metadata", "timing", "behavior", "gcamp")
PROOFS = (b'"timestamp_confocal"', b'"trace_original"', b'"trace_array_original"', b'"trace_array"')
HEAD = 4096  # bytes that tell most other files apart
OBJECT = 32  # bytes in memory that one byte of JSON can become ('{},' is a dictionary)
JUMP = 1.5  # median steps: longer ones part two runs (steps jitter by up to 13 %, one lost volume makes 2)


def recognises(path: pathlib.Path) -> bool:
    """Tell whether the file is a JSON object and has the traces of this layout, or their times."""
    try:
        with open(path, "rb") as f:
            head = f.read(HEAD)
            if re.match(rb'(\xef\xbb\xbf)?\s*\{\s*"', head) is None:
                return False
            content = head + f.read(SMALL)  # keys stand in no order: the first may hold megabytes of numbers
            return any(proof in content for proof in PROOFS)
    except OSError:
        return False


def read(path: pathlib.Path, traces: str = "") -> Session:
    """Return the recording: trace_original, or the key `traces`; rate = 1 / median step of its time stamps.

    Raise UserError naming what is missing, damaged or does not fit.
    """
    doc = _document(path)
    key, values = _traces(path, doc, traces)
    n_frames, n_neurons = values.shape
    times, rate, notes = _times(path, doc, n_frames)
    behavior, left_out = _behavior(path, doc, n_frames)
    neurons, told = _neurons(doc, n_neurons)
    notes["traces"] = f"{key}, {worm.Z_SCORED}" if key == "trace_array" else key
    notes.update({"left out": ", ".join(left_out)} if left_out else {})
    return Session.build(
        id=_text(doc.get("uid")), name=path.stem, traces=values, times=times, rate=rate,
        segments=None if times is None else _segments(times), unit="z-score" if key == "trace_array" else "F",
        behavior=np.stack(list(behavior.values()), axis=1) if behavior else None, behavior_names=behavior,
        behavior_units=[UNITS.get(name, "") for name in behavior], neurons=neurons, source=str(path),
        metadata={"species": "C. elegans", **notes, **told, **_origin(doc)})


def _document(path: pathlib.Path) -> dict[str, Any]:
    """Return the file's content under the names of the flat layout."""
    check_declared(path, "its content", OBJECT * path.stat().st_size)
    try:
        doc = json.loads(path.read_bytes(), parse_int=float)  # float: an integer of a million digits takes minutes
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply for a recording; fetch the file again") from None
    except (OSError, ValueError, MemoryError) as e:
        raise UserError(f"{path}: damaged or cut off ({e}); fetch the file again") from None
    flat = {}
    for part in PARTS:
        flat.update(doc[part] if isinstance(doc.get(part), dict) else {})
    for name, other in (("labeled", "label"), ("head_curvature", "head_angle"), ("num_neurons", "n_neuron")):
        flat[name] = flat.get(other, doc.get(other))
    return {**flat, **doc}


def _numbers(path: pathlib.Path, key: str, value: Any, ndim: int) -> np.ndarray:
    """Return value as an array, null as NaN."""
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{path}: {key!r} does not hold numbers in rows of one length; fetch the file again") from None
    if array.ndim != ndim:
        raise UserError(f"{path}: {key!r} has shape {array.shape}; it must be {ndim}-dimensional")
    return array


def _traces(path: pathlib.Path, doc: dict[str, Any], wanted: str) -> tuple[str, np.ndarray]:
    """Return the key and the traces (T, N)."""
    known = [key for key in doc if key.startswith("trace")]
    key = wanted or next((key for key in TRACES if key in known), "trace_array")
    if key not in known:
        raise UserError(f"{path}: has no traces {key!r}; it has {', '.join(known) or 'none'}")
    values, n_neurons = _numbers(path, key, doc[key], 2), doc["num_neurons"]
    if isinstance(n_neurons, float) and n_neurons not in values.shape:
        raise UserError(f"{path}: {key!r} has shape {values.shape}, but the file states {n_neurons:g} neurons; it must "
                        "be neurons x frames")
    frames_first = values.shape[1] == n_neurons != values.shape[0]
    return key, values if frames_first else values.T


def _times(path: pathlib.Path, doc: dict[str, Any], n_frames: int) -> tuple[np.ndarray | None, float, dict[str, str]]:
    """Return the time stamps (s), None where there are none, the rate (Hz) and what there is to say."""
    step = next((doc[key] * unit for key, unit in (("avg_timestep", 60.0), ("mean_timestep", 1.0))
                 if isinstance(doc.get(key), float) and 0 < doc[key] < np.inf), np.nan)
    if not doc.get("timestamp_confocal"):
        return None, 1.0 / step, {}
    stamps = _numbers(path, "timestamp_confocal", doc["timestamp_confocal"], 1)
    times, notes = worm.cut_times(path, "timestamp_confocal", stamps, n_frames)
    rate = worm.rate(times)
    if not np.isnan(step * rate) and not 0.8 < step * rate < 1.25:
        notes["time step"] = f"{step:.4g} s as stated contradicts the time stamps, which are used"
    return times, rate, notes


def _segments(times: np.ndarray) -> list[tuple[int, int]]:
    """Return the runs between jumps of the time stamps: the file does not say where recordings were joined."""
    steps = np.diff(times)
    cuts = np.flatnonzero(steps > JUMP * np.median(steps)) + 1 if len(steps) else []
    edges = [0, *map(int, cuts), len(times)]
    return list(zip(edges[:-1], edges[1:]))


def _behavior(path: pathlib.Path, doc: dict[str, Any], n_frames: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the behaviours observed at all, and what was left out and why."""
    observed, left_out = {}, []
    for name in UNITS:
        if not doc.get(name):
            left_out.append(f"{name} (absent)")
            continue
        values = _numbers(path, name, doc[name], 1)
        if len(values) != n_frames:
            raise UserError(f"{path}: {name!r} has {len(values)} values, the traces {n_frames} frames; make them agree")
        if np.isnan(values).all():
            left_out.append(f"{name} (all NaN)")
        else:
            observed[name] = values
    if doc.get("reversal_events"):
        observed["reversal"] = _reversal(path, doc["reversal_events"], n_frames)
    else:
        left_out.append("reversal (no event)")
    return observed, left_out


def _reversal(path: pathlib.Path, events: Any, n_frames: int) -> np.ndarray:
    """Return 1 in a reversal, else 0, from pairs: rows of two, or all beginnings and then all ends."""
    try:
        flat = np.array(events, np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        flat = np.zeros(0)
    whole = len(flat) and len(flat) % 2 == 0 and ((flat >= 0) & (flat <= n_frames)).all()
    orders = (flat.reshape(-1, 2), flat.reshape(2, -1).T) if whole else ()
    pairs = next((pairs for pairs in orders if (np.diff(pairs.reshape(-1)) >= 0).all()), None)
    if pairs is None:
        raise UserError(f"{path}: 'reversal_events' are not pairs of frames in order, from 1 to {n_frames}; correct "
                        "them or leave them out")
    reversal = np.zeros(n_frames)
    for first, last in pairs.astype(int):
        reversal[first if first > 1 else 0:last] = 1
    return reversal


def _neurons(doc: dict[str, Any], n_neurons: int) -> tuple[list[str], dict[str, str]]:
    """Return a label a trace, "" where unknown, and what was left out."""
    neurons, left_out = [""] * n_neurons, Counter()
    labels = doc["labeled"] if isinstance(doc["labeled"], dict) else {}
    numbers = {key: int(key) if re.fullmatch("[0-9]{1,9}", key) else 0 for key in labels}
    beyond = sum(not 1 <= number <= n_neurons for number in numbers.values())
    if beyond:  # those of Pradhan, Madan et al. 2025 are numbered by ROI, and nothing there leads to the traces
        return neurons, {"identities": f"none, {beyond} of {len(labels)} labels are of no trace from 1 to {n_neurons}"}
    for key, entry in labels.items():
        entry = entry[0] if isinstance(entry, list) and len(entry) == 1 else entry
        entry = entry if isinstance(entry, dict) else {}
        label, confidence = _text(entry.get("label")), entry.get("confidence")
        reason = neuropal.doubt(label, confidence if isinstance(confidence, float) else None) if label else "empty"
        left_out[reason] += 1
        neurons[numbers[key] - 1] = "" if reason else label
    left_out[""] = 0
    return neurons, {"identities": neuropal.told(neurons, left_out)} if labels else {}


def _origin(doc: dict[str, Any]) -> dict[str, str]:
    """Return what else the file says of itself: paper, kinds of recording, and events by their frame."""
    kinds, events = doc.get("dataset_type"), doc.get("events", doc.get("event"))
    said = {"paper": _text(doc.get("paper_id"))}
    if isinstance(kinds, list):
        said["kind"] = ", ".join(filter(None, map(_text, kinds)))
    if isinstance(events, dict):
        said["events, frames from 0"] = ", ".join(
            f"{_text(name)} {frame - 1:g}" for name, frames in events.items()
            for frame in (frames if isinstance(frames, list) else [frames]) if isinstance(frame, float))
    return {name: value[:200] for name, value in said.items() if value}


def _text(value: Any) -> str:
    return value.encode("utf-8", "replace").decode().strip() if isinstance(value, str) else ""
