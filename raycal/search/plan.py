"""What a run will do, decided before any of the cluster's time is spent: data, windows, rate, objective."""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from raycal.config import Config
from raycal.errors import UserError
from raycal.search.space import LENGTH, Space

LONGEST_CODE = 8  # frames a code may stand for: a shorter window is refused
SIMULATED = "no --sessions given: two simulated sessions; give real ones with --sessions 'recordings/*.nwb'"


@dataclass(frozen=True)
class Plan:
    """Everything that is fixed before the first trial."""

    space: Space
    config: Config
    sketches: tuple[Any, ...]  # raycal.sessions.agreement.Sketch of every recording that is used
    agreement: Any  # raycal.sessions.agreement.Agreement: what holds across them
    objectives: tuple[str, ...]  # keys of an epoch's metrics
    directions: tuple[str, ...]
    rate: Callable[[Config], float]  # nominal bits/s
    rate_limit: float
    held_out: tuple[Any, ...] = ()  # Sketch of every recording that trains nothing
    held_agreement: Any = None  # what holds across them


def simulated_sessions() -> list:
    """Return the sessions of a run that is given none: two of different size, the same at every run."""
    from raycal.sessions.simulate import simulate

    return [simulate(n_neurons=48, n_frames=4000, rate=10.0, seed=1, id="simulated-1").session,
            simulate(n_neurons=36, n_frames=4000, rate=10.0, seed=2, id="simulated-2").session]


def check_search(space: Space, config: Config) -> None:
    """Refuse an objective that is none, a space or a sampler that cannot serve, before anything is read."""
    from raycal.models import family, objectives

    objectives(config)
    space.check(np.random.default_rng(0))
    if family(config).gives == "windows" and LENGTH in space.suggested(np.random.default_rng(0)):
        raise UserError(f"--space {space.name} searches {LENGTH}: generation scores of windows of different lengths do "
                        f"not compare; leave it out of propose(), or hold it with --set {LENGTH}={config.windows.length}")
    search = config.search
    if search.sampler == "gp":
        if space.conditional(np.random.default_rng(0)):
            raise UserError(f"--sampler gp: the space {space.name} has parameters that exist only for some values of "
                            "others, which a Gaussian process would draw at random; use --sampler tpe")
        if search.pruner != "none":
            raise UserError(f"--sampler gp with --pruner {search.pruner}: it learns from complete trials only; "
                            "add --pruner none")
    if "," in search.objective and search.pruner != "none":
        raise UserError(f"--objective {search.objective} with --pruner {search.pruner}: Optuna cannot stop trials of "
                        "a Pareto search early; add --pruner none")


