"""What readers of HDF5 files share: telling one by its groups, and opening it so that damage is said."""
from __future__ import annotations

import pathlib
from collections.abc import Callable

import h5py

from raycal.errors import UserError
from raycal.sessions.session import Session


def holds(path: pathlib.Path, *groups: str) -> bool:
    """Tell whether the file is HDF5 and has all of these groups."""
    try:
        with h5py.File(path, "r") as f:
            return all(group in f for group in groups)
    except (OSError, RuntimeError):
        return False


def opened(path: pathlib.Path, read: Callable[[pathlib.Path, h5py.File], Session]) -> Session:
    """Return what `read` makes of the open file; raise UserError when the file is damaged or cut off."""
    try:
        with h5py.File(path, "r") as f:
            return read(path, f)
    except (OSError, RuntimeError) as e:
        raise UserError(f"{path}: damaged or cut off ({str(e).splitlines()[0]}); fetch the file again") from None
