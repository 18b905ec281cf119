"""The life of slots: Ray Train worker groups that start, die and are built anew while the jobs they had go on.

What dies and who sees it: a worker, of which Train starts the group anew; a controller (the slot), whose fit() ends in
the pool; a node, after which Train may wait for long, so that the job moves to another slot.
"""
from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import ray

from raycal.search import groups

DEATHS = 3  # of a worker at one epoch of one job, after which the job is at fault
HEAD_START = 20.0  # s the first slot has at most before the others start
REBUILDS = 3  # of a slot without one event in between, after which the cluster is at fault
ROUND = 2.0  # s between looks at who lives


@dataclass
class Job:
    """One training: what the worker needs, and how far it came."""

    number: int
    payload: dict[str, Any]
    seq: int
    reported: int = 0  # last epoch posted
    allowed: int = 0  # last epoch Tune asked for
    deaths: int = 0
    ended: bool = False
    paused: bool = False  # its worker waits for the storage
    stacks: list[str] = field(default_factory=list)  # of workers over the limit
    taken: bool = False  # by a worker that lives
    since: float = 0.0  # when that was, by the pool's monotonic clock
    last: dict[str, Any] | None = None  # last event, sent again to a trainable that lost it
    events: collections.deque = field(default_factory=collections.deque)

    def end(self, kind: str, message: str) -> None:
        self.ended = True
        batch = {"batch": self.payload["config"].get("windows.batch")} if kind == "oom" else {}
        self.events.append({"kind": kind, "message": message, **batch})


@dataclass
class Slot:
    """One worker group and the job it has."""

    index: int
    job: Job | None = None
    thread: threading.Thread | None = None
    error: BaseException | None = None
    workers: dict[int, dict[str, Any]] = field(default_factory=dict)  # rank -> where it lives
    mark: int = 0  # of its placement groups
    rebuilds: int = 0
    idle: bool = False  # its worker waits for a job
    seen: tuple[str, str] = ("died", "without a word")  # how Train saw a worker of it end

    @property
    def fallen(self) -> bool:
        """It fell too often to be built anew."""
        return self.rebuilds > REBUILDS


class Slots:
    """Slots of one actor; every method is a coroutine on one loop, so none needs a lock."""

    def __init__(self, settings: dict[str, Any]):
        self._settings = settings  # workers, resources, use_gpu, storage, threads, limit (s an epoch), others (groups)
        self._slots: list[Slot] = []
        self._changed = asyncio.Condition()
        self._closed = self._winding_up = False
        self._tasks: set[asyncio.Task] = set()

    async def grow(self, count: int) -> int:
        """Add slots until there are count; they start in the background."""
        if not self._slots:
            self._background(self._watch())
        self._slots += [Slot(index) for index in range(len(self._slots), count)]
        self._background(self._start_new())
        return len(self._slots)

    def _background(self, work) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start_new(self) -> None:
        """Start the first slot alone, the others when it stands: together they would all be late on a small machine."""
        late = time.monotonic() + HEAD_START
        for slot in [s for s in self._slots if s.thread is None]:
            if slot.index > 0:
                left = max(0.0, late - time.monotonic())
                await self._until(lambda: self._closed or 0 in self._slots[0].workers, left)
            if slot.thread is None and not self._closed:
                self._start(slot)

    def _start(self, slot: Slot) -> None:
        me, loop = ray.get_runtime_context().current_actor, asyncio.get_running_loop()
        settings = dict(self._settings)
        slot.mark = groups.new_mark()

        def run() -> None:
            try:
                groups.fit(me, slot.index, slot.rebuilds, slot.mark, settings)
                slot.error = None
            except BaseException as e:  # reported to whoever waits for this slot
                slot.error = e
            if not self._closed:
                asyncio.run_coroutine_threadsafe(self._fell(slot), loop)

        slot.thread = threading.Thread(target=run, name=f"slot-{slot.index}", daemon=True)
        slot.thread.start()

    async def _fell(self, slot: Slot) -> None:
        """A slot's fit() ended though the pool is open: build it anew, its job resumes.

        One whose nodes did not come in time did not fall: it goes on waiting for them.
        """
        slot.rebuilds += not groups.waited(slot.error)
        groups.remove(id for id, mark in groups.of_slots(self._settings).items() if mark == slot.mark)
        slot.workers.clear()
        slot.idle = False
        if slot.job:
            slot.job.taken = False
        if not slot.fallen:
            self._start(slot)
        elif slot.job:
            slot.job.end("lost", f"slot {slot.index} fell {slot.rebuilds} times: {slot.error}")
        await self._settle()

    async def _watch(self) -> None:
        """Look again and again which workers live: on a node that left, none will say that it died."""
        while not self._closed:
            await asyncio.sleep(ROUND)
            for slot in [s for s in self._slots if 0 in s.workers]:
                actor = slot.workers[0]["actor"]
                if await _dead(actor) and 0 in slot.workers and slot.workers[0]["actor"] == actor:
                    slot.workers.clear()
                    self._died(slot)
            await asyncio.to_thread(self._remove_strays)
            await self._settle()

    def _remove_strays(self) -> None:
        """Remove groups of slots that are no more: what a killed controller had on its way arrives after its end."""
        found = groups.of_slots(self._settings)  # before the marks: a slot has its own before it has a group
        marks = {slot.mark for slot in self._slots}
        groups.remove(id for id, mark in found.items() if mark not in marks)

    def _died(self, slot: Slot) -> None:
        """Note that a slot lost its workers; three deaths at one epoch are the job's own doing."""
        slot.idle = False
        job = slot.job
        if job and job.taken and not job.ended:
            job.taken = job.paused = False
            job.deaths += 1
            if job.deaths >= DEATHS:
                kind, seen = slot.seen
                job.end(kind, f"its worker died {job.deaths} times at epoch {job.reported + 1}: {seen}")

    async def _settle(self) -> None:
        """Let jobs that no worker has go on in a slot whose worker waits; while winding up, end them."""
        for slot in [s for s in self._slots if s.job and not s.job.taken and not s.job.ended]:
            other = next((s for s in self._slots if s.idle and s.job is None), None)
            if self._winding_up:
                slot.job.end("kept", "")  # there is nothing to save
            elif other and not slot.idle:
                other.job, slot.job = slot.job, None
        await self._notify()

    def _job(self, seq: int) -> Job | None:
        return next((s.job for s in self._slots if s.job and s.job.seq == seq), None)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, ready, timeout: float | None = None) -> bool:
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(ready), timeout)
                return True
            except asyncio.TimeoutError:
                return False


async def _dead(actor: Any) -> bool:
    """Say whether an actor is known to have died; one that does not answer in time may be busy."""
    with contextlib.suppress(asyncio.TimeoutError, ray.exceptions.RayError):
        try:
            await asyncio.wait_for(asyncio.wrap_future(actor.__ray_ready__.remote().future()), ROUND)
        except ray.exceptions.ActorDiedError:
            return True
    return False
