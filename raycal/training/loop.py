"""The training loop: a generator that yields one Epoch after each pass, whatever trains it.

    for epoch in train(config, dataset):
        print(epoch.epoch, epoch.objective)

A run is a function of the configuration, the dataset and the seed. Every epoch seeds its own draws,
so going on from a saved state gives the curve of the undisturbed run.
"""
from __future__ import annotations

import importlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch

from raycal import models
from raycal.config import Config
from raycal.errors import UserError
from raycal.sessions.windows import WindowSampler
from raycal.training import checkpoint, distributed, first_stage, kl, sharding
from raycal.training.ema import WeightEMA
from raycal.training.evaluate import Evaluation, measure
from raycal.training.optim import Updater
from raycal.training.schedules import learning_rate


class Epoch(NamedTuple):
    """What one epoch (from 1) gave; objective and best_value are NaN while there is none."""

    epoch: int
    metrics: dict[str, float]
    objective: float
    best_epoch: int
    best_value: float
    done: bool
    ended_by: str  # "" | "epochs" | "patience" | "diverged" | "memorised"
    extras: dict[str, Any]  # arrays for plots, when this epoch is the best so far


def train(config: Config, dataset, *, resume: dict[str, Any] | None = None, rank: int = 0, world: int = 1,
          save: Callable[[dict[str, Any]], None] | None = None,
          held: dict[str, torch.Tensor] | None = None, until: int = 0,
          start: Callable[..., None] | None = None) -> Iterator[Epoch]:
    """Train a model and yield its epochs; a loss that is not finite ends it with ended_by "diverged".

    resume: a state that save() was given; an ended one yields its last epoch again.
    rank, world: this worker among several, with torch.distributed initialised by the caller.
    save: called on rank 0 before each yield with a state that later epochs do not change.
    held: weights of another training, by name, that stay as they are; the rest is trained with the model in eval
    mode, where codebooks follow nothing and nothing is dropped out.
    until: end after this epoch with its weights, unmeasured: for a training whose length is known, on a dataset without
    a validation part. The learning rate keeps the course of config.training.epochs.
    start: start(model, dataset, config) sets the first weights, in place of the family's own.
    """
    run = Run(config, dataset, resume, rank, world, held or {}, until, start=start)
    model, ema, update, record = run.model, run.ema, run.update, run.record
    loss = distributed.parallel(run.trained, world, len(dataset.n_neurons), run.shards)
    if record.ended_by:
        yield record.latest()

    while not record.ended_by:
        started = time.perf_counter()
        run.seed(record.epoch)
        run.trained.train(not held)
        means = _Means()
        for at, batches in run.steps(record.epoch):
            lr = learning_rate(config.optimizer, at, run.n_steps, record.losses)
            run.weigh(at)
            means.add(update(loss, batches, lr))
            ema.update()

        metrics, arrays = {**means.over(world), "lr": lr}, {}
        with ema.swapped():
            run.gather()
            if math.isfinite(metrics["train/loss"]) and not until:
                measured, arrays = distributed.from_first(run.measure, rank, world)
                metrics.update(measured)
            record.add({**metrics, "seconds": time.perf_counter() - started}, model, arrays)

        run.gather()
        state = run.state() if run.shards or (save and rank == 0) else {}
        if save and rank == 0:
            save(state)
        yield record.latest(arrays)


def replay(config: Config, state: dict[str, Any]) -> Iterator[Epoch]:
    """Yield the epochs that a saved state has behind it, as train() yielded them, but for their extras."""
    record = _Record(config, state.get("until", 0))
    for metrics in state["history"]:
        record.add(metrics)
        yield record.latest()


