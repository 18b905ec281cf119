"""What a file may declare: read whole, one that declares far more than it can hold would fill the memory."""
from __future__ import annotations

import os
import pathlib
import tokenize
import zipfile
import zlib

from raycal.errors import UserError

EXPANSION = 1032  # bytes that one compressed byte can stand for at most (deflate)
SMALL = 2**24  # bytes that are always let through
SLOWEST = 1e6  # bytes/s; a loaded machine with a network disk reads faster
SHARE = 0.5  # of the machine's memory one array may take
MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # bytes of this machine

# What numpy and zipfile raise on damaged archives and arrays: numpy parses an array's header as Python, zipfile says
# by NotImplementedError that the file is of a version or compression it does not know.
ARRAY_DAMAGE = (OSError, EOFError, ValueError, TypeError, KeyError, OverflowError, SyntaxError, tokenize.TokenError,
                RecursionError, MemoryError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


def check_declared(path: pathlib.Path, name: str, n_bytes: int, stored: int | None = None) -> None:
    """Raise UserError when an array of n_bytes cannot come from `stored` bytes (default: the file's size)."""
    stored = path.stat().st_size if stored is None else stored
    if n_bytes > SMALL and n_bytes > EXPANSION * stored:
        raise UserError(f"{path}: {name} declares {_size(n_bytes)}, far more than its {_size(stored)} on disk can "
                        "hold; the file is damaged or made to fill your memory: leave it out")
    if n_bytes > SHARE * MEMORY:
        raise UserError(f"{path}: {name} takes {_size(n_bytes)}, this machine has {_size(MEMORY)} of memory; use a "
                        "larger machine, or cut the recording into parts")


def reading_time(path: pathlib.Path) -> float:
    """Return the seconds that reading a file may take: far more than it does, so that what is over it hangs."""
    return 120.0 + path.stat().st_size / SLOWEST


def _size(n_bytes: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            break
        n_bytes, unit = n_bytes / 1024, "TiB" if unit == "GiB" else unit
    return f"{n_bytes:.4g} {unit}"
