"""What the parameters of a search did: importance, parallel coordinates, slices.

They need many trials that can be compared: those that ran to their end, by their value; where early stopping left few
of these, all that reached the first rung, by their best value until then. Never the one beside the other.
"""
from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from raycal.report.plots import (DEFAULT, FAINT, TRIAL, WINNER, clipped, figure, logarithmic, marked, plain_text, rungs,
                                 running_best)
from raycal.report.record import Run, course

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

ENOUGH = 20  # trials: of fewer, the top 5 that importance compares with the rest are no top
TOP = 5  # trials that PED-ANOVA's authors want above the quantile at least
BANDS = 5  # of equal rank, each a colour of the parallel coordinates
AXES = 10  # of the parallel coordinates at most
ABSENT = -0.12  # where a parallel coordinate puts trials that lack the parameter


class Basis(NamedTuple):
    """Trials that can be compared, and the value by which."""

    trials: list[FrozenTrial]
    values: Mapping[int, float]  # by number of the trial
    words: str

    def value(self, trial: FrozenTrial) -> float:
        return self.values[trial.number]

    def ranked(self, run: Run) -> list[FrozenTrial]:
        return sorted(self.trials, key=lambda t: (run.sign * self.value(t), t.number))


def basis(run: Run) -> Basis:
    """Return the complete trials by value or, where these are few and more reached it, all by the first rung."""
    final = Basis(run.complete, {t.number: t.values[0] for t in run.complete},
                  f"{len(run.complete)} complete trials by their value")
    if len(run.complete) >= ENOUGH or not rungs(run):
        return final
    rung = rungs(run)[0]
    reached = [t for t in [*run.complete, *run.ended_early] if len(course(t)) >= rung]
    values = {t.number: run.sign * running_best(run, t)[rung - 1] for t in reached}
    reached = [t for t in reached if math.isfinite(values[t.number])]
    if len(reached) < 2 * len(run.complete):
        return final
    return Basis(reached, values, f"only {len(run.complete)} trials ran to their end, so all {len(reached)} that "
                 f"reached the first rung are compared there, by their best value until epoch {rung}")


class Importance(NamedTuple):
    parameter: str
    share: float
    trials: int  # that have the parameter


@functools.lru_cache(maxsize=4)  # four places of a page ask
def importances(run: Run) -> list[Importance]:
    """Return the parameters by importance: how much of reaching the top trials depends on each, by PED-ANOVA.

    A parameter that only some trials have is judged among these (conditional PED-ANOVA, arXiv 2601.20800).
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    compared = basis(run)
    if len(compared.trials) < ENOUGH:
        return []
    study = _unannounced()
    study.add_trials([optuna.trial.create_trial(params=t.params, distributions=t.distributions,
                                                value=run.sign * compared.value(t)) for t in compared.trials])
    quantile = max(0.1, TOP / len(compared.trials))
    with warnings.catch_warnings(action="ignore"):  # that few trials have a parameter: `trials` says how many
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=quantile))
    having = {p: sum(p in t.params for t in compared.trials) for p in found}
    return [Importance(p, share, having[p]) for p, share in sorted(found.items(), key=lambda item: -item[1])]


def _unannounced() -> optuna.Study:
    """Return an empty study in memory, without Optuna's line about it."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study()
    finally:
        optuna.logging.set_verbosity(level)


def importance(run: Run) -> Figure | None:
    """Draw the importances, the largest on top."""
    found = importances(run)
    if not found:
        return None
    drawn = figure("importance", "", height=70 + 26 * len(found))
    n = len(basis(run).trials)
    names = [i.parameter + ("" if i.trials == n else f" ({i.trials} of {n})") for i in found]
    drawn.add_bar(x=[i.share for i in found], y=names, orientation="h", marker=dict(color=TRIAL),
                  hovertemplate="%{y}<br>%{x:.3f}<extra></extra>", showlegend=False)
    return drawn.update_yaxes(autorange="reversed", ticks="")


def varied(run: Run) -> list[str]:
    """Return the parameters that the compared trials differ in, the most important first."""
    order = {i.parameter: -i.share for i in importances(run)}
    having: dict[str, set[Any]] = {}
    for t in basis(run).trials:
        for name, value in t.params.items():
            having.setdefault(name, set()).add(value)
    return sorted((p for p, values in having.items() if len(values) > 1), key=lambda p: (order.get(p, 0.0), p))


def slices(run: Run) -> list[tuple[str, Figure]]:
    """Return a figure a parameter: the values of the compared trials that have it against its own."""
    compared = basis(run)
    return [(name, _slice(run, compared, name)) for name in varied(run)]


def _slice(run: Run, compared: Basis, name: str) -> Figure:
    having = [t for t in compared.trials if name in t.params]
    distribution = having[0].distributions[name]
    chosen = hasattr(distribution, "choices")
    place = (lambda t: plain_text(t.params[name])) if chosen else (lambda t: t.params[name])
    drawn = figure("", "", height=230, showlegend=False)
    drawn.add_scatter(x=[place(t) for t in having], y=[compared.value(t) for t in having], mode="markers",
                      marker=dict(color=TRIAL, size=7, opacity=0.75), text=[f"trial {t.number}" for t in having],
                      hovertemplate="%{text}<br>%{x}: %{y:.4f}<extra></extra>")
    marked(drawn, run, lambda t: (place(t), compared.value(t)) if t in having else None)
    clipped(drawn, run, list(compared.values.values()))
    if chosen:
        order = [plain_text(c) for c in distribution.choices]
        return drawn.update_xaxes(type="category", categoryorder="array", categoryarray=order)
    return logarithmic(drawn) if distribution.log else drawn.update_xaxes(nticks=5)


