"""TensorBoard's event files on a disk that may be full: what it does not take is kept and written at the next flush.

tensorboardX writes from a thread that an error ends, after which its queue fills and whoever logs waits for good.
"""
from __future__ import annotations

import contextlib
import os

PREFIX = "raycal:"  # of a log folder that is to be written so


class EventFile:
    """The write, flush and close of a file; none of them raises OSError."""

    def __init__(self, path: str):
        self._path, self._file, self._pending = path, None, bytearray()

    def write(self, data: bytes) -> None:
        self._pending += data

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._file = self._file or open(self._path, "wb", buffering=0)
            while self._pending:
                del self._pending[:self._file.write(self._pending)]

    def close(self) -> None:
        self.flush()
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()


class _Factory:
    def open(self, path: str) -> EventFile:
        return EventFile(path.removeprefix(PREFIX))

    def directory_check(self, path: str) -> None:
        with contextlib.suppress(OSError):
            os.mkdir(path.removeprefix(PREFIX))


def writer(folder):
    """Return a tensorboardX.SummaryWriter of event files in this folder."""
    from tensorboardX import SummaryWriter
    from tensorboardX.record_writer import register_writer_factory

    register_writer_factory(PREFIX.removesuffix(":"), _Factory())
    return SummaryWriter(PREFIX + str(folder), flush_secs=5, write_to_disk=True)
