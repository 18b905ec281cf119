"""Random kills over a search of many short trials, and what a thousand empty trials leave in memory.

    python benchmarks/soak.py [--kills 100] [--trials 60] [--seed 0] [--empty 1000]

The search has two slots; its workers, slots, pool, Tune actors and driver are killed with SIGKILL at random, one after
the other, each once an epoch has been trained since the one before; a killed driver is resumed. Its trials are proposed
at random and none is stopped early, so that the result must be that of an undisturbed search, up to the order in which
trials end. Then a search of trials without any training says how the memory of driver and pool grows.
"""
from __future__ import annotations

import argparse
import collections
import contextlib
import os
import pathlib
import random
import time
from typing import Any

import common
import searching
from faults import check, search
from searching import Search, undisturbed

SHARES = {"worker": 6, "slot": 4, "pool": 4, "Tune actor": 4, "driver": 2}  # of the kills
SETTINGS = {"search.sampler": "random", "search.pruner": "none"}


def soak(folder: pathlib.Path, kills: int, trials: int, seed: int, epochs: int) -> collections.Counter[str]:
    """Return how often each part was killed; raise AssertionError where a promise was broken."""
    draw = random.Random(seed)
    arguments = searching.given(folder, epochs)
    killed: collections.Counter[str] = collections.Counter()
    with search(folder, [*arguments, "--sampler", "random", "--pruner", "none", "--trials", str(trials)],
                ["--max-concurrent", "2"]) as run:
        run.start()
        while killed.total() < kills and _next_epoch(run):
            role, = draw.choices(list(SHARES), SHARES.values())
            time.sleep(draw.uniform(0.0, 1.0))
            if role == "driver":
                run.driver.kill()
                run.end()
                run.start()
            elif victims := run.processes(role):  # none while one is being built anew
                with contextlib.suppress(searching.psutil.NoSuchProcess):
                    draw.choice(victims).kill()
            else:
                continue
            killed[role] += 1
        assert run.end(3600.0) == 0, run.said[-3000:]
        check(run, undisturbed(folder / "undisturbed", arguments, {**SETTINGS, "search.trials": trials}))
    return killed


def _next_epoch(run: Search, seconds: float = 900.0) -> bool:
    """Wait until one more epoch is trained; False when the search came to its end first."""
    before, deadline = run.epochs(), time.monotonic() + seconds
    while run.epochs() == before:
        if run.driver.poll() == 0:
            return False
        assert run.driver.poll() is None, f"the driver ended with {run.driver.returncode}: {run.said[-3000:]}"
        assert time.monotonic() < deadline, f"no epoch in {seconds:.0f} s: {run.said[-3000:]}"
        time.sleep(0.2)
    return True


def empty(config, dataset, *, resume=None, rank=0, world=1, save=None):
    """A trainer with nothing to train: one epoch and out; the objective is that of the proposal."""
    from raycal.training.loop import Epoch

    value = abs(config.optimizer.lr - 3e-3)
    yield Epoch(1, {"val/nmse": value}, value, 1, value, True, "epochs", {})


class Memory:
    """Listens to a search and weighs its driver and its pool after every trial."""

    def __init__(self) -> None:
        self.mib: dict[str, list[float]] = {"driver": [], "pool": []}

    def on_start(self, number: int, config: Any) -> None: ...

    def on_epoch(self, number: int, event: dict[str, Any]) -> None: ...

    def on_end(self, number: int, event: dict[str, Any], trial: Any) -> None:
        me = searching.psutil.Process()
        pools = [p for p in me.children(recursive=True) if searching.ROLES["pool"] in "".join(p.cmdline()[:1])]
        for name, process in (("driver", me), ("pool", pools[0])):
            self.mib[name].append(process.memory_full_info().uss / 2**20)


def growth(folder: pathlib.Path, trials: int, after: int = 100) -> dict[str, float]:
    """Return what driver and pool hold after the first trials and what every thousand more add, in MiB."""
    from raycal import api
    from raycal.search import run as runs
    from raycal.sessions.simulate import simulate
    from raycal.training import loop

    memory, listening, train = Memory(), runs.Referee, loop.train
    runs.Referee = lambda record, payload, objectives, listeners, *more: listening(
        record, payload, objectives, [*listeners, memory], *more)
    loop.train = empty  # the search sends its workers whatever stands here
    try:
        api.search("vq", [simulate(n_neurons=8, n_frames=3000).session], trials=trials, out=str(folder / "run"),
                   sampler="random", pruner="none", max_concurrent=1, confirm_top=0, quiet=True,
                   temp_dir=str(folder / "ray"))
    finally:
        runs.Referee, loop.train = listening, train
    found = {}
    for name, mib in memory.mib.items():
        start, end = (sorted(part)[len(part) // 2] for part in (mib[after:after + 20], mib[-20:]))
        found |= {f"{name}_mib": start, f"{name}_mib_per_1000_trials": 1000 * (end - start) / (len(mib) - after - 20)}
    return found


def main() -> None:
    from raycal.search import connection

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=20, help="of a trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--empty", type=int, default=1000, help="trials without training; 0: none")
    args = parser.parse_args()
    connection.hush()
    print(common.machine(), flush=True)
    result: dict[str, Any] = {"load": os.getloadavg()[0]}
    if args.kills:
        began = time.monotonic()
        with common.scratch() as folder:
            killed = soak(folder, args.kills, args.trials, args.seed, args.epochs)
        each = ", ".join(f"{n} {role}" for role, n in killed.most_common())
        print(f"{killed.total()} kills ({each}) over {args.trials} trials in {time.monotonic() - began:.0f} s:\n"
              "the study is that of an undisturbed search, nothing is left", flush=True)
        result |= {"kills": killed.total(), "trials": args.trials, "seconds": round(time.monotonic() - began)}
    if args.empty:
        with common.scratch() as folder:
            found = growth(folder, args.empty)
        for name in ("driver", "pool"):
            held, more = found[f"{name}_mib"], found[f"{name}_mib_per_1000_trials"]
            print(f"{name:8s}{held:8.1f} MiB after 100 trials, {more:+.1f} MiB per 1000 more", flush=True)
        result |= found
    common.finish(result)


if __name__ == "__main__":
    main()
