"""MATLAB's .mat files, v5 (also called v6 and v7) and v7.3: a matrix in them is the traces.

Shapes are rows x columns, as MATLAB counts them; T frames.
"""
from __future__ import annotations

import math
import pathlib
import re
import struct
from collections.abc import Iterable, Mapping

import numpy as np

from raycal.errors import UserError
from raycal.sessions.readers import hdf5, mat5
from raycal.sessions.readers.mat73 import Group
from raycal.sessions.readers.table import seconds_in
from raycal.sessions.session import MIN_FRAMES, MIN_NEURONS, Session

FORMAT = "MATLAB .mat (v5 and v7.3)"
HEAD = 128  # bytes, the last two the byte order
HEAD_5 = re.compile(rb"MATLAB.{118}(?:\x00\x01IM|\x01\x00MI)", re.DOTALL)
HEAD_73 = re.compile(rb"MATLAB 7\.3 MAT-file|MATLAB.{118}\x00\x02IM", re.DOTALL)
CODES_4 = {1000 * m + 10 * p + t for m in (0, 1) for p in range(6) for t in range(3)}  # byte order, precision, type
FULL = (*mat5.NUMERIC, "logical")
RATES = ("fs", "fps", "fr", "frame_rate", "framerate", "sampling_rate")  # Hz
INSTEAD = {"sparse": "full", "cell": "cell2mat", "table": "table2array"}  # MATLAB's functions that make a full matrix
SHOWN = 12  # variables a message lists
Contents = mat5.Elements | Group


def recognises(path: pathlib.Path) -> bool:
    """Tell whether the file begins as MATLAB's do, those of version 4 among them."""
    try:
        with open(path, "rb") as f:
            head = f.read(HEAD)
    except OSError:
        return False
    return bool(HEAD_5.match(head) or HEAD_73.match(head)) or _is_v4(path, head)


def read(path: pathlib.Path, traces: str = "") -> Session:
    """Return the recording; traces names the matrix (`dat.F` in a struct), else it is the only one there is.

    Its longer axis is time, with an apostrophe (`F'`) the shorter one. Vectors as long as the recording become
    behaviours, one named time, t or timestamps its times (s), a scalar named fs, fps or frame_rate its rate (Hz);
    beside a field of a struct the struct's own come first. Nothing else is read. Raise UserError naming what is
    damaged, does not fit or leaves a choice.
    """
    with open(path, "rb") as f:
        head = f.read(HEAD)
    if HEAD_73.match(head):
        return hdf5.opened(path, lambda path, f: _session(path, Group(path, f), traces))
    if _is_v4(path, head):
        raise UserError(f"{path}: is a MATLAB file of version 4; load it in MATLAB and save it with -v7.3")
    return mat5.opened(path, lambda path, elements: _session(path, elements, traces))


def _is_v4(path: pathlib.Path, head: bytes) -> bool:
    """Tell whether a version 4 matrix comes first: type code, rows, columns, imaginary or not, length of name, name."""
    for order in "<>" if len(head) >= 22 else "":
        code, rows, columns, imaginary, length = struct.unpack(f"{order}5i", head[:20])
        if code in CODES_4 and rows >= 0 <= columns and imaginary in (0, 1) and 2 <= length <= 64 and \
                rows * columns <= path.stat().st_size and re.fullmatch(rb"[A-Za-z]\w*\0", head[20:20 + length]):
            return True
    return False


def _session(path: pathlib.Path, contents: Contents, traces: str) -> Session:
    key, turned = traces.removesuffix("'"), traces.endswith("'")
    key = key or _only_matrix(path, contents)
    levels, name = _located(path, contents, key)
    matrix, axes = _frames(path, levels[0], name, key, turned)
    beside = _beside(levels, name)
    times, left_out = _times(path, beside, matrix.shape, key if turned else f"{key}'")
    series = _load({name: level for name, (level, length) in beside.items()
                    if length == len(matrix) and seconds_in(name) is None})
    behavior = {name: values for name, values in series.items() if not np.isnan(values).all()}
    left_out += [f"{name} (all NaN)" for name in series if name not in behavior]
    return Session.build(
        name=path.stem, traces=matrix, times=times, rate=_rate(path, beside, times), behavior_names=behavior,
        behavior=np.stack(list(behavior.values()), axis=1) if behavior else None, source=str(path),
        metadata={"variable": key, "axes": axes, **({"left out": ", ".join(left_out)} if left_out else {})})


def _only_matrix(path: pathlib.Path, contents: Contents) -> str:
    """Return the name of the one matrix that can be the traces; raise UserError that lists what there is otherwise."""
    matrices = {name: (kind, shape) for name, (kind, shape) in contents.variables.items()
                if kind in mat5.NUMERIC and len(shape) == 2
                and min(shape) >= MIN_NEURONS and max(shape) >= MIN_FRAMES}
    if len(matrices) > 1:
        raise UserError(f"{path}: has {len(matrices)} matrices ({_listed(matrices)}); say which holds the traces with "
                        f"--set sessions.traces={next(iter(matrices))}")
    if not matrices:
        raise UserError(f"{path}: has no matrix of {MIN_NEURONS} x {MIN_FRAMES} numbers or more (it has "
                        f"{_listed(contents.variables)}); one in a struct is --set sessions.traces=STRUCT.FIELD")
    return next(iter(matrices))


