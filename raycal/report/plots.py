"""The interactive figures of the report page: pure functions of a run, None where there is nothing to draw.

Colours are names of the style sheet, such as var(--winner): the page puts in those of its light or dark scheme. What a
colour tells, a marker or a dash tells too.
"""
from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import FrozenTrial

from raycal.report.classical import NMSE, RATE, codes, short
from raycal.report.record import Run, course, metric_of, number
from raycal.search.study import first_rung

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

WINNER, DEFAULT, TRIAL, FAINT, INK = (f"var(--{name})" for name in ("winner", "default", "trial", "faint", "ink"))
CODE_STYLES = (("var(--code-1)", "solid", "square"), ("var(--code-2)", "dash", "triangle-up"),
               ("var(--code-3)", "dashdot", "triangle-down"), ("var(--code-4)", "dot", "cross"))
PARTS = {"train": ("var(--part-1)", ""), "validation": ("var(--part-2)", "/"), "test": ("var(--part-3)", "x")}
CURVES, SESSIONS = 60, 24  # drawn at most
AGREEING = 5  # complete trials that a rank correlation takes at least


def figure(x: str, y: str, height: int = 340, **layout: Any) -> Figure:
    """Return an empty figure with its axes' titles."""
    import plotly.graph_objects as go

    axes = dict(zeroline=False, showline=True, ticks="outside", ticklen=4, automargin=True)
    return go.Figure(layout=dict(
        template="none", height=height, margin=dict(l=8, r=8, t=8, b=8), paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)", hovermode="closest", xaxis=dict(title=dict(text=x or None), **axes),
        yaxis=dict(title=dict(text=y or None), **axes),
        legend=dict(orientation="h", x=0, xanchor="left", y=1.03, yanchor="bottom"), **layout))


def anytime(run: Run) -> Figure | None:
    """Draw the best value so far against the training time of all trials, stopped ones included."""
    done = [s for s in run.steps if s.trial in run.complete]
    if not done:
        return None
    drawn = figure("training time of all trials so far (s)", run.label)
    drawn.add_scatter(x=[s.seconds for s in done], y=[s.trial.values[0] for s in done], name="a complete trial",
                      mode="markers", marker=dict(color=TRIAL, size=7, opacity=0.7),
                      text=[_named(s.trial) for s in done], hovertemplate="%{text}<br>%{y:.4f}<extra></extra>")
    ends = [*done, run.steps[-1]]
    drawn.add_scatter(x=[s.seconds for s in ends], y=[s.best for s in ends], name="best so far", mode="lines",
                      line=dict(color=WINNER, width=2.5, shape="hv"), hovertemplate="best %{y:.4f}<extra></extra>")
    if run.default is not None:
        drawn.add_scatter(x=[ends[0].seconds, ends[-1].seconds], y=[run.default.values[0]] * 2, name="default",
                          mode="lines", line=dict(color=DEFAULT, width=1.5, dash="dash"),
                          hovertemplate="default %{y:.4f}<extra></extra>")
    return clipped(drawn, run, [t.values[0] for t in run.complete])


def clipped(drawn: Figure, run: Run, values: Sequence[float]) -> Figure:
    """Show where the search is decided: the worst values may lie beyond the axis, the default's (the first) not."""
    good = sorted(run.sign * v for v in values)
    reach = max(good[math.ceil(0.75 * (len(good) - 1))], run.sign * values[0])
    pad = 0.08 * max(reach - good[0], 1e-3 * abs(reach))
    low, high = sorted((run.sign * (good[0] - pad), run.sign * (reach + 2 * pad)))
    drawn.update_yaxes(range=[low, high])
    return drawn


def beyond(run: Run, drawn: Figure) -> int:
    """Return how many complete trials lie beyond the axis."""
    low, high = drawn.layout.yaxis.range
    return sum(not low <= t.values[0] <= high for t in run.complete)


