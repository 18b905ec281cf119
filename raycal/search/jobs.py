"""Jobs that all run to their end in the slots of a search, without Tune: probes, confirmations, last trainings."""
from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from raycal.errors import UserError

LOOK = 1.0  # s between looks at whether to stop
TEARS = 5  # of a job from its slot, after which the cluster is at fault
TORN = ("lost", "data")  # last events of jobs that can go on elsewhere
AGAIN = "fix: see above what ends the workers, then run the same command again: what is finished stands"


def complete(cluster, jobs: Sequence[tuple[Any, dict[str, Any]]], *, say: Callable[[str], None] = print,
             over: Callable[[], bool] = lambda: False, mend: Callable[[dict[str, Any]], None] | None = None,
             last: int = 0, heard: Callable[[Any, dict[str, Any]], None] = lambda key, event: None,
             ) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Run jobs (key, payload) several at a time; yield (key, last event) as they end.

    A payload is what a worker takes: "config", "folder", "trainer". Once over() says so none begins, and those that
    run save their state and end without a word. mend(event) brings back what a job was torn from, before it goes on
    from what it saved. last: the epoch to stop after; 0: none. heard(key, event) is told every epoch.
    """
    import ray

    waiting = collections.deque((-1 - n, key, payload) for n, (key, payload) in enumerate(jobs))  # trials count from 0
    calls: dict[Any, tuple[Any, int | None]] = {}  # what the pool is asked -> (job, its number there once it has one)
    tears: collections.Counter[int] = collections.Counter()
    mend, stopping = mend or _mended(cluster), False
    try:
        while waiting or calls:
            if not stopping and over():
                stopping = True
                waiting.clear()
                cluster.wind_up(say)
            while waiting and len(calls) < cluster.room(say):
                job = waiting.popleft()
                calls[cluster.pool.borrow.remote(job[0], job[2])] = job, None
            cluster.room(say)  # says where none stands
            for call in ray.wait(list(calls), num_returns=1, timeout=LOOK)[0] if calls else ():
                job, seq = calls.pop(call)
                event = _answer(call)
                seq = event.get("seq", seq)
                if event["kind"] == "epoch":
                    heard(job[1], event)
                if event["kind"] in TORN:
                    tears[job[0]] += 1
                    if tears[job[0]] > TEARS:
                        raise UserError(f"{event['message']}\n{AGAIN}")
                    mend(event)
                    waiting.append(job)
                elif _ended(event, last):
                    cluster.pool.release.remote(seq)
                    yield job[1], event
                elif event["kind"] != "kept":
                    calls[cluster.pool.step.remote(seq)] = job, seq
    finally:
        for _, seq in calls.values():
            if seq is not None:
                cluster.pool.release.remote(seq)


def _answer(call: Any) -> dict[str, Any]:
    """Return what the pool says of a job: {"kind": "begun", "seq"} or its next event."""
    import ray

    from raycal.search.slots import Empty, NoSlot

    try:
        said = ray.get(call)
        return {"kind": "begun", "seq": said} if isinstance(said, int) else said
    except NoSlot as e:
        raise UserError(f"{e}\n{AGAIN}") from None
    except (Empty, ray.exceptions.RayActorError) as e:
        return {"kind": "lost", "message": f"the pool of slots died: {e}"}


def _mended(cluster) -> Callable[[dict[str, Any]], None]:
    def mend(event: dict[str, Any]) -> None:
        if event["kind"] == "data":
            raise UserError(f"a node left and took the recordings along\n{AGAIN}")
        cluster.mend()

    return mend


def _ended(event: dict[str, Any], last: int) -> bool:
    """Say whether a job is over; one that is paused waits for its storage, and goes on."""
    if event["kind"] == "epoch":
        return event["done"] or event["epoch"] == last
    return event["kind"] not in ("begun", "paused", "kept")