def make_plan(space: Space, config: Config, sketches: Sequence, say: Callable[[str], None]) -> Plan:
    """Split the sessions by their sketches, narrow the windows to what fits, fix the rate limit."""
    from raycal.checks import check_conditions
    from raycal.animals import said
    from raycal.models import bits_per_second, objectives
    from raycal.sessions.agreement import agree, held_out, some
    from raycal.sessions.split import longest_window, rate_of
    from raycal.training import first_stage

    keys, directions = zip(*objectives(config))
    rng = np.random.default_rng(config.training.seed)
    space = dataclasses.replace(space, base=config)
    shortest, longest = space.windows(rng)
    wanted = max(longest, config.windows.length)
    used = sketches[:1] if config.sessions.mode == "first_only" else sketches
    fits, tightest = min((longest_window(s, config.sessions), s.id) for s in used)
    if fits < shortest:
        shorten = f"--set windows.length={fits}, " if fits >= LONGEST_CODE else ""
        raise UserError(f"session {tightest}: too few frames; its shortest block holds {fits} frames in a row, the "
                        f"space {space.name} needs windows of {shortest}\nfix: {shorten}fewer rounds (--set "
                        f"sessions.rounds=1, now {config.sessions.rounds}) or a shorter gap (sessions.gap, now "
                        f"{config.sessions.gap:g} s)")
    if fits < wanted:
        space = dataclasses.replace(space, limits={**space.limits, LENGTH: fits})
        longest = space.windows(rng)[1]
        config = config.replace({LENGTH: min(config.windows.length, longest)})
        say(f"windows of up to {wanted} frames narrowed to {longest}: the shortest block "
            f"(session {tightest}) holds {fits}")
        space, wanted = dataclasses.replace(space, base=config), longest
    out = held_out([s.id for s in sketches], config.sessions)
    held = tuple(s for s in sketches if s.id in out)
    used = [s for s in used if s.id not in out]
    agreement = agree([*used, *held], config.sessions, wanted, log=say)
    if held:
        say(said(out))
    check_conditions(config, agreement.behavior_names)
    if config.diffusion.first_stage:
        first_stage.check(config, agreement.fingerprint)
    hz = float(np.mean([rate_of(s, config.sessions) for s in used]))
    rate = lambda c: bits_per_second(c, hz)  # noqa: E731
    limit = config.search.rate_limit or rate(config)
    _check_feasible(space, rate, limit, rng)
    return Plan(space, config, tuple(used), some(agreement, slice(len(used))), keys, directions, rate,
                0.0 if len(keys) > 1 else limit, held, some(agreement, slice(len(used), None)))


def check_decodable(plan: Plan, varying: Sequence[Sequence[str]]) -> None:
    """Refuse to judge by a behaviour that no validation frame shows changing; varying: those it does, a recording."""
    if "val/behavior_r2" not in plan.objectives or any(varying):
        return
    from raycal.models import family

    names = plan.agreement.behavior_names
    why = f"{', '.join(names)}: constant or not observed in every validation block" if names else \
        "no behaviour is in every session"
    raise UserError(f"search.objective={plan.config.search.objective!r}: there is nothing to decode ({why})\n"
                    f"fix: give recordings with behaviour, or --objective {next(iter(family(plan.config).objectives))}")


def _check_feasible(space: Space, rate: Callable[[Config], float], limit: float, rng) -> None:
    """"No configuration meets it" means: the default does not, and none of 10 000 random draws does."""
    if rate(space.base) <= limit + 1e-9:
        return
    rates = []
    for _ in range(10_000):
        rates.append(rate(space.draw(rng)[1]))
        if rates[-1] <= limit:
            return
    raise UserError(f"search.rate_limit={limit:g} bits/s: nothing meets it; of 10 000 random configurations the least "
                    f"takes {min(rates):.3g}, the default {rate(space.base):.3g}\nfix: raise it, or leave it out "
                    "(then the limit is the default's rate)")


def enqueue(study: optuna.Study, plan: Plan, say: Callable[[str], None]) -> None:
    """Put the default first, then the space's own first points, then the best of the run to start warm from."""
    study.enqueue_trial(plan.space.default(), skip_if_exists=True)
    points = [dict(p) for p in plan.space.first]
    if plan.config.search.warm_start:
        points += _warm(plan, say)
    known = plan.space.distributions(np.random.default_rng(0))
    for point in points:
        study.enqueue_trial({k: v for k, v in point.items() if k in known and _inside(known[k], v)},
                            skip_if_exists=True)


def _warm(plan: Plan, say: Callable[[str], None], top: int = 5) -> list[dict[str, Any]]:
    """Return the parameters of another run's best trials; they are tried here, their values are not believed."""
    from raycal.search.study import read_study

    path = plan.config.search.warm_start
    study = read_study(path)
    sign = 1.0 if study.directions[0] == optuna.study.StudyDirection.MINIMIZE else -1.0
    complete = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    best = sorted(complete, key=lambda t: sign * t.values[0])[:top]
    say(f"warm start: the {len(best)} best configurations of {path} are tried first")
    return [t.params for t in best]


def _inside(distribution: optuna.distributions.BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (TypeError, ValueError):
        return False
