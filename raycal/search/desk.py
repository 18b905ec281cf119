"""Files of running jobs, read and written on the driver's node for workers that do not reach its folders."""
from __future__ import annotations

import errno
import pathlib

from raycal.search.folder import write_atomically
from raycal.search.slot import Job

NAMES = ("checkpoint.pt", "model.pt")  # all that a worker leaves


def read(job: Job | None, name: str) -> bytes | None:
    """Return what a job's folder holds under a name, None where it holds none."""
    path = _path(job, name)
    return path.read_bytes() if path is not None and path.is_file() else None


def write(job: Job | None, name: str, data: bytes) -> tuple[int, str] | None:
    """Write it; return errno and words of what went wrong. A job that is over or taken back has no more files."""
    path = _path(job, name)
    if path is None:
        return None
    try:
        if not path.parent.is_dir():
            path.parent.mkdir()  # not its parents: a run folder that vanished is not begun anew elsewhere
        write_atomically(path, data)
    except OSError as e:
        return e.errno or errno.EIO, e.strerror or str(e)
    return None


def _path(job: Job | None, name: str) -> pathlib.Path | None:
    if name not in NAMES:
        raise ValueError(f"{name!r} is none of {', '.join(NAMES)}")
    return None if job is None or job.ended else pathlib.Path(job.payload["folder"], name)
