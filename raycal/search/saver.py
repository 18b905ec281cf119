"""Where a worker keeps the states of its training: in the trial's folder, which it reaches itself or by the pool.

The run folder lies where the driver runs. A worker on that node, or on one that shares the folder, writes there; every
other sends its states to the pool, which writes them. So a trial whose node left goes on from them on any other.
"""
from __future__ import annotations

import contextlib
import io
import os
import time
import uuid
from typing import Any

RETRY = 1.0  # s between attempts to write to a storage that fails


class Released(Exception):
    """The job was taken back while its worker waited for the storage."""


class Near:
    """A trial's folder that this worker reaches."""

    def __init__(self, folder: str):
        self._folder = folder

    def read(self, name: str) -> Any:
        """Return a state, None where there is none."""
        from raycal.training import checkpoint

        path = os.path.join(self._folder, name)
        return checkpoint.load(path) if os.path.exists(path) else None

    def write(self, name: str, state: dict[str, Any]) -> None:
        from raycal.training import checkpoint

        if not os.path.isdir(self._folder):
            os.mkdir(self._folder)  # not its parents: a run folder that vanished is not begun anew elsewhere
        checkpoint.save(os.path.join(self._folder, name), state)


class Far:
    """A trial's folder that only the pool reaches; states travel as bytes, through Ray's object store."""

    def __init__(self, link: Any):
        self._link = link

    def read(self, name: str) -> Any:
        from raycal.training import checkpoint

        data = self._link.fetch(name)
        return None if data is None else checkpoint.load(io.BytesIO(data))

    def write(self, name: str, state: dict[str, Any]) -> None:
        """Raise OSError as the pool met it."""
        from raycal.training import checkpoint

        buffer = io.BytesIO()
        checkpoint.save(buffer, state)
        trouble = self._link.store(name, buffer.getvalue())
        if trouble:
            raise OSError(*trouble)


def place(job: dict[str, Any], link: Any, shared: dict[str, bool]) -> Near | Far:
    """Return how this worker reaches the folder of a job; shared keeps what was found of the run it is in.

    A folder of the same name on this node need not be the run's: the pool is asked whether it sees a file made there.
    """
    folder = job["folder"]
    if link.at(job["home"]):
        return Near(folder)
    root = os.path.dirname(os.path.dirname(folder))
    if root not in shared:
        shared[root] = _same(folder, link)
    return Near(folder) if shared[root] else Far(link)


def _same(folder: str, link: Any) -> bool:
    mark = os.path.join(folder, f".seen-{uuid.uuid4().hex}")
    try:
        open(mark, "x").close()
    except OSError:
        return False
    try:
        return link.seen(mark)
    finally:
        with contextlib.suppress(OSError):  # it vanished with its disk
            os.unlink(mark)


class Saver:
    """Writes the state of a running trial: at once when it ends, else every few seconds.

    A state on the way that the storage refuses is left out, the one before stands; the last one is waited with.
    """

    def __init__(self, job: dict[str, Any], place: Near | Far, link: Any, watchdog: Any):
        self._folder, self._every = job["folder"], job["config"].get("training.save_every", 10.0)
        self._place, self._link, self._watchdog, self._last = place, link, watchdog, time.monotonic()
        self._unsaved: dict[str, Any] | None = None

    def save(self, state: dict[str, Any]) -> None:
        from raycal.training import checkpoint

        if state["done"]:
            with self._watchdog.suspended():
                self._insist("model.pt", checkpoint.export(state))
            return
        self._unsaved = state
        if time.monotonic() - self._last >= self._every:
            self.keep()

    def keep(self) -> None:
        """Write the last state where that has not been done."""
        with contextlib.suppress(OSError):
            if self._unsaved is not None:
                self._place.write("checkpoint.pt", self._unsaved)
                self._unsaved, self._last = None, time.monotonic()

    def _insist(self, name: str, state: dict[str, Any]) -> None:
        """Write, whatever time the storage takes to come back, unless the job is taken back first."""
        from raycal.search.patience import LONGEST

        began, said = time.monotonic(), False
        while True:
            try:
                return self._place.write(name, state)
            except OSError as e:
                if time.monotonic() - began > LONGEST:
                    raise
                if not said:
                    self._link.post({"kind": "paused", "message": f"{self._folder} cannot be written "
                                                                  f"({e.strerror or e})"})
                    said = True
            time.sleep(RETRY)
            if not self._link.wanted():
                raise Released
