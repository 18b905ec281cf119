"""The rate-distortion picture of a run: every completed trial, the front of them, and the classical codes.

Distortion is NMSE on the validation blocks. The rate of a trial is the entropy of its codes there, that of a transform
code and of all classical codes the code length under a model fitted on train; the winner's and the default's code length
is drawn beside them.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from optuna.study import Study
from optuna.trial import TrialState

from raycal.config import Config
from raycal.report.figures import FAINT, INK, tidy

# colours of Okabe and Ito (jfly.uni-koeln.de/color), told apart with any colour vision, and by their marker without any
STYLES = {"vq": ("#e69f00", "o"), "ema": ("#0072b2", "s"), "rvq": ("#56b4e9", "^"), "grvq": ("#009e73", "D"),
          "fsq": ("#d55e00", "v"), "lfq": ("#cc79a7", "P"), "simvq": ("#f0e442", "X"),
          "transform": ("#7f3c8d", "*")}
OTHERS = (("#8c6d31", "h"), ("#5b5b5b", "<"))  # types that are not named above, in turn
CLASSICAL = {"transform code": ("#000000", "-", ""), "k-means": ("#8a8a8a", ":", "o"),
             "residual k-means": ("#8a8a8a", "--", "^"), "grouped residual k-means": ("#8a8a8a", "-.", "D")}
TOP = 1.25  # of the NMSE axis: 1 is the train mean, what lies beyond is drawn at the edge


class Point(NamedTuple):
    """A completed trial; rates in bits/s."""

    number: int
    quantizer: str
    nmse: float
    rate: float
    nominal: float


def points(study: Study, nominal: Callable[[Config], float]) -> list[Point]:
    """Return the completed trials whose figures are finite, in order; nominal: the bits/s of a configuration."""
    found = []
    for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        a = trial.user_attrs
        figures = [a.get("metrics", {}).get(key) for key in ("val/nmse", "val/bits_per_second")]
        if "config" in a and all(isinstance(x, (int, float)) for x in figures):  # not finite: kept as words
            found.append(Point(trial.number, a["config"]["quantizer.type"], *figures,
                               nominal(Config().replace(a["config"]))))
    return found


def front(found: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in rate or NMSE without being worse in the other, by rising rate."""
    best: list[Point] = []
    for point in sorted(found, key=lambda p: (p.rate, p.nmse, p.number)):
        if not best or point.nmse < best[-1].nmse:
            best.append(point)
    return best


def draw_rate_distortion(found: Sequence[Point], baselines: Mapping[str, Mapping[str, Any]],
                         marked: Mapping[str, int] | None = None,
                         lengths: Mapping[str, Mapping[str, Any]] | None = None):
    """Return a matplotlib Figure.

    baselines: as `raycal.metrics.baselines.baselines` gives them. marked: {"winner": trial, "default": trial}; lengths:
    what the codes of these cost, as `raycal.training.codes.code_rates` gives it.
    """
    from matplotlib.figure import Figure

    shown = [p for p in found if p.rate > 0]
    figure = Figure(figsize=(9.6, 5.6), dpi=120, layout="constrained", facecolor="white")
    axis = figure.subplots()
    axis.set_xscale("log")
    _draw_classical(axis, baselines)
    _draw_trials(axis, shown)
    _draw_front(axis, shown)
    _mark(axis, shown, marked or {}, lengths or {})
    _frame(axis, shown, len(found) - len(shown))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _draw_classical(axis, baselines: Mapping[str, Mapping[str, Any]]) -> None:
    for name, (color, line, marker) in CLASSICAL.items():
        curve = sorted((f["bits_per_second"], f["nmse"]) for key, f in baselines.items()
                       if key.startswith(f"{name} at ") and f["bits_per_second"] > 0)
        if curve:
            axis.plot(*zip(*curve), color=color, linestyle=line, marker=marker, markersize=4, markerfacecolor="white",
                      linewidth=1.6 if not marker else 1.0, label=name, zorder=2)
    pca = [(key, f["nmse"]) for key, f in baselines.items() if key.startswith("PCA ")]
    for (key, level), line in zip(pca, ((0, (1, 2)), (0, (6, 3)))):
        axis.axhline(level, color=FAINT, linewidth=1.0, linestyle=line, label=f"{key} (no rate)", zorder=1)


