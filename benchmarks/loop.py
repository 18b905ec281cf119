"""Samples a second of a training inside a slot, against a bare PyTorch loop on the same batches.

    python benchmarks/loop.py [--epochs 16] [--frames 40000]

slot   raycal.training.loop.train in a real Ray Train worker of a pool, timed by who borrows the slot: from asking
       for an epoch to its result; hand-shake, metrics, copies of the best weights and checkpoints included
bare   a process without Ray that runs forward, backward, clipping and torch.optim.AdamW as PyTorch sets it up, on
       the same batches of the same model, and the same evaluation after every epoch
fused  the same with AdamW(fused=True), which raycal uses: the strict comparison, what Ray and the loop cost

All have one thread and niceness 0 (Ray gives its workers 15, so that a busy machine would serve the others first),
and their NMSE must agree. Their epochs alternate, slot, bare, fused, slot, and each round gives two ratios, so that a
change of load hits all; medians are reported. The first round is warm-up.
"""
from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

import common

from raycal.config import Config
from raycal.search import space
from raycal.sessions.prepare import Dataset, prepare
from raycal.sessions.simulate import simulate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=16, help="rounds that count")
    parser.add_argument("--frames", type=int, default=40_000, help="frames of the simulated recording")
    parser.add_argument("--bare", choices=("default", "fused"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["RAY_worker_niceness"] = "0"
    config = space.load("grvq").base.replace(
        {"training.epochs": args.epochs + 1, "optimizer.schedule": "constant", "optimizer.warmup": 0.0})
    dataset = prepare([simulate(60, args.frames, 10.0, seed=1).session], config.sessions, config.windows.length)
    bare_loop(config, dataset, args.bare == "fused") if args.bare else compare(config, dataset, args)


def compare(config: Config, dataset: Dataset, args: argparse.Namespace) -> None:
    from raycal.sessions.windows import WindowSampler

    steps = WindowSampler(dataset, config.windows, config.sessions.normalize).steps_per_epoch
    samples = steps * config.windows.batch
    with common.local_ray() as scratch, Slot(config, dataset, scratch) as slot, Bare(args, "default") as bare, \
            Bare(args, "fused") as fused:
        print(f"{common.machine()}; {steps} steps of {config.windows.batch} windows an epoch", flush=True)
        rounds = [(slot.epoch(), bare.epoch(), fused.epoch()) for _ in range(args.epochs + 1)][1:]
    if max(abs(slot.nmse - b.nmse) / b.nmse for b in (bare, fused)) > 0.05:
        raise SystemExit(f"they did not do the same work: NMSE {slot.nmse:.4f} in the slot, {bare.nmse:.4f} bare, "
                         f"{fused.nmse:.4f} fused")
    seconds = [statistics.median(column) for column in zip(*rounds)]
    to_bare, to_fused = (statistics.median(r[i] / r[0] for r in rounds) for i in (1, 2))
    for name, epoch in zip(("slot", "bare", "fused"), seconds):
        print(f"{name:<6}{samples / epoch:8.0f} samples/s  ({epoch:.3f} s an epoch)")
    print(f"slot / bare {to_bare:.3f} (goal: at least 0.95, epochs of 1 s or more); slot / fused {to_fused:.3f}")
    common.finish({"slot_samples_per_s": samples / seconds[0], "bare_samples_per_s": samples / seconds[1],
                   "slot_epoch_s": seconds[0], "ratio_to_bare": to_bare, "ratio_to_fused": to_fused})


class Slot:
    """One slot of a pool with one job, advanced an epoch at a time."""

    def __init__(self, config: Config, dataset: Dataset, scratch):
        import ray

        from raycal.search.slots import SlotPool
        from raycal.sessions import store
        from raycal.training.loop import train

        self._refs = store.put(dataset)
        self._pool = SlotPool.remote({"workers": 1, "resources": {"CPU": 1.0}, "use_gpu": False, "threads": 1,
                                      "limit": 600.0, "storage": str(scratch)})
        ray.get(self._pool.grow.remote(1))
        ray.get(self._pool.set_dataset.remote(self._refs))
        payload = {"config": config.flat(), "folder": str(scratch / "trial"), "trainer": train}
        self._seq = ray.get(self._pool.borrow.remote(0, payload))

    def __enter__(self) -> Slot:
        return self

    def epoch(self) -> float:
        import ray

        started = time.perf_counter()
        event = ray.get(self._pool.step.remote(self._seq))
        if event["kind"] != "epoch":
            raise SystemExit(event["message"])
        self.nmse = event["metrics"]["val/nmse"]
        return time.perf_counter() - started

    def __exit__(self, *_) -> None:
        import ray

        ray.get(self._pool.close.remote())


class Bare:
    """The bare loop in a process of its own, which runs an epoch for every line it reads."""

    def __init__(self, args: argparse.Namespace, optimizer: str):
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--bare", optimizer, "--epochs", str(args.epochs), "--frames", str(args.frames)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._process.stdout.readline()  # it is ready

    def __enter__(self) -> Bare:
        return self

    def epoch(self) -> float:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        seconds, self.nmse = map(float, self._process.stdout.readline().split())
        return seconds

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.wait()


def bare_loop(config: Config, dataset: Dataset, fused: bool) -> None:
    """What a user writes without raycal: no schedule, no record, no checkpoint, no process to talk to."""
    import torch

    from raycal import models
    from raycal.sessions.windows import WindowSampler
    from raycal.training.evaluate import measure

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = models.build(config, dataset.n_neurons, len(dataset.behavior_names))
    sampler = WindowSampler(dataset, config.windows, config.sessions.normalize)
    optimizer = torch.optim.AdamW(model.parameters(), config.optimizer.lr, fused=fused or None)
    print("ready", flush=True)
    for epoch, _ in enumerate(sys.stdin):
        started = time.perf_counter()
        model.train()
        for batch in sampler.epoch(epoch, config.training.seed):
            optimizer.zero_grad()
            loss, _ = model.loss(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip)
            optimizer.step()
        nmse = measure(model, dataset, config).metrics["val/nmse"]
        print(time.perf_counter() - started, nmse, flush=True)


if __name__ == "__main__":
    main()
