"""Tune's searcher and scheduler, adapters that pass words between Tune and the referee, and the run of Tune itself."""
from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

from optuna.trial import TrialState
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raycal.config import Config
from raycal.errors import UserError
from raycal.search import nodes
from raycal.search.parcel import Parcel
from raycal.search.study import Record

# How the end of a job is told: Optuna learns from PRUNED and ignores FAIL.
STATES = {"epochs": TrialState.COMPLETE, "patience": TrialState.COMPLETE, "diverged": TrialState.PRUNED,
          "memorised": TrialState.PRUNED, "stopped early": TrialState.PRUNED, "oom": TrialState.PRUNED}


UNFINISHED = ("epoch", "paused", "kept", "lost", "data", "no slot")  # last events of trials that have not ended
TEARS = 5  # of a trial from its slot at one epoch, after which the trial is at fault


class Referee:
    """Turns what slots post into what the study records; listeners hear of every start, epoch and end.

    payload(number, config) is what a worker needs for a trial. A listener has on_start(number, config),
    on_epoch(number, event) and on_end(number, event, trial), and may have on_pause(number, event).
    mend(event) is called before a trial that was torn from its slot goes on.
    """

    def __init__(self, record: Record, payload: Callable[[int, Config], dict[str, Any]], objectives: list[str],
                 listeners: list[Any], mend: Callable[[dict[str, Any]], None] = lambda event: None):
        self.record, self._payload, self._objectives, self._listeners = record, payload, objectives, listeners
        self._mend = mend
        self._configs: dict[int, Config] = {}  # of the running trials
        self._torn: collections.deque[int] = collections.deque()  # running trials that wait for another slot
        self._tears: collections.Counter[tuple[int, int]] = collections.Counter()  # (trial, epoch it had reached)
        self._latest: dict[int, dict[str, Any]] = {}
        self.error: BaseException | None = None  # what went wrong in here; Tune would only log it

    def start(self) -> dict[str, Any] | None:
        """Return the next job: a trial that was torn from its slot, or a new one; None when there is none."""
        if self._torn and not self.record.closed:
            return self._job(self._torn.popleft())
        asked = self.record.ask()
        if asked is None:
            return None
        number, self._configs[asked[0]] = asked
        self._tell("on_start", *asked)
        return self._job(number)

    def _job(self, number: int) -> dict[str, Any]:
        """Return a trial as a worker takes it; its last known epoch is heard again, for it may have been its last."""
        payload = self._payload(number, self._configs[number])
        return {"number": number, "payload": {**payload, "reported": max(self.record.history[number], default=1) - 1}}

    @property
    def over(self) -> bool:
        """No trial runs, and none can come back."""
        return self.record.closed or not self.record.history

    def epoch(self, number: int, event: dict[str, Any]) -> bool:
        """Record an epoch; return True when the trial is to stop. One that is heard of again changes nothing."""
        if event["epoch"] in self.record.history.get(number, ()):
            self._latest.setdefault(number, event)
            return self.record.stopped(number, event["epoch"])
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
        event = event or {"kind": "lost", "message": "the trial's actor died"}
        if self.record.closed and not event.get("done", event["kind"] not in UNFINISHED):
            return  # the search ends before the trial does: it waits for a resume
        if event["kind"] == "no slot":
            raise UserError(f"{event['message']}\nfix: see above what ends the workers, then go on with --resume")
        if event["kind"] in ("lost", "data") and self._again(number, event):
            return
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

    def _again(self, number: int, event: dict[str, Any]) -> bool:
        """Put a trial that was torn from its slot in line, to go on from its checkpoint; False: it never gets on."""
        at = number, len(self.record.history[number])
        self._tears[at] += 1
        if self._tears[at] > TEARS:
            return False
        self._mend(event)
        self._torn.append(number)
        return True

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
    """Tune's searcher: every suggestion is a trial of the study, and is made when there is room for one more to run."""

    def __init__(self, referee: Referee, room: Callable[[], int] | None = None):
        Searcher.__init__(self)
        self._referee, self._room, self._jobs = referee, room, {}

    def suggest(self, trial_id: str):
        if self._room and len(self._jobs) >= (self._referee.guarded(self._room) or 0) and not self._referee.error:
            return None
        job = self._referee.guarded(self._referee.start)
        if job is None:
            return Searcher.FINISHED if self._referee.over else None  # a running trial may need another slot
        self._jobs[trial_id] = {**job, "payload": Parcel(job["payload"])}
        return self._jobs[trial_id]

    def on_trial_complete(self, trial_id: str, result=None, error: bool = False) -> None:
        job = self._jobs.pop(trial_id, None)
        if job is None:
            return
        last = result["event"] if result and not error else None
        self._referee.guarded(lambda: self._referee.end(job["number"], last.content if last else None))
        for parcel in filter(None, (job["payload"], last)):
            parcel.empty()


