"""The Optuna study as the one record of a search: what was asked, what came of it, who is best.

`Record` asks and tells; Tune's searcher and scheduler (scheduler.py) only pass its words on.
States: COMPLETE = full length or ended by patience; PRUNED = stopped early, diverged, memorised, out
of memory or over the rate limit (`reason` says which); FAIL = crashed. Optuna reads PRUNED trials and learns
from them, and ignores FAIL: told FAIL, it went on proposing in a region that diverges.
"""
from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from raycal.config import Config
from raycal.errors import UserError
from raycal.search import sameness
from raycal.search.folder import RunFolder
from raycal.search.sampler import SeededByTrial, make_sampler, seed_of
from raycal.search.space import Space

OVER = "over rate limit"  # reason of a proposal that was not trained
REJECTIONS = 20  # proposals over the rate limit in a row before a random one that meets it is tried


def open_study(folder: RunFolder, config: Config, directions: Sequence[str], space: Space,
               allow_change: bool = False) -> optuna.Study:
    """Create or reopen the study of a run whose lock is held; running trials of a dead driver wait again.

    allow_change: go on in a space that changed, from the trials that still fit it.
    """
    folder.repair_journal()
    study = _open(folder, folder.journal, directions)
    if [d.name.lower() for d in study.directions] != list(directions):
        raise UserError(f"--objective {config.search.objective}: this run was searched for "
                        f"{study.user_attrs.get('objective')}; resume it without --objective")
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
    try:
        sameness.check_space(study, space, config)
    except UserError:
        if not allow_change:
            raise
        sameness.carry_over(folder, study, lambda path: _open(folder, path, directions), space, config)
        study = _open(folder, folder.journal, directions)
    study.sampler = SeededByTrial(lambda seed: make_sampler(config.search.sampler, seed), config.training.seed)
    study.pruner = make_pruner(config.search.pruner, config.training.epochs)
    return study


def _open(folder: RunFolder, journal: pathlib.Path, directions: Sequence[str]) -> optuna.Study:
    from raycal.search.journal import Journal

    storage = _storage(journal, lambda: Journal(journal, lambda write: folder.patiently(write)))
    return optuna.create_study(study_name="raycal", storage=storage, directions=list(directions), load_if_exists=True)


def read_study(path: str) -> optuna.Study:
    """Open the study of a run folder for reading; raise UserError when there is none."""
    journal = pathlib.Path(path) / "study.journal"
    if not journal.is_file():
        raise UserError(f"{path}: no run there (it has no study.journal); give the folder of a run")
    from optuna.storages.journal import JournalFileBackend

    return optuna.load_study(study_name="raycal", storage=_storage(journal, lambda: JournalFileBackend(str(journal))))


def _storage(journal: pathlib.Path, backend: Callable[[], Any]) -> optuna.storages.JournalStorage:
    from optuna.storages import JournalStorage

    try:
        return JournalStorage(backend())  # reads it
    except (ValueError, LookupError, TypeError) as e:
        raise UserError(f"{journal}: is damaged ({type(e).__name__}: {str(e).splitlines()[0]}); put back a copy, such "
                        "as the one of --storage, or start a new run") from e


def first_rung(epochs: int) -> int:
    """Return the epoch of the first look at whether to stop a trial, 1/9 of the epochs: a first rung at epoch 1 of 27
    lost the best configurations (rank correlation with the final value 0.47, at 3 0.63)."""
    return max(1, -(-epochs // 9))


def make_pruner(name: str, epochs: int) -> optuna.pruners.BasePruner:
    """Return the rule that stops trials early."""
    first = first_rung(epochs)
    if name == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=3)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=first, max_resource=max(epochs, first), reduction_factor=3)
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=first)
    return optuna.pruners.NopPruner()