def _draw_trials(axis, found: Sequence[Point]) -> None:
    kinds = list(dict.fromkeys([*STYLES, *(p.quantizer for p in found)]))
    for kind in (k for k in kinds if any(p.quantizer == k for p in found)):
        mine = [p for p in found if p.quantizer == kind]
        color, marker = style(kind, kinds)
        for p in mine:
            if p.nominal > 1.01 * p.rate:
                axis.plot([p.rate, p.nominal], [_y(p)] * 2, color=color, linewidth=0.6, alpha=0.35, zorder=2.5)
                axis.plot(p.nominal, _y(p), "|", color=color, markersize=6, alpha=0.5, zorder=2.5)
        axis.scatter([p.rate for p in mine], [_y(p) for p in mine], s=38, marker=marker, color=color,
                     edgecolors=INK, linewidths=0.5, label=kind, zorder=4)


def style(kind: str, kinds: Sequence[str]) -> tuple[str, str]:
    """Return the colour and the marker of a type of quantizer among these."""
    return STYLES.get(kind) or OTHERS[[k for k in kinds if k not in STYLES].index(kind) % len(OTHERS)]


def _draw_front(axis, found: Sequence[Point]) -> None:
    best = front(found)
    if len(best) > 1:
        axis.plot([p.rate for p in best], [_y(p) for p in best], color="#d1495b", linewidth=1.3, zorder=3,
                  drawstyle="steps-post", label="front of the trials")


def _mark(axis, found: Sequence[Point], marked: Mapping[str, int], lengths: Mapping[str, Mapping[str, Any]]) -> None:
    """Ring the winner and the default, and draw what their codes cost an arithmetic coder."""
    by_number = {p.number: p for p in found}
    same = len(set(marked.values())) < len(marked)
    for role, number in marked.items():
        if number not in by_number or (same and role == "default"):
            continue
        p, text = by_number[number], "winner = default" if same else role
        axis.scatter(p.rate, _y(p), s=150, facecolors="none", edgecolors=INK, linewidths=1.2, zorder=5)
        axis.annotate(text, (p.rate, _y(p)), xytext=(0, -9), textcoords="offset points", ha="center", va="top",
                      fontsize=8, color=INK, zorder=6)  # below: the front, which falls, comes from above
        length = lengths.get(role, {}).get("independent_bits_per_second", 0.0)
        if length > 0:
            axis.plot([p.rate, length], [_y(p)] * 2, color=INK, linewidth=1.0, zorder=3)
            axis.plot(length, _y(p), marker="d", color=INK, markersize=5, linestyle="none", zorder=5,
                      label="code length" if role == "winner" else None)


def _frame(axis, found: Sequence[Point], silent: int) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    rates = [x for p in found for x in (p.rate, p.nominal)] or [1.0]
    low, high = axis.get_xlim()
    axis.set_xlim(max(low, min(rates) / 4), min(high, 4 * max(rates)))
    axis.set_ylim(0.0, min(max([axis.get_ylim()[1], 1.02 * max((_y(p) for p in found), default=1.0)]), TOP * 1.02))
    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 6, 8)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.minorticks_off()
    axis.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    axis.set_xlabel("bits/s of recording: of trials the entropy of their codes (tick: nominal), of classical codes the "
                    "code length", color=INK, fontsize=9)
    axis.set_ylabel("NMSE on the validation blocks", color=INK, fontsize=9)
    beyond = sum(p.nmse > TOP for p in found)
    notes = [f"{len(found)} trials"] + [f"{beyond} with NMSE over {TOP:g} at the edge"] * bool(beyond) \
        + [f"{silent} that use one code alone (0 bits/s) not shown"] * bool(silent)
    axis.set_title("Rate and distortion: " + ", ".join(notes), fontsize=10, color=INK, loc="left")
    tidy(axis)


def _y(p: Point) -> float:
    return min(p.nmse, TOP)
