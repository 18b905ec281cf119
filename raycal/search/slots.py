"""The pool of slots: long-lived Ray Train worker groups that take training job after job.

A `TorchTrainer` per trial costs 13-26 s and leaks placement groups; a slot runs one
`TorchTrainer.fit()` for the life of the pool and a job costs it under 0.1 s. The pool is one
asyncio actor, owned by the driver: the workers of every slot ask it for jobs and post what comes
out of them, Tune's trainables borrow slots and wait for those posts.

A job advances in step with Tune: rank 0 asks `proceed` before each epoch, so a trial that is
stopped stops before its next epoch begins.
"""
from __future__ import annotations

import asyncio
import collections
import os
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import ray

from raycal.search import groups

DEATHS = 3  # of a worker at one epoch of one job, after which the job is at fault
HEAD_START = 20.0  # s the first slot has at most before the others start
BEAT = 5.0  # s after which a job that waits for its storage is heard of again
REBUILDS = 3  # of a slot without one event in between, after which the cluster is at fault


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
    taken: bool = False  # by a worker that lives
    last: dict[str, Any] | None = None  # last event, sent again to a trainable that lost it
    events: collections.deque = field(default_factory=collections.deque)


@dataclass
class Slot:
    """One worker group and the job it has."""

    index: int
    job: Job | None = None
    thread: threading.Thread | None = None
    error: BaseException | None = None
    workers: dict[int, dict[str, Any]] = field(default_factory=dict)  # rank -> where it lives
    rebuilds: int = 0


class NoSlot(RuntimeError):
    """Every slot of the pool fell too often."""


