"""Folders that suite2p writes: one a plane, with F.npy, Fneu.npy, spks.npy (ROIs, T) and iscell.npy (ROIs, 2).

Pachitariu et al. 2017, bioRxiv, doi 10.1101/061507; https://suite2p.readthedocs.io/en/latest/outputs.html.
stat.npy, ops.npy and, from suite2p 1.0, settings.npy and db.npy are pickled and never loaded: of these the sampling
rate alone is read, by `pickled`.
"""
from __future__ import annotations

import math
import os
import pathlib

import numpy as np

from raycal.errors import UserError
from raycal.sessions.readers import pickled
from raycal.sessions.readers.limits import ARRAY_DAMAGE, check_declared
from raycal.sessions.session import Session

FORMAT = "suite2p folder"
NEUROPIL = 0.7  # share of the surrounding neuropil that suite2p by default subtracts before it deconvolves
KEYS = ("F", "Fneu", "spks")
COMBINED = "combined"  # all planes
SETTINGS = ("ops.npy", "settings.npy", "db.npy")  # may hold fs, Hz a plane


def recognises(path: pathlib.Path) -> bool:
    """Tell whether the path is a plane's folder, a folder of plane folders, or the F.npy of one."""
    try:
        return bool(_planes(path))
    except (OSError, ValueError):
        return False


def read(path: pathlib.Path, traces: str = "") -> Session:
    """Return the recording of the ROIs that are cells: F - 0.7 Fneu at the rate that suite2p was told.

    traces: F, Fneu or spks as suite2p wrote them; of several planes plane1, plane1/spks, or combined for all.
    Raise UserError naming what is missing, damaged or does not fit.
    """
    planes = _planes(path)
    chosen, key = _choice(path, planes, traces)
    parts = [_cells(folder, key) for folder in chosen]
    _check_frames(path, chosen, [values for values, _, _ in parts])
    rate, origin = _rate(chosen)
    n_cells, n_rois = sum(len(rois) for _, rois, _ in parts), sum(count for _, _, count in parts)
    several = len(chosen) > 1
    return Session.build(
        name=_name(chosen[0], COMBINED if several else chosen[0].name),
        traces=np.concatenate([values for values, _, _ in parts], axis=1), rate=rate,
        neurons=[f"{folder.name} roi {roi}" if several else f"roi {roi}"
                 for folder, (_, rois, _) in zip(chosen, parts) for roi in rois],
        unit=f"a.u. ({key or f'F - {NEUROPIL:g} Fneu'})", source=str(path),
        metadata={"cells": f"{n_cells} of {n_rois} ROIs (iscell.npy)", "sampling rate": origin})


def _planes(path: pathlib.Path) -> list[pathlib.Path]:
    path = pathlib.Path(os.path.abspath(path))
    folder = path.parent if path.name == "F.npy" and path.is_file() else path
    if _is_plane(folder):
        return [folder]
    found = filter(_is_plane, folder.glob("plane*")) if folder.is_dir() else []
    return sorted(found, key=lambda plane: (len(plane.name), plane.name))  # plane2 before plane10


def _is_plane(folder: pathlib.Path) -> bool:
    return (folder / "F.npy").is_file() and any((folder / name).is_file() for name in ("Fneu.npy", "iscell.npy"))


def _choice(path: pathlib.Path, planes: list[pathlib.Path], traces: str) -> tuple[list[pathlib.Path], str]:
    """Return the planes and the key that traces names as KEY, PLANE or PLANE/KEY."""
    groups = {**{plane.name: [plane] for plane in planes}, COMBINED: planes}
    name, _, key = traces.partition("/")
    if name not in groups:
        name, key = "", traces
    if key and key not in KEYS:
        raise UserError(f"{path}: has no traces {traces!r}; --set sessions.traces takes {', '.join(KEYS)} (left out: "
                        f"F - {NEUROPIL:g} Fneu), {', '.join(groups)}, or both as in {planes[0].name}/F")
    if not name and len(planes) > 1:
        raise UserError(f"{path}: holds {len(planes)} planes; choose one of {', '.join(groups)} as in "
                        f"--set sessions.traces={planes[0].name}{f'/{key}' if key else ''}")
    return (groups[name] if name else planes), key


