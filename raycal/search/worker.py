"""What a Ray Train worker of a slot does for as long as it lives: take a job, train it, post its epochs."""
from __future__ import annotations

import contextlib
import gc
import itertools
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

from raycal.search.saver import Far, Near, Released, Saver, place


def worker_loop(settings: dict[str, Any]) -> None:
    """train_loop_per_worker of a slot."""
    import ray.train
    import torch

    torch.set_num_threads(settings["threads"])  # 2 workers x 1 thread do 1.4x the steps of 1 x 2, 8x on a busy machine
    context = ray.train.get_context()
    link = _Link(settings["pool"], settings["slot"], context.get_world_rank(), context.get_world_size())
    watchdog = _Watchdog(link)
    datasets: dict[str, Any] = {}
    shared: dict[str, bool] = {}
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # imports torch._dynamo (1.4 s) while sessions are read
    gc.collect()
    gc.freeze()  # what Ray and torch hold for good is not searched again at every collection
    link.enlist()
    while (job := link.next_job()) is not None:
        _run(link, watchdog, job, datasets, shared)


def _run(link: _Link, watchdog: _Watchdog, job: dict[str, Any], datasets: dict[str, Any],
         shared: dict[str, bool]) -> None:
    """Train one job to its end or until it is released."""
    _forget_peak_memory()
    try:
        folder = place(job, link, shared)
        saver = Saver(job, folder, link, watchdog)
        epochs = _epochs(link, saver, folder, job, datasets)
        while (word := link.proceed(link.reported + 1)) == "go":
            with watchdog.limit(job["limit"]):
                epoch = next(epochs)
            link.post_epoch(epoch)
            if epoch.done:
                break
        epochs.close()
        if word == "keep":
            saver.keep()
            link.post({"kind": "kept"})
    except Released:
        return
    except Exception as e:
        if _lost_peer(e):
            raise  # it is not this worker that failed: Train starts the group anew, the job resumes
        link.post_end({"kind": _kind(e), "message": "".join(traceback.format_exception(type(e), e, e.__traceback__)),
                       "memory": _peak_memory(), "batch": job["config"].get("windows.batch"),
                       "data": job["dataset"][0].hex()})
        _free(e)
        # Peers may hang in a collective, and a CUDA context is broken after an error: let Train start the group anew.
        if link.world > 1 or "CUDA error" in str(e):
            raise


def _free(error: BaseException) -> None:
    """Give back the memory that a failed job holds: in the frames of its traceback, in cycles, in its GPU's cache."""
    import torch

    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _epochs(link: _Link, saver: Saver, folder: Near | Far, job: dict[str, Any], datasets: dict[str, Any]):
    """Return the trainer's generator, resumed from the trial's checkpoint where there is one."""
    from raycal.config import Config
    from raycal.sessions import store
    from raycal.training.loop import replay

    dataset = store.get(job["dataset"], datasets)
    config = Config().replace(job["config"])
    resume = folder.read("checkpoint.pt")
    save = saver.save if link.rank == 0 else None
    epochs = job["trainer"](config, dataset, resume=resume, rank=link.rank, world=link.world, save=save)
    # what the state has behind it was perhaps never heard of: who was told may have died
    return _after(itertools.chain(replay(config, resume) if resume else (), epochs), link.reported)


def _after(epochs, reported: int):
    """Pass over the epochs Tune already has: a checkpoint may be older than the last report."""
    for epoch in epochs:
        if epoch.epoch > reported or epoch.done:
            yield epoch