@ray.remote(num_cpus=0, max_restarts=-1)
class SlotPool:
    """Slots and their mailboxes; every method is a coroutine on one loop, so none needs a lock.

    A pool that died comes back empty, under the same handle: its owner lets it grow again and hands over the data.
    """

    def __init__(self, settings: dict[str, Any]):
        self._settings = settings  # workers, resources, use_gpu, storage, threads, limit (s an epoch), others (groups)
        self._slots: list[Slot] = []
        self._changed = asyncio.Condition()
        self._seq = int.from_bytes(os.urandom(4), "big") << 20  # a job of an earlier life is never taken for one of this
        self._closed = self._winding_up = False
        self._dataset = None
        if ray.get_runtime_context().was_current_actor_reconstructed:
            groups.remove(groups.of_slots(settings))

    async def grow(self, count: int) -> int:
        """Add slots until there are count; they start in the background."""
        self._slots += [Slot(index) for index in range(len(self._slots), count)]
        self._launch = asyncio.create_task(self._start_new())
        return len(self._slots)

    async def _start_new(self) -> None:
        """Start the first slot alone, the others when it stands: together they would all be late on a small machine."""
        loop = asyncio.get_running_loop()
        for slot in [s for s in self._slots if s.thread is None]:
            if slot.index > 0:
                await self._until(lambda: self._closed or 0 in self._slots[0].workers, HEAD_START)
            if slot.thread is None and not self._closed:
                self._start(slot, loop)

    async def set_dataset(self, refs: list) -> None:
        """Hand over the object-store references every later job trains on (a list, so that they stay references)."""
        self._dataset = refs
        await self._notify()

    def _start(self, slot: Slot, loop: asyncio.AbstractEventLoop) -> None:
        me = ray.get_runtime_context().current_actor
        settings = dict(self._settings)

        def run() -> None:
            try:
                groups.fit(me, slot.index, slot.rebuilds, settings)
                slot.error = None
            except BaseException as e:  # reported to whoever waits for this slot
                slot.error = e
            if not self._closed:
                asyncio.run_coroutine_threadsafe(self._fell(slot), loop)

        slot.thread = threading.Thread(target=run, name=f"slot-{slot.index}", daemon=True)
        slot.thread.start()

    async def _fell(self, slot: Slot) -> None:
        """A slot's fit() ended though the pool is open: build it anew, its job resumes."""
        slot.rebuilds += 1
        groups.remove([worker["group"] for worker in slot.workers.values()])  # a dead controller leaves its own behind
        slot.workers.clear()
        if slot.job:
            slot.job.taken = False
            self._keep_untaken()
        if slot.rebuilds > REBUILDS:
            if slot.job:
                self._end(slot.job, "lost", f"slot {slot.index} fell {slot.rebuilds} times: {slot.error}")
        else:
            self._start(slot, asyncio.get_running_loop())
        await self._notify()

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

    # What trainables call.

    async def borrow(self, number: int, payload: dict[str, Any]) -> int:
        """Give the job to a free slot and return its sequence number; a job still running is joined."""
        running = next((s.job for s in self._slots if s.job and s.job.number == number and not s.job.ended), None)
        if running:
            if running.last:
                running.events.appendleft(running.last)
            return running.seq

        def free() -> Slot | None:
            return next((s for s in self._slots if s.job is None and s.rebuilds <= REBUILDS), None)

        def none_left() -> bool:  # a pool without any is new, and about to grow
            return bool(self._slots) and all(s.rebuilds > REBUILDS for s in self._slots)

        await self._until(lambda: self._closed or self._winding_up or free() or none_left())
        if self._winding_up:
            return -1
        if self._closed or free() is None:
            raise NoSlot(f"no slot is left: {next((s.error for s in self._slots if s.error), 'the pool closed')}")
        self._seq += 1
        free().job = Job(number, payload, self._seq, payload.get("reported", 0))
        await self._notify()
        return self._seq

    async def step(self, seq: int) -> dict[str, Any]:
        """Let the job run its next epoch and return the event it posts."""
        job = self._job(seq)
        if job is None:
            return {"kind": "kept"} if seq < 0 else {"kind": "lost", "message": "the job is no longer in its slot"}
        job.allowed = job.reported + 1
        await self._notify()
        # A worker that hangs is ended by its own watchdog; this limit is for one that cannot even do that.
        deadline = BEAT if job.paused else self._settings["limit"] + 120.0
        if not await self._until(lambda: job.events or self._closed, deadline) or not job.events:
            if job.paused:
                return job.last
            self._kill_workers(job)
            self._end(job, "hang", f"no epoch within {deadline:g} s and no word from the worker")
        job.last = job.events.popleft()
        return job.last

    async def release(self, seq: int) -> None:
        """End the job, wherever it is, and free its slot."""
        for slot in self._slots:
            if slot.job and slot.job.seq == seq:
                slot.job = None
        await self._notify()

    # What workers call.

    async def enlist(self, index: int, rank: int, identity: dict[str, Any]) -> None:
        """Note where a worker lives; one that comes again while its job runs has died in between."""
        slot = self._slots[index]
        returned = rank in slot.workers
        if slot.job:
            slot.job.paused = False
        slot.workers[rank] = identity
        if returned and rank == 0 and slot.job and not slot.job.ended:
            slot.job.deaths += 1
            if slot.job.deaths >= DEATHS:
                self._end(slot.job, "died", f"its worker died {slot.job.deaths} times at epoch {slot.job.reported + 1}")
        if rank == 0 and slot.job:
            slot.job.taken = False
        self._keep_untaken()
        await self._notify()

    async def next_job(self, index: int, last: int) -> dict[str, Any] | None:
        """Wait for the slot's next job; None when the pool closes."""
        slot = self._slots[index]

        def ready() -> bool:
            return bool(slot.job and slot.job.seq != last and not slot.job.ended and self._dataset is not None)

        await self._until(lambda: self._closed or ready())
        if self._closed:
            return None
        slot.job.taken = True
        return self._describe(slot.job)

    async def job(self, seq: int) -> dict[str, Any] | None:
        """Return a running job to the other ranks of its group."""
        job = self._job(seq)
        return self._describe(job) if job else None

    def _describe(self, job: Job) -> dict[str, Any]:
        return {**job.payload, "number": job.number, "seq": job.seq, "reported": job.reported,
                "limit": self._settings["limit"], "dataset": self._dataset}

    async def proceed(self, seq: int, epoch: int) -> str:
        """Wait until Tune asks for this epoch; "stop" when the job was released or ended, "keep" to save it and end."""
        await self._until(lambda: self._closed or self._winding_up or (j := self._job(seq)) is None or j.ended
                          or j.allowed >= epoch)
        job = self._job(seq)
        if self._closed or job is None or job.ended:
            return "stop"
        return "keep" if self._winding_up else "go"

    async def post(self, seq: int, event: dict[str, Any]) -> None:
        """Take an epoch or an end from a worker."""
        job = self._job(seq)
        if job is None or job.ended:
            return
        job.paused = event["kind"] == "paused"
        if event["kind"] == "epoch":
            job.reported, job.deaths = event["epoch"], 0
            job.ended = event["done"]
        elif not job.paused:
            job.ended = True
        for slot in self._slots:
            if slot.job is job:
                slot.rebuilds = 0
        job.events.append(event)
        await self._notify()

    # What the driver calls.

    async def wind_up(self) -> None:
        """End every job after the epoch it is in, with its state saved; no other begins."""
        self._winding_up = True
        self._keep_untaken()
        await self._notify()

    def _keep_untaken(self) -> None:
        """While winding up, end the jobs that no worker has: there is nothing to save."""
        for job in [s.job for s in self._slots if s.job and self._winding_up]:
            if not job.taken and not job.ended:
                self._end(job, "kept", "")

    async def state(self) -> dict[str, Any]:
        """Return what the pool holds: workers, placement groups, running trials, errors."""
        groups = {w["group"] for s in self._slots for w in s.workers.values() if w["group"]}
        return {"slots": len(self._slots), "ready": sum(0 in s.workers for s in self._slots),
                "groups": sorted(groups), "running": [s.job.number for s in self._slots if s.job],
                "pids": sorted(w["pid"] for s in self._slots for w in s.workers.values()),
                "errors": [str(s.error) for s in self._slots if s.error]}

    async def wait_ready(self, timeout: float) -> bool:
        """Wait until one slot has its workers."""
        return await self._until(lambda: any(0 in s.workers for s in self._slots)
                                 or all(s.rebuilds > REBUILDS for s in self._slots), timeout)

    async def close(self, timeout: float = 20.0) -> bool:
        """Let every worker group end by itself; True when all did."""
        self._closed = True
        await self._notify()
        deadline = time.monotonic() + timeout
        while any(s.thread and s.thread.is_alive() for s in self._slots) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        return not any(s.thread and s.thread.is_alive() for s in self._slots)

    def _job(self, seq: int) -> Job | None:
        return next((s.job for s in self._slots if s.job and s.job.seq == seq), None)

    def _end(self, job: Job, kind: str, message: str) -> None:
        job.ended = True
        job.events.append({"kind": kind, "message": message})

    def _kill_workers(self, job: Job) -> None:
        for slot in self._slots:
            if slot.job is job:
                for worker in slot.workers.values():
                    ray.kill(worker["actor"], no_restart=True)
