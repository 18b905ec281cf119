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
import threading
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.train import UserCallback

from raycal.search.worker import worker_loop

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
    last: dict[str, Any] | None = None  # last event, sent again to a trainable that lost it
    stacks: list[str] = field(default_factory=list)  # of workers over the limit
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
    seen: tuple[str, str] = ("died", "without a word")  # how Train saw a worker of it end


@ray.remote(num_cpus=0, max_restarts=0)
class SlotPool:
    """Slots and their mailboxes; every method is a coroutine on one loop, so none needs a lock."""

    def __init__(self, settings: dict[str, Any]):
        self._settings = settings  # workers, resources, use_gpu, storage, threads, limit (s an epoch)
        self._slots: list[Slot] = []
        self._changed = asyncio.Condition()
        self._seq = 0
        self._closed = False
        self._dataset = None

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
                _fit(me, slot.index, slot.rebuilds, settings)
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

        await self._until(lambda: self._closed or free() or all(s.rebuilds > REBUILDS for s in self._slots))
        if self._closed or free() is None:
            raise RuntimeError(f"no slot is left: {next((s.error for s in self._slots if s.error), 'the pool closed')}")
        self._seq += 1
        free().job = Job(number, payload, self._seq)
        await self._notify()
        return self._seq

    async def step(self, seq: int) -> dict[str, Any]:
        """Let the job run its next epoch and return the event it posts."""
        job = self._job(seq)
        if job is None:
            return {"kind": "lost", "message": "the job is no longer in its slot"}
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
                kind, seen = slot.seen
                self._end(slot.job, kind, f"its worker died {slot.job.deaths} times at epoch {slot.job.reported + 1}: "
                                          f"{seen}", slot.job.payload["config"].get("windows.batch"))
        await self._notify()

    async def witness(self, index: int, kind: str, message: str) -> None:
        """Note how Train saw a worker of a slot end."""
        self._slots[index].seen = kind, message

    async def next_job(self, index: int, last: int) -> dict[str, Any] | None:
        """Wait for the slot's next job; None when the pool closes."""
        slot = self._slots[index]

        def ready() -> bool:
            return bool(slot.job and slot.job.seq != last and not slot.job.ended and self._dataset is not None)

        await self._until(lambda: self._closed or ready())
        if self._closed:
            return None
        return self._describe(slot.job)

    async def job(self, seq: int) -> dict[str, Any] | None:
        """Return a running job to the other ranks of its group."""
        job = self._job(seq)
        return self._describe(job) if job else None

    def _describe(self, job: Job) -> dict[str, Any]:
        return {**job.payload, "number": job.number, "seq": job.seq, "reported": job.reported,
                "limit": self._settings["limit"], "dataset": self._dataset}

    async def proceed(self, seq: int, epoch: int) -> bool:
        """Wait until Tune asks for this epoch; False when the job was released or ended."""
        await self._until(lambda: self._closed or (j := self._job(seq)) is None or j.ended or j.allowed >= epoch)
        job = self._job(seq)
        return not self._closed and job is not None and not job.ended

    async def stood(self, seq: int, stack: str) -> None:
        """Note where a worker stands whose epoch is over its limit, for the end that is posted next."""
        if job := self._job(seq):
            job.stacks.append(stack)

    async def post(self, seq: int, event: dict[str, Any]) -> None:
        """Take an epoch or an end from a worker."""
        job = self._job(seq)
        if job is None or job.ended:
            return
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

    def _end(self, job: Job, kind: str, message: str, batch: int | None = None) -> None:
        job.ended = True
        job.events.append({"kind": kind, "message": message, **({"batch": batch} if kind == "oom" else {})})

    def _kill_workers(self, job: Job) -> None:
        for slot in self._slots:
            if slot.job is job:
                for worker in slot.workers.values():
                    ray.kill(worker["actor"], no_restart=True)


def _fit(pool, index: int, rebuild: int, settings: dict[str, Any]) -> None:
    """Run one slot: a TorchTrainer whose workers loop over jobs until the pool closes."""
    from ray import train
    from ray.train.torch import TorchConfig, TorchTrainer

    TorchTrainer(
        worker_loop,
        train_loop_config={"pool": pool, "slot": index, "threads": settings["threads"]},
        scaling_config=train.ScalingConfig(num_workers=settings["workers"], use_gpu=settings["use_gpu"],
                                           resources_per_worker=settings["resources"]),
        torch_config=TorchConfig(backend="nccl" if settings["use_gpu"] else "gloo"),
        run_config=train.RunConfig(name=f"slot-{index}-{rebuild}", storage_path=settings["storage"],
                                   failure_config=train.FailureConfig(max_failures=-1, controller_failure_limit=0),
                                   callbacks=[_Witness(pool, index)]),
    ).fit()


class _Witness(UserCallback):
    """Tells the pool what Train saw of a worker that died: it cannot say itself that Ray ended it for its memory."""

    def __init__(self, pool, index: int):
        self._pool, self._index = pool, index

    def after_exception(self, run_context, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            cause = getattr(error, "health_check_failure", error)
            memory = isinstance(cause, ray.exceptions.OutOfMemoryError)
            ray.get(self._pool.witness.remote(self._index, "oom" if memory else "died", str(cause)))


def error_text(error: BaseException) -> str:
    """Format an exception as the user reads it, original traceback included."""
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))
