"""raycal's own file: one npz archive a recording, read and written, nothing pickled.

traces (T, N), fs (Hz, NaN where unknown) are needed; time_s (T,) s, segments (S, 2) runs
[start, stop), behavior (T, K) with behavior_names and behavior_units (K,), neuron_labels (N,),
valid (T, N), masks_train, masks_validation, masks_test (T,), unit, source, citation, id, metadata
(JSON) and stimuli may be there: stimuli holds names; stimulus_K_frames (P, 2) and stimulus_K_NAME (P,)
are the presentations [start, stop) and a parameter of the stimulus number K.
"""
from __future__ import annotations

import json
import math
import os
import pathlib
import re
import zipfile
from collections.abc import Mapping

import numpy as np

from raycal.errors import UserError
from raycal.sessions.readers.limits import ARRAY_DAMAGE, check_declared
from raycal.sessions.session import MASKS, Session
from raycal.sessions.stimulus import Stimulus

FORMAT = "raycal npz"
NEEDED = ("traces", "fs")
OPTIONAL = ("time_s", "segments", "behavior", "behavior_names", "behavior_units", "neuron_labels", "valid",
            *(f"masks_{part}" for part in MASKS), "unit", "source", "citation", "id", "metadata", "stimuli")
STIMULUS = re.compile(r"stimulus_(\d+)_(.+)", re.S)


