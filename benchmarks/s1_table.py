"""The table of a published VQ-VAE of calcium traces, measured: gradient VQ, EMA VQ and grouped residual VQ.

    python benchmarks/s1_table.py [PATH ...] [--epochs 8] [--seeds 5] [--frames 115000] [--out FILE] [--quick]

S1 is github.com/FabioGallone/VqVAE_Giordano (cb27937). Under each row stands what its README claims, and what its
result pictures show (where usage is a moving average over training, not that of a split). raycal's loop trains at its
settings (S1); CHANGED is what differs, and why; --as-s1 takes that back, but for S1's start of the codes, which raycal
does not have. Its rates are 9 bits a code step for VQ and 56 for grouped RVQ. At equal rate, grouped RVQ has 9 bits,
and EMA codebooks have 56 as residual levels; a single codebook, such as gradient VQ has, cannot.

no PATH    a simulated session of Allen size a seed (150 cells, 30.07 Hz), of which S1's 30 neurons are kept; half of
           it trains, so that validation has 20 tokens a code. Decoded are S1's mean, sd, max and change of running
           speed over 1.66 s; ceiling: the R2 of the speed before the wheel's noise, a line each fitted on train.
PATH ...   recordings, all in one model; codebooks of 32 codes, for there are few tokens. No ceiling is known.

Seeds are trainings (and simulations); +- is the 95 % t-interval of their mean. Usage: codes that occur at all in the
whole split. NMSE, MSE (of z-scores), perplexity, bits and R2: validation, at the epoch of least NMSE. R2: mean over
behaviours, decoded from the codes by the model's own head. Seconds: of a CPU with one thread, training and validation
of an epoch; on a busy machine they may double, for caches are shared. The last line is JSON.
"""
from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import multiprocessing
import pathlib
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import common
import numpy as np

import raycal
from raycal.config import Config
from raycal.metrics.baselines import ridge_on_traces
from raycal.metrics.decoding import r2
from raycal.models.quantizers import bits_per_code
from raycal.sessions.prepare import Dataset, prepare
from raycal.sessions.simulate import Simulation, simulate

RATE, CELLS = 30.07, 150  # Hz and cells of an Allen Visual Coding session
S1 = Config().replace({
    "sessions.select": "variance_behavior", "sessions.neurons": 30,
    "windows.length": 48,  # 50 there, which 4 does not divide: its decoder saw blends of neighbouring codes
    "windows.stride": 10, "windows.min_steps": 1, "windows.batch": 32,
    "windows.noise": 0.07,  # 0.1 on every other window there: the same variance
    "model.width": 64,  # 128 there, but 32 and 64 where frames are not yet halved: 0.18 against 0.25 million weights
    "model.residual_blocks": 3, "model.residual_width": 64, "model.downsample": 4, "model.activation": "relu",
    "model.dropout": 0.1, "loss.behavior": 0.5,
    "quantizer.code_dim": 64, "quantizer.decay": 0.99, "quantizer.init": "normal", "quantizer.revive": 0.0,
    "quantizer.commitment": 0.0625,  # 0.25 there, applied twice
    "optimizer.name": "adam", "optimizer.lr": 3e-4, "optimizer.weight_decay": 0.0, "optimizer.clip": 1.0,
    "optimizer.schedule": "plateau", "optimizer.warmup": 0.0, "training.device": "cpu"})
CHANGED = {
    "quantizer.init": "kmeans",  # S1's start leaves one code in use for hundreds of steps
    "quantizer.revive": 1.0,  # a code that is hit too seldom begins anew at a latent; S1's never do
    "optimizer.lr": 2e-3, "optimizer.schedule": "cosine", "optimizer.warmup": 0.05}  # for 1400 steps, not 32 000
ALLEN = {"sessions.train": 0.5, "sessions.validation": 0.4, "sessions.behavior": ["running"],
         "sessions.smooth_behavior": 5 / RATE, "sessions.features": 50 / RATE}  # S1: 5 and 50 frames
