"""Pictures of what each latent does to the neurons (raycal.traversal).

Shapes: M latents, V values, N neurons.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raycal.report.figures import FAINT, INK, tidy
from raycal.report.latents import SESSION_COLORS

if TYPE_CHECKING:
    from raycal.traversal import Decoded, Traversal

MAX_SESSIONS, CURVES = 4, 5  # what a page holds


def draw(found: Traversal, values: np.ndarray) -> dict[str, Any]:
    """Return a matplotlib Figure a latent, by name: sessions below each other, neurons as a map and some as curves."""
    return {f"traverse-{name.replace(' ', '-')}": _draw(found, row, values) for row, name in enumerate(found.names)}


def _draw(found: Traversal, row: int, values: np.ndarray):
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    sessions = found.sessions[:MAX_SESSIONS]
    effects = [_effect(s, row) for s in sessions]
    limit = max(float(np.nanmax(np.abs(e), initial=0.0)) for e in effects) or 1.0
    with rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(9.5, 2.6 * len(sessions) + 1.0), dpi=110, layout="constrained", facecolor="white")
        axes = figure.subplots(len(sessions), 2, squeeze=False, sharex=True)
        for s, effect, (left, right) in zip(sessions, effects, axes):
            shown = _draw_map(left, effect, values, limit)
            _draw_curves(right, s, effect, values)
            left.set_title(s.id, fontsize=9, color=INK, loc="left")
            right.set_ylim(-1.1 * limit, 1.1 * limit)
        bar = figure.colorbar(shown, ax=axes[:, 0], pad=0.01, aspect=25 * len(sessions))
        bar.ax.tick_params(labelsize=7, colors=INK)
        bar.set_label("change (train sd)", fontsize=8, color=INK)
        for axis in axes[-1]:
            axis.set_xlabel(f"{found.names[row]} (sd of all frames' posteriors)", fontsize=8, color=INK)
        more = f", the first {len(sessions)} of {len(found.sessions)} sessions" if sessions != found.sessions else ""
        figure.suptitle(f"What {found.names[row]} does ({found.kl[row]:.2g} nats a frame){more}; other latents and "
                        "behaviour at their mean", fontsize=10, color=INK, x=0.01, ha="left")
    return figure


def _effect(session: Decoded, row: int) -> np.ndarray:
    """Return the change (V, N) from the middle value in train sd, of the neurons that the model sees, NaN elsewhere."""
    traces = session.traces[row]
    return (traces - traces[len(traces) // 2]) / session.sd


def _draw_map(axis, effect: np.ndarray, values: np.ndarray, limit: float):
    seen = effect[:, ~np.isnan(effect).any(0)]
    order = np.argsort(seen[0] - seen[-1], kind="stable")  # from what rises most to what falls most
    half = (values[1] - values[0]) / 2
    picture = axis.imshow(seen[:, order].T, aspect="auto", interpolation="nearest", cmap="RdBu_r", vmin=-limit,
                          vmax=limit, extent=(values[0] - half, values[-1] + half, len(order), 0))
    axis.set_ylabel("neuron (sorted)", fontsize=8, color=INK)
    tidy(axis)
    return picture


def _draw_curves(axis, session: Decoded, effect: np.ndarray, values: np.ndarray) -> None:
    size = np.nan_to_num(np.ptp(effect, axis=0), nan=-1.0)
    largest = np.argsort(-size, kind="stable")[:min(CURVES, int((size >= 0).sum()))]
    axis.plot(values, effect[:, size >= 0], color=FAINT, linewidth=0.5, alpha=0.4)
    for color, n in zip(SESSION_COLORS, largest):
        axis.plot(values, effect[:, n], color=color, linewidth=1.5, label=session.labels[n] or f"neuron {n}")
    axis.axhline(0.0, color=FAINT, linewidth=0.7)
    axis.set_ylabel("change (train sd)", fontsize=8, color=INK)
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    tidy(axis)