class Run:
    """The parts of one training, built from the configuration and set to where a saved state stood."""

    def __init__(self, config: Config, dataset, resume: dict[str, Any] | None, rank: int, world: int,
                 held: dict[str, torch.Tensor], until: int = 0, begun: bool = True,
                 start: Callable[..., None] | None = None):
        """begun: start from the classical model, where there is one; a probe of many goes without."""
        self._config, self._dataset, self._rank = config, dataset, rank
        device = device_of(config)
        torch.manual_seed(config.training.seed)
        self.model = models.build(config, dataset.n_neurons, len(dataset.behavior_names), dataset.neurons,
                                  first_stage.of(config))
        if begun and not resume:  # on the CPU, where the recordings are
            (start or importlib.import_module(models.family(config).start).start)(self.model, dataset, config)
        _hold(self.model, held)
        self.model.to(device)
        self.sampler = WindowSampler(dataset, config.windows, config.sessions.normalize, device, rank, world)
        self.shards = bool(config.training.shard) and world > 1
        self.trained = sharding.sharded(self.model, world) if self.shards else self.model
        self.update = Updater(self.trained, config, device)
        self.ema = WeightEMA(self.trained, config.optimizer.ema)
        self.record = _Record(config, until)
        self._steps_per_epoch = math.ceil(self.sampler.steps_per_epoch / config.optimizer.accumulate)
        self.n_steps = self._steps_per_epoch * config.training.epochs
        if resume:
            self._restore(resume)

    def seed(self, epoch: int) -> None:
        """Seed torch for one epoch; ranks differ (dropout), epochs and neighbouring seeds share nothing."""
        import numpy as np

        words = [self._config.training.seed, epoch, self._rank]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]))

    def steps(self, epoch: int) -> Iterable[tuple[int, list]]:
        """Yield (number of the optimizer step in the run, its batches) for one epoch."""
        batches = iter(self.sampler.epoch(epoch, self._config.training.seed))
        groups = iter(lambda: list(itertools.islice(batches, self._config.optimizer.accumulate)), [])
        return enumerate(groups, start=epoch * self._steps_per_epoch)

    def weigh(self, at: int) -> None:
        """Set the weight that a KL divergence has in the loss at optimizer step `at` of the run."""
        if hasattr(self.model, "kl_weight"):
            self.model.kl_weight = kl.weight(self._config.kl, at / max(1, self.n_steps - 1), self.record.rates)

    def gather(self) -> None:
        """Bring the model to the weights that are trained, where these are spread over the workers."""
        if self.shards:
            sharding.gather(self.model, self.trained)

    def measure(self) -> Evaluation:
        return measure(self.model, self._dataset, self._config)

    def state(self) -> dict[str, Any]:
        """Return the state of the run, as checkpoint.py describes it, in memory of its own."""
        parts = {"model": self.model.state_dict(), "ema": self.ema.state_dict(), **self.update.state_dict()}
        parts = sharding.joined(parts) if self.shards else parts
        return {"format": checkpoint.FORMAT, **checkpoint.copied(parts), **self.record.state(),
                "config": self._config.flat(), "fingerprint": self._dataset.fingerprint,
                "data": {**checkpoint.describe(self._dataset, self._config.sessions.normalize), **self._first()},
                "versions": checkpoint.versions()}

    def _first(self) -> dict[str, Any]:
        """Return what a saved model needs to know of the one whose latents it generates."""
        return {"first_stage": self.model.first.description} if hasattr(self.model, "first") else {}

    def _restore(self, state: dict[str, Any]) -> None:
        if state["fingerprint"] != self._dataset.fingerprint:
            raise UserError(f"the saved state was trained on data and split {state['fingerprint']}, these are "
                            f"{self._dataset.fingerprint}: give the recordings and the split it began with")
        self.model.load_state_dict(state["model"])
        if self.shards:
            sharding.scatter(self.model, self.trained)
            state = sharding.cut_state(state, self.trained, self.update.optimizer)
        self.ema.load_state_dict(state["ema"])
        self.update.load_state_dict(state)
        self.record.load_state(state)