OTHERS = {"windows.length": 32, "windows.min_steps": 64}  # worms: 16 s pieces, and 7 batches an epoch are too few
CLAIMS = {  # usage %, MSE, R2, time: README; then the range over its result pictures, perplexity / K among them
    "vq": (("30", "0.045", "0.12", "1 x"), None),
    "ema": (("80", "0.032", "0.28", "1.1 x"), ("99.4 to 99.6", "0.090 to 0.091", "-2.5e10 to -2.2e10", ".07 to .08")),
    "grvq": (("95", "0.028", "0.34", "1.3 x"), ("not computed", "0.061 to 0.063", "-2.9e10 to -1.7e10", ".18 to .22"))}
TARGETS = {"ema": (0.80, 0.28), "grvq": (0.95, 0.34)}  # usage, and R2 as a share of the ceiling


class Row(NamedTuple):
    """A quantizer of the table; claim: the row of S1's that it answers, at its own rate."""
    key: str
    name: str
    settings: dict[str, Any]
    claim: str = ""


class Problem(NamedTuple):
    dataset: Dataset
    base: Config
    power: float
    ceiling: float
    ridge: float


def main() -> None:
    args = parsed()
    print(f"{common.machine()}; epochs {args.epochs}, seeds {args.seeds}, frames {args.frames}, "
          f"{'S1 itself' if args.as_s1 else f'changed: {CHANGED}'}", flush=True)
    table = rows(32, (5, 1, 2)) if args.paths else rows(512, (3, 1, 8))
    report = Report(table, args)
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        for found in pool.map(functools.partial(one_seed, table, args), range(args.seeds)):
            report.add(found)  # written after each seed, so that what is there can be read
    print("\n".join(["", *report.lines]), flush=True)
    common.finish(report.result())


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", help="recordings to train on together; none: simulated ones")
    parser.add_argument("--behavior", default="", help="of the recordings, with commas; none: what all of them have")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=115_000, help="of a simulated session")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time, a process with one thread each")
    parser.add_argument("--as-s1", action="store_true", help="leave out what is changed (CHANGED)")
    parser.add_argument("--out", type=pathlib.Path, help="write the table there, as markdown")
    parser.add_argument("--quick", action="store_true", help="2 epochs, 1 seed, 20 000 frames: to see it run")
    args = parser.parse_args()
    if args.quick:
        args.epochs, args.seeds, args.frames = min(args.epochs, 2), 1, min(args.frames, 20_000)
    return args


