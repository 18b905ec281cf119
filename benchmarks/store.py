"""Memory that each further worker takes for sessions in the object store, and the seconds they take to get there.

    python benchmarks/store.py [--frames 115000] [--neurons 150] [--workers 4]

Workers are Ray actors on a local Ray. Each first does everything on a short session of as many neurons (imports,
batches of the size it will need later), then gets the same stored Dataset, sums every array and draws batches of an
epoch from it. Its unique memory (USS: Private_Clean + Private_Dirty of /proc/PID/smaps_rollup) is read before, and
once all have touched all of it. growth is the mean growth of a worker as a share of the sessions' bytes;
growth_private is the same for one worker that copies the arrays, which shows that the reading would see a copy.
Times: simulate, write and read the npz file, prepare (split, scalers), put into the store, get in a worker (median),
and the first sum over it.
"""
from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import common
import ray

BATCHES = 50


def unique_bytes() -> int:
    """Return what this process alone holds in memory."""
    with open(f"/proc/{os.getpid()}/smaps_rollup") as f:
        return 1024 * sum(int(line.split()[1]) for line in f if line.startswith("Private_"))


def total(dataset) -> float:
    """Read every value."""
    return float(sum(array.sum(dtype="float64") for r in dataset.recordings for array in (r.traces, r.behavior)))


def draw(dataset, batches: int) -> int:
    """Draw batches as training does; return how many windows."""
    import itertools

    from raycal.config import Config
    from raycal.sessions.windows import WindowSampler

    config, windows, epoch = Config(), 0, 0
    sampler = WindowSampler(dataset, config.windows, config.sessions.normalize)
    while batches > 0:
        for batch in itertools.islice(sampler.epoch(epoch, 0), batches):
            windows += sum(len(part.traces) for part in batch)
            batches -= 1
        epoch += 1
    return windows


@ray.remote(num_cpus=0)
class Worker:
    """A process that uses stored sessions."""

    def warm_up(self, short) -> int:
        """Do all that comes later on a short session; return the unique bytes after it."""
        self._cache: dict[str, Any] = {}
        total(short)
        draw(short, BATCHES)
        return unique_bytes()

    def use(self, refs: list, copy: bool) -> dict[str, Any]:
        """Get the dataset, read all of it, draw batches, and keep it."""
        import copy as copies

        from raycal.sessions import store

        started = time.perf_counter()
        dataset = store.get(refs, self._cache)
        got = time.perf_counter()
        self._held = copies.deepcopy(dataset) if copy else dataset
        value = total(self._held)
        summed = time.perf_counter()
        return {"get": got - started, "sum": summed - got, "total": value, "windows": draw(self._held, BATCHES),
                "writeable": self._held.recordings[0].traces.flags.writeable}

    def unique(self) -> int:
        return unique_bytes()


def timed(name: str, seconds: dict[str, float], function, *args):
    """Call, note and print the seconds, return the value."""
    started = time.perf_counter()
    value = function(*args)
    seconds[name] = time.perf_counter() - started
    print(f"{name:10s} {seconds[name]:.3f} s", flush=True)
    return value


def sessions(args, seconds: dict[str, float]):
    """Return the prepared dataset of a session that went through a file."""
    from raycal.config import Config
    from raycal.sessions.prepare import prepare
    from raycal.sessions.readers import npz
    from raycal.sessions.simulate import simulate

    session = timed("simulate", seconds, lambda: simulate(n_neurons=args.neurons, n_frames=args.frames).session)
    with common.scratch() as folder:
        timed("write npz", seconds, npz.write, session, folder / "session.npz")
        read = timed("load npz", seconds, npz.read, folder / "session.npz")
    config = Config()
    return timed("prepare", seconds, prepare, [read], config.sessions, config.windows.length)


def measure(dataset, n_workers: int, seconds: dict[str, float]) -> dict[str, Any]:
    """Put the dataset and let the workers use it."""
    from raycal.config import Config
    from raycal.sessions import store
    from raycal.sessions.prepare import prepare
    from raycal.sessions.simulate import simulate

    config = Config()
    short = prepare([simulate(n_neurons=dataset.n_neurons[0], n_frames=3000).session], config.sessions,
                    config.windows.length)
    refs = timed("put", seconds, store.put, dataset)
    workers = [Worker.remote() for _ in range(n_workers + 1)]  # the last one copies
    before = [ray.get(w.warm_up.remote(short)) for w in workers]
    used = [ray.get(w.use.remote(refs, copy=w is workers[-1])) for w in workers]
    after = ray.get([w.unique.remote() for w in workers])
    expected = total(dataset)
    if any(abs(u["total"] - expected) > 1e-6 * abs(expected) for u in used) or used[0]["writeable"]:
        raise RuntimeError(f"the workers read {[u['total'] for u in used]}, put was {expected}; it must be read-only")
    for b, a, u in zip(before, after, used):
        print(f"worker: {b / 2**20:.1f} -> {a / 2**20:.1f} MiB of its own; get {1000 * u['get']:.1f} ms, "
              f"sum {1000 * u['sum']:.0f} ms, {u['windows']} windows{'' if u is not used[-1] else ' (copied)'}")
    share = [(a - b) / dataset.n_bytes for b, a in zip(before, after)]
    return {"growth": statistics.mean(share[:-1]), "growth_max": max(share[:-1]), "growth_private": share[-1],
            "get_s": statistics.median(u["get"] for u in used[:-1]),
            "sum_s": statistics.median(u["sum"] for u in used[:-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=115_000)
    parser.add_argument("--neurons", type=int, default=150)
    parser.add_argument("--workers", type=int, default=4)
    args = parser.parse_args()
    print(common.machine(), flush=True)
    seconds: dict[str, float] = {}
    dataset = sessions(args, seconds)
    with common.local_ray():
        found = measure(dataset, args.workers, seconds)
    print(f"growth of a worker: {100 * found['growth']:.2f} % of {dataset.n_bytes / 2**20:.0f} MiB (goal: under 10 %); "
          f"of one that copies {100 * found['growth_private']:.0f} %")
    common.finish({**found, "simulate_s": seconds["simulate"], "write_s": seconds["write npz"],
                   "load_s": seconds["load npz"], "prepare_s": seconds["prepare"], "put_s": seconds["put"],
                   "bytes": dataset.n_bytes, "workers": args.workers})


if __name__ == "__main__":
    main()
