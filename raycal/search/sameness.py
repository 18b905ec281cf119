"""Whether a run that is resumed is still the run it was: its recordings, its split, its space and settings.

Old and new trials of one study are compared, so what they were trained on and drawn from has to be the same. Where it
is not, the message names what changed; trials that still fit a changed space can be copied.
"""
from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from raycal.config import Config
from raycal.errors import UserError
from raycal.search.space import Space

COMPARED = ("windows.", "model.", "quantizer.", "loss.", "vae.", "kl.", "diffusion.",
            "optimizer.", "training.", "search.objective")
FREE = ("training.device", "training.workers", "training.gpus", "training.epoch_limit", "training.save_every",
        "training.shard",         "diffusion.checkpointing", "diffusion.compiled")
OUTSIDE = "of an earlier space"  # reason of a trial that a changed space does not hold


def described(space: Space, config: Config) -> dict[str, Any]:
    """Return what decides on the trials of a run: the distribution of every parameter, the value of every setting.

    A setting whose default changed while it is searched changes no trial but the first.
    """
    parameters = space.distributions(np.random.default_rng(0))
    return {"parameters": {k: optuna.distributions.distribution_to_json(d) for k, d in sorted(parameters.items())},
            "settings": {k: v for k, v in _settings(config).items() if k not in parameters}}


def check_space(study: optuna.Study, space: Space, config: Config) -> None:
    """Raise UserError naming what changed since the run began; a new study is told what it begins with."""
    now = described(space, config)
    then = study.user_attrs.get("space_of_trials") or {**now, "parameters": {**now["parameters"], **_of_trials(study)}}
    changed = _changes(then, now)
    if not changed and "space_of_trials" not in study.user_attrs:
        study.set_user_attr("space_of_trials", now)
    if changed:
        raise UserError(f"--space {space.name} is not what this run was searched in, so old and new trials could not "
                        "be compared:\n  " + "\n  ".join(changed)
                        + "\nfix: resume it with the space and settings it began with, start a new run, or add "
                        "--allow-space-change, which goes on from the trials that still fit")


def _of_trials(study: optuna.Study) -> dict[str, str]:
    """Return the distributions of a study that was begun before they were written down."""
    return {name: optuna.distributions.distribution_to_json(d) for t in study.get_trials(deepcopy=False)
            for name, d in t.distributions.items()}


def check_data(study: optuna.Study, plan: Any, folder: Any) -> None:
    """Raise UserError naming what changed when the recordings or their split are not those of the run."""
    known, now = study.user_attrs.get("data_fingerprint"), plan.agreement.fingerprint
    if known == now:
        return
    changed = _differences(study.user_attrs.get("data", {}), data_of(plan), "none")
    raise UserError(f"--resume {folder}: the sessions or their split changed (fingerprint {known} then, {now} now), so "
                    "old and new trials could not be compared" + "".join(f"\n  {line}" for line in changed)
                    + "\nfix: give the same sessions and split, or start a new run")


def data_of(plan: Any) -> dict[str, Any]:
    """Return the fingerprint of every recording and the settings that split and prepare them."""
    settings = {k: v for k, v in plan.config.flat().items() if k.startswith("sessions.")}
    return {**settings, **{f"recording {s.id}": s.fingerprint for s in plan.sketches}}


def carry_over(folder: Any, study: optuna.Study, opened: Callable[[Any], optuna.Study], space: Space,
               config: Config) -> None:
    """Write the study anew, opened(path) makes one, with the trials that fit the space as it is now.

    Numbers stay: a trial that does not fit leaves a failed one without parameters in its place. The journal as it was
    is kept beside the new one, and is replaced by one rename.
    """
    fitted = [_fitted(trial, space) for trial in study.get_trials()]
    fresh = folder.path / ".study.journal.new"
    fresh.unlink(missing_ok=True)
    copy = opened(fresh)
    for key, value in {**study.user_attrs, "space_of_trials": described(space, config)}.items():
        copy.set_user_attr(key, value)
    for trial in fitted:
        copy.add_trial(trial)
    old = next(p for n in range(1, 10_000) if not (p := folder.path / f"study-{n}.journal").exists())
    shutil.copy2(folder.journal, old)
    os.replace(fresh, folder.journal)
    for name in ("best", "pareto"):  # of the old space; written anew from the trials that are left
        shutil.rmtree(folder.path / name, ignore_errors=True)