class _Link:
    """This worker's line to the pool; rank 0 talks, the other ranks hear through torch.distributed."""

    def __init__(self, pool, slot: int, rank: int, world: int):
        self._pool, self._slot, self.rank, self.world = pool, slot, rank, world
        self._seq, self.reported = -1, 0

    def _call(self, method: str, *args):
        import ray

        return ray.get(getattr(self._pool, method).remote(*args))

    def _share(self, value):
        if self.world == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def enlist(self) -> None:
        import ray

        context, group = ray.get_runtime_context(), ray.util.get_current_placement_group()
        self._call("enlist", self._slot, self.rank,
                   {"actor": context.current_actor, "pid": os.getpid(), "node": context.get_node_id(),
                    "group": group.id.hex() if group else None})

    def next_job(self) -> dict[str, Any] | None:
        job = self._call("next_job", self._slot, self._seq) if self.rank == 0 else None
        seq = self._share(job["seq"] if job else None)
        if seq is None:
            return None
        if self.rank:
            job = self._call("job", seq)
        self._seq, self.reported = seq, job["reported"]
        return job

    def wanted(self) -> bool:
        return self._call("job", self._seq) is not None

    def at(self, node: str) -> bool:
        """Say whether this worker runs on a node."""
        import ray

        return ray.get_runtime_context().get_node_id() == node

    def seen(self, path: str) -> bool:
        return self._call("seen", path)

    def fetch(self, name: str) -> bytes | None:
        return self._call("fetch", self._seq, name)

    def store(self, name: str, data: bytes) -> tuple[int, str] | None:
        return self._call("store", self._seq, name, data)

    def proceed(self, epoch: int) -> str:
        return self._share(self._call("proceed", self._seq, epoch) if self.rank == 0 else None)

    def post_epoch(self, epoch) -> None:
        self.reported = epoch.epoch
        self.post({"kind": "epoch", **epoch._asdict()})

    def post(self, event: dict[str, Any]) -> None:
        if self.rank == 0:
            self._call("post", self._seq, event)

    def post_stack(self, what: str, stack: str) -> None:
        """Post where every worker of the group stood: one hangs, the others wait for it."""
        who = f"worker {self.rank} of {self.world}" if self.world > 1 else "it"
        self._call("stood", self._seq, f"{who} stood at\n{stack}")
        time.sleep(1.0 if self.world > 1 else 0.0)  # the others' watchdogs look every half second
        self.post_end({"kind": "hang", "message": what})

    def post_end(self, event: dict[str, Any]) -> None:
        """Post an end from whichever worker met it; the first one counts, for the others lose their peer by it."""
        self._call("post", self._seq, event)


class _Watchdog:
    """Ends a worker whose epoch is over its limit, after posting where it stood."""

    def __init__(self, link: _Link):
        self._link, self._deadline, self._limit = link, None, 0.0
        self._watched = threading.get_ident()
        threading.Thread(target=self._watch, daemon=True).start()

    def limit(self, seconds: float) -> _Watchdog:
        self._limit = seconds
        return self

    def __enter__(self) -> None:
        self._deadline = time.monotonic() + self._limit

    def __exit__(self, *_) -> None:
        self._deadline = None

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Leave time that passes in here out of the limit."""
        deadline, self._deadline, began = self._deadline, None, time.monotonic()
        try:
            yield
        finally:
            self._deadline = deadline and deadline + time.monotonic() - began

    def _watch(self) -> None:
        while True:
            time.sleep(0.5)
            if self._deadline is not None and time.monotonic() > self._deadline:
                frames = sys._current_frames()
                stack = "".join(traceback.format_stack(frames[self._watched])) if self._watched in frames else ""
                self._link.post_stack(f"an epoch took over {self._limit:g} s", stack)
                os._exit(1)


def _lost_peer(error: BaseException) -> bool:
    """Say whether a worker failed because another one of its group is gone."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or isinstance(error, RuntimeError) and "gloo/transport" in str(error)


def _kind(error: BaseException) -> str:
    """Say what an exception means: Ray's and torch's own class, Python's and numpy's, or what allocators write."""
    import ray
    import torch

    if isinstance(error, ray.exceptions.ObjectLostError):
        return "data"

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return "oom"
    text = str(error).lower()
    signs = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "_alloc_failed")
    return "oom" if isinstance(error, (RuntimeError, OSError)) and any(sign in text for sign in signs) else "error"


def _forget_peak_memory() -> None:
    """Let the peak of a job begin with the job; a slot has had others."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as f:  # Linux only
        f.write("5")


def _peak_memory() -> int:
    """Return the peak bytes of the job on its GPU, or of this process where it has none."""
    from raycal.training.probe import peak_memory

    peak = peak_memory()
    return peak["gpu"] or peak["host"]
