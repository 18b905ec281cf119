"""Components that CaImAn saved (CNMF.save, OnACID.save), an HDF5 file.

Giovannucci et al. 2019, eLife, doi 10.7554/eLife.38173. From the published layout
(https://github.com/flatironinstitute/CaImAn, save_dict_to_hdf5 in caiman/utils/utils.py): objects are groups, None
is the text "NoneType"; estimates has C, S, YrA, F_dff (K, T) and idx_components, params/data has fr.
"""
from __future__ import annotations

import math
import pathlib

import h5py
import numpy as np

from raycal.errors import UserError
from raycal.sessions.readers import hdf5
from raycal.sessions.session import Session

FORMAT = "CaImAn HDF5"
UNITS = {"F_dff": "dF/F", "C": "a.u. (C)", "YrA": "a.u. (YrA)", "S": "a.u. (S)"}
ACCEPTED = "estimates/idx_components"
RATE = "params/data/fr"


def recognises(path: pathlib.Path) -> bool:
    """Tell whether the file is HDF5 with CaImAn's two groups."""
    return hdf5.holds(path, "estimates", "params")


def read(path: pathlib.Path, traces: str = "") -> Session:
    """Return the accepted components: F_dff where it was computed, else C + YrA, else C.

    traces: C (denoised), S (deconvolved), F_dff (detrended dF/F) or YrA (residuals).
    Raise UserError naming what is missing, damaged or does not fit.
    """
    return hdf5.opened(path, lambda path, f: _session(path, f, traces))


def _session(path: pathlib.Path, f: h5py.File, traces: str) -> Session:
    keys = _keys(path, f, traces)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite values are refused by Session
        values = sum(_components(path, f, key) for key in keys)
    accepted, selection = _accepted(path, f, len(values))
    rate = _rate(f)
    return Session.build(
        name=path.stem, traces=values[accepted].T, rate=rate,
        unit=UNITS[keys[0]] if len(keys) == 1 else f"a.u. ({' + '.join(keys)})",
        neurons=[f"component {k}" for k in accepted], source=str(path),
        metadata={"traces": f"{' + '.join(keys)} of estimates", "components": selection,
                  "sampling rate": f"no number in {RATE}" if math.isnan(rate)
                  else f"{RATE}, 30 Hz where its user set none"})


def _keys(path: pathlib.Path, f: h5py.File, traces: str) -> list[str]:
    """Return the datasets whose sum is asked for."""
    present = [key for key in UNITS if _is_there(f.get(f"estimates/{key}"))]
    if traces and traces not in present:
        raise UserError(f"{path}: estimates has no {traces!r}; --set sessions.traces takes "
                        f"{', '.join(present) or 'nothing: it has no traces at all'}")
    if traces:
        return [traces]
    if "F_dff" in present:
        return ["F_dff"]
    if "C" not in present:
        raise UserError(f"{path}: estimates has neither F_dff nor C (it has {', '.join(present) or 'no traces'}); save "
                        "it after CNMF.fit, or choose with --set sessions.traces=KEY")
    return [key for key in ("C", "YrA") if key in present]


def _is_there(item: h5py.Dataset | h5py.Group | None) -> bool:
    return isinstance(item, h5py.Dataset) and item.dtype.kind not in "OSU"  # text: "NoneType"


def _components(path: pathlib.Path, f: h5py.File, key: str) -> np.ndarray:
    """Return a dataset (K, T) of the shape that C has: components x frames."""
    values = hdf5.array(path, f, f"estimates/{key}", "it is not a whole CaImAn file")
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise UserError(f"{path}: estimates/{key} holds {values.dtype} values of shape {values.shape}; it must be "
                        "components x frames of real numbers")
    denoised = f.get("estimates/C")
    if _is_there(denoised) and denoised.shape != values.shape:
        raise UserError(f"{path}: estimates/{key} has shape {values.shape}, estimates/C {denoised.shape}; they must "
                        "agree: compute it again and save the file anew")
    return values


def _accepted(path: pathlib.Path, f: h5py.File, n_components: int) -> tuple[np.ndarray, str]:
    """Return the indices of the components that CaImAn's evaluation accepted, all where there was none, and say so."""
    if not _is_there(f.get(ACCEPTED)):
        return np.arange(n_components), f"all {n_components}, none evaluated (no idx_components)"
    indices = hdf5.array(path, f, ACCEPTED, "it is not a whole CaImAn file")
    if not indices.size:
        raise UserError(f"{path}: {ACCEPTED} is empty: none of {n_components} components was accepted; evaluate them "
                        "with other thresholds")
    wrong = indices.ndim != 1 or indices.dtype.kind not in "iu" or len(np.unique(indices)) < len(indices)
    if wrong or indices.min() < 0 or indices.max() >= n_components:
        raise UserError(f"{path}: {ACCEPTED} must name some of components 0 to {n_components - 1}, each once; save the "
                        "file again")
    return indices, f"{len(indices)} accepted of {n_components} (idx_components)"


def _rate(f: h5py.File) -> float:
    """Return the sampling rate (Hz), NaN where there is none."""
    stored = f.get(RATE)
    if not _is_there(stored) or stored.size != 1 or stored.dtype.kind not in "fiu":
        return math.nan
    rate = float(np.asarray(stored[()]).reshape(-1)[0])
    return rate if 0 < rate < math.inf else math.nan
