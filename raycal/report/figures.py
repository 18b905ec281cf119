"""Pictures of recordings and of their reconstructions, drawn without a display.

    draw_session(session, "session.png")
"""
from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from raycal.errors import UserError
from raycal.sessions.session import Session

MAX_COLUMNS = 1600  # time bins of the heat map: about the pixels of its width
N_EXAMPLES, N_BEHAVIORS, N_STIMULI = 5, 4, 6
INK, FAINT = "#22303c", "#9aa5b1"
BEHAVIOR_COLORS = ("#d1495b", "#2e7f99", "#7a5195", "#c98a1b")  # told apart with any colour vision


def draw_session(session: Session, path: str | os.PathLike) -> None:
    """Write a picture of a recording: all traces, a few of them as curves, and the behaviours, over time.

    The suffix of path says the format (png, pdf, svg). Raise UserError when path cannot be written.
    """
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}):  # a $ in a name is a $
        figure = _figure(session)
        try:
            figure.savefig(path)
        except (OSError, ValueError) as e:  # ValueError: a suffix that matplotlib does not know
            raise UserError(f"{path}: the picture cannot be written ({e}); give a .png in a folder that you may "
                            "write to") from None


def _figure(session: Session):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_shown = min(N_BEHAVIORS, len(session.behavior_names))
    heights = [4.2, 2.6] + [0.9] * n_shown + [0.25 * len(session.stimuli[:N_STIMULI]) + 0.1] * bool(session.stimuli)
    figure = Figure(figsize=(11, sum(heights) + 1.3), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights})
    frames, scale, label = _time_axis(session)
    z = _zscored(session)
    binned = _binned(z)
    order = _by_first_component(binned)
    _draw_heat_map(figure, axes[0], binned[:, order], session.n_frames * scale)
    _draw_examples(axes[1], session, z, order, frames)
    for k in range(n_shown):
        _draw_behavior(axes[2 + k], session, k, frames)
    if session.stimuli:
        _draw_stimuli(axes[-1], session, scale)
    for axis in axes:
        _draw_borders(axis, session, scale)
    axes[-1].set_xlabel(label, color=INK)
    axes[-1].set_xlim(0, session.n_frames * scale)
    figure.suptitle(_title(session), x=0.01, ha="left", fontsize=12, color=INK, fontweight="bold")
    figure.align_ylabels(list(axes))
    return figure


def _title(session: Session) -> str:
    length = "rate not stated"
    if not math.isnan(session.rate):
        length = f"{session.rate:.4g} Hz, {session.duration / 60:.3g} min"
    return f"{session.id}   {session.n_neurons} neurons, {session.n_frames} frames, {length}" \
        + (f", {session.unit.split(' (')[0]}" if session.unit else "")


def _time_axis(session: Session) -> tuple[np.ndarray, float, str]:
    """Return every frame's place on the axis, the length of a frame there, and the axis' label."""
    if math.isnan(session.rate):
        return np.arange(session.n_frames) + 0.5, 1.0, "frame (no rate stated)"
    minutes = session.n_frames / session.rate > 600
    scale = 1.0 / session.rate / (60 if minutes else 1)
    return (np.arange(session.n_frames) + 0.5) * scale, scale, "recorded time (min)" if minutes else "recorded time (s)"


def _zscored(session: Session) -> np.ndarray:
    """Return (T, N) traces in units of each neuron's sd about its mean, NaN where not measured."""
    seen = ~np.isnan(session.traces) if session.valid is None else session.valid & ~np.isnan(session.traces)
    count = np.maximum(seen.sum(axis=0), 1)
    traces = np.where(seen, session.traces, np.float32(0))
    mean = (traces.sum(axis=0, dtype=np.float64) / count).astype(np.float32)
    centred = np.where(seen, traces - mean, np.float32(0))
    spread = np.sqrt(np.einsum("tn,tn->n", centred, centred, dtype=np.float64) / count)
    return np.where(seen, centred / np.where(spread > 0, spread, 1).astype(np.float32), np.float32(np.nan))


def _binned(z: np.ndarray) -> np.ndarray:
    """Return (bins, N): means over equal bins of frames, NaN where a bin holds none measured."""
    edges = np.linspace(0, len(z), min(len(z), MAX_COLUMNS) + 1).astype(int)[:-1]
    seen = np.add.reduceat((~np.isnan(z)).astype(np.float32), edges, axis=0)
    total = np.add.reduceat(np.where(np.isnan(z), 0, z), edges, axis=0)
    return np.where(seen > 0, total / np.maximum(seen, 1), np.nan)


def _by_first_component(binned: np.ndarray) -> np.ndarray:
    """Return the neurons from the most to the least driven by the strongest shared pattern."""
    weights = np.linalg.svd(np.nan_to_num(binned), full_matrices=False)[2][0]
    return np.argsort(-weights * (np.sign(weights.sum()) or 1.0), kind="stable")


def _draw_heat_map(figure, axis, binned: np.ndarray, length: float) -> None:
    import matplotlib

    colors = matplotlib.colormaps["magma"].with_extremes(bad="#d9dee3")
    picture = axis.imshow(binned.T, aspect="auto", interpolation="nearest", cmap=colors, vmin=-1, vmax=3,
                          extent=(0, length, binned.shape[1], 0), rasterized=True)
    axis.set_ylabel("neuron (sorted)", color=INK)
    bar = figure.colorbar(picture, ax=axis, pad=0.01, extend="both", aspect=30)
    bar.set_ticks([-1, 0, 1, 2, 3])
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.set_label("activity (z)", color=INK)
    bar.outline.set_visible(False)
    tidy(axis)


