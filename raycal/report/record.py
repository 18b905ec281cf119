"""A run as reports read it: its study, what the study was told besides, and the weights of the kept trials."""
from __future__ import annotations

import functools
import math
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from raycal.errors import UserError
from raycal.report.leaderboard import OVER_LIMIT
from raycal.search import storage
from raycal.search.folder import RunFolder
from raycal.search.keeper import FACTS, Keeper
from raycal.search.study import best_trial, read_study

LABELS = {"val/generation": "generation score", "val/c2st": "C2ST, AUC", "val/copied": "copied windows",
          "val/evaluations": "evaluations a window", "val/cosmoothing_r2": "co-smoothing R2", "val/nmse": "NMSE",
          "val/r": "correlation", "val/behavior_r2": "behaviour R2", "val/bits_per_second": "bits/s, measured",
          "val/usage": "codebook usage", "val/iwae": "IWAE, nats/frame", "val/active_units": "active latents"}
METRICS = {"generation": "val/generation", "evaluations": "val/evaluations", "cosmoothing_r2": "val/cosmoothing_r2",
           "elbo": "val/elbo", "iwae": "val/iwae", "nmse": "val/nmse", "correlation": "val/r",
           "behavior_r2": "val/behavior_r2", "bits_per_second": "val/bits_per_second"}


class Step(NamedTuple):
    """A finished trial on the way of a search."""

    trial: FrozenTrial
    seconds: float  # that all trials had trained when it ended
    best: float  # value of the best complete trial until then, NaN while there is none


