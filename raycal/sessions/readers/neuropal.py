"""Neuron identities of a worm recording: a NeuroPAL label table beside the file, brought to the traces.

The table is a CSV with a header: the label first, then among its columns the ROI or ROIs (parted by / , or ;) and the
confidence, 0 to 5, as NeuroPALData.jl and AutoCellLabeler of the Flavell lab read it. An ROI (counted from 1) leads
over roi_match to a neuron of the recording, and that over match_org_to_skip to a column of the traces: neurons with a
NaN were dropped when the file was written. The rules of what is left out are those of NeuroPALData.jl
(https://github.com/flavell-lab/NeuroPALData.jl) with the confidence of Atanas, Kim et al. 2023, Cell.
"""
from __future__ import annotations

import csv
import pathlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable

import h5py
import numpy as np

from raycal.errors import UserError
from raycal.sessions.readers import hdf5
from raycal.sessions.readers.limits import SMALL

MATCH, MATCH_CONFIDENCE = "neuropal_registration/roi_match", "neuropal_registration/roi_match_confidence"
COLUMNS = "gcamp/match_org_to_skip"
NEEDS = f"a worm file with {MATCH} has it"
LABEL_CONFIDENCE = 2.5  # least confidence of a label, of 5
REGISTRATION_CONFIDENCE = 2.0  # least confidence that a NeuroPAL ROI and a recorded neuron are the same
NAMES = ("{}.csv", "{}_labels.csv", "{}-labels.csv", "{}_NeuroPAL_labels.csv", "{}-NeuroPAL-labels.csv",
         "{}-NeuroPAL.csv")


def identities(path: pathlib.Path, uid: str, f: h5py.File, n_neurons: int) -> tuple[list[str], dict[str, str]]:
    """Return a label a trace, "" where unknown, and what was left out; no table, no labels.

    Raise UserError when the table or the registration is damaged.
    """
    table = _beside(path, uid)
    if table is None or MATCH not in f:
        return [""] * n_neurons, {}
    rows = _rows(table)
    if rows is None:
        return [""] * n_neurons, {"identities": f"none, {table.name} has no columns ROI and confidence"}
    matches = _matches(path, f)
    times_given = Counter(roi for _, rois, _ in rows for roi in set(rois))
    labels, left_out = defaultdict(list), Counter()
    for label, rois, confidence in rows:
        _, column = max((matches[roi] for roi in rois if roi in matches), default=(0.0, -1))
        reason = doubt(label, confidence)
        if not reason and any(times_given[roi] > 1 for roi in rois):
            reason = "of an ROI with several labels"
        if not reason and not 0 <= column < n_neurons:
            reason = "without a trace"
        if reason:
            left_out[reason] += 1
        else:
            labels[column].append(label)
    left_out["of a trace with several labels"] = sum(len(same) for same in labels.values() if len(same) > 1)
    neurons = [labels[column][0] if len(labels.get(column, ())) == 1 else "" for column in range(n_neurons)]
    return neurons, {"identities": f"{told(neurons, left_out)}, from {table.name}"}


def doubt(label: str, confidence: float | None) -> str:
    """Return why a label should not be used, "" when it can be; None: no confidence is stated."""
    if confidence is not None and not confidence >= LABEL_CONFIDENCE:
        return f"below confidence {LABEL_CONFIDENCE:g}"
    return "marked as an alternative" if "alt" in label else ""


def told(neurons: Iterable[str], left_out: Counter) -> str:
    """Say how many labels are used and how many are not, by reason."""
    parts = [f"{n} {reason}" for reason, n in left_out.items() if n]
    return f"{sum(map(bool, neurons))} used" + (f", left out {', '.join(parts)}" if parts else "")


def _beside(path: pathlib.Path, uid: str) -> pathlib.Path | None:
    """Return the first label table that lies beside the file, or in labels_csv beside it or beside its folder."""
    folder = path.absolute().parent
    places = (folder, folder / "labels_csv", folder.parent / "labels_csv")
    candidates = (place / name.format(uid) for place in places for name in NAMES)
    return next((table for table in candidates if table.is_file()), None)


def _rows(table: pathlib.Path) -> list[tuple[str, list[int], float]] | None:
    """Return label, ROIs and confidence of each row that names an ROI; None when this is another kind of table."""
    try:
        if table.stat().st_size > SMALL:
            return None
        with open(table, newline="", encoding="utf-8-sig", errors="replace") as f:
            lines = list(csv.reader(f))
    except (OSError, csv.Error) as e:
        raise UserError(f"{table}: the neuron labels cannot be read ({e}); repair the table, or move it away") from None
    header = [name.lower() for name in lines[0]] if lines else []
    roi = next((i for i, name in enumerate(header) if "roi" in name), None)
    confidence = next((i for i, name in enumerate(header) if "confidence" in name), None)
    if roi is None or confidence is None:
        return None
    rows = [(line[0].strip(), _rois(line[roi]), _number(line[confidence])) for line in lines[1:]
            if len(line) > max(roi, confidence)]
    return [row for row in rows if row[0] and row[1]]


def _rois(text: str) -> list[int]:
    return [int(float(part)) for part in re.split(r"[/,;\s]+", text) if re.fullmatch(r"[0-9]{1,9}(\.0*)?", part)]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _matches(path: pathlib.Path, f: h5py.File) -> dict[int, tuple[float, int]]:
    """Return ROI, counted from 1 -> confidence of its registration and column of the traces, counted from 0."""
    neurons = _whole(path, f, MATCH, 1)
    confidence = hdf5.array(path, f, MATCH_CONFIDENCE, NEEDS)
    if confidence.shape != neurons.shape or confidence.dtype.kind not in "fiu":
        raise UserError(f"{path}: {MATCH_CONFIDENCE} has {confidence.shape} {confidence.dtype} values, {MATCH} has "
                        f"{neurons.shape}; it must have a number for each ROI")
    column = {neuron: neuron for neuron in neurons.tolist()}
    if COLUMNS in f:
        pairs = _whole(path, f, COLUMNS, 2)
        if len(pairs) != 2:
            raise UserError(f"{path}: {COLUMNS} has shape {pairs.shape}; it must be 2 x neurons")
        column = dict(zip(*pairs.tolist()))  # Julia wrote an unordered dictionary
    registered = enumerate(zip(neurons.tolist(), confidence.tolist()), start=1)
    return {roi: (sure, column.get(neuron, 0) - 1)
            for roi, (neuron, sure) in registered if neuron > 0 and sure >= REGISTRATION_CONFIDENCE}


def _whole(path: pathlib.Path, f: h5py.File, key: str, ndim: int) -> np.ndarray:
    array = hdf5.array(path, f, key, NEEDS)
    whole = array.dtype.kind in "iu" or array.dtype.kind == "f" and np.isfinite(array).all() \
        and (array == np.rint(array)).all()
    if not whole or array.ndim != ndim:
        raise UserError(f"{path}: {key} has shape {array.shape} of {array.dtype}; it must be {ndim}-dimensional, whole "
                        "numbers")
    return array.astype(np.int64)
