"""Waits for a run folder whose disk is full, read-only or gone: said once, and the search goes on when it is back."""
from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from typing import Any, TypeVar

from raycal.errors import UserError

T = TypeVar("T")
RETRY = 1.0  # s between attempts
LONGEST = 3600.0  # s a search waits before it stops: what waits holds a cluster
FULL, GONE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), (errno.ENOENT, errno.ENODEV, errno.ENOTCONN, errno.ESTALE)


class Patience:
    """patiently(write) returns write(), however long its storage takes; raises UserError when that is over.

    over() says that the user or the clock ends the search; before and after a search nothing is waited for.
    """

    def __init__(self, path: Any, say: Callable[[str], None] = print, over: Callable[[], bool] = lambda: True):
        self._path, self._say, self._over = path, say, over

    def __call__(self, write: Callable[[], T]) -> T:
        began = time.monotonic()
        waited = False
        while True:
            try:
                done = write()
            except OSError as e:
                waited = self._wait(e, time.monotonic() - began, waited)
                continue
            if waited:
                self._say(f"run folder {self._path}: can be written again after {time.monotonic() - began:.0f} s; "
                          "the search goes on")
            return done

    def _wait(self, error: OSError, seconds: float, said: bool) -> bool:
        error = _first(error)
        why, remedy = error.strerror or str(error), _remedy(error)
        if self._over() or seconds > LONGEST:
            raise UserError(f"run folder {self._path}: cannot be written ({why}); what was written stands\n"
                            f"fix: {remedy}, then go on with --resume {self._path}") from None
        if not said:
            self._say(f"run folder {self._path}: cannot be written ({why}); the search waits up to {LONGEST / 60:.0f} "
                      f"min for it\nfix: {remedy}; ctrl-C stops, to go on later with --resume {self._path}")
        time.sleep(RETRY)
        return True


def _first(error: OSError) -> OSError:
    """Return what shutil met first when it copied a folder; it keeps words only."""
    if not isinstance(error, shutil.Error):
        return error
    words = str(error.args[0][0][-1])
    known = next((code for code in (*FULL, *GONE, errno.EROFS) if f"[Errno {code}]" in words), errno.EIO)
    return OSError(known, os.strerror(known))


def _remedy(error: OSError) -> str:
    if error.errno in FULL:
        return "free some space there"
    if error.errno in GONE:
        return "bring it back (is its disk mounted?)"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "raise the limit of open files (ulimit -n)"
    return "make it writable again"
