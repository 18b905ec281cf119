"""Whether confirmed intervals cover: repeated small searches on simulated recordings, each with its truth beside it.

    python benchmarks/coverage.py [--repeats 20] [--trials 12] [--top 2] [--seeds 5] [--truth 40] [--processes 2]

A repeat simulates a recording, tries the default of a small vq space and random draws of it on one seed, and confirms
the best of them and the default on fresh seeds with the functions that `raycal confirm` uses (chosen, fresh_seeds,
judged). Its truth is what the confirmed winner and the default reach on average over --truth further seeds. Trainings
run in processes of their own, not through Ray: they are the same function of settings, data and seed.

covered: intervals of the winner's mean, and of winner minus default, that hold the truth; nominal is 95 %, less a point
for the error of the truth itself (40 seeds where an interval has 5). printed_curse: search value less confirmed value,
as raycal prints it; true_curse: search value less truth. nmse: lower is better, so a flattering search has a negative
curse.
"""
from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import multiprocessing
import os
import statistics
from concurrent.futures import ProcessPoolExecutor

import common
import numpy as np
import optuna
from optuna.trial import TrialState, create_trial
from scipy.stats import binom

from raycal.config import Config
from raycal.metrics.intervals import mean_interval
from raycal.search import space as spaces
from raycal.search.confirm import chosen, fresh_seeds, judged
from raycal.search.space import Space
from raycal.sessions.prepare import prepare
from raycal.sessions.simulate import simulate

SETTINGS = {"training.epochs": 6, "windows.length": 16, "windows.min_steps": 12, "windows.stride": 16,
            "model.width": 16, "model.residual_width": 8, "model.residual_blocks": 1, "quantizer.codebook_size": 32,
            "training.device": "cpu"}
HELD = ("windows.length", "model.width", "quantizer.codebook_size")
TRUE_SEEDS = 1000  # the first of those that the truth is averaged over


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("repeats", 20), ("trials", 12), ("top", 2), ("seeds", 5), ("truth", 40),
                          ("processes", os.cpu_count() or 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(f"{'repeat':<8}{'winner':>7}{'search':>9}{'confirmed [95 %]':>26}{'truth':>9}{'covered':>9}"
          f"{'difference [95 %]':>28}{'truth':>9}{'covered':>9}", flush=True)
    with ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn")) as pool:
        rows = [repeated(r, args, pool) for r in range(args.repeats)]
    summarize([row for row in rows if row])


def repeated(repeat: int, args: argparse.Namespace, pool: ProcessPoolExecutor) -> dict[str, float]:
    """Search, confirm and find the truth on one simulated recording; print its row."""
    space, rng = small_space(), np.random.default_rng(repeat)
    drawn = [(space.default(), space.base), *(space.draw(rng) for _ in range(args.trials - 1))]
    train = functools.partial(pool.map, functools.partial(value_of, repeat))
    found = list(train([config for _, config in drawn]))
    study = optuna.create_study(direction="minimize")
    distributions = space.distributions(np.random.default_rng(0))
    for (params, config), (value, epoch) in zip(drawn, found):
        done = math.isfinite(value)
        study.add_trial(create_trial(
            state=TrialState.COMPLETE if done else TrialState.PRUNED, values=[value] if done else None, params=params,
            distributions={name: distributions[name] for name in params},
            user_attrs={"config": config.flat(), "best_epoch": epoch}))
    record = confirmed(study, args, train)
    configs = {role: drawn[int(record[role])][1] for role in ("winner", "default")}
    truth = {role: [v for v, _ in train([config.replace({"training.seed": TRUE_SEEDS + s}) for s in range(args.truth)])]
             for role, config in configs.items()}
    return row(repeat, record, truth)


def confirmed(study: optuna.Study, args: argparse.Namespace, train) -> dict:
    trials, seeds = chosen(study, args.top), fresh_seeds(study, args.seeds)
    pairs = [(trial, seed) for seed in seeds for trial in trials]
    values = train([Config().replace({**t.user_attrs["config"], "training.seed": s}) for t, s in pairs])
    outcomes = {(t.number, s): {"value": value, "epoch": epoch, "reason": "" if math.isfinite(value) else "diverged"}
                for (t, s), (value, epoch) in zip(pairs, values)}
    return judged(study, trials, seeds, outcomes, "val/nmse")


def row(repeat: int, record: dict, truth: dict[str, list[float]]) -> dict[str, float]:
    winner, difference = record["trials"][record["winner"]], record["difference"]
    mean, apart = statistics.fmean(truth["winner"]), statistics.fmean(np.subtract(truth["winner"], truth["default"]))
    of_default = record["winner"] == record["default"]  # a difference of 0 covers 0: it says nothing
    covered, apart_covered = covers(winner, mean), math.nan if of_default else covers(difference, apart)
    print(f"{repeat:<8}{record['winner']:>7}{winner['search_value']:>9.4f}{_interval(winner):>26}{mean:>9.4f}"
          f"{_word(covered):>9}{_interval(difference):>28}{apart:>9.4f}{_word(apart_covered):>9}", flush=True)
    return {"covered": covered, "difference_covered": apart_covered, "printed_curse": record["winners_curse"],
            "true_curse": winner["search_value"] - mean, "said": " beats " in record["verdict"],
            "right": apart < 0}


def covers(interval: dict, truth: float) -> float:
    return float(interval["low"] <= truth <= interval["high"])


def summarize(rows: list[dict[str, float]]) -> None:
    result: dict[str, float] = {"repeats": len(rows)}
    for name in ("covered", "difference_covered"):
        seen = [r[name] for r in rows if not math.isnan(r[name])]
        low, high = binom.interval(0.95, len(seen), 0.95) if seen else (0, 0)
        print(f"{name.replace('_', ' ')}: {sum(seen):.0f} of {len(seen)} (at 95 % it is {low:.0f} to {high:.0f} of "
              "them 19 times in 20)")
        result |= {name: sum(seen), f"{name}_of": len(seen)}
    for name in ("printed_curse", "true_curse"):
        found = mean_interval([r[name] for r in rows])
        print(f"{name.replace('_', ' ')}: {found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}] over the repeats")
        result[name] = found.mean
    said = [r for r in rows if r["said"]]
    print(f"'beats the default' was said {len(said)} times, rightly {sum(r['right'] for r in said)} times")
    common.finish({**result, "said_beats": len(said), "rightly": sum(r["right"] for r in said)})


def small_space() -> Space:
    space = spaces.load("vq")
    base = space.base.replace(SETTINGS)
    return dataclasses.replace(space, base=base, fixed={name: base.get(name) for name in HELD})


@functools.cache
def dataset_of(repeat: int):
    """Return what a repeat trains on; each process prepares it once."""
    session = simulate(n_neurons=16, n_frames=3000, rate=5.0, seed=repeat).session
    return prepare([session], Config().sessions, 16, log=lambda _: None)


def value_of(repeat: int, config: Config) -> tuple[float, int]:
    """Train a configuration; return its objective and the epoch of it, NaN where it diverged."""
    import torch

    from raycal.training.loop import train

    torch.set_num_threads(1)
    *_, last = train(config, dataset_of(repeat))
    return (last.best_value if last.ended_by in ("epochs", "patience") else math.nan), last.best_epoch


def _interval(figures: dict) -> str:
    return f"{figures['mean']:.4f} [{figures['low']:.4f}, {figures['high']:.4f}]"


def _word(covered: float) -> str:
    return "-" if math.isnan(covered) else "yes" if covered else "no"


if __name__ == "__main__":
    main()