def recognises(path: pathlib.Path) -> bool:
    """Tell whether the file is an archive with traces."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "traces.npy" in archive.namelist()
    except ARRAY_DAMAGE:
        return False


def read(path: pathlib.Path, traces: str = "") -> Session:
    """Return the recording; raise UserError naming the key that is missing, damaged or does not fit."""
    arrays = _load(path)
    for key in NEEDED:
        if key not in arrays:
            raise UserError(f"{path}: has no {key!r} (it has {', '.join(sorted(arrays))}); add it"
                            + (", NaN where the rate is unknown" if key == "fs" else ""))
    if ("behavior" in arrays) != ("behavior_names" in arrays):
        raise UserError(f"{path}: 'behavior' and 'behavior_names' go together; it has only one of them")
    rate = _one_number(path, arrays["fs"])
    times = arrays.get("time_s")
    _check_rate(path, rate, times)
    return Session.build(
        id=_text(arrays, "id"), name=path.stem, traces=arrays["traces"], rate=rate, times=times,
        behavior=arrays.get("behavior"), behavior_names=arrays.get("behavior_names", ()),
        behavior_units=arrays.get("behavior_units"), valid=arrays.get("valid"), segments=arrays.get("segments"),
        neurons=arrays.get("neuron_labels"),
        masks={part: arrays[f"masks_{part}"] for part in MASKS if f"masks_{part}" in arrays},
        unit=_text(arrays, "unit"), metadata=_metadata(path, arrays), source=str(path),
        stimuli=_stimuli(path, arrays))


def write(session: Session, path: str | os.PathLike) -> None:
    """Write a recording so that `read` gives back an equal one; the file is there whole or not at all."""
    arrays = {"traces": session.traces, "fs": np.float64(session.rate), "time_s": session.times,
              "segments": np.array(session.segments, np.int64), "behavior": session.behavior,
              "behavior_names": np.array(session.behavior_names, str), "id": np.array(session.id),
              "behavior_units": np.array(session.behavior_units, str), "neuron_labels": np.array(session.neurons, str),
              "unit": np.array(session.unit), "source": np.array(session.source),
              "metadata": np.array(json.dumps(dict(session.metadata)))}
    arrays.update({f"masks_{part}": mask for part, mask in session.masks.items()})
    if session.valid is not None:
        arrays["valid"] = session.valid
    if session.stimuli:
        arrays["stimuli"] = np.array([stimulus.name for stimulus in session.stimuli], str)
    for k, stimulus in enumerate(session.stimuli):
        arrays[f"stimulus_{k}_frames"] = stimulus.frames
        arrays.update({f"stimulus_{k}_{name}": values for name, values in stimulus.columns.items()})
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as f:  # a file object: savez would add .npz to a name
            np.savez(f, **arrays)
        os.replace(temporary, path)
    except OSError as e:
        raise UserError(f"{path}: cannot be written ({e.strerror or e}); give a folder with space that you may write "
                        "to") from None
    finally:
        temporary.unlink(missing_ok=True)


def _stimuli(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> list[Stimulus]:
    tables: dict[int, dict[str, np.ndarray]] = {}
    for key, values in arrays.items():
        if found := STIMULUS.fullmatch(key):
            tables.setdefault(int(found[1]), {})[found[2]] = values
    stimuli = []
    for k, name in enumerate(np.ravel(arrays.get("stimuli", ()))):
        table = tables.get(k, {})
        if "frames" not in table:
            raise UserError(f"{path}: has no 'stimulus_{k}_frames', the presentations of {str(name)!r}; add it, or take "
                            "the name out of 'stimuli'")
        wrong = [key for key, values in table.items() if values.dtype.kind not in "fiub"]
        if wrong:
            raise UserError(f"{path}: 'stimulus_{k}_{wrong[0]}' holds {table[wrong[0]].dtype} values; give numbers")
        stimuli.append(Stimulus(str(name), table.pop("frames"), table))
    return stimuli


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
    key = "the archive"
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {}
            for key in archive.files:
                _check_member(path, archive.zip, key)
                arrays[key] = archive[key]
            return arrays
    except ARRAY_DAMAGE as e:
        if "allow_pickle" in str(e):
            raise UserError(f"{path}: {key!r} is pickled, which could run any program when read; save it again as an "
                            "array of numbers or text") from None
        raise UserError(f"{path}: {key!r} is damaged or cut off ({e}); copy the file again") from None


def _check_member(path: pathlib.Path, archive: zipfile.ZipFile, key: str) -> None:
    """Refuse an array whose header declares more than its member of the archive holds."""
    name = key if key in archive.NameToInfo else f"{key}.npy"
    with archive.open(name) as member:
        try:
            version = np.lib.format.read_magic(member)
        except ValueError:  # no array: np.load hands out its bytes
            return
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(member)
    declared = math.prod(shape) * dtype.itemsize
    check_declared(path, repr(key), declared, stored=archive.getinfo(name).compress_size)


def _one_number(path: pathlib.Path, value: np.ndarray) -> float:
    if value.size != 1 or value.dtype.kind not in "fiu":
        raise UserError(f"{path}: 'fs' is {value!r}; give one number in Hz, NaN where it is unknown")
    return float(value.reshape(-1)[0])


def _check_rate(path: pathlib.Path, rate: float, times: np.ndarray | None) -> None:
    """Refuse a rate that the file's own time stamps contradict: gaps and bits/s would be wrong by as much."""
    if times is None or math.isnan(rate) or rate <= 0 or times.ndim != 1 or len(times) < 2 or times.dtype.kind != "f":
        return
    step = float(np.median(np.diff(times)))
    if step > 0 and not 0.8 < step * rate < 1.25:  # wide enough for jitter and rounded rates
        raise UserError(f"{path}: 'fs' is {rate:g} Hz, but 'time_s' advances {step:g} s a frame, which is "
                        f"{1 / step:g} Hz; correct the one that is wrong")


def _text(arrays: Mapping[str, np.ndarray], key: str) -> str:
    value = arrays.get(key)
    return "" if value is None else str(value.reshape(-1)[0]) if value.size else ""


def _metadata(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    try:
        metadata = json.loads(_text(arrays, "metadata") or "{}")
        if not isinstance(metadata, dict):
            raise ValueError
    except ValueError:
        raise UserError(f"{path}: 'metadata' is not a JSON object; write it as '{{\"area\": \"VISp\"}}'") from None
    metadata.update({name: _text(arrays, key) for name, key in (("from", "source"), ("citation", "citation"))
                     if _text(arrays, key) and name not in metadata})
    unknown = sorted(key for key in set(arrays) - set(NEEDED) - set(OPTIONAL) if not STIMULUS.fullmatch(key))
    return {**metadata, "ignored keys": ", ".join(unknown)} if unknown else metadata
