"""Ctrl-C, a polite kill and a closed terminal: the first one is a wish that a search hears between epochs."""
from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextlib.contextmanager
def heard() -> Iterator[Callable[[], int]]:
    """Give what returns the signal that asked to end, 0 while none did; the second one ends at once.

    A signal that is ignored, as nohup does, stays so.
    """
    asked: list[int] = []

    def note(signum: int, frame) -> None:
        if asked and signum != getattr(signal, "SIGHUP", None):  # of a terminal that closes, both its shell and the kernel tell
            raise KeyboardInterrupt
        asked.append(signum)

    with _handled(note):
        yield lambda: asked[0] if asked else 0


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """Let a polite kill and a closed terminal end the block as ctrl-C does, so that it cleans up."""
    def end(signum: int, frame) -> None:
        raise KeyboardInterrupt

    with _handled(end):
        yield


@contextlib.contextmanager
def around_ray() -> Iterator[None]:
    """Start Ray in here: its processes ignore a closing terminal, and its own handler of SIGTERM does not stay.

    Who started them ends them, in order: a shell that closes would kill the raylet before the last epoch is saved.
    """
    polite = signal.getsignal(signal.SIGTERM)
    with _handled(signal.SIG_IGN, SIGNALS[2:]):
        try:
            yield
        finally:
            if polite not in (signal.SIG_DFL, None):
                with contextlib.suppress(ValueError):
                    signal.signal(signal.SIGTERM, polite)


@contextlib.contextmanager
def _handled(handler: Any, signals: Sequence[int] = SIGNALS) -> Iterator[None]:
    previous = {}
    try:
        for signum in signals:
            if signal.getsignal(signum) != signal.SIG_IGN:
                previous[signum] = signal.signal(signum, handler)
    except ValueError:  # not the main thread: whoever runs us handles them
        pass
    try:
        yield
    finally:
        for signum, before in previous.items():
            signal.signal(signum, before)