def rate_distortion(run: Run) -> Figure | None:
    """Draw NMSE against measured bits/s: complete trials, their front, and the curves of the classical codes."""
    points = [(metric_of(t, RATE), metric_of(t, NMSE), t) for t in run.complete]
    points = [p for p in points if p[0] > 0 and math.isfinite(p[1])]
    if not points:
        return None
    drawn = figure("bits/s of recording, measured", "NMSE on validation blocks", height=400)
    rates = [p[0] for p in points]
    _classical(drawn, run, min(rates) / 2, max(rates) * 2)
    front = lower_front([p[:2] for p in points])
    drawn.add_scatter(x=[p[0] for p in front], y=[p[1] for p in front], name="front of the trials", mode="lines",
                      line=dict(color=WINNER, width=2, shape="hv"), hoverinfo="skip")
    drawn.add_scatter(x=rates, y=[p[1] for p in points], name="a complete trial", mode="markers",
                      marker=dict(color=TRIAL, size=8, opacity=0.8), text=[_described(p[2]) for p in points],
                      hovertemplate="%{text}<br>%{x:.4g} bits/s, NMSE %{y:.4f}<extra></extra>")
    marked(drawn, run, lambda t: (metric_of(t, RATE), metric_of(t, NMSE)))
    logarithmic(drawn)
    top = max(sorted(p[1] for p in points)[math.ceil(0.9 * (len(points) - 1))], front[0][1]) * 1.08
    return drawn.update_yaxes(range=[0, top])


def logarithmic(drawn: Figure) -> Figure:
    """Make the x axis logarithmic where its values span enough, with ticks that can be read."""
    shown = [x for trace in drawn.data for x in trace.x]
    span = max(shown) / min(shown)
    digits = (1,) if span > 100 else (1, 2, 5)
    if span > 3:
        drawn.update_xaxes(type="log", tickvals=[d * 10.0**k for k in range(-12, 13) for d in digits], tickformat="~g")
    return drawn


def _classical(drawn: Figure, run: Run, low: float, high: float) -> None:
    known = [c for c in codes(run.summary.get("baselines", {})) if math.isfinite(c.nmse)]
    named = list(dict.fromkeys(c.name for c in known if low <= c.rate <= high))
    for name, (color, dash, marker) in zip(named, CODE_STYLES):
        mine = sorted((c.rate, c.nmse) for c in known if c.name == name and low <= c.rate <= high)
        drawn.add_scatter(x=[m[0] for m in mine], y=[m[1] for m in mine], name=name, mode="lines+markers",
                          line=dict(color=color, width=1.5, dash=dash), marker=dict(symbol=marker, size=7, color=color),
                          hovertemplate=name + "<br>%{x:.4g} bits/s, NMSE %{y:.4f}<extra></extra>")


