"""What one more slot costs a search, and where the first limit lies from 1 to 1000 slots.

    python benchmarks/scale.py [--trials 30] [--epochs 20]          # measures, then calculates
      [--epoch 30] [--hours 24] [--sessions 1057] [--cores 4] [--memory 16] [--network 1.25] [--store 0.1]

Measured here, in CPU seconds where the load of the machine must not count: a search of trials without any training
gives what an epoch's event and a trial cost the driver (Tune, study, TensorBoard, leaderboard), the pool and the other
processes of a slot on the head; a pause in it gives what an idle slot takes there; a file that grows line by line gives
what a write of the study waits for the disk; two nodes on loopback give what a broadcast takes; the copy of the run,
what an upload takes. The rest is arithmetic from assumptions, which are flags: seconds of an epoch, hours of the
search, MiB of the sessions, and of the head: cores, GB of memory, GB/s of the network and to the storage.

A limit is the number of slots at which one thing is busy all the time, or full. Costs are taken to grow in proportion
to slots: a bound from below, for some are of the search and not of a slot.
"""
from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import time
from typing import Any

import common

PAUSE = 10.0  # s in which an idle slot is watched
BROADCAST = 256  # MiB
BEARABLE = 60.0  # s that the first trials may wait for the sessions
SHARE = 0.7  # of a node's memory that Ray gives out
HEADS = 1000  # trainables that Tune may have: each takes a thousandth of the head's one resource
ROLES = ("TrainController", "SynchronizationActor", "DatasetManager", "BorrowedSlot")  # of each slot, on the head


def empty(config, dataset, *, resume=None, rank=0, world=1, save=None):
    """A trainer that trains nothing: epochs and out."""
    from raycal.training.loop import Epoch

    last = config.training.epochs
    for n in range(1, last + 1):
        yield Epoch(n, {"val/nmse": 1.0 / n, "seconds": 0.0}, 1.0 / n, n, 1.0 / n, n == last,
                    "epochs" if n == last else "", {})


class Watch:
    """Reads the CPU seconds of the driver and of the processes on the head when trials end."""

    def __init__(self, pause_at: int):
        self._pause_at, self.readings, self.idle, self.memory = pause_at, [], {}, 0

    def __call__(self) -> None:
        self.readings.append((time.process_time(), *self._seconds()))
        if len(self.readings) == self._pause_at:
            before = self._seconds()
            time.sleep(PAUSE)
            self.idle = dict(zip(("pool", "slot"), ((b - a) / PAUSE for a, b in zip(before, self._seconds()))))
            self.memory = sum(p.memory_full_info().uss for p in self._processes(*ROLES))
            self.readings[-1] = (time.process_time(), *self._seconds())

    def _seconds(self) -> tuple[float, float]:
        """Return CPU seconds of the pool, and of what else a slot has on the head."""
        return tuple(sum(sum(p.cpu_times()[:2]) for p in self._processes(*roles)) for roles in (("SlotPool",), ROLES))

    def _processes(self, *roles: str) -> list[Any]:
        import psutil

        names = {f"ray::{role}" for role in roles}
        found = [(p, " ".join(p.cmdline())) for p in psutil.Process().children(recursive=True)]
        return [p for p, line in found if any(line.startswith(name) for name in names)]

    def each(self) -> tuple[float, float, float]:
        """Return CPU seconds a trial of driver, pool and slot, from the pause on."""
        first, last = self.readings[self._pause_at - 1], self.readings[-1]
        return tuple((b - a) / (len(self.readings) - self._pause_at) for a, b in zip(first, last))