class Record:
    """The only writer of a study.

    rate(config) is the nominal bits/s of a configuration; proposals above rate_limit are told PRUNED
    untrained. wanted is the number of trials that train, over all starts of the run.
    """

    def __init__(self, study: optuna.Study, space: Space, *, rate: Callable[[Config], float], rate_limit: float,
                 wanted: int, seed: int):
        self.study, self.space, self.seed = study, space, seed
        self._rate, self._rate_limit, self._wanted = rate, rate_limit, wanted
        self._running: dict[int, optuna.Trial] = {}
        self._seconds: dict[int, float] = {}  # of training and judging, as the workers measured them
        self.history: dict[int, dict[int, float]] = {}
        self.closed = False

    @property
    def pareto(self) -> bool:
        return len(self.study.directions) > 1

    def trained(self) -> list[optuna.trial.FrozenTrial]:
        """Return the finished trials that cost training, in order."""
        done = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return [t for t in self.study.get_trials(deepcopy=False, states=done)
                if t.user_attrs.get("reason") not in (OVER, sameness.OUTSIDE)]

    def ask(self) -> tuple[int, Config] | None:
        """Return number and configuration of the next trial, or None when there is none to start."""
        if self.closed or len(self.trained()) + len(self._running) >= self._wanted:
            return None
        before = self._rejected()
        for rejected in range(before, before + 1000):
            if rejected and rejected % REJECTIONS == 0:
                self.study.enqueue_trial(self._feasible_draw())
            trial = self.study.ask()
            config = self.space.propose(trial)
            excess = self._rate(config) - self._rate_limit if self._rate_limit else -1.0
            if excess <= 1e-9 or self.pareto:
                return self._start(trial, config)
            trial.set_user_attr("reason", OVER)
            if not trial.constraints:
                trial.set_constraint("rate", excess)
            self.study.tell(trial, state=TrialState.PRUNED)
        raise UserError(f"search.rate_limit={self._rate_limit:g}: no proposal of 1000 meets it; raise it")

    def _rejected(self) -> int:
        """Return how many proposals in a row were over the rate limit, those before a restart among them."""
        trials = self.study.get_trials(deepcopy=False)
        return next((n for n, t in enumerate(reversed(trials)) if t.user_attrs.get("reason") != OVER), len(trials))

    def _start(self, trial: optuna.Trial, config: Config) -> tuple[int, Config]:
        if self._rate_limit and not self.pareto and not trial.constraints:  # a trial that is resumed has it
            trial.set_constraint("rate", self._rate(config) - self._rate_limit)
        trial.set_user_attr("config", config.flat())
        self._running[trial.number] = trial
        self._seconds[trial.number] = trial.user_attrs.get("seconds", 0.0)
        self.history[trial.number] = {int(e): v for e, v in trial.user_attrs.get("objective_by_epoch", ())}
        return trial.number, config

    def _feasible_draw(self) -> dict[str, Any]:
        rng = np.random.default_rng(seed_of(self.seed, len(self.study.get_trials(deepcopy=False)) + 7))
        for _ in range(10_000):
            params, config = self.space.draw(rng)
            if self._rate(config) <= self._rate_limit + 1e-9:
                return params
        raise UserError(f"search.rate_limit={self._rate_limit:g}: none of 10 000 random configurations meets it")

    def epoch(self, number: int, epoch: int, objective: float, best: float, seconds: float = 0.0) -> bool:
        """Note an epoch; return True when the study's pruner ends the trial.

        The running best is reported, so a trial is judged by the best it has shown. Trial 0, the
        default configuration every report compares with, always runs to its end.
        """
        if number not in self._running or epoch in self.history[number]:
            return False
        self.history[number][epoch] = objective
        self._seconds[number] += seconds
        if self.pareto or not np.isfinite(best):
            return False
        trial = self._running[number]
        if epoch not in self.study.get_trials(deepcopy=False)[number].intermediate_values:  # of before a restart
            trial.report(best, epoch)
        if "stopped_at" not in trial.user_attrs and number != 0 and trial.should_prune():
            # a pruner says it once: a driver that dies before the trial has ended could not ask again
            trial.set_user_attr("stopped_at", epoch)
        return self.stopped(number, epoch)

    def stopped(self, number: int, epoch: int) -> bool:
        """Say whether the study's pruner has ended a running trial at this epoch."""
        return number in self._running and self._running[number].user_attrs.get("stopped_at", epoch + 1) <= epoch

    def note_best(self, number: int, metrics: Mapping[str, float]) -> None:
        """Keep the metrics of a trial's best epoch so far: a resumed trial may have passed it before."""
        if number in self._running:
            self._running[number].set_user_attr("metrics", plain(metrics))
            self._note_progress(number)

    def _note_progress(self, number: int) -> None:
        trial = self._running[number]
        trial.set_user_attr("seconds", round(self._seconds[number], 3))
        trial.set_user_attr("objective_by_epoch", plain(sorted(self.history[number].items())))

    def best_metrics(self, number: int) -> dict[str, Any]:
        return self._running[number].user_attrs.get("metrics", {})

    def finish(self, number: int, state: TrialState, values: Sequence[float] | None, facts: Mapping[str, Any]) -> None:
        """Tell the study how a trial ended; facts become its attributes."""
        if number not in self._running:
            return
        self._note_progress(number)
        trial, attributes = self._running.pop(number), dict(facts)
        del self.history[number], self._seconds[number]
        if state == TrialState.COMPLETE and (values is None or not np.isfinite(values).all()):
            state, attributes["reason"] = TrialState.PRUNED, "no finite objective"
        for key, value in attributes.items():
            trial.set_user_attr(key, plain(value))
        # A pruned trial carries no value of its own: Optuna takes its last report.
        self.study.tell(trial, values if state == TrialState.COMPLETE else None, state=state)

    def abandon(self) -> None:
        """Put running trials back to waiting, as a resumed run will find them."""
        for trial in self._running.values():
            self._note_progress(trial.number)
            self.study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
        self._running.clear()


def ordered(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the complete trials, the best (first) objective first; of a Pareto study, those of the front."""
    if len(study.directions) > 1:
        complete = study.best_trials
    else:
        complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    sign = 1.0 if study.directions[0] == optuna.study.StudyDirection.MINIMIZE else -1.0
    return sorted(complete, key=lambda t: (sign * t.values[0], t.number))


def best_trial(study: optuna.Study) -> optuna.trial.FrozenTrial | None:
    """Return the complete trial with the best (first) objective; on a Pareto study, of the front."""
    return next(iter(ordered(study)), None)


def plain(value: Any) -> Any:
    """Turn numpy numbers into what JSON holds; NaN and infinity become words, JSON has none."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.integer, np.floating)):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value