@dataclass(frozen=True, eq=False)
class Run:
    """One search, read from its folder; figures of a trial are those of its best epoch."""

    path: pathlib.Path
    study: optuna.Study
    summary: Mapping[str, Any]
    uri: str = ""  # where it was downloaded from

    @classmethod
    def read(cls, run: str) -> Run:
        """Read a run and write again what follows from its study; a run that is still searched does that itself.

        run: its folder, or the URI of its copy (s3://bucket/runs/NAME), of which nothing is changed: it is downloaded
        into a folder that goes with the Run.
        """
        if not storage.is_uri(run):
            return cls._read(run)
        scratch = pathlib.Path(tempfile.mkdtemp(prefix="raycal-run-"))
        try:
            found = cls._read(str(storage.fetch(run, scratch, "", storage.RUNNING)), run.rstrip("/"))
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        weakref.finalize(found, shutil.rmtree, scratch, ignore_errors=True)
        return found

    @classmethod
    def _read(cls, path: str, uri: str = "") -> Run:
        study = read_study(path)
        folder = RunFolder.existing(path)
        if FACTS not in study.user_attrs:
            raise UserError(f"{uri or path}: its study says nothing of the data, so its search ended before the first "
                            "trial, or an older raycal wrote it; search again, or go on with --resume")
        keeper = Keeper(folder, study, study.user_attrs[FACTS], int(study.user_attrs.get("keep", 1)))
        try:
            folder.lock()
        except UserError:
            return cls(folder.path, study, keeper.summary(), uri)
        try:
            return cls(folder.path, study, keeper.restore(), uri)
        finally:
            folder.unlock()

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def place(self) -> str:
        """Return what a command is to be given for this run."""
        return self.uri or str(self.path)

    @functools.cached_property
    def trials(self) -> list[FrozenTrial]:
        """All trials but those that were over the rate limit and never trained."""
        return [t for t in self.study.get_trials(deepcopy=False) if t.user_attrs.get("reason") != OVER_LIMIT]

    @property
    def over_limit(self) -> int:
        return self.summary["trials"]["over_rate_limit"]

    @property
    def complete(self) -> list[FrozenTrial]:
        """Trials that ran to their end: only they have a value that ranks."""
        return [t for t in self.trials if t.state == TrialState.COMPLETE]

    @property
    def ended_early(self) -> list[FrozenTrial]:
        return [t for t in self.trials if t.state in (TrialState.PRUNED, TrialState.FAIL)]

    @property
    def unfinished(self) -> int:
        """How many trials began and have not ended: the search runs, or was interrupted."""
        return sum(not t.state.is_finished() and "config" in t.user_attrs for t in self.trials)

    @property
    def gives(self) -> str:
        """What its models give: "codes", "latents" or "windows" (raycal.models.Family)."""
        from raycal.models import FAMILIES

        config = next((t.user_attrs["config"] for t in self.trials if "config" in t.user_attrs), {})
        return FAMILIES[config.get("model.family", "vqvae")].gives

    @property
    def minimize(self) -> bool:
        return self.study.directions[0] == optuna.study.StudyDirection.MINIMIZE

    @property
    def sign(self) -> float:
        """Times a value: lower is better."""
        return 1.0 if self.minimize else -1.0

    @property
    def metric(self) -> str:
        """The key of the (first) objective among a trial's metrics."""
        first = self.summary["objective"].split(",")[0].strip()
        return METRICS.get(first, first)

    @property
    def label(self) -> str:
        return LABELS.get(self.metric, self.metric.removeprefix("val/"))

    @property
    def confirm(self) -> Mapping[str, Any] | None:
        return self.study.user_attrs.get("confirm")

    @property
    def tests(self) -> Sequence[Mapping[str, Any]]:
        """Every opening of the sealed test blocks, in order."""
        return self.study.user_attrs.get("test", [])

    def confirmed(self, trial: FrozenTrial | None) -> Mapping[str, Any]:
        """Return what a trial came to on fresh seeds, {} where it was not confirmed on every one."""
        entry = (self.confirm or {}).get("trials", {}).get(str(trial.number), {}) if trial is not None else {}
        return {} if math.isnan(number(entry.get("mean"))) else entry

    def tested(self, trial: FrozenTrial | None) -> Mapping[str, Any]:
        """Return a trial's metrics over seeds at the last opening of the test blocks, {} where it was not there."""
        for role, number in (("winner", self.winner.number if self.winner else None), ("default", 0)):
            if trial is not None and self.tests and trial.number == number:
                opened = self.tests[-1][role]
                return opened.get("metrics", opened) if opened.get("number", number) == number else {}
        return {}

    @property
    def tested_baselines(self) -> Mapping[str, Any]:
        """Return the classical codes of the test blocks, as summary.json has those of the validation blocks."""
        found = self.tests[-1].get("baselines", {}) if self.tests else {}
        return found.get("classical", found)

    def tested_beside(self, name: str) -> Mapping[str, Any]:
        """Return "generators" or "cosmoothing" of the test blocks, as summary.json has those of validation blocks."""
        return self.tests[-1].get("baselines", {}).get(name, {}) if self.tests else {}

    @functools.cached_property
    def winner(self) -> FrozenTrial | None:
        """The confirmed winner; before a confirmation the best of the search."""
        number = (self.confirm or {}).get("winner")
        if number is not None:
            return self.study.get_trials(deepcopy=False)[int(number)]
        return best_trial(self.study)

    @property
    def default(self) -> FrozenTrial | None:
        return next((t for t in self.complete if t.number == 0), None)

    def best_epoch(self, trial: FrozenTrial) -> int:
        return trial.user_attrs["best_epoch"]

    @functools.cached_property
    def steps(self) -> list[Step]:
        """The finished trials in the order in which they ended."""
        ended = sorted((t for t in self.trials if t.state.is_finished()), key=lambda t: (t.datetime_complete, t.number))
        seconds, best, found = 0.0, math.nan, []
        for t in ended:
            seconds += t.user_attrs.get("seconds", 0.0)
            if t.state == TrialState.COMPLETE and not self.sign * t.values[0] >= self.sign * best:
                best = t.values[0]
            found.append(Step(t, seconds, best))
        return found

    def incumbents(self) -> list[FrozenTrial]:
        """The trials that were the best when they ended, in order."""
        found, best = [], math.nan
        for step in self.steps:
            if step.best != best and not math.isnan(step.best):
                found.append(step.trial)
                best = step.best
        return found

    def arrays(self, trial: FrozenTrial) -> Mapping[str, Any]:
        """Return what a kept trial's checkpoint holds to draw of its best epoch (raycal.training.evaluate.measure)."""
        from raycal.training import checkpoint

        path = self.path / "trials" / f"{trial.number:04d}" / "model.pt"
        return checkpoint.load(path).get("arrays", {}) if path.is_file() else {}


def number(value: Any) -> float:
    """Return a figure of the study as a float: JSON has no NaN, so the journal holds words."""
    return math.nan if value is None else float(value)


def course(trial: FrozenTrial) -> list[tuple[int, float]]:
    """Return (epoch, objective) of every epoch that a trial trained."""
    return [(int(epoch), number(value)) for epoch, value in trial.user_attrs.get("objective_by_epoch", ())]


def metric_of(trial: FrozenTrial, key: str) -> float:
    """Return a metric of the trial's best epoch, NaN where it was not measured."""
    return number(trial.user_attrs.get("metrics", {}).get(key))
