"""Confirm before believing: the best trials and the default, trained again on fresh seeds, the same for all.

The record, in the study as user attribute "confirm" and in RUN/confirm.json: what each configuration reaches on every
seed, its mean with a 95 % interval over seeds, the winner by mean, winner minus default paired over seeds, and in words
whether the one beats the other. Every training that ends is noted in the study at once, so a confirmation that was
killed goes on where it was.
"""
from __future__ import annotations

import datetime
import itertools
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from raycal.config import Config
from raycal.errors import UserError
from raycal.metrics.intervals import mean_interval, paired_difference
from raycal.report.console import Progress
from raycal.search import connection, jobs, recordings
from raycal.search.folder import RunFolder, write_atomically
from raycal.search.ready import Options, reopened
from raycal.search.space import Space
from raycal.search.study import ordered, plain

KEY = "confirm"
GOOD = ("epochs", "patience")  # how a training ends that counts


def confirm(study: optuna.Study, folder: RunFolder, cluster, metric: str, top: int, seeds: int,
            say: Callable[[str], None] = print, over: Callable[[], bool] = lambda: False,
            mend: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any] | None:
    """Confirm the `top` best trials beside the default on fresh seeds; return the record, None where over() came first.

    The pool has the run's data already. What an earlier confirmation trained is not trained again.
    """
    began, fresh, trials = time.monotonic(), fresh_seeds(study, seeds), chosen(study, top)
    pairs = [(trial, seed) for seed in fresh for trial in trials]  # a seed whole before the next: pairs come first
    missing = [(trial, seed) for trial, seed in pairs if _key(trial, seed) not in study.user_attrs]
    if missing:
        say(f"confirming trials {', '.join(str(t.number) for t in trials)} on seeds {', '.join(map(str, fresh))}: "
            f"{len(missing)} trainings"
            + (f", {len(pairs) - len(missing)} are there" if len(missing) < len(pairs) else ""))
        cluster.grow(min(cluster.slots.count, len(missing)))
    payloads = [((trial, seed), _payload(folder, trial, seed)) for trial, seed in missing]
    ended = jobs.complete(cluster, payloads, say=say, over=over, mend=mend)
    for (trial, seed), event in ended:
        outcome = outcome_of(event)
        study.set_user_attr(_key(trial, seed), plain(outcome))
        shutil.rmtree(_place(folder, trial, seed), ignore_errors=True)  # what it came to is in the study
        say(f"confirm {trial.number:3d}  seed {seed}  {_said(outcome, metric)}")
    outcomes = {(t.number, s): study.user_attrs.get(_key(t, s)) for t, s in pairs}
    if None in outcomes.values():
        return None
    previous = study.user_attrs.get(KEY, {})
    record = {**judged(study, trials, fresh, outcomes, metric), "when": now(),
              "seconds": round(time.monotonic() - began + (0 if missing else previous.get("seconds", 0.0)), 3)}
    write(study, folder, record)
    return record


def run(space: Space, config: Config, options: Options, top: int, seeds: int) -> dict[str, Any]:
    """Confirm the run of options.resume; return the record. Bad input raises UserError before any slot starts."""
    if seeds < 2:
        raise UserError(f"--seeds {seeds}: an interval over seeds takes at least 2")
    if not options.verbose:
        connection.hush()
    say = Progress.printer(options.quiet)
    with reopened(space, config, options, (top + 1) * seeds, say) as run:
        chosen(run.study, top)
        data = recordings.prepare(run.found, run.plan.config.sessions, run.plan.agreement, say=say)
        run.cluster.grow(1)
        run.cluster.hand_over(data.refs)
        record = confirm(run.study, run.folder, run.cluster, run.plan.objectives[0], top, seeds, say)
        run.finish(say)
    return record


def chosen(study: optuna.Study, top: int) -> list[FrozenTrial]:
    """Return the default and the `top` best complete trials besides; of a Pareto study, of the front."""
    best = [t for t in ordered(study) if t.number != 0][:top]
    if not best and not ordered(study):
        raise UserError("no trial of this run is complete, so there is none to confirm; go on with the search first")
    return [study.get_trials(deepcopy=False)[0], *best]


def fresh_seeds(study: optuna.Study, n: int, used: Sequence[int] = ()) -> list[int]:
    """Return the first n seeds from 1 that neither the search used nor `used` holds."""
    taken = {t.user_attrs.get("config", {}).get("training.seed") for t in study.get_trials(deepcopy=False)}
    taken |= {t.user_attrs.get("seed") for t in study.get_trials(deepcopy=False)} | set(used)
    return list(itertools.islice((seed for seed in itertools.count(1) if seed not in taken), n))


