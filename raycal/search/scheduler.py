"""Tune's searcher and scheduler: adapters that pass words between Tune and the referee, and know nothing."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from optuna.trial import TrialState
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raycal.config import Config
from raycal.search.study import Record

# How the end of a job is told: Optuna learns from PRUNED and ignores FAIL.
STATES = {"epochs": TrialState.COMPLETE, "patience": TrialState.COMPLETE, "diverged": TrialState.PRUNED,
          "stopped early": TrialState.PRUNED, "oom": TrialState.PRUNED}


class Referee:
    """Turns what slots post into what the study records; listeners hear of every start, epoch and end.

    payload(number, config) is what a worker needs for a trial. A listener has on_start(number, config),
    on_epoch(number, event) and on_end(number, event, trial), and may have on_pause(number, event).
    """

    def __init__(self, record: Record, payload: Callable[[int, Config], dict[str, Any]], objectives: list[str],
                 listeners: list[Any]):
        self.record, self._payload, self._objectives, self._listeners = record, payload, objectives, listeners
        self._latest: dict[int, dict[str, Any]] = {}
        self.error: BaseException | None = None  # what went wrong in here; Tune would only log it

    def start(self) -> dict[str, Any] | None:
        asked = self.record.ask()
        if asked is None:
            return None
        number, config = asked
        self._tell("on_start", number, config)
        return {"number": number, "payload": self._payload(number, config)}

    def epoch(self, number: int, event: dict[str, Any]) -> bool:
        """Record an epoch; return True when the trial is to stop."""
        stop = self.record.epoch(number, event["epoch"], event["objective"], event["best_value"],
                                 event["metrics"].get("seconds", 0.0))
        if event["best_epoch"] == event["epoch"]:
            self.record.note_best(number, event["metrics"])
        self._latest[number] = event
        self._tell("on_epoch", number, event)
        return stop

    def pause(self, number: int, event: dict[str, Any]) -> None:
        """Hear that a worker waits for its storage, again at every beat of it."""
        for listener in self._listeners:
            if hasattr(listener, "on_pause"):
                listener.on_pause(number, event)

    def end(self, number: int, event: dict[str, Any] | None) -> None:
        """Record the end of a trial by its last event; None stands for a trainable that was lost."""
        if number not in self.record.history:
            return
        if self.record.closed and (event is None or not event.get("done", event["kind"] not in ("epoch", "paused"))):
            return  # the search ends before the trial does: it waits for a resume
        event = event or {"kind": "lost", "message": "the trial's actor died"}
        if event["kind"] == "epoch" and event["done"]:
            self.epoch(number, event)
        reason = (event["ended_by"] or "stopped early") if event["kind"] == "epoch" else event["kind"]
        best, metrics = self._latest.pop(number, None) or {}, self.record.best_metrics(number)
        facts = {"ended_by" if STATES.get(reason) == TrialState.COMPLETE else "reason": reason,
                 "best_epoch": best.get("best_epoch", 0), "epochs": best.get("epoch", 0),
                 "metrics": metrics, "seed": self.record.seed}
        if "ended_by" in facts:
            facts["checkpoint"] = f"trials/{number:04d}/model.pt"  # kept while it is among the best
        if event["kind"] != "epoch":
            facts.update({k: event[k] for k in ("message", "memory", "batch") if event.get(k) is not None})
        values = None
        if best:
            values = [best["best_value"], *(float(metrics.get(o, "nan")) for o in self._objectives[1:])]
        self.record.finish(number, STATES.get(reason, TrialState.FAIL), values, facts)
        trial = self.record.study.get_trials(deepcopy=False)[number]
        self._tell("on_end", number, event, trial)

    def guarded(self, call: Callable[[], Any]) -> Any:
        """Return call(); what it raises ends the search and is kept, for Tune would take it for the trial's."""
        try:
            return call()
        except Exception as e:
            self.error = self.error or e
            self.record.closed = True
            return None

    def _tell(self, method: str, *args) -> None:
        for listener in self._listeners:
            getattr(listener, method)(*args)


class _Unsaved:
    """Tune pickles what it is given; a resumed run is rebuilt from the study, so nothing travels."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, *_args, **_kwargs) -> None: ...

    def restore(self, *_args, **_kwargs) -> None: ...


class Asker(_Unsaved, Searcher):
    """Tune's searcher: every suggestion is a trial of the study."""

    def __init__(self, referee: Referee):
        Searcher.__init__(self)
        self._referee, self._numbers = referee, {}

    def suggest(self, trial_id: str):
        config = self._referee.guarded(self._referee.start)
        if config is None:
            return Searcher.FINISHED
        self._numbers[trial_id] = config["number"]
        return config

    def on_trial_complete(self, trial_id: str, result=None, error: bool = False) -> None:
        number = self._numbers.pop(trial_id, None)
        if number is None:
            return
        self._referee.guarded(lambda: self._referee.end(number, None if error or not result else result["event"].event))


class Stopper(_Unsaved, FIFOScheduler):
    """Tune's scheduler: the study's own pruner decides, so stopping survives a restart."""

    def __init__(self, referee: Referee):
        FIFOScheduler.__init__(self)
        self._referee = referee

    def on_trial_result(self, tune_controller, trial, result: dict[str, Any]) -> str:
        event, number = result["event"].event, result["number"]
        if event["kind"] == "paused":
            self._referee.guarded(lambda: self._referee.pause(number, event))
        stop = event["kind"] == "epoch" and not event["done"] and \
            self._referee.guarded(lambda: self._referee.epoch(number, event))
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE


class Halter(_Unsaved, tune.Stopper):
    """Tune's stopper: ends the whole search when `over()` says so (time limit, ctrl-C)."""

    def __init__(self, referee: Referee, over: Callable[[], bool]):
        self._referee, self._over = referee, over

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self._over():
            self._referee.record.closed = True  # running trials will wait for a resume, not be told as stopped
        return self._referee.record.closed