def _located(path: pathlib.Path, contents: Contents, key: str) -> tuple[list[Contents], str]:
    """Return what the variable lies in, the innermost first, and its name there."""
    levels, name, rest = [contents], *_first(contents, key)
    while True:
        if name not in levels[0].variables:
            raise UserError(f"{path}: has no {name!r}{f' for {key!r}' if name != key else ''}; it has "
                            f"{_listed(levels[0].variables)}")
        kind, shape = levels[0].variables[name]
        if kind != "struct" and not rest:
            return levels, name
        if kind != "struct" or shape != (1, 1):
            raise UserError(f"{path}: {name!r} in {key!r} is {_by(shape)} {kind}, not one struct; save what you need "
                            "of it as a variable of its own")
        levels.insert(0, levels[0].struct(name))
        if not rest:
            raise UserError(f"{path}: {key!r} is a struct with {_listed(levels[0].variables)}; take a field with --set "
                            f"sessions.traces={key}.{next(iter(levels[0].variables), 'FIELD')}")
        name, rest = _first(levels[0], rest)


def _first(contents: Contents, key: str) -> tuple[str, str]:
    """Part STRUCT.FIELD; a variable's own name may hold a dot where another program wrote it."""
    name, _, rest = (key, "", "") if key in contents.variables else key.partition(".")
    return name, rest


def _frames(path: pathlib.Path, level: Contents, name: str, key: str, turned: bool) -> tuple[np.ndarray, str]:
    """Return the matrix as frames x neurons, and a note on which of its axes was taken for time."""
    kind, shape = level.variables[name]
    loaded = level.load([name]) if kind in FULL and len(shape) == 2 else {}
    if name not in loaded:
        kind, _ = level.variables[name]  # complex or sparse, as is known once it was read
        fix = f"{INSTEAD[kind]}({name})" if kind in INSTEAD else "it as one matrix of real numbers, neurons x frames"
        raise UserError(f"{path}: {key!r} is {_by(shape)} {kind}; save {fix}")
    matrix, shape = loaded[name], loaded[name].shape
    by_rows = (shape[0] >= shape[1]) != turned
    frames, rest = ("rows", "columns") if by_rows else ("columns", "rows")
    other = key if turned else f"{key}'"
    return matrix if by_rows else matrix.T, f"{_by(shape)}, its {frames} are frames ({other} takes its {rest})"


def _beside(levels: list[Contents], traces: str) -> dict[str, tuple[Contents, int]]:
    """Return name -> (what it lies in, length) of the vectors and scalars beside the traces."""
    beside: dict[str, tuple[Contents, int]] = {}
    for level in levels:
        for name, (kind, shape) in level.variables.items():
            n_entries = math.prod(shape)
            if kind in FULL and n_entries == max(shape, default=1) > 0:
                beside.setdefault(name, (level, n_entries))
    if beside.get(traces, (None,))[0] is levels[0]:
        del beside[traces]
    return beside


def _load(wanted: Mapping[str, Contents]) -> dict[str, np.ndarray]:
    """Return vectors and scalars, (length,) each, without complex and sparse ones."""
    loaded: dict[str, np.ndarray] = {}
    for level in dict.fromkeys(wanted.values()):
        loaded.update(level.load(name for name, holder in wanted.items() if holder is level))
    return {name: loaded[name].reshape(-1) for name in wanted if name in loaded}


def _times(path: pathlib.Path, beside: Mapping[str, tuple[Contents, int]], shape: tuple[int, ...],
           other: str) -> tuple[np.ndarray | None, list[str]]:
    """Return the time stamps (T,) s or None, and what has another length and was left out."""
    lengths = {name: length for name, (_, length) in beside.items() if length > 1 and seconds_in(name) is not None}
    fitting = [name for name, length in lengths.items() if length == shape[0]]
    if len(fitting) > 1:
        raise UserError(f"{path}: {' and '.join(fitting)} both give the time; rename all but one")
    for name, length in lengths.items():
        if not fitting and length == shape[1]:
            raise UserError(f"{path}: {name!r} has {length} values for {shape[0]} frames of {shape[1]} neurons; if it "
                            f"is the other axis that is time, write --set \"sessions.traces={other}\"")
    left_out = [f"{name} ({length} values for {shape[0]} frames)" for name, length in lengths.items()
                if name not in fitting]
    loaded = _load({name: beside[name][0] for name in fitting})
    return next((values * seconds_in(name) for name, values in loaded.items()), None), left_out


def _rate(path: pathlib.Path, beside: Mapping[str, tuple[Contents, int]], times: np.ndarray | None) -> float:
    """Return the rate (Hz) that a scalar states, or 1 / median step of the times; NaN without either."""
    stated = _load({name: level for name, (level, length) in beside.items() if length == 1 and name.lower() in RATES})
    rates = {name: float(value[0]) for name, value in stated.items() if not np.isnan(value[0])}
    step = float(np.median(np.diff(times))) if times is not None and len(times) > 1 else np.nan
    if step > 0:
        rates["the step of its times"] = 1 / step
    low, high = min(rates.values(), default=np.nan), max(rates.values(), default=np.nan)
    if high > 1.25 * low:  # wide enough for jitter and rounded rates
        said = ", ".join(f"{name} {value:g} Hz" for name, value in rates.items())
        raise UserError(f"{path}: states rates that differ ({said}); correct the one that is wrong")
    return next(iter(rates.values()), np.nan)


def _listed(variables: Mapping[str, mat5.Variable]) -> str:
    shown = [f"{name} {_by(shape)} {kind}" for name, (kind, shape) in list(variables.items())[:SHOWN]]
    return ", ".join(shown) + (f" ... {len(variables)} in all" if len(variables) > SHOWN else "") or "nothing"


def _by(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))
