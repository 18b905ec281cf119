"""Pictures of a model with latents of frames: their course by behaviour, what each costs, neurons told by the others.

Shapes: n frames drawn, D latents, K behaviours, E epochs.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raycal.overlap import blended
from raycal.report.figures import FAINT, INK, draw_reconstruction, tidy
from raycal.report.latents import SESSION_COLORS, short, shown_behaviors

if TYPE_CHECKING:
    from raycal.inference import Trained

MAX_FRAMES = 3000
AXES = 3
NAMED = 6  # latents that are told apart in a picture of all


class Course(NamedTuple):
    """The latents of the validation part, in time; small whatever the recordings' size."""

    axes: np.ndarray  # (n, AXES) on the latents' principal axes, 0 on those that D does not give
    explained: np.ndarray  # (AXES,) share of the variance on each
    behavior: np.ndarray  # (n, K) in the unit of the file, NaN = not observed
    behavior_names: tuple[str, ...]  # (K,), with units
    seconds: np.ndarray  # (n,) from the part's first frame, pieces and sessions joined
    session: np.ndarray  # (n,) int
    sessions: tuple[str, ...]  # ids
    piece: np.ndarray  # (n,) int: inside one, frames follow each other
    n_frames: int  # of the part, of which n are drawn


class Portrait(NamedTuple):
    """What the pictures of a model show."""

    course: Course
    arrays: Mapping[str, Any]  # that were measured with it (raycal.training.measure_latents) and kept over its training
    epoch: int  # that it is of
    names: tuple[str, ...]  # (D,) of its latents


def portrait(trained: Trained, dataset: Any, epoch: int) -> Portrait:
    """Return what is to be drawn of a model of that epoch, on the dataset's validation part."""
    names = tuple(trained.latent_name(k) for k in range(len(trained.arrays["kl"])))
    arrays = {k: trained.arrays[k] for k in ("hidden", "kl_by_epoch")}
    return Portrait(course(trained, dataset), arrays, epoch, names)


