"""Pictures of what a model says in codes: its latents in the plane, and which code stands where in time.

Shapes: n points drawn, C codebooks, K behaviours.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raycal.metrics import codebook
from raycal.metrics.embedding import Plane, embed
from raycal.report.figures import FAINT, INK, tidy

if TYPE_CHECKING:
    from raycal.inference import Trained
    from raycal.training.codes import Steps

MAX_POINTS = 3000
MAX_BEHAVIORS, MAX_CODEBOOKS = 6, 8  # what a page holds
MAX_BARS = 64  # of a histogram of codes
SESSION_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000", "#f0e442")


class Portrait(NamedTuple):
    """What the pictures of a part show; small whatever the recordings' size."""

    plane: Plane  # of n latents, `others` are the vectors they were quantized to
    behavior: np.ndarray  # (n, K)
    behavior_names: tuple[str, ...]  # (K,), with units
    seconds: np.ndarray  # (n,)
    session: np.ndarray  # (n,)
    sessions: tuple[str, ...]  # ids
    n_steps: int  # of the part, of which n are drawn
    ranks: np.ndarray  # (n, C) places of the codes on the axis of the picture
    bars: tuple[np.ndarray, ...]  # (C,) share of all steps by place, all places of the codebook
    starts: np.ndarray  # seconds at which pieces begin
    session_starts: np.ndarray  # seconds at which sessions begin


def judged(trained: Trained, dataset, drawn: bool = True) -> tuple[dict[str, Any], Portrait | None]:
    """Return what the codes of a model cost on the validation part (`code_rates`), and where drawn its portrait."""
    from raycal.models import quantizers
    from raycal.training.codes import code_rates, steps

    sizes, held_out = quantizers.codebook_sizes(trained.config.quantizer), None
    if sizes or drawn:
        held_out = steps(trained.model, dataset, trained.config, "validation")
    if sizes:
        lengths = code_rates(steps(trained.model, dataset, trained.config, "train"), held_out, dataset, trained.config)
    else:  # what was measured is a code length already
        lengths = {"independent_bits_per_second": trained.metrics["val/bits_per_second"], "codebooks": []}
    return lengths, portrait(held_out, sizes, dataset) if drawn else None


def portrait(steps: Steps, sizes: Sequence[int], dataset) -> Portrait:
    """Return what is to be drawn of a part's steps, at most MAX_POINTS of them, the same at every call."""
    n = len(steps.indices)
    drawn = np.sort(np.random.default_rng(0).permutation(n)[:MAX_POINTS])
    plane = embed(steps.latents[drawn], np.unique(steps.quantized[drawn[:len(drawn) * bool(sizes)]], axis=0))
    laid = [_places(column, size, steps.latents) for column, size in zip(steps.indices.T, sizes)]
    ranks = np.stack([place for place, _ in laid], axis=1)[drawn] if laid else np.empty((len(drawn), 0), np.int64)
    names = tuple(f"{name} ({unit})" if unit else name
                  for name, unit in zip(dataset.behavior_names, dataset.behavior_units))
    return Portrait(plane, steps.behavior[drawn], names, steps.seconds[drawn], steps.session[drawn],
                    tuple(r.id for r in dataset.recordings), n, ranks, tuple(shares for _, shares in laid),
                    steps.seconds[_firsts(steps.piece)], steps.seconds[_firsts(steps.session)])


def _firsts(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_index=True)[1]


def _places(indices: np.ndarray, size: int, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each step's place (S,) and the share of the steps at every place (size,).

    Numbers of codes mean nothing: they are laid out along the leading axis of the latents that they stood for, and
    those that never occurred after all others.
    """
    counts = codebook.count(indices, size)
    centred = latents - latents.mean(0)
    leading = centred @ np.linalg.eigh(centred.T @ centred)[1][:, -1]
    mean = np.bincount(indices, leading, size) / np.maximum(counts, 1)
    order = np.lexsort((mean, counts == 0))
    place = np.empty(size, np.int64)
    place[order] = np.arange(size)
    return place[indices], counts[order] / len(indices)


def draw(p: Portrait) -> dict[str, Any]:
    """Return the matplotlib Figures of a part by name; without codebooks there are no codes to show in time."""
    return {"latents": draw_latents(p), **({"codes": draw_usage(p)} if p.bars else {})}


def draw_latents(p: Portrait):
    """Return a matplotlib Figure: principal axes over t-SNE, a column a behaviour, or time where there is none."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = shown_behaviors(p)
    with rc_context({"text.parse_math": False}):
        width = 2.9 * max(len(columns), 1.3) + 0.9  # of one column the title is wider
        figure = Figure(figsize=(width, 6.4), dpi=110, layout="constrained", facecolor="white")
        axes = figure.subplots(2, len(columns), squeeze=False)
        for (name, values), (above, below) in zip(columns, axes.T):
            ring = float(np.clip(8000 / max(len(p.plane.others), 1), 8, 26))
            above.scatter(*p.plane.others.T, s=ring, facecolors="none", edgecolors=FAINT, linewidths=0.5, zorder=1)
            points = [_scatter(axis, xy, values) for axis, xy in ((above, p.plane.pca), (below, p.plane.tsne))]
            above.set_title(name, fontsize=9, color=INK, loc="left")
            if name == "session":
                _name_sessions(below, p)
            else:
                figure.colorbar(points[1], ax=below, orientation="horizontal", pad=0.02, aspect=30
                                ).ax.tick_params(labelsize=7, colors=INK)
        for axis, (x, y) in zip(axes[:, 0], _axis_names(p)):
            axis.set_xlabel(x, fontsize=8, color=INK)
            axis.set_ylabel(y, fontsize=8, color=INK)
        rings = "\nrings: the vectors they are quantized to" if len(p.plane.others) else ""
        figure.suptitle(_title("Latents of the validation blocks", p) + rings,
                        fontsize=10, color=INK, x=0.01, ha="left")
    return figure


def shown_behaviors(p: Any) -> list[tuple[str, np.ndarray]]:
    """Return (name, values (n,)) of every column of a Portrait or Course; what was never observed is left out."""
    observed = ~np.isnan(p.behavior).all(axis=0)
    shown = [(name, p.behavior[:, k]) for k, name in enumerate(p.behavior_names) if observed[k]]
    columns = shown[:MAX_BEHAVIORS] or [("time (s)", p.seconds)]
    return columns + [("session", p.session)] * (len(p.sessions) > 1)


def _scatter(axis, xy: np.ndarray, values: np.ndarray):
    """Draw points coloured by their values; those without one are grey, and below."""
    known = ~np.isnan(values.astype(float))
    size = _size(len(xy))
    axis.scatter(*xy[~known].T, s=size, color=FAINT, alpha=0.4, linewidths=0, zorder=2)
    if np.issubdtype(values.dtype, np.integer):
        style = {"color": [SESSION_COLORS[v % len(SESSION_COLORS)] for v in values]}
    else:
        low, high = np.percentile(values[known], (1, 99))
        style = {"c": values[known], "cmap": "viridis", "vmin": low, "vmax": high if high > low else low + 1.0}
    axis.set_xticks([])
    axis.set_yticks([])
    tidy(axis)
    return axis.scatter(*xy[known].T, s=size, linewidths=0, alpha=0.85, zorder=3, **style)


def _name_sessions(axis, p: Portrait) -> None:
    for s, id in enumerate(p.sessions[:len(SESSION_COLORS)]):
        axis.scatter([], [], s=14, color=SESSION_COLORS[s], label=short(id))
    axis.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.02))