def rows(size: int, low: tuple[int, int, int]) -> list[Row]:
    """Return the quantizers for a codebook of `size`, as S1 cuts it; low: groups, levels, codes of equal bits."""
    groups, levels, codes = low
    bits, high = round(math.log2(size)), 8 * round(math.log2(size // 4))
    grouped = {"quantizer.type": "grvq", "quantizer.codebook_size": size // 4, "quantizer.groups": 4,
               "quantizer.levels": 2}
    single = [Row(kind, f"{name} VQ, {size}", {"quantizer.type": kind, "quantizer.codebook_size": size}, kind)
              for kind, name in (("vq", "gradient"), ("ema", "EMA"))]
    return [
        *single, Row("grvq", f"grouped RVQ, 4 x 2 of {size // 4}", grouped, "grvq"),
        Row(f"grvq_{bits}", f"grouped RVQ, {groups} x {levels} of {codes}",
            {**grouped, "quantizer.groups": groups, "quantizer.levels": levels, "quantizer.codebook_size": codes,
             "quantizer.code_dim": 64 // groups * groups}),
        Row(f"rvq_{high}", f"EMA residual, 8 of {size // 4}",
            {"quantizer.type": "rvq", "quantizer.codebook_size": size // 4, "quantizer.levels": 8})]


def base(args: argparse.Namespace, settings: dict[str, Any]) -> Config:
    return S1.replace({**({} if args.as_s1 else CHANGED), **settings, "training.epochs": args.epochs})


def simulated(seed: int, args: argparse.Namespace) -> Problem:
    config, simulation = base(args, ALLEN), simulate(CELLS, args.frames, RATE, seed=seed)
    return problem(config, [simulation.session], ceiling(simulation, config))


def recorded(args: argparse.Namespace) -> Problem:
    config = base(args, {**OTHERS, "sessions.behavior": args.behavior})
    return problem(config, raycal.read(args.paths), math.nan)


def problem(config: Config, found: list, ceiling: float) -> Problem:
    dataset = prepare(found, config.sessions, config.windows.length, log=lambda line: None)
    ridge = float(np.nanmean([figures["r2"] for figures in ridge_on_traces(dataset).values()]))
    return Problem(dataset, config, power(dataset), ceiling, ridge)


def power(dataset: Dataset) -> float:
    """Return the mean square of the z-scores of the validation part: MSE / NMSE."""
    sums = np.zeros(2)
    for r in dataset.recordings:
        frames = np.concatenate([np.arange(a, b) for a, b in r.pieces["validation"]])
        seen = True if r.valid is None else r.valid[frames]
        squares = ((r.traces[frames] - r.scalers["zscore"][0]) / r.scalers["zscore"][1]) ** 2
        sums += squares.sum(where=seen, dtype=np.float64), np.broadcast_to(seen, squares.shape).sum()
    return float(sums[0] / sums[1])


def ceiling(simulation: Simulation, config: Config) -> float:
    """Return the mean R2 on validation of the behaviour before sensor noise, a line a feature fitted on train."""
    clean = dataclasses.replace(simulation.session, behavior=simulation.behavior_clean.astype(np.float32))
    (true,), (seen,) = (prepare([s], config.sessions, config.windows.length, log=lambda line: None).recordings
                        for s in (clean, simulation.session))
    x, y = true.behavior.astype(float), seen.behavior.astype(float)
    fit, held = ([n for a, b in seen.pieces[part] for n in range(a, b) if not np.isnan(y[n]).any()]
                 for part in ("train", "validation"))
    lines = [np.polyfit(x[fit, k], y[fit, k], 1) for k in range(y.shape[1])]
    predicted = np.stack([np.polyval(line, x[held, k]) for k, line in enumerate(lines)], axis=1)
    return r2(y[held], predicted, seen.behavior_center, seen.behavior_spread).mean


def one_seed(table: list[Row], args: argparse.Namespace, seed: int) -> list[dict[str, float]]:
    """Return the figures of every row for one seed."""
    import torch

    torch.set_num_threads(1)
    task, found = recorded(args) if args.paths else simulated(seed, args), []
    for row in table:
        values = figures(task.base.replace({**row.settings, "training.seed": seed}), task)
        print(f"seed {seed}  {row.name:<26} usage {values['usage']:.3f}  NMSE {values['nmse']:.4f}  R2 "
              f"{values['r2']:.3f}  epoch {values['best_epoch']} of {args.epochs}, {values['seconds']:.1f} s each",
              flush=True)
        found.append(values)
    return found


def figures(config: Config, task: Problem) -> dict[str, float]:
    """Train by raycal's loop; return the figures of the epoch of least NMSE."""
    from raycal.inference import restored_model
    from raycal.training import checkpoint
    from raycal.training.evaluate import evaluate
    from raycal.training.loop import train

    state, ends = {}, [time.process_time()]
    for epoch in train(config, task.dataset, save=state.update):
        ends.append(time.process_time())
    trained = restored_model(checkpoint.export(state))
    found = {name.removeprefix("val/"): value for name, value in trained.metrics.items()}
    on_train = evaluate(trained.model, task.dataset, config, "train")
    seconds = np.diff(ends)
    return {"nominal": bits_per_code(config.quantizer), "usage": found["usage"], "usage_train": on_train["fit/usage"],
            "tokens": found["tokens"] / found["codebook_size"], "perplexity": found["normalised_perplexity"],
            "bits": sum(v for name, v in found.items() if name.startswith("entropy/")),
            "nmse": found["nmse"], "mse": found["nmse"] * task.power, "r2": found["behavior_r2"],
            **{name.replace("behavior_r2/", "r2_"): v for name, v in found.items() if name.startswith("behavior_r2/")},
            "r2_of_ceiling": found["behavior_r2"] / task.ceiling, "ceiling": task.ceiling, "ridge": task.ridge,
            "seconds": float(np.median(seconds[1:] if len(seconds) > 1 else seconds)), "best_epoch": epoch.best_epoch}


COLUMNS = (  # figure, title, factor, digits
    ("nominal", "bits a step", 1, 0), ("usage", "usage, %", 100, 1), ("usage_train", "on train, %", 100, 1),
    ("tokens", "tokens a code", 1, 0), ("perplexity", "perplexity / K", 1, 3), ("bits", "measured bits", 1, 2),
    ("nmse", "NMSE", 1, 4), ("mse", "MSE", 1, 4), ("r2", "behaviour R2", 1, 3),
    ("r2_of_ceiling", "of the ceiling", 1, 3), ("seconds", "CPU s an epoch", 1, 1))


class Report:
    """The figures of every training, and the table they make."""

    def __init__(self, table: list[Row], args: argparse.Namespace):
        self._rows, self._args = table, args
        self._found: dict[str, list[dict[str, float]]] = {row.key: [] for row in table}
        self.lines: list[str] = []

    def add(self, found: list[dict[str, float]]) -> None:
        """Take in the figures of one seed, a row each; lay out the table anew and write it."""
        for row, values in zip(self._rows, found):
            self._found[row.key].append(values)
        cells = [["quantizer", *(title for _, title, _, _ in COLUMNS)], ["-"] * (len(COLUMNS) + 1)]
        for row in self._rows:
            cells.append([row.name, *(shown([run[name] for run in self._found[row.key]], by, digits)
                                      for name, _, by, digits in COLUMNS)])
            cells += claimed(row.claim) if row.claim and not self._args.paths else []
        runs = self._found[self._rows[0].key]
        for name, title in (("ceiling", "speed without noise (ceiling)"), ("ridge", "ridge on raw traces")):
            cells.append(filled(title, {"r2": shown([run[name] for run in runs], 1, 3)}))
        self.lines = [f"{len(runs)} seeds, {self._args.epochs} epochs; " +
                      (f"{len(self._args.paths)} recordings" if self._args.paths else f"{self._args.frames} frames"),
                      "", *aligned([row for row in cells if any(row[1:])])]
        if self._args.out:
            self._args.out.parent.mkdir(parents=True, exist_ok=True)
            self._args.out.write_text("\n".join(self.lines) + "\n")

    def result(self) -> dict[str, Any]:
        """Return the means and the half-widths of their intervals, and whether the targets are met."""
        found: dict[str, Any] = {"epochs": self._args.epochs, "seeds": self._args.seeds, "frames": self._args.frames}
        for key, runs in self._found.items():
            for name in runs[0]:
                mean, half = interval([run[name] for run in runs])
                found.update({f"{key}_{name}": mean} if math.isfinite(mean) else {})
                found.update({f"{key}_{name}_interval": half} if math.isfinite(half) else {})
        if not self._args.paths:
            found["targets_met"] = all(found[f"{key}_usage"] >= usage and found[f"{key}_r2_of_ceiling"] > share
                                       for key, (usage, share) in TARGETS.items())
        return found


def interval(values: list[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % t-interval, NaN for one value."""
    from scipy.stats import t

    n = len(values)
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return float(np.mean(values)), half


def shown(values: list[float], by: float, digits: int) -> str:
    mean, half = (by * v for v in interval(values))
    varied = math.isfinite(half) and half > 0
    return "" if math.isnan(mean) else f"{mean:.{digits}f}" + (f" +- {half:.{digits}f}" if varied else "")


def claimed(claim: str) -> list[list[str]]:
    """Return what S1 says of a row of its own, under the columns it belongs to."""
    readme, pictures = CLAIMS[claim]
    said = [filled("- S1's README", dict(zip(("usage", "mse", "r2", "seconds"), readme)))]
    return said + ([filled("- S1's pictures", dict(zip(("usage", "mse", "r2", "perplexity"), pictures)))]
                   if pictures else [])


def filled(title: str, values: dict[str, str]) -> list[str]:
    return [title, *(values.get(key, "") for key, *_ in COLUMNS)]


def aligned(cells: list[list[str]]) -> list[str]:
    """Return the lines of a markdown table that is also read as it stands."""
    cells = [list(row) for row in zip(*(column for column in zip(*cells) if any(column[2:])))]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return ["| " + " | ".join(c.ljust(w, "-" if c == "-" else " ") for c, w in zip(row, widths)) + " |"
            for row in cells]


if __name__ == "__main__":
    main()