def _cells(folder: pathlib.Path, key: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the traces (T, cells) of a plane, the numbers of the ROIs that are cells, and how many ROIs there are."""
    iscell = _array(folder, "iscell")
    if iscell.shape[1] < 1 or not np.isin(iscell[:, 0], (0, 1)).all():
        raise UserError(f"{folder / 'iscell.npy'}: the first column must be 1 for cells and 0 for other ROIs; save it "
                        "again in suite2p")
    arrays = {name: _array(folder, name) for name in ([key] if key else ["F", "Fneu"])}
    shapes = {f"{name}.npy": array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or any(n_rois != len(iscell) for n_rois, _ in shapes.values()):
        raise UserError(f"{folder}: iscell.npy has {len(iscell)} ROIs, "
                        f"{', '.join(f'{name} shape {shape}' for name, shape in shapes.items())} (ROIs, frames); they "
                        "must agree: copy all of them from one run of suite2p")
    rois = np.flatnonzero(iscell[:, 0])
    if not len(rois):
        raise UserError(f"{folder}: iscell.npy marks none of {len(iscell)} ROIs as a cell; mark cells in suite2p")
    found = [np.asarray(array[rois]) for array in arrays.values()]
    with np.errstate(over="ignore", invalid="ignore"):  # infinite values are refused by Session
        return (found[0] if key else found[0] - NEUROPIL * found[1]).T, rois, len(iscell)


def _array(folder: pathlib.Path, name: str) -> np.ndarray:
    """Return an array of numbers with two axes, mapped: only the rows that are asked for get into memory."""
    path = folder / f"{name}.npy"
    if not path.is_file():
        have = [f"{other}.npy" for other in (*KEYS, "iscell") if (folder / f"{other}.npy").is_file()]
        raise UserError(f"{folder}: has no {name}.npy (it has {', '.join(have)}); copy it from the folder that suite2p "
                        "wrote, or take other traces, such as --set sessions.traces=F")
    try:
        with np.errstate(over="ignore"):  # a damaged shape may have more elements than can be counted
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ARRAY_DAMAGE as e:
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise UserError(f"{path}: damaged or cut off ({reason}); copy it again") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        what = f"{array.dtype} values of shape {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise UserError(f"{path}: holds {what}; it must be ROIs x columns of real numbers")
    check_declared(path, "the array", array.nbytes)
    return array


def _check_frames(path: pathlib.Path, planes: list[pathlib.Path], parts: list[np.ndarray]) -> None:
    counts = {plane.name: len(values) for plane, values in zip(planes, parts)}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UserError(f"{path}: its planes have different numbers of frames ({listed}) and cannot be combined; "
                        f"choose one, as in --set sessions.traces={planes[0].name}")


def _rate(planes: list[pathlib.Path]) -> tuple[float, str]:
    """Return the sampling rate (Hz, NaN where unknown) and where it comes from."""
    found = {}
    for plane in planes:
        rates = {name: rate for name in SETTINGS if (rate := pickled.number(plane / name, "fs")) is not None}
        found[plane.name] = next(((rate, name) for name, rate in rates.items() if 0 < rate < math.inf), None)
    if None in found.values():
        return math.nan, f"no fs found in {', '.join(SETTINGS)}"
    if len({rate for rate, _ in found.values()}) > 1:
        return math.nan, f"planes disagree: {', '.join(f'{name} {rate:g} Hz' for name, (rate, _) in found.items())}"
    rate, name = next(iter(found.values()))
    return rate, f"fs of {name}, 10 Hz where its user set none"


def _name(plane: pathlib.Path, part: str) -> str:
    """Name the recording by the folder above suite2p's: every plane's own is called plane0."""
    above = plane.parent
    above = above.parent if above.name == "suite2p" else above
    return f"{above.name}-{part}" if above.name else part