def _draw_examples(axis, session: Session, z: np.ndarray, order: np.ndarray, frames: np.ndarray) -> None:
    """Draw neurons spread over the heat map's order, one above the other, with a bar for the scale."""
    chosen = order[np.linspace(0, len(order) - 1, min(N_EXAMPLES, len(order))).astype(int)]
    curves = [z[:, n] - (np.median(z[seen, n]) if (seen := ~np.isnan(z[:, n])).any() else 0) for n in chosen]
    peaks = [np.quantile(c[~np.isnan(c)], 0.995) for c in curves if not np.isnan(c).all()]
    step = min(max([4.0, *peaks]), 25.0)  # sd between two baselines: curves meet rarely, sparse events stay in sight
    for row, curve in enumerate(curves):
        _draw_curve(axis, session, frames, curve - row * step, color=INK, linewidth=0.6)
    names = [session.neurons[n] or f"neuron {n}" for n in chosen]
    axis.set_yticks([-row * step for row in range(len(chosen))], names)
    axis.set_ylim(-(len(chosen) - 0.4) * step, 1.1 * step)
    bar = 3 if step < 12 else 10
    axis.plot([1.008, 1.008], [0, bar], transform=axis.get_yaxis_transform(), color=INK, linewidth=2, clip_on=False)
    axis.text(1.014, bar / 2, f"{bar} sd", transform=axis.get_yaxis_transform(), va="center", fontsize=8, color=INK)
    axis.set_ylabel("examples (z)", color=INK)
    tidy(axis)


def _draw_behavior(axis, session: Session, k: int, frames: np.ndarray) -> None:
    name, unit = session.behavior_names[k].replace("_", " "), session.behavior_units[k]
    _draw_curve(axis, session, frames, session.behavior[:, k], color=BEHAVIOR_COLORS[k], linewidth=0.8)
    axis.set_ylabel(f"{name}\n({unit})" if unit else name, color=INK, fontsize=8)
    axis.margins(y=0.1)
    tidy(axis)


def _draw_curve(axis, session: Session, frames: np.ndarray, values: np.ndarray, **style) -> None:
    """Draw a curve that is broken where the recording is."""
    for start, stop in session.segments:
        axis.plot(frames[start:stop], values[start:stop], **style)


def _draw_stimuli(axis, session: Session, scale: float) -> None:
    """Draw a row a stimulus, filled where it was shown; presentations closer than a pixel become one."""
    shown = session.stimuli[:N_STIMULI]
    for row, stimulus in enumerate(shown):
        bins = np.zeros(min(session.n_frames, MAX_COLUMNS) + 1)
        frames = stimulus.frames[stimulus.frames[:, 1] > stimulus.frames[:, 0]]
        width = session.n_frames / (len(bins) - 1)
        np.add.at(bins, (frames[:, 0] / width).astype(int), 1)
        np.add.at(bins, np.ceil(frames[:, 1] / width).astype(int), -1)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], np.cumsum(bins) > 0, [False]]).astype(int)))
        spans = [(a * width * scale, (b - a) * width * scale) for a, b in zip(edges[::2], edges[1::2])]
        axis.broken_barh(spans, (row - 0.35, 0.7), color=FAINT, linewidth=0)
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_yticks(range(len(shown)), [stimulus.name.replace("_", " ") for stimulus in shown], fontsize=8)
    tidy(axis)


def _draw_borders(axis, session: Session, scale: float) -> None:
    """Mark where the recording is cut: no window crosses these lines."""
    for start, _ in session.segments[1:]:
        axis.axvline(start * scale, color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)))


def tidy(axis) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)
    axis.tick_params(colors=INK, labelsize=8)


def draw_reconstruction(examples: Mapping[str, Any], made: str = "reconstructed", what: str = "validation windows"):
    """Return a matplotlib Figure of example windows (columns) of some neurons (rows) over their reconstruction.

    examples: "target" and "reconstruction" (w, n, L) in the unit the model was trained in, "labels" (n,),
    "rate" in Hz and "session", as raycal.training.evaluate.measure returns them.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    target, reconstruction = np.asarray(examples["target"]), np.asarray(examples["reconstruction"])
    windows, neurons, length = target.shape
    seconds = np.arange(length) / examples["rate"]
    with rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(2.6 * windows + 0.8, 1.0 * neurons + 0.9), dpi=110, layout="constrained",
                        facecolor="white")
        axes = figure.subplots(neurons, windows, sharex=True, sharey="row", squeeze=False)
        for (row, column), axis in np.ndenumerate(axes):
            axis.plot(seconds, target[column, row], color=FAINT, linewidth=1.6, label="recorded")
            axis.plot(seconds, reconstruction[column, row], color=BEHAVIOR_COLORS[1], linewidth=1.2,
                      label=made)
            tidy(axis)
            if column == 0:
                axis.set_ylabel(examples["labels"][row] or f"neuron {examples['neurons'][row]}", fontsize=8, color=INK)
            if row == neurons - 1:
                axis.set_xlabel("s", fontsize=8, color=INK)
        figure.suptitle(f"{examples['session']}: {what}", fontsize=10, color=INK, x=0.01, ha="left")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=8,
                      frameon=False)
    return figure