def _hold(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Load these weights and keep the optimizer from them; it passes over parameters without a gradient."""
    if not weights:
        return
    model.load_state_dict(weights, strict=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in weights)


class _Record:
    """The metrics of every epoch, the best weights among them, and the verdict on going on."""

    def __init__(self, config: Config, until: int = 0):
        self._metric, direction = models.objectives(config)[0]  # of several, the first chooses the epoch
        if until:
            self._metric, direction = "train/loss", "minimize"
        self._until, self._sign = until, 1.0 if direction == "minimize" else -1.0
        self._training = config.training
        self.history: list[dict[str, float]] = []
        self.kl: list[torch.Tensor] = []  # of every latent (D,), in nats a frame, in every epoch of a model with any
        self.best: dict[str, Any] = {"epoch": 0, "value": math.nan, "model": {}, "arrays": {}}
        self.ended_by = ""

    @property
    def epoch(self) -> int:
        return len(self.history)

    @property
    def losses(self) -> list[float]:
        """The objective of every epoch, turned so that lower is better."""
        return [self._sign * m.get(self._metric, math.nan) for m in self.history]

    @property
    def rates(self) -> list[float]:
        """The KL divergence of every epoch in training, nats a frame; of models without one, NaN."""
        return [m.get("train/kl", math.nan) for m in self.history]

    def add(self, metrics: dict[str, float], model: torch.nn.Module | None = None,
            arrays: dict[str, Any] | None = None) -> None:
        """Take in the metrics of an epoch and, when they are the best, a copy of the weights they were measured on."""
        if math.isfinite(metrics["train/loss"]) and self._metric not in metrics:
            raise UserError(f"{self._metric} cannot be measured: no behaviour that varies over the validation part; "
                            "choose another search.objective, sessions.behavior, or recordings")
        self.history.append({name: float(value) for name, value in metrics.items()})
        if arrays and "kl" in arrays:
            self.kl.append(torch.as_tensor(arrays["kl"]).float())
            unknown = self.epoch - len(self.kl)  # epochs of an older raycal, which kept none
            self.kl[:0] = [torch.full_like(self.kl[0], math.nan)] * unknown
        value = self.losses[-1]
        if not math.isfinite(value):
            self.ended_by = "diverged"
            return
        if metrics.get("val/memorised"):  # a further epoch would copy more of the train part, and score the better
            self.ended_by = "memorised"
            return
        if self._until or self.best["epoch"] == 0 or value < self._sign * self.best["value"]:
            self.best = {"epoch": self.epoch, "value": self._sign * value,
                         "model": {} if model is None else checkpoint.copied(model.state_dict()),
                         "arrays": checkpoint.copied(arrays or {})}
        if self.epoch >= (self._until or self._training.epochs):
            self.ended_by = "epochs"
        elif 0 < self._training.patience <= self.epoch - self.best["epoch"]:
            self.ended_by = "patience"

    def latest(self, arrays: dict[str, Any] | None = None) -> Epoch:
        best = self.best["epoch"]
        return Epoch(self.epoch, self.history[-1], self._sign * self.losses[-1], best, self.best["value"],
                     bool(self.ended_by), self.ended_by, arrays or {} if best == self.epoch else {})

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "history": [dict(m) for m in self.history], "best": dict(self.best),
                "kl": torch.stack(self.kl) if self.kl else torch.empty(0, 0), "done": bool(self.ended_by),
                "ended_by": self.ended_by, "objective": self._metric, "until": self._until}

    def load_state(self, state: dict[str, Any]) -> None:
        self.history = [dict(m) for m in state["history"]]
        self.kl = list(state.get("kl", ()))
        self.best, self.ended_by = dict(state["best"]), state["ended_by"]


class _Means:
    """Means over the windows of an epoch; nothing is read from the device before its end."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, dict[str, torch.Tensor]]] = []

    def add(self, parts: list[tuple[int, dict[str, torch.Tensor]]]) -> None:
        self._parts += parts

    def over(self, world: int) -> dict[str, float]:
        """Return {"train/<term>": mean over the windows of all workers}."""
        names = sorted(self._parts[0][1])
        terms = torch.stack([torch.stack([p[n] for _, p in self._parts]) for n in names]).double()
        windows = terms.new_tensor([n for n, _ in self._parts])
        sums = distributed.summed(torch.cat([terms @ windows, windows.sum()[None]]), world)
        return {f"train/{n}": v for n, v in zip(names, (sums[:-1] / sums[-1]).tolist(), strict=True)}


def device_of(config: Config) -> torch.device:
    """Return the device of this worker: the current CUDA device where wanted (or there is one and it is "auto")."""
    wanted = config.training.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("training.device=cuda: this machine (or this worker) has no CUDA device; "
                        "use training.device=auto or give the worker a GPU with training.gpus=1")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
