"""Jobs that all run to their end in the slots of a search, without Tune: probes, confirmations, last trainings."""
from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from typing import Any

LOOK = 1.0  # s between looks at whether to stop


def complete(cluster, jobs: Sequence[tuple[Any, dict[str, Any]]], over: Callable[[], bool] = lambda: False,
             last: int = 0, heard: Callable[[Any, dict[str, Any]], None] = lambda key, event: None,
             ) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Run jobs (key, payload) several at a time; yield (key, last event) as they end.

    A payload is what a worker takes: "config", "folder", "trainer". Once over() says so none goes on, and what a
    worker has saved in its folder stays for another time. last: the epoch to stop after; 0: none. heard(key, event) is
    told every epoch.
    """
    import ray

    waiting = collections.deque(enumerate(jobs))
    calls: dict[Any, tuple[Any, int | None]] = {}  # what the pool is asked -> (key, number of the job once it has one)
    try:
        while waiting or calls:
            stop = over()
            while waiting and not stop and len(calls) < cluster.slots.count:
                n, (key, payload) = waiting.popleft()
                calls[cluster.pool.borrow.remote(-1 - n, payload)] = key, None  # trials count from 0
            if stop or not calls:
                return
            for call in ray.wait(list(calls), num_returns=1, timeout=LOOK)[0]:
                key, seq = calls.pop(call)
                event = ray.get(call)
                if seq is None:
                    seq, event = event, None
                if event and event["kind"] == "epoch":
                    heard(key, event)
                if event and _ended(event, last):
                    ray.get(cluster.pool.release.remote(seq))
                    yield key, event
                else:
                    calls[cluster.pool.step.remote(seq)] = key, seq
    finally:
        for _, seq in calls.values():
            if seq is not None:
                cluster.pool.release.remote(seq)


def _ended(event: dict[str, Any], last: int) -> bool:
    """A job that is paused waits for its storage, and goes on."""
    if event["kind"] == "epoch":
        return event["done"] or event["epoch"] == last
    return event["kind"] != "paused"
