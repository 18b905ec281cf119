"""A terminal that may close under a program which nohup, disown or its own last epoch keeps going."""
from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def outlived() -> Iterator[None]:
    """Print in here, and into nothing from when the terminal has closed: writing to it would end the program."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Outliving(stream) if stream else stream for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


class _Outliving:
    """A stream as it is, but for the error of a terminal that is gone."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, call: Any, *args: Any) -> None:
        try:
            call(*args)
        except OSError as e:
            if e.errno != errno.EIO:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
