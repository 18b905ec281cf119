"""What readers of HDF5 files share: telling one by its groups, opening it, and taking arrays and text out of it."""
from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

from raycal.errors import UserError
from raycal.sessions.readers.limits import check_declared


# h5py says damage in many ways: KeyError for a broken link, TypeError for a type it does not know
DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, UnicodeError, MemoryError)


def holds(path: pathlib.Path, *groups: str) -> bool:
    """Tell whether the file is HDF5 and has all of these groups or datasets."""
    try:
        with h5py.File(path, "r") as f:
            return all(group in f for group in groups)
    except DAMAGE:
        return False


def opened(path: pathlib.Path, read: Callable[[pathlib.Path, h5py.File], Any]) -> Any:
    """Return what `read` makes of the open file; raise UserError when the file is damaged or cut off."""
    try:
        with h5py.File(path, "r") as f:
            return read(path, f)
    except DAMAGE as e:
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise UserError(f"{path}: damaged or cut off ({reason}); fetch the file again") from e


def array(path: pathlib.Path, f: h5py.Group, key: str, needs: str) -> np.ndarray:
    """Return a dataset; raise UserError when it is absent (`needs` says what the format has) or declares too much."""
    dataset = f.get(key)
    if not isinstance(dataset, h5py.Dataset):
        raise UserError(f"{path}: has no {key!r}; {needs}")
    check_declared(path, repr(key), dataset.size * dataset.dtype.itemsize if dataset.size else 0)
    return np.asarray(dataset[()])


def text(f: h5py.Group, key: str) -> str:
    """Return a dataset's text or first value, "" where there is none."""
    dataset = f.get(key)
    if not isinstance(dataset, h5py.Dataset) or not dataset.size:
        return ""
    return decoded(dataset[()] if dataset.shape == () else dataset[(0,) * dataset.ndim])


def decoded(value: Any) -> str:
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip()
