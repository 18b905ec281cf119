"""What a further worker costs in memory when all share one copy of the sessions, and how long a large one takes.

    python benchmarks/store.py [--frames 115000] [--neurons 150] [--workers 4]

A recording of the size of an Allen session is simulated, written and read as .npz, prepared and put into the
Ray object store. Each worker is a process of its own that gets the dataset, reads every frame and draws batches
from it. growth = unique memory (USS) that a worker gains by all this after the same with a recording of 1/20 of
the size (imports, buffers), as a share of the bytes of the sessions: 1 would be a copy a worker, 0 none.
"""
from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import common
import ray


@ray.remote(num_cpus=0)
class Worker:
    """Uses a stored dataset as a training does."""

    def gain(self, refs: list, small: list) -> tuple[float, int]:
        """Return (seconds to get the dataset, bytes of unique memory it adds to those a small one took)."""
        self._use(small)
        before = unique_memory()
        seconds = self._use(refs)
        return seconds, unique_memory() - before

    def _use(self, refs: list, batches: int = 20) -> float:
        from raycal.config import Config
        from raycal.sessions import store
        from raycal.sessions.windows import WindowSampler

        started = time.perf_counter()
        self._dataset = store.get(refs, {})
        seconds = time.perf_counter() - started
        for recording in self._dataset.recordings:
            for row in range(0, len(recording.traces), 4096):  # every page is read, in pieces
                recording.traces[row:row + 4096].sum()
        sampler = WindowSampler(self._dataset, Config().windows, "zscore")
        drawn = sampler.epoch(0, 0)
        for _ in range(batches):
            next(drawn)
        return seconds


def unique_memory() -> int:
    """Return the bytes that only this process holds."""
    with open("/proc/self/smaps_rollup") as f:
        return 1024 * sum(int(line.split()[1]) for line in f if line.startswith("Private_"))


def stored(session, put_seconds: list[float]) -> tuple[list, int]:
    """Prepare a session and put it into the store; return (references, bytes)."""
    from raycal.config import Config
    from raycal.sessions import store
    from raycal.sessions.prepare import prepare

    dataset = prepare([session], Config().sessions, Config().windows.length)
    started = time.perf_counter()
    refs = store.put(dataset)
    put_seconds.append(time.perf_counter() - started)
    return refs, dataset.n_bytes


def gained_by(workers: int, refs: list, small: list) -> tuple[float, float]:
    """Return the medians over workers, each one more than before, of the seconds to get it and the bytes gained."""
    actors, reports = [], []
    for _ in range(workers):
        actors.append(Worker.remote())
        reports.append(ray.get(actors[-1].gain.remote(refs, small)))
    return statistics.median(s for s, _ in reports), statistics.median(m for _, m in reports)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=115_000)
    parser.add_argument("--neurons", type=int, default=150)
    parser.add_argument("--workers", type=int, default=4)
    args = parser.parse_args()
    from raycal.sessions.readers import npz, read
    from raycal.sessions.simulate import simulate

    with common.local_ray() as scratch:
        print(common.machine(), flush=True)
        path = scratch / "large.npz"
        npz.write(simulate(args.neurons, args.frames, 30.0, seed=1).session, path)
        started = time.perf_counter()
        large = read([path])[0]
        load = time.perf_counter() - started
        puts: list[float] = []
        small_refs, _ = stored(simulate(args.neurons, args.frames // 20, 30.0, seed=1).session, [])
        refs, size = stored(large, puts)
        get, gained = gained_by(args.workers, refs, small_refs)
    report(args, load, puts[0], get, gained, size)


def report(args: argparse.Namespace, load: float, put: float, get: float, gained: float, size: int) -> None:
    result: dict[str, Any] = {"load_s": load, "put_s": put, "get_s": get, "bytes": size, "workers": args.workers,
                              "gained_bytes": int(gained), "growth": gained / size}
    print(f"{args.frames} x {args.neurons}: read {load:.2f} s, put {put:.2f} s, get {1000 * get:.1f} ms a worker; "
          f"{size / 2**20:.0f} MiB in the store")
    print(f"a further worker gains {gained / 2**20:.2f} MiB of its own: growth {result['growth']:.4f} "
          "(goal: below 0.1)")
    common.finish(result)


if __name__ == "__main__":
    main()
