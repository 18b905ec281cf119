"""What proposes: Optuna's samplers by name, every trial with random numbers of its own.

One sampler for a whole run draws on from where it is, so a run that was killed would propose other trials than the
undisturbed one. Here the sampler of trial 17 is made anew from the seed of the run and the number 17: what it
proposes depends on the trials before it and on nothing else. A driver may die between two suggestions of one trial,
so what is drawn name by name has a seed for every name.
"""
from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import optuna
from optuna.samplers import BaseSampler


def make_sampler(name: str, seed: int) -> BaseSampler:
    """Return the sampler; TPE models conditional parameters jointly (group) and counts running trials (liar)."""
    samplers = optuna.samplers
    if name == "random":
        return samplers.RandomSampler(seed=seed)
    if name == "gp":
        return samplers.GPSampler(seed=seed)
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=seed)
    return samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)


def seed_of(run_seed: int, *what: int | str) -> int:
    """Hash the seed of a run and what it is for, such as a trial's number, to 32 bits."""
    words = "/".join(map(str, (run_seed, *what)))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big")


class SeededByTrial(BaseSampler):
    """Asks make(seed) anew for every trial."""

    def __init__(self, make: Callable[[int], BaseSampler], run_seed: int):
        self._make, self._run_seed = make, run_seed
        self._number, self._sampler = -1, make(run_seed)

    def _of(self, trial: Any) -> BaseSampler:
        if trial.number != self._number:
            self._number, self._sampler = trial.number, self._make(seed_of(self._run_seed, trial.number))
        return self._sampler

    def infer_relative_search_space(self, study, trial):
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study, trial, search_space):
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study, trial, param_name, param_distribution):
        sampler = self._make(seed_of(self._run_seed, trial.number, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study, trial) -> None:
        self._of(trial).before_trial(study, trial)

    def after_trial(self, study, trial, state, values) -> None:
        self._of(trial).after_trial(study, trial, state, values)
