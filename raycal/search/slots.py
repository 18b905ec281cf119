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
import os
import time
from typing import Any

import ray

from raycal.search import desk, groups
from raycal.search.slot import Job, Slot, Slots

BEAT = 5.0  # s after which a job that waits for its storage is heard of again


class NoSlot(RuntimeError):
    """Every slot of the pool fell too often."""


class Empty(RuntimeError):
    """The pool died and came back without slots: its owner has to let it grow, and may not have heard of it."""


@ray.remote(num_cpus=0, max_restarts=-1)
class SlotPool(Slots):
    """Slots and their mailboxes.

    A pool that died comes back empty, under the same handle: its owner lets it grow again and hands over the data.
    """

    def __init__(self, settings: dict[str, Any]):
        super().__init__(settings)
        self._seq = int.from_bytes(os.urandom(4), "big") << 20  # no job of an earlier life is taken for one of this
        self._dataset = None
        self._home = ray.get_runtime_context().get_node_id()
        if ray.get_runtime_context().was_current_actor_reconstructed:
            groups.remove(groups.of_slots(settings))

    async def set_dataset(self, refs: list) -> None:
        """Hand over the object-store references every later job trains on (a list, so that they stay references)."""
        self._dataset = refs
        await self._notify()

    # What trainables call.

    async def borrow(self, number: int, payload: dict[str, Any]) -> int:
        """Give the job to a free slot and return its sequence number; one that a slot still has is joined.

        It may have ended: who was told may have died before it heard, and has not given the slot back.
        """
        known = next((s.job for s in self._slots if s.job and s.job.number == number), None)
        if known:
            if known.last:
                known.events.appendleft(known.last)
            return known.seq

        if not self._slots:
            raise Empty("the pool of slots died, and came back without any")

        def free() -> Slot | None:
            found = [s for s in self._slots if s.job is None and not s.fallen]
            return next((s for s in found if s.idle), found[0] if found else None)

        def none_left() -> bool:
            return all(s.fallen for s in self._slots)

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
        # A worker that hangs is ended by its own watchdog; this limit is for one that cannot even do that. It counts
        # from when a worker has the job: before that it waits for nodes.
        began, limit = time.monotonic(), self._settings["limit"] + 120.0
        while not job.events and not await self._until(lambda: job.events, BEAT):
            if job.paused:
                return job.last
            if self._closed or job.taken and time.monotonic() - max(began, job.since) > limit:
                self._kill_workers(job)
                job.end("hang", f"no epoch within {limit:g} s and no word from the worker")
        job.last = job.events.popleft()
        return job.last

    async def release(self, seq: int) -> None:
        """End the job, wherever it is, and free its slot."""
        for slot in self._slots:
            if slot.job and slot.job.seq == seq:
                slot.job = None
        await self._notify()

    async def take_back(self, number: int) -> None:
        """Free the slot of a trial that has ended, where a trainable died before it could."""
        for slot in self._slots:
            if slot.job and slot.job.number == number:
                slot.job = None
        await self._notify()

    # What workers call.

    async def enlist(self, index: int, rank: int, identity: dict[str, Any]) -> None:
        """Note where a worker lives; one that comes again while its job runs has died in between."""
        slot = self._slots[index]
        if rank == 0:
            self._died(slot)
        slot.workers[rank] = identity
        await self._settle()

    async def witness(self, index: int, kind: str, message: str) -> None:
        """Note how Train saw a worker of a slot end."""
        self._slots[index].seen = kind, message

    async def next_job(self, index: int, last: int) -> dict[str, Any] | None:
        """Wait for the slot's next job; None when the pool closes."""
        slot = self._slots[index]

        def ready() -> bool:
            return bool(slot.job and slot.job.seq != last and not slot.job.ended and self._dataset is not None)

        slot.idle = True
        await self._settle()
        await self._until(lambda: self._closed or ready())
        if self._closed:
            return None
        slot.idle, slot.job.taken, slot.job.since = False, True, time.monotonic()
        return self._describe(slot.job)

    async def job(self, seq: int) -> dict[str, Any] | None:
        """Return a running job to the other ranks of its group."""
        job = self._job(seq)
        return self._describe(job) if job else None

    async def seen(self, path: str) -> bool:
        """Say whether a file that a worker made is in a folder that this node has too."""
        return await asyncio.to_thread(os.path.exists, path)

    async def fetch(self, seq: int, name: str) -> bytes | None:
        """Return a file of a running job's folder to a worker that does not reach it; None where there is none."""
        return await asyncio.to_thread(desk.read, self._job(seq), name)

    async def store(self, seq: int, name: str, data: bytes) -> tuple[int, str] | None:
        """Write such a file; return errno and words of what went wrong. What nobody waits for is not written."""
        return await asyncio.to_thread(desk.write, self._job(seq), name, data)

    def _describe(self, job: Job) -> dict[str, Any]:
        return {**job.payload, "number": job.number, "seq": job.seq, "reported": job.reported, "home": self._home,
                "limit": self._settings["limit"], "dataset": self._dataset}

    async def proceed(self, seq: int, epoch: int) -> str:
        """Wait until Tune asks for this epoch; "stop" when the job was released or ended, "keep" to save it and end."""
        await self._until(lambda: self._closed or self._winding_up or (j := self._job(seq)) is None or j.ended
                          or j.allowed >= epoch)
        job = self._job(seq)
        if self._closed or job is None or job.ended:
            return "stop"
        return "keep" if self._winding_up else "go"

    async def stood(self, seq: int, stack: str) -> None:
        """Note where a worker stands whose epoch is over its limit, for the end that is posted next."""
        if job := self._job(seq):
            job.stacks.append(stack)

    async def post(self, seq: int, event: dict[str, Any]) -> None:
        """Take an epoch or an end from a worker."""
        job = self._job(seq)
        if job is None or job.ended:
            return
        if event["kind"] == "epoch" and event["epoch"] <= job.reported and not event["done"]:
            return  # of a worker on a node that was given up
        job.paused = event["kind"] == "paused"
        if event["kind"] == "hang":
            event = {**event, "message": "; ".join([event["message"], *job.stacks])}
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
        await self._settle()

    async def state(self) -> dict[str, Any]:
        """Return what the pool holds: workers, placement groups, running trials, errors."""
        held = {w["group"] for s in self._slots for w in s.workers.values() if w["group"]}
        return {"slots": len(self._slots), "ready": await self.standing(),
                "groups": sorted(held), "running": [s.job.number for s in self._slots if s.job],
                "pids": sorted(w["pid"] for s in self._slots for w in s.workers.values()),
                "errors": [str(s.error) for s in self._slots if s.error]}

    async def standing(self) -> int:
        """Return how many slots have their workers."""
        return sum(0 in slot.workers for slot in self._slots)

    async def wait_ready(self, timeout: float) -> bool:
        """Wait until one slot has its workers."""
        return await self._until(lambda: any(0 in s.workers for s in self._slots)
                                 or all(s.fallen for s in self._slots), timeout)

    async def close(self, timeout: float = 20.0) -> bool:
        """Let every worker group end by itself; True when all did."""
        self._closed = True
        await self._notify()
        deadline = time.monotonic() + timeout
        while any(s.thread and s.thread.is_alive() for s in self._slots) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        return not any(s.thread and s.thread.is_alive() for s in self._slots)

    def _kill_workers(self, job: Job) -> None:
        for slot in self._slots:
            if slot.job is job:
                for worker in slot.workers.values():
                    ray.kill(worker["actor"], no_restart=True)
