"""Pure functions of a study: the leaderboard and the summary every other tool can read."""
from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from raycal.search.sameness import OUTSIDE
from raycal.search.study import best_trial

OVER_LIMIT = "over rate limit"
COMPARED = ("nmse", "bits_per_second", "usage")  # of the best of each quantizer


def leaderboard(study: Study) -> str:
    """Return the trials as CSV, best first: number, state, value, best epoch, seconds, reason, parameters."""
    trials = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()
              and t.user_attrs.get("reason") not in (OVER_LIMIT, OUTSIDE)]
    parameters = sorted({p for t in trials for p in t.params})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["rank", "trial", "state", "value", "best_epoch", "epochs", "seconds", "reason", *parameters])
    for rank, t in enumerate(sorted(trials, key=lambda t: _order(study, t)), 1):
        a = t.user_attrs
        value = t.values[0] if t.values else _last(t)
        writer.writerow([rank, t.number, t.state.name.lower(), "" if value is None else f"{value:.6g}",
                         a.get("best_epoch", ""), a.get("epochs", ""), a.get("seconds", ""),
                         a.get("reason", a.get("ended_by", "")), *(t.params.get(p, "") for p in parameters)])
    return out.getvalue()


def summary(study: Study, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what summary.json holds; facts are space, objective, sessions, fingerprints, seconds and the like.

    "confirm" and "test" are the study's records of what came after the search, where there are any.
    """
    trials = study.get_trials(deepcopy=False)
    trials = [t for t in trials if t.user_attrs.get("reason") != OUTSIDE]
    trained = [t for t in trials if t.user_attrs.get("reason") != OVER_LIMIT]
    counts = {name: sum(t.state == state for t in trained) for name, state in
              (("complete", TrialState.COMPLETE), ("pruned", TrialState.PRUNED), ("failed", TrialState.FAIL))}
    directions = [d.name.lower() for d in study.directions]
    best = best_trial(study)
    later = {key: study.user_attrs[key] for key in ("confirm", "test") if key in study.user_attrs}
    return {**facts, **later, "direction": directions[0] if len(directions) == 1 else directions,
            "trials": {**counts, "over_rate_limit": len(trials) - len(trained)},
            "best": entry(best), "default": entry(trials[0]) if trials else None,
            "quantizers": best_of_each(study)}


def best_of_each(study: Study) -> dict[str, dict[str, Any]]:
    """Return {type of quantizer: its best trial}, best first; one that none completed is judged by its last report."""
    judged = [t for t in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED])
              if t.user_attrs.get("metrics")]
    found: dict[str, dict[str, Any]] = {}
    for trial in sorted(judged, key=lambda t: _order(study, t)):
        kind, shown = _kind(trial.user_attrs.get("config", trial.params)), entry(trial)
        found.setdefault(kind, {**{key: shown[key] for key in ("number", "value", "epoch", "state", "reason")},
                                **{key: shown["metrics"].get(f"val/{key}") for key in COMPARED}})
    return found


def _kind(config: Mapping[str, Any]) -> str:
    """Return the type of quantizer, of a family without any its name."""
    family = config.get("model.family", "vqvae")
    return config.get("quantizer.type", "") if family == "vqvae" else family


def entry(trial: FrozenTrial | None) -> dict[str, Any] | None:
    """Return a trial as summary.json shows it."""
    if trial is None:
        return None
    a = trial.user_attrs
    value = (trial.values[0] if trial.values else None) if trial.state == TrialState.COMPLETE else _last(trial)
    return {"number": trial.number, "value": value, "epoch": a.get("best_epoch"), "params": trial.params,
            "metrics": a.get("metrics", {}), "state": trial.state.name.lower(),
            "reason": a.get("reason", a.get("ended_by", ""))}


def _last(trial: FrozenTrial) -> float | None:
    """The last report of a trial is its running best."""
    return trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None


def _order(study: Study, trial: FrozenTrial) -> tuple:
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    value = trial.values[0] if trial.values else _last(trial)
    sign = 1.0 if study.directions[0] == StudyDirection.MINIMIZE else -1.0
    return states.index(trial.state), sign * value if value is not None else float("inf"), trial.number
