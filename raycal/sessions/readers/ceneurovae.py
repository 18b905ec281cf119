"""Several worms packed into one HDF5 file, as CeNeuroVAE reads them (https://github.com/urlicht/CeNeuroVAE, import_h5).

/data/<uid>/X (N, T) traces, B (K, T) behaviours, I (N,) identities: 0 unknown, k the k-th of /label_name; M (N, T)
optional, 1 where measured. /B_norm_divisor (K,) is what its authors divide B by before training: B itself is as
measured, and stays so here, for a divisor over all recordings has seen the test frames. Neither the sampling rate nor
the names and units of behaviours are in the file.
"""
from __future__ import annotations

import pathlib

import h5py
import numpy as np

from raycal.errors import UserError, nearest
from raycal.sessions.readers import hdf5
from raycal.sessions.readers.limits import check_declared
from raycal.sessions.session import Session

FORMAT = "packed CeNeuroVAE HDF5"
NEEDS = "a packed file has X (neurons x frames), B (behaviours x frames) and I (neurons) of each recording"
BEHAVIORS = {"velocity": "mm/s", "head_curvature": "rad", "pumping": "pumps/s"}  # the order of its authors
DIVISOR = (0.0603096, 0.494290, 1.27720)  # their standard deviations in these units (FlavellConstants.jl)
UNKNOWN = {"", "0", "unknown", "unlabeled", "none", "undefined"}  # names of identity 0, where label_name has it, too


def recognises(path: pathlib.Path) -> bool:
    """Tell whether the file is HDF5 with this layout's group and divisor."""
    return hdf5.holds(path, "data", "B_norm_divisor")


def read(path: pathlib.Path, traces: str = "") -> list[Session]:
    """Return its recordings in the order of their uid, or the one whose uid is `traces`; their rate is NaN.

    Raise UserError naming what is missing, damaged or does not fit.
    """
    return hdf5.opened(path, lambda path, f: _sessions(path, f, traces))


def _sessions(path: pathlib.Path, f: h5py.File, wanted: str) -> list[Session]:
    data = f["data"]
    uids = sorted(uid for uid in data if isinstance(data[uid], h5py.Group)) if isinstance(data, h5py.Group) else []
    if not uids:
        raise UserError(f"{path}: 'data' holds no recording; {NEEDS}")
    if wanted and wanted not in uids:
        raise UserError(f"{path}: has no recording {wanted!r}; it has {', '.join(uids)}{nearest(wanted, uids)}")
    chosen = [wanted] if wanted else uids
    parts = [part for uid in chosen for part in data[uid].values() if isinstance(part, h5py.Dataset)]
    check_declared(path, "'data'", sum(part.nbytes for part in parts))
    names = _names(path, f)
    divisor = hdf5.array(path, f, "B_norm_divisor", NEEDS).reshape(-1)
    return [_session(path, f, uid, names, divisor) for uid in chosen]


def _names(path: pathlib.Path, f: h5py.File) -> list[str]:
    """Return what identities 0, 1, ... are called."""
    if "label_name" not in f:
        return [""]
    names = [hdf5.decoded(name) for name in hdf5.array(path, f, "label_name", NEEDS).reshape(-1)]
    return ["", *(names[1:] if names and names[0].lower() in UNKNOWN else names)]


def _session(path: pathlib.Path, f: h5py.File, uid: str, names: list[str], divisor: np.ndarray) -> Session:
    traces = _array(path, f, uid, "X", None)
    behavior = _array(path, f, uid, "B", (-1, traces.shape[1]))
    valid = _array(path, f, uid, "M", traces.shape) if f"data/{uid}/M" in f else None
    behavior_names, units, notes = _behaviors(path, uid, behavior, divisor)
    seen = ~np.isnan(behavior).all(axis=1)
    if not seen.all():
        notes["left out"] = ", ".join(f"{name} (all NaN)" for name, kept in zip(behavior_names, seen) if not kept)
    return Session.build(
        id=uid, traces=traces.T, behavior=behavior[seen].T, valid=None if valid is None else valid.T,
        behavior_names=[name for name, kept in zip(behavior_names, seen) if kept],
        behavior_units=[unit for unit, kept in zip(units, seen) if kept],
        neurons=_identities(path, f, uid, names, len(traces)), source=str(path),
        metadata={"species": "C. elegans", "traces": "X as packed, usually z-scored over the whole recording",
                  **notes})


def _array(path: pathlib.Path, f: h5py.File, uid: str, key: str, shape: tuple[int, ...] | None) -> np.ndarray:
    """Return a 2-dimensional dataset of numbers; shape: what it must have, -1 any."""
    array = hdf5.array(path, f, f"data/{uid}/{key}", NEEDS)
    fits = array.ndim == 2 and (shape is None or all(want in (-1, have) for want, have in zip(shape, array.shape)))
    if not fits or array.dtype.kind not in "fiub":
        wanted = "neurons x frames" if shape is None else " x ".join("any" if n < 0 else str(n) for n in shape)
        raise UserError(f"{path}: data/{uid}/{key} has shape {array.shape} of {array.dtype}; it must be numbers, "
                        f"{wanted}")
    return array


def _behaviors(path: pathlib.Path, uid: str, behavior: np.ndarray,
               divisor: np.ndarray) -> tuple[list[str], list[str], dict[str, str]]:
    """Return names and units: for three behaviours those of the authors, units only where the divisor shows them."""
    n = len(behavior)
    if len(divisor) != n or divisor.dtype.kind not in "fiu":
        raise UserError(f"{path}: B_norm_divisor has {len(divisor)} {divisor.dtype} values, data/{uid}/B has {n} "
                        "behaviours; it must have a number for each")
    notes = {"B_norm_divisor": ", ".join(f"{value:g}" for value in divisor[:8].tolist()) + ", not applied"}
    if n != len(BEHAVIORS):
        return [f"behavior_{k}" for k in range(n)], [""] * n, notes
    notes["behaviour names"] = f"not in the file; taken as {', '.join(BEHAVIORS)}"
    known = np.allclose(divisor, DIVISOR, rtol=1e-3, atol=0)
    return list(BEHAVIORS), list(BEHAVIORS.values()) if known else [""] * n, notes


def _identities(path: pathlib.Path, f: h5py.File, uid: str, names: list[str], n_neurons: int) -> list[str]:
    identity = hdf5.array(path, f, f"data/{uid}/I", NEEDS)
    whole = identity.dtype.kind in "fiu" and (identity == np.floor(identity)).all()
    if identity.shape != (n_neurons,) or not whole or (identity < 0).any() or not np.isfinite(identity).all():
        raise UserError(f"{path}: data/{uid}/I has shape {identity.shape} of {identity.dtype}; it must be {n_neurons} "
                        "whole numbers from 0, one a neuron")
    if len(names) > 1 and (identity >= len(names)).any():
        raise UserError(f"{path}: data/{uid}/I names identity {identity.max():g}, but label_name has "
                        f"{len(names) - 1}; it must have a name for each")
    if len(names) == 1:  # no names in the file: the same number is still the same neuron class
        return [f"identity {k:g}" if k else "" for k in identity.tolist()]
    return [names[int(k)] for k in identity]