def judged(study: optuna.Study, trials: Sequence[FrozenTrial], seeds: Sequence[int],
           outcomes: Mapping[tuple[int, int], Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """Return the record of outcomes {(trial number, seed): outcome}."""
    direction = study.directions[0].name.lower()
    table = {}
    for trial in trials:
        mine = [outcomes[trial.number, seed] for seed in seeds]
        values = [_number(o["value"]) for o in mine]
        table[str(trial.number)] = {
            "params": trial.params, "values": values, **mean_interval(values)._asdict(),
            "search_value": trial.values[0] if trial.values else math.nan, "epochs": [o["epoch"] for o in mine],
            "failed": [o["reason"] for o in mine if o["reason"]]}
    sign = 1.0 if direction == "minimize" else -1.0
    whole = {number: t for number, t in table.items() if math.isfinite(t["mean"])}
    winner = min(whole, key=lambda number: (sign * whole[number]["mean"], int(number)), default=None)
    record = {"metric": metric, "direction": direction, "seeds": list(seeds), "trials": table, "default": "0",
              "winner": winner, "searched": len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))}
    if winner is None:
        difference, curse = mean_interval([]), math.nan
    else:
        difference = paired_difference(table[winner]["values"], table["0"]["values"])
        curse = table[winner]["search_value"] - table[winner]["mean"]
    record |= {"difference": difference._asdict(), "winners_curse": curse}
    return {**record, "verdict": verdict(record)}


def verdict(record: Mapping[str, Any]) -> str:
    """Say whether the winner beats the default; it does only where the whole interval lies on the better side of 0."""
    winner, name, n = record["winner"], record["metric"].removeprefix("val/"), len(record["seeds"])
    if winner is None:
        return "no configuration trained to its end on every seed, so none is confirmed"
    if not math.isfinite(record["trials"]["0"]["mean"]):
        return (f"the default did not train to its end on every seed ({record['trials']['0']['failed'][0]}), so trial "
                f"{winner} cannot be compared with it")
    if winner == record["default"]:
        return f"none beats the default: of the {len(record['trials'])} confirmed it has the best mean {name}"
    return comparison(int(winner), record["metric"], record["direction"], record["difference"], n)


def comparison(winner: int, metric: str, direction: str, difference: Mapping[str, float], n: int) -> str:
    """Say what an interval of winner minus default over n seeds shows."""
    mean, low, high = (float(difference[key]) for key in ("mean", "low", "high"))
    name, minimize = metric.split("/", 1)[-1], direction == "minimize"
    if winner == 0:
        return "the winner is the default itself"
    if high < 0 if minimize else low > 0:
        least, most = sorted((abs(low), abs(high)))
        return (f"trial {winner} beats the default: its {name} is {'lower' if minimize else 'higher'} by "
                f"{abs(mean):.4f} [{least:.4f}, {most:.4f}] over {n} seeds")
    if low > 0 if minimize else high < 0:
        return f"trial {winner} loses to the default: winner minus default is {mean:.4f} [{low:.4f}, {high:.4f}]"
    if math.isnan(mean):
        return f"trial {winner} and the default cannot be compared: not every training came to its end"
    return (f"trial {winner} is not shown to beat the default: the 95 % interval of their difference, [{low:.4f}, "
            f"{high:.4f}], holds 0")


def write(study: optuna.Study, folder: RunFolder, record: Mapping[str, Any]) -> None:
    """Put the record in the study, then beside it as a file anyone can read."""
    study.set_user_attr(KEY, plain(record))
    write_atomically(folder.path / "confirm.json", json.dumps(plain(record), indent=1))


def outcome_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a training's last event comes to; a value only where it ran to its end."""
    if event["kind"] != "epoch":
        return {"value": math.nan, "epoch": 0, "epochs": 0, "seconds": 0.0, "reason": event["kind"],
                "message": event["message"]}
    good = event["ended_by"] in GOOD
    return {"value": event["best_value"] if good else math.nan, "epoch": event["best_epoch"],
            "epochs": event["epoch"], "reason": "" if good else event["ended_by"] or "stopped"}


def _payload(folder: RunFolder, trial: FrozenTrial, seed: int) -> dict[str, Any]:
    from raycal.training.loop import train

    place = _place(folder, trial, seed)
    place.mkdir(parents=True, exist_ok=True)  # a worker that finds none waits for its disk to come back
    return {"config": {**trial.user_attrs["config"], "training.seed": seed}, "trainer": train, "folder": str(place)}


def _place(folder: RunFolder, trial: FrozenTrial, seed: int):
    return folder.path / KEY / f"{trial.number:04d}-seed{seed}"


def _key(trial: FrozenTrial, seed: int) -> str:
    return f"{KEY} trial {trial.number} seed {seed}"


def _said(outcome: Mapping[str, Any], metric: str) -> str:
    if outcome["reason"]:
        return "\n".join([f"{outcome['reason']} after epoch {outcome['epochs']}", outcome.get("message", "")]).strip()
    return f"{metric.removeprefix('val/')} {outcome['value']:.4f} at epoch {outcome['epoch']}"


def _number(value: Any) -> float:
    return float(value)  # the journal holds NaN as a word


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