def course(trained: Trained, dataset: Any) -> Course:
    """Return the latents of a dataset's validation part: its first frames piece by piece, at most some MAX_FRAMES.

    The axes are those of all its frames.
    """
    normalize, length, latents, drawn = trained.config.sessions.normalize, trained.config.windows.length, [], []
    rows = [r.pieces["validation"] for r in dataset.recordings]
    most, elapsed, piece, n_frames = max(2, MAX_FRAMES // sum(map(len, rows))), 0.0, 0, 0
    for session, recording in enumerate(dataset.recordings):
        center, spread = recording.scalers[normalize]
        traces = (recording.traces - center) / spread
        traces = traces if recording.valid is None else np.where(recording.valid, traces, np.float32(0.0))
        z = blended(trained.model, session, traces, recording.valid, rows[session], length)
        for start, stop in rows[session]:
            at = np.arange(start, min(stop, start + most))
            drawn.append((n_frames + at - start, recording.behavior[at], elapsed + (at - start) / recording.rate,
                          np.full(len(at), session), np.full(len(at), piece)))
            latents.append(z[start:stop])
            elapsed, piece, n_frames = elapsed + (stop - start) / recording.rate, piece + 1, n_frames + stop - start
    at, behavior, seconds, sessions, pieces = map(np.concatenate, zip(*drawn))
    axes, explained = _principal(np.concatenate(latents))
    names = tuple(f"{name} ({unit})" if unit else name
                  for name, unit in zip(dataset.behavior_names, dataset.behavior_units))
    return Course(axes[at], explained, behavior, names, seconds, sessions, tuple(r.id for r in dataset.recordings),
                  pieces, n_frames)


def _principal(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return latents (F, AXES) on their principal axes and the share of the variance on each."""
    centred = latents - latents.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(-values, kind="stable")[:AXES]
    missing = AXES - len(order)
    share = np.maximum(values[order], 0.0) / max(float(values.sum()), 1e-12)
    return np.pad(centred @ vectors[:, order], ((0, 0), (0, missing))), np.pad(share, (0, missing))


def draw(p: Portrait) -> dict[str, Any]:
    """Return the matplotlib Figures of a model by name."""
    return {"trajectories": draw_course(p.course), "hidden-neurons": draw_hidden(p.arrays["hidden"]),
            "kl-by-epoch": draw_kl(np.asarray(p.arrays["kl_by_epoch"]), p.epoch, p.names)}


def draw_course(c: Course):
    """Return a matplotlib Figure: the second and third principal axis over the first, a column a behaviour."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = shown_behaviors(c)
    with rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(2.9 * max(len(columns), 1.6) + 0.9, 6.4), dpi=110, layout="constrained",
                        facecolor="white")
        axes = figure.subplots(2, len(columns), squeeze=False, sharex=True)
        for (name, values), column in zip(columns, axes.T):
            lines = [_draw_lines(axis, c, k, values) for k, axis in enumerate(column, 1)]
            column[0].set_title(name, fontsize=9, color=INK, loc="left")
            if np.issubdtype(values.dtype, np.integer):
                _name(column[1], c.sessions)
            else:
                figure.colorbar(lines[1], ax=column[1], orientation="horizontal", pad=0.02, aspect=30
                                ).ax.tick_params(labelsize=7, colors=INK)
        for k, axis in enumerate(axes[:, 0], 1):
            axis.set_ylabel(f"axis {k + 1} ({100 * c.explained[k]:.0f} %)", fontsize=8, color=INK)
        axes[0, 0].set_xlabel(f"principal axis 1 ({100 * c.explained[0]:.0f} %)", fontsize=8, color=INK)
        drawn = f"{len(c.seconds)} of {c.n_frames}" if len(c.seconds) < c.n_frames else f"all {c.n_frames}"
        figure.suptitle(f"Course of the latents over the validation blocks ({drawn} frames)", fontsize=10, color=INK,
                        x=0.01, ha="left")
    return figure


def _draw_lines(axis, c: Course, k: int, values: np.ndarray):
    """Draw axis k over the first as lines from frame to frame inside pieces, coloured by the values at their middle."""
    from matplotlib.collections import LineCollection

    joined = np.flatnonzero(np.diff(c.piece) == 0)
    lines = np.stack((c.axes[joined], c.axes[joined + 1]), 1)[..., [0, k]]
    if np.issubdtype(values.dtype, np.integer):
        drawn = LineCollection(lines, colors=[SESSION_COLORS[v % len(SESSION_COLORS)] for v in values[joined]])
    else:
        middle = (values[joined] + values[joined + 1]) / 2
        known = ~np.isnan(middle)
        axis.add_collection(LineCollection(lines[~known], colors=FAINT, alpha=0.4, linewidths=0.7))
        low, high = np.percentile(middle[known], (1, 99)) if known.any() else (0.0, 1.0)
        drawn = LineCollection(lines[known], array=middle[known], cmap="viridis",
                               clim=(low, high if high > low else low + 1.0))
    drawn.set(linewidths=0.8, alpha=0.85)
    axis.add_collection(drawn)
    axis.update_datalim(c.axes[:, [0, k]])
    axis.autoscale_view()
    axis.set_xticks([])
    axis.set_yticks([])
    tidy(axis)
    return drawn


def _name(axis, sessions: Sequence[str]) -> None:
    for color, id in zip(SESSION_COLORS, sessions):
        axis.plot([], [], color=color, label=short(id))
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def draw_hidden(hidden: Mapping[str, Any]):
    """Return a matplotlib Figure of neurons from the best to the worst predicted, over what the others say of them."""
    labels = [f"{label or f'neuron {n}'}\nR2 {score:.2f}" for label, n, score in
              zip(hidden["labels"], np.asarray(hidden["neurons"]), np.asarray(hidden["scores"]))]
    return draw_reconstruction({**hidden, "labels": labels, "session": short(hidden["session"])},
                               "predicted from the others", "hidden neurons, best to worst")


def draw_kl(kl: np.ndarray, best_epoch: int, names: Sequence[str]):
    """Return a matplotlib Figure: KL (E, D) of every latent over the epochs, and of all together."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs, last = np.arange(1, len(kl) + 1), kl[min(max(best_epoch, 1), len(kl)) - 1]
    order = np.argsort(-last, kind="stable")
    marker = "o" if len(kl) < 12 else None
    with rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained", facecolor="white")
        one, total = figure.subplots(1, 2, gridspec_kw={"width_ratios": (3, 2)})
        one.plot(epochs, kl[:, order[NAMED:]], color=FAINT, linewidth=0.8, alpha=0.8)
        for color, k in zip(SESSION_COLORS, order[:NAMED]):
            one.plot(epochs, kl[:, k], color=color, linewidth=1.5, marker=marker, markersize=3, label=names[k])
        total.plot(epochs, kl.sum(1), color=INK, linewidth=1.5, marker=marker, markersize=3)
        for axis, title in ((one, f"every latent; named: the {min(NAMED, len(order))} that cost most"),
                            (total, "all together")):
            axis.axvline(best_epoch, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
            axis.set_title(title, fontsize=9, color=INK, loc="left")
            axis.set_xlabel("epoch", fontsize=8, color=INK)
            axis.set_ylim(bottom=0.0)
            axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            tidy(axis)
        one.set_ylabel("KL divergence (nats a frame)", fontsize=8, color=INK)
        one.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        figure.suptitle("What the latents of validation frames cost; dashed: the best epoch", fontsize=10, color=INK,
                        x=0.01, ha="left")
    return figure
