"""Pictures of windows that a model drew, beside real ones: traces, power spectra, correlations between neurons.

    pictures.write(folder, draw(arrays["generated"]))       # as raycal.training.examples.beside made it
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from raycal.report.figures import BEHAVIOR_COLORS, FAINT, INK, tidy

COLORS = {"real": INK, "drawn": BEHAVIOR_COLORS[1]}
NAMES = {"real": "held out", "drawn": "generated"}


def draw(generated: Mapping[str, Any]) -> dict[str, Any]:
    """Return matplotlib Figures by name."""
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}):
        return {"generated-traces": _traces(generated), "generated-spectra": _spectra(generated),
                "generated-correlations": _correlations(generated)}


def _figure(width: float, height: float, title: str):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")
    return figure


def _traces(generated: Mapping[str, Any]):
    """Held-out windows in the left half, generated ones in the right; no window is drawn to match another."""
    real, drawn = (np.asarray(generated[key]["windows"]) for key in NAMES)
    (w, neurons, _), seconds = real.shape, np.arange(real.shape[2]) / generated["rate"]
    figure = _figure(1.5 * 2 * w + 0.8, 0.95 * neurons + 0.9, f"{generated['session']}: windows, train sd")
    axes = figure.subplots(neurons, 2 * w, sharex=True, sharey="row", squeeze=False)
    for (row, column), axis in np.ndenumerate(axes):
        key = "real" if column < w else "drawn"
        values = (real if column < w else drawn)[column % w, row]
        axis.plot(seconds, values, color=COLORS[key], linewidth=1.1)
        tidy(axis)
        if row == 0:
            axis.set_title(NAMES[key], fontsize=8, color=COLORS[key])
        if column == 0:
            label = generated["labels"][row] or f"neuron {int(generated['neurons'][row])}"
            axis.set_ylabel(label, fontsize=8, color=INK)
        if row == neurons - 1:
            axis.set_xlabel("s", fontsize=8, color=INK)
    return figure


def _spectra(generated: Mapping[str, Any]):
    figure = _figure(9.6, 3.0, f"{generated['session']}: power, a mean over neurons")
    axis = figure.subplots()
    hertz = np.fft.rfftfreq(generated["length"], 1.0 / generated["rate"])
    for key, name in NAMES.items():
        axis.plot(hertz, np.asarray(generated[key]["decibels"]), color=COLORS[key], linewidth=1.4, label=name)
    axis.set_xlabel("Hz", fontsize=8, color=INK)
    axis.set_ylabel("dB of train sd", fontsize=8, color=INK)
    axis.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    tidy(axis)
    axis.legend(fontsize=8, frameon=False)
    return figure


def _correlations(generated: Mapping[str, Any]):
    """One scale of color for both; the third panel sets every pair's two correlations against each other."""
    real, drawn = (np.asarray(generated[key]["correlations"], np.float64) for key in NAMES)
    figure = _figure(9.6, 3.4, f"{generated['session']}: correlations between {len(real)} neurons")
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1))
    pairs = np.triu_indices(len(real), 1)
    limit = max(0.1, float(np.abs([real[pairs], drawn[pairs]]).max()))
    for axis, (key, name), matrix in zip(axes, NAMES.items(), (real, drawn)):
        image = axis.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axis.set_title(name, fontsize=8, color=COLORS[key])
        axis.set_xticks([])
        axis.set_yticks([])
    figure.colorbar(image, ax=axes[:2].tolist(), shrink=0.8).ax.tick_params(labelsize=8, colors=INK)
    axes[2].plot([-limit, limit], [-limit, limit], color=FAINT, linewidth=0.8)
    axes[2].scatter(real[pairs], drawn[pairs], s=4, alpha=0.4, color=COLORS["drawn"], linewidths=0)
    axes[2].set_xlabel(NAMES["real"], fontsize=8, color=INK)
    axes[2].set_ylabel(NAMES["drawn"], fontsize=8, color=INK)
    axes[2].set_box_aspect(1)
    tidy(axes[2])
    return figure
