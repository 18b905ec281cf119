"""Seconds that a trial costs beyond its training: empty trials one at a time, from the end of one to that of the next.

    python benchmarks/turnaround.py [--trials 40] [--documented 3] [--rounds 2]

Four ways, each on a local Ray of its own, one after the other in the same run:
  slot          a pool of one slot (a living Ray Train worker group), Tune, BorrowedSlot, reuse_actors
  search        a whole raycal search over it: TPE, study on disk, leaderboard, TensorBoard
  plain class   a Tune class trainable with reuse_actors and no Ray Train: the least that Tune itself takes
  documented    a Tune function trainable that runs a TorchTrainer with TuneReportCallback for every trial
All have Train's environment variables set as raycal sets them, which makes the documented way faster too
(reported elsewhere: 13 s a trial where the defaults take 16 s). Medians; the first trials are warm-up and not
counted. The quick three are measured once before and once after the slow one, so that a change of load shows.

speedup = documented / slot, search_speedup = documented / search, vs_plain_class = slot / plain class.
"""
from __future__ import annotations

import argparse
import itertools
import statistics
import time
from typing import Any

import common
import ray
import ray.train
from ray import tune

WARM_UP = {"slot": 5, "search": 5, "plain class": 5, "documented": 1}
BUDGET = 600.0  # s: the documented way can hang when its last report meets its end


def empty(config, dataset, *, resume=None, rank=0, world=1, save=None):
    """A trainer with nothing to train: one epoch and out."""
    from raycal.training.loop import Epoch

    yield Epoch(1, {"val/nmse": 1.0}, 1.0, 1, 1.0, True, "epochs", {})


class PlainClass(tune.Trainable):
    """As little as Tune takes."""

    def step(self) -> dict[str, Any]:
        return {"objective": 1.0, "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}


def documented(config: dict[str, Any]) -> None:
    """Ray's own recipe for tuning a Train loop."""
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    TorchTrainer(
        one_report, train_loop_config={},
        scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        torch_config=TorchConfig(backend="gloo"),
        run_config=ray.train.RunConfig(name=f"train-{tune.get_context().get_trial_id()}",
                                       storage_path=config["storage"], callbacks=[TuneReportCallback()]),
    ).fit()


def one_report(config: dict[str, Any]) -> None:
    ray.train.report({"objective": 1.0})


class Ends(tune.Callback):
    """Notes when Tune has a trial behind it."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_trial_complete(self, iteration, trials, trial, **info) -> None:
        self.times.append(time.perf_counter())

    def on_trial_error(self, iteration, trials, trial, **info) -> None:
        raise RuntimeError(f"a trial failed: {trial.error_file and open(trial.error_file).read()}")


def timed(trainable, space: dict[str, Any], trials: int, folder, reuse: bool) -> list[float]:
    """Run trials through Tune one at a time; return the times they ended at."""
    ends = Ends()
    tune.Tuner(
        trainable, param_space={**space, "number": tune.grid_search(list(range(trials)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=reuse, time_budget_s=BUDGET),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), callbacks=[ends], verbose=0,
                                  checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False)),
    ).fit()
    return ends.times


def slot(trials: int) -> list[float]:
    import numpy as np

    from raycal.config import Config
    from raycal.search.parcel import Parcel
    from raycal.search.slots import SlotPool
    from raycal.search.trainable import BorrowedSlot
    from raycal.sessions import store

    with common.local_ray() as folder:
        pool = SlotPool.remote({"workers": 1, "resources": {"CPU": 1.0}, "use_gpu": False, "threads": 1,
                                "limit": 60.0, "storage": str(folder / "train")})
        ray.get(pool.grow.remote(1))
        refs = store.put(np.zeros(3))
        ray.get(pool.set_dataset.remote(refs))
        payload = {"config": Config().flat(), "folder": str(folder / "trial"), "trainer": empty}
        trainable = tune.with_resources(tune.with_parameters(BorrowedSlot, pool=pool), {"CPU": 0.001})
        return timed(trainable, {"number": 0, "payload": Parcel(payload)}, trials, folder, reuse=True)


def search(trials: int) -> list[float]:
    from raycal import api
    from raycal.search.study import read_study
    from raycal.sessions.simulate import simulate
    from raycal.training import loop

    train, loop.train = loop.train, empty  # the search sends its workers whatever stands here
    try:
        with common.scratch() as folder:
            api.search("vq", [simulate(n_neurons=8, n_frames=3000).session], trials=trials, out=str(folder / "run"),
                       max_concurrent=1, confirm_top=0, quiet=True, temp_dir=str(folder / "ray"))
            done = [t for t in read_study(str(folder / "run")).get_trials() if t.user_attrs.get("epochs")]
    finally:
        loop.train = train
    return sorted(t.datetime_complete.timestamp() for t in done)


def plain_class(trials: int) -> list[float]:
    with common.local_ray() as folder:
        return timed(tune.with_resources(PlainClass, {"CPU": 1}), {}, trials, folder, reuse=True)


def torch_trainer(trials: int) -> list[float]:
    with common.local_ray() as folder:
        trainable = tune.with_resources(documented, {"CPU": 0.01})  # 0 is refused
        return timed(trainable, {"storage": str(folder / "train")}, trials, folder, reuse=False)


def measure(way: str, run, trials: int) -> list[float]:
    """Return the seconds of every trial after the warm-up."""
    started = time.perf_counter()
    times = run(trials + WARM_UP[way])
    if len(times) != trials + WARM_UP[way]:
        raise RuntimeError(f"{way}: {len(times)} of {trials + WARM_UP[way]} trials ended within {BUDGET:g} s")
    seconds = [b - a for a, b in itertools.pairwise(times)][WARM_UP[way] - 1:]
    print(f"{way:12s} {statistics.median(seconds):8.4f} s a trial (n={len(seconds)}, {min(seconds):.4f} to "
          f"{max(seconds):.4f}; whole measurement {time.perf_counter() - started:.0f} s)", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=40, help="of each quick way and round")
    parser.add_argument("--documented", type=int, default=3, help="trials of the documented way")
    parser.add_argument("--rounds", type=int, default=2, help="of the quick ways, half before and half after the slow")
    args = parser.parse_args()
    print(common.machine(), flush=True)
    quick = {"slot": slot, "search": search, "plain class": plain_class}
    found: dict[str, list[float]] = {way: [] for way in (*quick, "documented")}
    for round_ in range(max(1, args.rounds)):
        for way, run in quick.items():
            found[way] += measure(way, run, args.trials)
        if round_ == 0:
            found["documented"] += measure("documented", torch_trainer, args.documented)
    s = {way: statistics.median(seconds) for way, seconds in found.items()}
    speedup = s["documented"] / s["slot"]
    print(f"speedup over the documented way: {speedup:.0f} (goal: at least 50); a whole search: "
          f"{s['documented'] / s['search']:.0f}")
    common.finish({"slot_s": s["slot"], "search_s": s["search"], "torchtrainer_s": s["documented"],
                   "plain_class_s": s["plain class"], "speedup": speedup,
                   "search_speedup": s["documented"] / s["search"], "vs_plain_class": s["slot"] / s["plain class"]})


if __name__ == "__main__":
    main()