def search(trials: int, epochs: int, folder: pathlib.Path) -> Watch:
    """Run a search without training in one slot and watch what its trials cost."""
    from raycal import api
    from raycal.search.scheduler import Referee
    from raycal.sessions.simulate import simulate
    from raycal.training import loop

    watch, end, train = Watch(trials // 3), Referee.end, loop.train

    def ended(self, number, event):
        end(self, number, event)
        watch()

    loop.train, Referee.end = empty, ended  # the search sends its workers whatever stands here
    try:
        api.search("vq", [simulate(n_neurons=8, n_frames=3000).session], trials=trials, epochs=epochs, pruner="none",
                   out=str(folder / "run"), max_concurrent=1, confirm_top=0, quiet=True, temp_dir=str(folder / "ray"))
    finally:
        loop.train, Referee.end = train, end
    return watch


def fsync(folder: pathlib.Path, times: int = 200) -> float:
    """Return the median seconds that a line of the study waits for this disk."""
    from raycal.search import journal

    path = folder / "lines"
    path.touch()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        journal._append(path, b"x" * 200 + b"\n")
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def upload(run: pathlib.Path, folder: pathlib.Path) -> float:
    """Return the CPU seconds that a MB of the copy takes the driver, the network left out."""
    from raycal.search.storage import Mirror

    (run / "large").write_bytes(os.urandom(64 * 10**6))
    began, size = time.process_time(), sum(p.stat().st_size for p in run.rglob("*") if p.is_file()) / 1e6
    Mirror(run, f"file://{folder}/copy").upload(force=True)
    (run / "large").unlink()
    return (time.process_time() - began) / size


def broadcast() -> float:
    """Return the MiB that two nodes on loopback pass on in a second."""
    import numpy as np
    import ray
    from ray.cluster_utils import Cluster

    store = 3 * BROADCAST * 2**20
    with common.scratch() as folder:
        cluster = Cluster(initialize_head=True, head_node_args={
            "num_cpus": 1, "object_store_memory": store, "temp_dir": str(folder), "include_dashboard": False})
        cluster.add_node(num_cpus=1, object_store_memory=store, resources={"other": 1.0})
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            take = ray.remote(num_cpus=0, resources={"other": 0.01})(lambda refs: _fetched(refs))
            ray.get(take.remote([ray.put(np.zeros(8))]))  # starts the worker
            ref = ray.put(np.zeros(BROADCAST * 2**17))
            return BROADCAST / ray.get(take.remote([ref]))
        finally:
            ray.shutdown()
            cluster.shutdown()


def _fetched(refs: list) -> float:
    import ray

    began = time.perf_counter()
    ray.get(refs)
    return time.perf_counter() - began


def limits(cost: dict[str, float], given: argparse.Namespace) -> dict[str, float]:
    """Return how many slots keep each thing busy all the time.

    cost: as `main` measures it. given: epoch (s), epochs (of a trial), hours, sessions (MiB), cores, memory (GB),
    network and store (GB/s).
    """
    trial = given.epoch * given.epochs  # s
    journal = given.hours * 3600 / trial * cost["trial_bytes"]  # of the study in the end, for each slot
    return {
        "the driver's loop (one core)": trial / cost["driver_cpu"],
        "writes of the study (their wait for the disk)": trial / (cost["writes"] * cost["fsync"]),
        "the pool (one core)": 1 / (cost["pool_cpu"] / trial + cost["pool_idle"]),
        "controllers on the head, CPU": given.cores / (cost["slot_idle"] + cost["slot_cpu"] / trial),
        "controllers on the head, memory": SHARE * given.memory * 1e9 / cost["slot_bytes"],
        "uploads: the study, whole, every 30 s": given.store * 1e9 * 30 / journal,
        "uploads: CPU of the driver": 30 / (journal / 1e6 * cost["upload_cpu"]),
        "states that travel to the head":
            given.network * 1e9 * max(given.epoch, cost["save_every"]) / cost["state_bytes"],
        "broadcast of the sessions from the head alone": BEARABLE * given.network * 1e9 / (given.sessions * 2**20),
        "trainables of Tune": HEADS,
    }


def written(run: pathlib.Path, trials: int) -> dict[str, float]:
    """Return bytes and lines of the study a trial."""
    data = (run / "study.journal").read_bytes()
    return {"trial_bytes": len(data) / trials, "writes": data.count(b"\n") / trials}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=20, help="of a trial")
    for name, value, what in (("epoch", 30.0, "s of an epoch"), ("hours", 24.0, "of a search"), ("cores", 4.0, "head"),
                              ("sessions", 1057.0, "MiB"), ("memory", 16.0, "GB of the head"),
                              ("network", 1.25, "GB/s of a node"), ("store", 0.1, "GB/s to the storage")):
        parser.add_argument(f"--{name}", type=float, default=value, help=what)
    given = parser.parse_args()
    print(common.machine(), flush=True)
    from raycal.config import Config
    from raycal.training import checkpoint

    with common.scratch() as folder:
        watch = search(given.trials, given.epochs, folder)
        driver, pool, slot = watch.each()
        cost = {"driver_cpu": driver, "pool_cpu": pool, "slot_cpu": slot, "pool_idle": watch.idle["pool"],
                "slot_idle": watch.idle["slot"], "slot_bytes": float(watch.memory), "fsync": fsync(folder),
                **written(folder / "run", given.trials), "upload_cpu": upload(folder / "run", folder),
                "state_bytes": float(checkpoint.size(Config(), [150], 2)[0]),
                "save_every": Config().training.save_every}
    cost["broadcast"] = broadcast()
    each = 1e3 / given.epochs
    print(f"an epoch's event   {each * driver:.1f} ms of the driver, {each * pool:.1f} ms of the pool\n"
          f"an idle slot       {100 * cost['slot_idle']:.1f} % of a core, {cost['slot_bytes'] / 2**20:.0f} MiB on the head\n"
          f"a study's line     {1e3 * cost['fsync']:.2f} ms of waiting for the disk; {cost['writes']:.0f} lines and "
          f"{cost['trial_bytes'] / 1e3:.0f} kB a trial\n"
          f"the copy           {1e3 * cost['upload_cpu']:.1f} ms of the driver a MB\n"
          f"broadcast          {cost['broadcast']:.0f} MiB/s on loopback")
    found = sorted(limits(cost, given).items(), key=lambda item: item[1])
    for name, slots in found:
        print(f"{slots:10.0f} slots  {name}")
    for slots in (1, 10, 100, 1000):
        over = sum(most < slots for _, most in found)
        print(f"{slots:5d} slots: {f'over {over} of these limits' if over else 'within all of them'}")
    common.finish({**cost, "first_limit": found[0][0], "first_slots": found[0][1]})


if __name__ == "__main__":
    main()
