"""A small conditional space and real studies on disk, without Ray."""
from __future__ import annotations

import contextlib

import numpy as np
import optuna
import pytest

from raycal.config import Config
from raycal.search.folder import RunFolder
from raycal.search.space import Space
from raycal.search.study import Record, open_study

BASE = Config().replace({"quantizer.codebook_size": 32, "quantizer.decay": 0.9, "windows.length": 32,
                         "training.epochs": 9, "search.sampler": "random"})


def propose(trial, base):
    kind = trial.suggest_categorical("quantizer.type", ["ema", "vq"])
    trial.suggest_int("quantizer.codebook_size", 8, 512, log=True)
    trial.suggest_float("optimizer.lr", 1e-4, 1e-2, log=True)
    if kind == "ema":
        trial.suggest_float("quantizer.decay", 0.8, 0.99)
    return base.replace(trial.params)


@pytest.fixture
def space() -> Space:
    return Space("small", BASE, propose)


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


class Run:
    """A run folder whose study can be opened again and again, as by one driver after the other."""

    def __init__(self, path, space):
        self.path, self.space = path, space
        self.folder = None

    def open(self, settings=None, directions=("minimize",), wanted=100, rate=lambda c: 0.0, rate_limit=0.0) -> Record:
        if self.folder:
            self.folder.unlock()
            self.folder = RunFolder.existing(str(self.path))
        else:
            self.folder = RunFolder.create(str(self.path), "small")
        self.folder.lock()
        config = self.space.base.replace(settings or {})
        study = open_study(self.folder, config, directions, self.space)
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(self.space.default())
        return Record(study, self.space, rate=rate, rate_limit=rate_limit, wanted=wanted, seed=config.training.seed)


@pytest.fixture
def run(tmp_path, space):
    one = Run(tmp_path / "run", space)
    yield one
    if one.folder:
        one.folder.unlock()


@pytest.fixture
def event():
    """Make the event a slot posts for an epoch; the metrics carry the epoch, so that a test knows them again."""
    def make(epoch, value, best=None, done=False, ended_by="", extras=None, **metrics):
        best_epoch, best_value = best or (epoch, value)
        return {"kind": "epoch", "epoch": epoch, "objective": value, "best_epoch": best_epoch, "best_value": best_value,
                "metrics": {"val/nmse": value, "at": float(epoch), **metrics}, "done": done,
                "ended_by": ended_by or ("epochs" if done else ""), "extras": extras or {}}

    return make


@pytest.fixture
def complete():
    """Run a trial of a record to its end; return its number."""
    from optuna.trial import TrialState

    def make(record, values, metrics=None):
        number, _ = record.ask()
        for epoch, value in enumerate(np.atleast_1d(values), 1):
            with contextlib.suppress(KeyError):
                record.epoch(number, epoch, float(value), float(value))
        record.finish(number, TrialState.COMPLETE, [float(np.atleast_1d(values)[-1])],
                      {"ended_by": "epochs", "best_epoch": len(np.atleast_1d(values)), "metrics": metrics or {},
                       "epochs": len(np.atleast_1d(values))})
        return number

    return make