def parallel(run: Run) -> Figure | None:
    """Draw every compared trial as a line over its parameters' axes, in bands of rank, the best on top.

    Optuna's own picture leaves out every trial that lacks one of the parameters, and needs WebGL; here a trial that
    lacks a parameter passes below its axis.
    """
    compared, names = basis(run), varied(run)[:AXES]
    if len(compared.trials) < 2 or len(names) < 2:
        return None
    axes = [_Axis.of(compared.trials, name) for name in names]
    drawn = figure("", "", height=440, showlegend=True)
    ranked = compared.ranked(run)
    ends = np.rint(np.linspace(0, len(ranked), BANDS + 1)).astype(int).tolist()
    for k, (a, b) in reversed(list(enumerate(zip(ends, ends[1:])))):
        name = f"ranks {a + 1} to {b}" if b > a + 1 else f"rank {b}"
        _band(drawn, compared, ranked[a:b], axes, f"var(--band-{k + 1})", name, 2.4 if k == 0 else 1.2)
    if run.default is not None and run.default in compared.trials:
        _band(drawn, compared, [run.default], axes, DEFAULT, "default", 3, dash="dash")
    _draw_axes(drawn, axes)
    return drawn


class _Axis(NamedTuple):
    """One parameter as an axis from 0 to 1."""

    name: str
    ticks: list[tuple[float, str]]
    log: bool
    low: float
    high: float
    choices: list[str]

    @classmethod
    def of(cls, trials: Sequence[FrozenTrial], name: str) -> _Axis:
        having = [t for t in trials if name in t.params]
        distribution = having[0].distributions[name]
        if hasattr(distribution, "choices"):
            choices = [str(c) for c in distribution.choices]
            places = np.linspace(0, 1, len(choices)).tolist()
            return cls(name, list(zip(places, map(plain_text, choices))), False, 0, 1, choices)
        log = distribution.log
        values = [t.params[name] for t in having]
        low, high = min(values), max(values)
        middle = math.sqrt(low * high) if log else (low + high) / 2
        ticks = [(0.0, f"{low:.3g}"), (0.5, f"{middle:.3g}"), (1.0, f"{high:.3g}")]
        return cls(name, ticks, log, low, high, [])

    def at(self, trial: FrozenTrial) -> float:
        if self.name not in trial.params:
            return ABSENT
        value = trial.params[self.name]
        if self.choices:
            return self.choices.index(str(value)) / max(1, len(self.choices) - 1)
        if self.low == self.high:
            return 0.5
        scale = math.log if self.log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))


def _band(drawn: Figure, compared: Basis, trials: Sequence[FrozenTrial], axes: Sequence[_Axis], color: str, name: str,
          width: float, **line: Any) -> None:
    x, y, text = [], [], []
    for t in trials:
        shown = f"trial {t.number}: {compared.value(t):.4f}"
        x += [*range(len(axes)), None]
        y += [*(axis.at(t) for axis in axes), None]
        text += [*(f"{shown}<br>{axis.name} {plain_text(t.params.get(axis.name, 'absent'))}" for axis in axes), ""]
    if trials:
        drawn.add_scatter(x=x, y=y, text=text, mode="lines+markers", name=name, marker=dict(size=4, color=color),
                          line=dict(color=color, width=width, **line), hovertemplate="%{text}<extra></extra>")


def _draw_axes(drawn: Figure, axes: Sequence[_Axis]) -> None:
    for k, axis in enumerate(axes):
        drawn.add_shape(type="line", x0=k, x1=k, y0=0, y1=1, line=dict(color=FAINT, width=1), layer="below")
        for height, label in axis.ticks:
            drawn.add_annotation(x=k, y=height, text=label, showarrow=False, xanchor="left", xshift=4,
                                 font=dict(size=10), bgcolor="var(--veil)")
    drawn.update_xaxes(tickvals=list(range(len(axes))), ticktext=[a.name.replace(".", ".<br>") for a in axes],
                       showgrid=False, range=[-0.5, len(axes) - 0.4], side="bottom", showline=False, ticks="")
    drawn.update_yaxes(visible=False, range=[ABSENT - 0.05, 1.05])


def pareto(run: Run) -> Figure:
    """Draw the trials of a study of two objectives and its front."""
    names = [name.strip() for name in run.summary["objective"].split(",")]
    from optuna.visualization import plot_pareto_front

    drawn = plot_pareto_front(run.study, target_names=names)
    for trace, (color, symbol) in zip(drawn.data, ((TRIAL, "circle"), (WINNER, "star"))):
        trace.update(marker=dict(color=color, symbol=symbol, size=9, colorscale=None, showscale=False,
                                 line=dict(width=0)))
    return drawn.update_layout(figure(*names).layout, title=None, overwrite=False)