def lower_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other one has both a lower rate and a lower NMSE than, by rate."""
    front: list[tuple[float, float]] = []
    for rate, nmse in sorted(points):
        if not front or nmse < front[-1][1]:
            front.append((rate, nmse))
    return front


def marked(drawn: Figure, run: Run, at: Callable[[FrozenTrial], tuple[Any, float] | None]) -> None:
    """Put the default and the winner on top, told apart by their markers; at: where a trial lies, None: nowhere."""
    for name, trial, color, symbol in (("default", run.default, DEFAULT, "diamond"),
                                       ("winner", run.winner, WINNER, "star")):
        place = at(trial) if trial is not None else None
        if place is not None:
            x, y = place
            drawn.add_scatter(x=[x], y=[y], name=name, mode="markers", text=[_named(trial)],
                              marker=dict(color=color, size=14, symbol=symbol, line=dict(color="var(--card)", width=1)),
                              hovertemplate="%{text}, " + name + "<br>%{y:.4f}<extra></extra>")


def learning_curves(run: Run) -> Figure | None:
    """Draw the objective of every epoch: complete trials, those that were stopped, default and winner."""
    if not any(course(t) for t in run.trials):
        return None
    drawn = figure("epoch", run.label)
    stopped = [t for t in run.ended_early if course(t)][-CURVES:]
    others = sorted((t for t in run.complete if t not in (run.winner, run.default)), key=_value(run))[:CURVES]
    _lines(drawn, stopped, "stopped early", dict(color=FAINT, width=1, dash="dot"))
    _lines(drawn, others, "complete", dict(color="var(--thread)", width=1))
    _lines(drawn, [run.default] * (run.default is not None), "default", dict(color=DEFAULT, width=2.5, dash="dash"))
    _lines(drawn, [run.winner] * (run.winner is not None), "winner", dict(color=WINNER, width=2.5))
    for trial, color in ((run.default, DEFAULT), (run.winner, WINNER)):
        if trial is not None:
            drawn.add_scatter(x=[trial.user_attrs["best_epoch"]], y=[trial.values[0]], mode="markers", showlegend=False,
                              marker=dict(color=color, size=9),
                              hovertemplate="best epoch %{x}<br>%{y:.4f}<extra></extra>")
    return _early(drawn, run)


def _early(drawn: Figure, run: Run) -> Figure:
    """Let the axis of learning curves reach from the best value to where half of the trials stood at the first look."""
    looked = sorted(run.sign * c[min(len(c), max(1, len(c) // 9)) - 1][1] for c in map(course, run.trials) if c)
    best = min((run.sign * v for t in run.trials for _, v in course(t) if math.isfinite(v)), default=math.nan)
    reach = looked[len(looked) // 2] if looked else math.nan
    if math.isfinite(best) and math.isfinite(reach) and reach > best:
        drawn.update_yaxes(range=sorted((run.sign * (best - 0.05 * (reach - best)), run.sign * reach)))
    return drawn


def _lines(drawn: Figure, trials: Sequence[FrozenTrial], name: str, line: dict[str, Any]) -> None:
    """Draw many trials as one trace, with a hole between two of them."""
    points = [(epoch, value, _named(t)) for t in trials for epoch, value in [*course(t), (None, None)]]
    if points:
        x, y, text = zip(*points)
        drawn.add_scatter(x=x, y=y, text=text, mode="lines", name=name, line=line, connectgaps=False,
                          hovertemplate="%{text}, epoch %{x}<br>%{y:.4f}<extra></extra>")


def agreement(run: Run) -> list[tuple[int, float]]:
    """Return (epoch, Spearman's rho) of the best value until that epoch with the final one, over complete trials."""
    from scipy.stats import spearmanr

    courses = [(running_best(run, t), run.sign * t.values[0]) for t in run.complete if course(t)]
    if len(courses) < AGREEING:
        return []
    found = []
    for epoch in range(1, max(len(c) for c, _ in courses)):
        so_far = [c[min(epoch, len(c)) - 1] for c, _ in courses]
        if len(set(so_far)) > 1 and np.isfinite(so_far).all():
            found.append((epoch, float(spearmanr(so_far, [final for _, final in courses]).statistic)))
    return [(epoch, rho) for epoch, rho in found if math.isfinite(rho)]


def running_best(run: Run, trial: FrozenTrial) -> list[float]:
    """Return the best value until each epoch, turned so that lower is better."""
    values = [run.sign * v for _, v in sorted(course(trial))]
    return np.fmin.accumulate(values).tolist()


def rungs(run: Run) -> list[int]:
    """Return the epochs at which the search looked whether to stop a trial, short of the last."""
    config = next((t.user_attrs["config"] for t in run.trials if "config" in t.user_attrs), {})
    epochs = config.get("training.epochs", 0)
    if config.get("search.pruner") not in ("asha", "hyperband"):
        return []
    return [r for r in (first_rung(epochs) * 3**k for k in range(20)) if r < epochs]


def rank_correlation(run: Run) -> Figure | None:
    """Draw how well the order of the trials at an epoch agrees with their final order."""
    found = agreement(run)
    if not found:
        return None
    drawn = figure("epoch", "Spearman's rho", height=280)
    drawn.add_scatter(x=[e for e, _ in found], y=[r for _, r in found], mode="lines", name="every epoch",
                      line=dict(color=TRIAL, width=2), hovertemplate="epoch %{x}<br>rho %{y:.3f}<extra></extra>")
    looked = [(e, r) for e, r in found if e in rungs(run)]
    if looked:
        drawn.add_scatter(x=[e for e, _ in looked], y=[r for _, r in looked], mode="markers",
                          name="a rung: trials stop here", marker=dict(color=WINNER, size=12, symbol="diamond"),
                          hovertemplate="rung at epoch %{x}<br>rho %{y:.3f}<extra></extra>")
    return drawn.update_yaxes(range=[min(0.0, *(r for _, r in found)) - 0.05, 1.05])


def overtuning(run: Run) -> Figure | None:
    """Draw search value and confirmed interval of every confirmed trial, in the order of the search."""
    if not run.confirm:
        return None
    table = sorted((int(n), t) for n, t in run.confirm["trials"].items())
    names = [f"trial {n}" + (" (default)" if n == 0 else "") for n, _ in table]
    mean, low, high = ([number(t[key]) for _, t in table] for key in ("mean", "low", "high"))
    drawn = figure("", run.label, height=320)
    drawn.add_scatter(x=names, y=mean, mode="markers", name="confirmed on fresh seeds, 95 %",
                      marker=dict(color=WINNER, size=10), hovertemplate="%{x}<br>%{y:.4f}<extra></extra>",
                      error_y=dict(type="data", array=[h - m for h, m in zip(high, mean)],
                                   arrayminus=[m - x for m, x in zip(mean, low)], color=WINNER, thickness=2))
    drawn.add_scatter(x=names, y=[number(t["search_value"]) for _, t in table], mode="markers", name="search said",
                      marker=dict(color=DEFAULT, size=10, symbol="diamond-open", line=dict(width=2)),
                      hovertemplate="%{x}<br>search %{y:.4f}<extra></extra>")
    return drawn


def usage(counts: Sequence[np.ndarray]) -> Figure:
    """Draw how often each codebook's codes were used on the validation blocks, the most used first."""
    drawn = figure("code, the most used first", "share of code steps (%)", height=300)
    for k, n in enumerate(counts):
        share = 100 * np.sort(np.asarray(n, float))[::-1] / max(1, int(np.sum(n)))
        color, dash, _ = CODE_STYLES[k % len(CODE_STYLES)]
        drawn.add_scatter(x=np.arange(1, len(share) + 1), y=share, mode="lines", name=f"codebook {k}",
                          line=dict(shape="hvh", width=1.5, color=color, dash=dash),
                          hovertemplate=f"codebook {k}<br>code %{{x}}: %{{y:.2f}} %<extra></extra>")
    return logarithmic(drawn) if max(map(len, counts)) > 64 else drawn


def split(run: Run) -> Figure | None:
    """Draw the blocks of every recording in time, as the split cut them; what is blank between them is gap."""
    drawn_of = list(run.summary.get("splits", {}).items())[:SESSIONS]
    if not drawn_of:
        return None
    minutes = max(s["frames"] / s["rate"] for _, s in drawn_of) > 600
    scale = 60.0 if minutes else 1.0
    drawn = figure(f"recorded time ({'min' if minutes else 's'})", "", 110 + 34 * len(drawn_of), barmode="overlay")
    for part, (color, shape) in PARTS.items():
        runs = [(plain_text(id), a / s["rate"] / scale, (b - a) / s["rate"] / scale)
                for id, s in drawn_of for a, b in s["pieces"][part]]
        drawn.add_bar(y=[r[0] for r in runs], base=[r[1] for r in runs], x=[r[2] for r in runs], orientation="h",
                      name=part, marker=dict(color=color, line=dict(width=0), pattern=dict(
                          shape=shape, solidity=0.2, fillmode="overlay", fgcolor="var(--card)")),
                      hovertemplate=f"{part}<br>%{{base:.1f}} to %{{x:.1f}}<extra>%{{y}}</extra>")
    return drawn.update_yaxes(autorange="reversed", type="category", ticks="")


def _value(run: Run):
    return lambda t: run.sign * t.values[0]


def _named(trial: FrozenTrial) -> str:
    return f"trial {trial.number}"


def _described(trial: FrozenTrial) -> str:
    kind = trial.user_attrs.get("config", {}).get("quantizer.type", "")
    return _named(trial) + (f" ({kind})" if kind else "")


def plain_text(text: Any) -> str:
    """Return text that plotly shows as it is: it reads tags in what it is given."""
    return html.escape(str(text), quote=False)


def said_of_agreement(run: Run) -> str:
    """Say in words what the rank correlation shows."""
    found = dict(agreement(run))
    if not found:
        return (f"A rank correlation takes at least {AGREEING} complete trials whose values differ; here are "
                f"{len(run.complete)}.")
    first = next((e for e in rungs(run) if e in found), min(found))
    where = "the first rung" if first in rungs(run) else "the first epoch"
    return (f"At {where} (epoch {first}) the order of {len(run.complete)} complete trials agrees with their final "
            f"order at rho = {short(found[first])}. Stopped trials have no final value and cannot enter.")
