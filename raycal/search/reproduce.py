"""One trial trained again from its record, and what differs from what it came to then.

On a CPU with one worker a training is a function of settings, data and seed, so the same versions give the same bits. A
GPU, several workers or other versions may not: then it is said from which epoch on, and what about the machine changed.
"""
from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from typing import Any

from raycal.config import Config
from raycal.errors import UserError
from raycal.report.console import Progress
from raycal.search import connection, jobs, provenance, recordings
from raycal.search.ready import Options, reopened
from raycal.search.space import Space
from raycal.search.study import read_study


@dataclass(frozen=True)
class Comparison:
    """A trial then and now."""

    number: int
    then: dict[int, float]  # epoch -> objective
    now: dict[int, float]
    weights: bool | None  # the same bits; None: the trial's weights were not kept
    changed: dict[str, tuple[str, str]]  # of the environment: name -> then, now
    exact: bool  # the same bits are to be expected: CPU, one worker
    message: str = ""  # what ended it before its last epoch

    @property
    def same(self) -> bool:
        return not self.differing and self.weights is not False

    @property
    def differing(self) -> list[int]:
        return [e for e in sorted(self.then) if not _alike(self.then[e], self.now.get(e))]

    def lines(self) -> list[str]:
        """Return what is to be said, the verdict first."""
        if self.same:
            kept = {True: ", and so are the weights", None: "; its weights were not kept"}[self.weights]
            return [f"reproduced   trial {self.number}: the objective of all {len(self.then)} epochs is the same bit "
                    f"for bit{kept}"]
        first = self.differing[:1]
        what = f"from epoch {first[0]} on: {self.then[first[0]]!r} then, {self.now.get(first[0])!r} now" if first else \
            "in its weights alone"
        worst = max((abs(self.then[e] - self.now[e]) for e in self.differing if e in self.now), default=math.nan)
        lines = [f"differs      trial {self.number} {what}; at most {worst:.3g} at any epoch"]
        lines += [f"             {name}: {then} then, {now} now" for name, (then, now) in self.changed.items()]
        if not self.exact:
            lines.append("             a GPU, or several workers, add sums up in another order each time")
        return [*lines, self.message.rstrip()] if self.message else lines


def run(space: Space, config: Config, options: Options, number: int) -> Comparison:
    """Train a trial of the run of options.resume again; raise UserError where it was never trained."""
    if not options.verbose:
        connection.hush()
    _trained(read_study(options.resume), number)  # before Ray starts
    say = Progress.printer(options.quiet)
    with reopened(space, config, options, 1, say) as run:
        from raycal.training.loop import train

        trial = _trained(run.study, number)
        data = recordings.prepare(run.found, run.plan.config.sessions, run.plan.agreement, say=say)
        run.cluster.grow(1)
        run.cluster.hand_over(data.refs)
        then = {int(e): _number(v) for e, v in trial.user_attrs["objective_by_epoch"]}
        place = run.folder.path / "reproduced" / f"{number:04d}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        say(f"training trial {number} again for {max(then)} epochs")
        heard: dict[int, float] = {}
        payload = {"config": trial.user_attrs["config"], "folder": str(place), "trainer": train}
        (_, event), = jobs.complete(run.cluster, [(number, payload)], last=max(then),
                                    heard=lambda _, e: heard.update({e["epoch"]: e["objective"]}))
        weights = _same_weights(run.folder.trial(number) / "model.pt", place / "model.pt")
        shutil.rmtree(place.parent, ignore_errors=True)
        use_gpu, workers = run.cluster.slots.use_gpu, run.cluster.slots.workers
        return Comparison(number, then, heard, weights, _changed(run.study, number, use_gpu),
                          not use_gpu and workers == 1, event.get("message", ""))


def _changed(study, number: int, use_gpu: bool) -> dict[str, tuple[str, str]]:
    then, here = provenance.of_trial(study, number), provenance.surroundings(use_gpu)
    return {name: (str(then.get(name, "not known")), here[name]) for name in here if then.get(name) != here[name]}


def _trained(study, number: int):
    trials = study.get_trials(deepcopy=False)
    if number >= len(trials) or not trials[number].user_attrs.get("objective_by_epoch"):
        trained = [t.number for t in trials if t.user_attrs.get("objective_by_epoch")]
        reason = trials[number].user_attrs.get("reason", "it waits") if number < len(trials) else "there is none"
        raise UserError(f"--trial {number}: was not trained ({reason}); trained were "
                        f"{', '.join(map(str, trained[:20]))}{' ...' if len(trained) > 20 else ''}")
    return trials[number]


def _same_weights(then, now) -> bool | None:
    """Say whether two exports hold the same weights; None where one is missing."""
    import torch

    from raycal.training import checkpoint

    if not then.is_file() or not now.is_file():
        return None
    a, b = (checkpoint.load(path)["model"] for path in (then, now))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _alike(then: float, now: float | None) -> bool:
    return then == now or (now is not None and math.isnan(then) and math.isnan(now))


def _number(value: Any) -> float:
    return float(value)  # the journal holds NaN as a word
