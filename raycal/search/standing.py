"""How many slots stand, asked of the pool now and then; where none does, why, in words."""
from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from raycal.errors import UserError
from raycal.search import nodes

LOOK = 1.0  # s between questions to the pool
SAID = 10.0  # s without a slot after which it is said why
AGAIN = 60.0  # s after which another reason is said
WAITING = "waiting: "  # for what is then said to lack
PATIENCE = 1800.0  # s without a slot: a machine boots in minutes, and installs torch


class Now(NamedTuple):
    slots: int  # that have their workers
    looked: bool  # whether the pool has just answered


class Standing:
    """standing(say) returns what the pool said last, without waiting for it.

    worker: resources of a worker; workers: of a slot; placed: says whether Ray gave a slot its place, so that it only
    to start; said: the reason that was said before there was a pool. After PATIENCE without a slot it raises UserError.
    """

    def __init__(self, pool: Any, worker: Mapping[str, float], workers: int, placed: Callable[[], bool],
                 said: str = ""):
        self._pool, self._worker, self._workers, self._placed = pool, worker, workers, placed
        self._asked: Any = None
        self._slots, self._since, self._last = 0, time.monotonic(), -LOOK
        self._said, self._when = said, time.monotonic()

    def __call__(self, say: Callable[[str], None]) -> Now:
        looked = self._look()
        if self._slots:
            if self._said and looked:
                say(f"{self._slots} slots stand; the search goes on")
                self._said = ""
            self._since = time.monotonic()
        elif looked:
            self._explain(say, time.monotonic() - self._since)
        return Now(self._slots, looked)

    def _look(self) -> bool:
        """Ask the pool, or take its answer; True where there is one."""
        import ray

        if self._asked is None and time.monotonic() - self._last >= LOOK:
            self._asked, self._last = self._pool.standing.remote(), time.monotonic()
        if self._asked is None or not ray.wait([self._asked], timeout=0)[0]:
            return False
        asked, self._asked = self._asked, None
        try:
            self._slots = ray.get(asked)
        except ray.exceptions.RayError:  # a pool that died is mended by who has a trial in it
            return False
        return True

    def _explain(self, say: Callable[[str], None], seconds: float) -> None:
        if seconds < SAID:
            return
        why = "" if self._placed() else nodes.lacking(self._worker, self._workers)
        if seconds > PATIENCE:
            raise UserError(f"no slot stands for {PATIENCE / 60:.0f} min: {why or 'its workers do not start'}\n"
                            "fix: ray status says what the cluster waits for, quotas are the usual reason; then go on "
                            "with --resume")
        if why and why != self._said and (not self._said or time.monotonic() - self._when > AGAIN):
            say(WAITING + why)
            self._said, self._when = why, time.monotonic()
