"""The file of the Optuna study as its one driver writes it: whole lines, waiting for a disk that is full or gone."""
from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from optuna.storages.journal import JournalFileBackend


class Journal(JournalFileBackend):
    """Optuna's journal file without its lock files, which a read-only disk would not let go.

    The lock of the run folder lets one driver in, so there is no other writer. `patiently` returns what it is given
    to call (raycal.search.patience).
    """

    def __init__(self, path: pathlib.Path, patiently: Callable[[Callable[[], Any]], Any]):
        patiently(lambda: super(Journal, self).__init__(str(path)))
        self._path, self._patiently = path, patiently

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        data = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        self._patiently(lambda: _append(self._path, data))

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        logs = self._patiently(lambda: list(super(Journal, self).read_logs(log_number_from)))
        # the only reader goes on where it stopped; Optuna would keep the place of every line
        last = max(self._log_number_offset)
        self._log_number_offset = {0: 0, last: self._log_number_offset[last]}
        return map(_shared, logs)


def _shared(value: Any) -> Any:
    """Return what JSON held with the names of its keys shared: of every trial they are the same, and half its memory."""
    if isinstance(value, dict):
        return {sys.intern(key): _shared(part) for key, part in value.items()}
    return value


def _append(path: pathlib.Path, data: bytes) -> None:
    """Add data to a file that exists, whole or not at all: one that vanished with its disk is not begun anew."""
    with open(path, "r+b", buffering=0) as f:
        end = _end_of_last_line(f)
        try:
            f.seek(end)
            f.truncate()
            written = 0
            while written < len(data):
                written += f.write(data[written:])
            os.fsync(f.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                f.truncate(end)
            raise


def _end_of_last_line(f) -> int:
    """Return where to write on: after the last full line, for an attempt before may have left a part."""
    size = end = f.seek(0, os.SEEK_END)
    tail = b""
    while end and b"\n" not in tail:
        end = max(0, end - 4096)
        f.seek(end)
        tail = f.read(size - end)
    return end + tail.rfind(b"\n") + 1
