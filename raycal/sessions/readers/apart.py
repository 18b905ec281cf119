"""Read files in a process of their own: a damaged one can crash or hang the HDF5 library, and no exception says so.

    with Apart() as apart:
        sessions = apart.read(path)

Of 3000 HDF5 files with a few bytes changed, HDF5 2.0 hung on 6 and crashed on 5, each time over a text attribute.
"""
from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from raycal.errors import UserError
from raycal.sessions.readers import read_file
from raycal.sessions.readers.limits import MEMORY, reading_time
from raycal.sessions.session import Session

MATLAB = b"MATLAB "  # first bytes of a .mat file, whose reader is compiled, too
HDF5 = b"\x89HDF\r\n\x1a\n"
OFFSETS = (0, 512, 1024, 2048)  # where an HDF5 file may begin


def is_risky(path: pathlib.Path) -> bool:
    """Tell whether a compiled library takes the file apart."""
    try:
        if not path.is_file():  # a folder, or a pipe, which would wait for ever
            return False
        with open(path, "rb") as f:
            head = f.read(OFFSETS[-1] + len(HDF5))
    except (OSError, ValueError):  # read_file says what is wrong with it
        return False
    return head.startswith(MATLAB) or any(head.startswith(HDF5, at) for at in OFFSETS)


class Apart:
    """A child process that reads risky files one after the other; started with the first, anew after a crash."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_) -> None:
        self._end()

    def read(self, path: pathlib.Path, traces: str = "", limit: float | None = None) -> list[Session]:
        """Return the recordings of a file; raise UserError as its reader does, or when it crashes or takes too long."""
        if os.name != "posix" or not is_risky(path):
            return read_file(path, traces)
        limit = reading_time(path) if limit is None else limit
        self._start()
        try:
            self._connection.send((str(path), traces))
            if not self._connection.poll(limit):
                self._end()
                raise UserError(f"{path}: not read after {limit:.0f} s: the library that reads it hangs, so the file is "
                                "damaged; fetch it again or leave it out")
            found, message = self._connection.recv()
        except (EOFError, OSError):
            status = self._process.wait()
            self._end()
            raise UserError(f"{path}: the library that reads it crashed (status {status}), so the file is damaged; "
                            "fetch it again or leave it out") from None
        if message is not None:
            raise UserError(message)
        return found

    def _start(self) -> None:
        if self._process is not None:
            return
        self._connection, theirs = Pipe()
        home = str(pathlib.Path(__file__).parents[3])
        paths = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", __name__, str(theirs.fileno())], pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths})
        theirs.close()

    def _end(self) -> None:
        if self._process is not None:
            self._connection.close()
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None


def serve(connection: Connection) -> None:
    """Answer each (path, traces) with (sessions, None) or (None, message) until the other end closes."""
    while True:
        try:
            path, traces = connection.recv()
        except EOFError:
            return
        try:
            answer = (read_file(pathlib.Path(path), traces), None)
        except UserError as e:
            answer = (None, str(e))
        connection.send(answer)


def _bound_memory() -> None:
    """Let an allocation beyond the machine's memory fail: a few bytes can declare gigabytes to a library."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    _bound_memory()
    serve(Connection(int(sys.argv[1])))