def _fitted(trial: FrozenTrial, space: Space) -> FrozenTrial:
    """Return a trial in the space as it is now, or what takes its place.

    One that was trained fits when the space now makes of its configuration the same one: a parameter that came later
    has the value that the setting had.
    """
    if "config" not in trial.user_attrs:  # of a point to try first that was not begun
        now = space.distributions(np.random.default_rng(0))
        fixed = trial.system_attrs.get("fixed_params", {})
        if all(k in now and now[k]._contains(now[k].to_internal_repr(v)) for k, v in fixed.items()):
            return trial
        return _outside(trial)
    trained = Config().replace(trial.user_attrs["config"])
    try:
        params, distributions, proposed = space.place(trained)
    except UserError:
        return _outside(trial)
    if _settings(proposed) != _settings(trained):
        return _outside(trial)
    return _copy(trial, params=params, distributions=distributions)


def _outside(trial: FrozenTrial) -> FrozenTrial:
    if trial.number == 0:
        raise UserError("--allow-space-change: the default configuration itself is another one now, and every trial is "
                        "compared with it\nfix: start a new run; with --set search.warm_start=RUN it tries the best "
                        "configurations of this one first")
    facts = {"reason": OUTSIDE, "earlier": {"params": trial.params, **trial.user_attrs}}
    return _copy(trial, state=TrialState.FAIL, values=None, params={}, distributions={}, user_attrs=facts,
                 system_attrs={}, intermediate_values={})


def _copy(trial: FrozenTrial, **changes: Any) -> FrozenTrial:
    kept = {"state": trial.state, "values": trial.values, "params": trial.params, "distributions": trial.distributions,
            "user_attrs": trial.user_attrs, "system_attrs": trial.system_attrs,
            "intermediate_values": trial.intermediate_values}
    made = optuna.trial.create_trial(**{**kept, **changes})
    made.datetime_start = trial.datetime_start
    made.datetime_complete = trial.datetime_complete if made.state.is_finished() else None
    if made.state.is_finished():
        made.datetime_complete = made.datetime_complete or made.datetime_start
    return made


def _settings(config: Config) -> dict[str, Any]:
    return {k: v for k, v in config.flat().items() if k.startswith(COMPARED) and k not in FREE}


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    searched = then["parameters"].keys() | now["parameters"].keys()
    # a setting that came with a later raycal was at its default then
    plain = {k: v for k, v in _settings(Config()).items() if k in now["settings"]}
    settings = [{k: v for k, v in each.items() if k not in searched}
                for each in ({**plain, **then["settings"]}, now["settings"])]
    readable = [{k: _range(d) for k, d in each["parameters"].items()} for each in (then, now)]
    return [*_differences(*readable, "not searched"), *_differences(*settings, "none")]


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], none: str) -> list[str]:
    """Return a line for every name that came, went or changed."""
    lines = []
    for name in sorted(then.keys() | now.keys()):
        if name not in now:
            lines.append(f"{name}: {then[name]} then, {none} now")
        elif name not in then:
            lines.append(f"{name}: {none} then, {now[name]} now")
        elif then[name] != now[name]:
            lines.append(f"{name}: {then[name]} then, {now[name]} now")
    return lines


def _range(distribution: str) -> str:
    facts = json.loads(distribution)["attributes"]
    if "choices" in facts:
        return f"one of {', '.join(map(str, facts['choices']))}"
    return f"{facts['low']:g} to {facts['high']:g}" + " (log)" * bool(facts.get("log"))