def short(id: str) -> str:
    """Return an id of at most 28 characters: those of one lab differ at their ends."""
    return id if len(id) <= 28 else f"{id[:8]}...{id[-17:]}"


def _axis_names(p: Portrait) -> tuple[tuple[str, str], tuple[str, str]]:
    first, second = (f"principal axis {k} ({100 * share:.0f} %)" for k, share in enumerate(p.plane.explained, 1))
    return (first, second), ("t-SNE 1", "t-SNE 2")


def _title(text: str, p: Portrait) -> str:
    drawn = f"{len(p.seconds)} of {p.n_steps}" if len(p.seconds) < p.n_steps else f"all {p.n_steps}"
    return f"{text} ({drawn} code steps)"


def draw_usage(p: Portrait):
    """Return a matplotlib Figure: a row a codebook, which code stands where in time, and how often each occurs."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    shown = min(len(p.bars), MAX_CODEBOOKS)
    with rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(11, 1.0 + max(1.5, 2.6 - 0.2 * shown) * shown), dpi=110, layout="constrained",
                        facecolor="white")
        axes = figure.subplots(shown, 2, sharex="col", sharey="row", squeeze=False,
                               gridspec_kw={"width_ratios": (6, 1)})
        for c, (time, bars) in enumerate(axes):
            _draw_in_time(time, p, c)
            _draw_bars(bars, p.bars[c])
            time.set_ylabel(f"codebook {c}", fontsize=8, color=INK)
            time.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        for axis, label in zip(axes[-1], ("time of the validation blocks, joined (s); lines: where one ends",
                                          "share of steps (%)")):
            axis.set_xlabel(label, fontsize=8, color=INK)
        more = f", the first {shown} of {len(p.bars)} codebooks" if shown < len(p.bars) else ""
        figure.suptitle(_title(f"Codes that occur, in time, laid out along the latents' leading axis{more}", p),
                        fontsize=10, color=INK, x=0.01, ha="left")
    return figure


def _draw_in_time(axis, p: Portrait, c: int) -> None:
    axis.scatter(p.seconds, p.ranks[:, c], s=_size(len(p.seconds)) / 2, color=SESSION_COLORS[0], linewidths=0)
    for at in np.setdiff1d(p.starts, p.session_starts):
        axis.axvline(at, color=FAINT, linewidth=0.7, linestyle=(0, (4, 3)))
    for s, at in enumerate(p.session_starts):
        axis.axvline(at, color=INK, linewidth=0.9)
        if c == 0 and len(p.sessions) > 1:
            axis.annotate(f" {p.sessions[s]}", (at, 1), xycoords=("data", "axes fraction"), va="bottom", fontsize=7,
                          color=INK)
    axis.margins(x=0.005)
    tidy(axis)


def _draw_bars(axis, shares: np.ndarray) -> None:
    used = max(int((shares > 0).sum()), 1)
    edges = np.unique(np.linspace(0, used, min(MAX_BARS, used) + 1).astype(int))
    heights = 100 * np.add.reduceat(shares[:used], edges[:-1])
    axis.barh(edges[:-1] - 0.5, heights, np.diff(edges), align="edge", color=SESSION_COLORS[0], linewidth=0)
    axis.set_title(f"{used} of {len(shares)} used", fontsize=8, color=INK, loc="left")
    axis.set_ylim(-0.5, used - 0.5)
    tidy(axis)


def _size(n: int) -> float:
    """Return the area of a point among n, in square points."""
    return float(np.clip(2500 / max(n, 1), 3, 14))