class Stopper(_Unsaved, FIFOScheduler):
    """Tune's scheduler: the study's own pruner decides, so stopping survives a restart."""

    def __init__(self, referee: Referee):
        FIFOScheduler.__init__(self)
        self._referee = referee

    def on_trial_result(self, tune_controller, trial, result: dict[str, Any]) -> str:
        event, number = result["event"].content, result["number"]
        if event["kind"] == "paused":
            self._referee.guarded(lambda: self._referee.pause(number, event))
        stop = event["kind"] == "epoch" and not event["done"] and \
            self._referee.guarded(lambda: self._referee.epoch(number, event))
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller, trial, result: dict[str, Any]) -> None:
        trial.run_metadata.metric_analysis.clear()  # of seconds and iterations, which Tune would keep for every trial
        trial.run_metadata.metric_n_steps.clear()


class Halter(_Unsaved, tune.Stopper):
    """Tune's stopper: when `over()` says so (time limit, ctrl-C), no trial starts and wind_up() ends those that run."""

    def __init__(self, referee: Referee, over: Callable[[], bool], wind_up: Callable[[], None] = lambda: None):
        self._referee, self._over, self._wind_up = referee, over, wind_up

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if not self._referee.record.closed and self._over():
            self._referee.record.closed = True  # running trials will wait for a resume, not be told as stopped
            self._wind_up()
        return self._referee.error is not None


class SlotsBack:
    """Listens for trials that end: whoever borrowed a slot for one may have died before giving it back."""

    def __init__(self, cluster: Any):
        self._cluster = cluster

    def on_start(self, number: int, config: Config) -> None: ...

    def on_epoch(self, number: int, event: dict[str, Any]) -> None: ...

    def on_end(self, number: int, event: dict[str, Any], trial: Any) -> None:
        self._cluster.pool.take_back.remote(number)


def let_run(referee: Referee, cluster: Any, over: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Let Ray Tune move trials through the slots of a cluster until the referee has none to start."""
    from ray.tune.execution import class_cache

    from raycal.search.trainable import BorrowedSlot

    # Tune hands the driver's keys to every trial by a way that Ray logs; nothing of a trial needs them
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if "AWS_" not in name}
    # no CPU: a thousandth on a node would keep a slot from its last one. The head node is also the one that stays.
    trainable = tune.with_resources(tune.with_parameters(BorrowedSlot, pool=cluster.pool),
                                    {nodes.HEAD: 0.001})
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(search_alg=Asker(referee, lambda: cluster.room(say)), scheduler=Stopper(referee),
                                    num_samples=-1, reuse_actors=True,
                                    max_concurrent_trials=max(cluster.slots.count, cluster.most)),
        run_config=tune.RunConfig(name="tune", storage_path=cluster.scratch, verbose=0,
                                  stop=Halter(referee, over, lambda: cluster.wind_up(say)),
                                  failure_config=tune.FailureConfig(max_failures=2),
                                  checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False)),
    ).fit()
