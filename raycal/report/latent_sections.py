"""Sections of the report page on a model with latents of frames: what they cost, and hidden neurons told by the others.

Shapes: D latents, E epochs, N neurons of a session.
"""
from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raycal.report.blocks import Code, Details, Picture, Plot, Table, Text
from raycal.report.classical import short
from raycal.report.plots import CODE_STYLES, FAINT, TRIAL, WINNER, figure, plain_text
from raycal.report.record import Run, metric_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

NAMED = 4  # latents that are told apart in a figure of all
NEURONS, WINDOWS = 5, 3  # of the picture: a phone shows no more
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def latents(run: Run) -> list[Any]:
    """Say what each latent costs and how many are in use."""
    arrays = _arrays(run)
    if "kl" not in arrays:
        return [_nothing(run)]
    from raycal.config import Config
    from raycal.models import latent_name

    trial, kl = run.winner, np.asarray(arrays["kl"])
    config = Config().replace(trial.user_attrs["config"])
    names = [latent_name(config, k) for k in range(len(kl))]
    active, rate = metric_of(trial, "val/active_units"), metric_of(trial, "val/rate")
    blocks: list[Any] = [
        Text(f"{active:.0f} of {len(kl)} latents of trial {trial.number} are active: their posterior's mean moves over "
             f"the validation blocks. A frame costs {short(rate)} nats for all latents and "
             f"{short(metric_of(trial, 'val/distortion'))} for the traces that they leave open: the ELBO at weight 1 is "
             f"{short(metric_of(trial, 'val/elbo'))}, its tighter bound of 64 draws "
             f"{short(metric_of(trial, 'val/iwae'))}."),
        Plot(costs(kl, names), "KL divergence of every latent at the best epoch",
             "A latent near 0 says nothing: its posterior is the prior.")]
    by_epoch = np.asarray(arrays.get("kl_by_epoch", ()))
    if len(by_epoch) > 1:
        blocks.append(Plot(costs_by_epoch(by_epoch, names, run.best_epoch(trial)), "KL divergence over the training",
                           f"Named: the {min(NAMED, len(kl))} latents that cost most at the best epoch, "
                           f"{run.best_epoch(trial)}, which the upright line marks."))
    return [*blocks, *_drawn(run, "trajectories", "Course of the latents over the validation blocks by behaviour, as "
                             "the search drew it"), *_traversals(run)]


def hidden(run: Run) -> list[Any]:
    """Show neurons that were hidden beside what the others say of them."""
    found = _arrays(run).get("hidden")
    if not found:
        return [_nothing(run)]
    from raycal.report.frames import draw_hidden

    trial, ids, scores = run.winner, run.summary["sessions"], [np.asarray(r2) for r2 in found["r2"]]
    every = np.concatenate(scores)
    every = every[~np.isnan(every)]
    picture = io.BytesIO()
    draw_hidden(_few(found)).savefig(picture, format="png")
    rows = [(id, f"{len(r2)}", *(f"{q:.2f}" for q in np.nanquantile(r2, QUANTILES))) for id, r2 in zip(ids, scores)]
    return [
        Text(f"Neurons are hidden a fifth at a time and predicted from the others of the same windows, without "
             f"behaviour. Of {len(every)} neurons {int((every > 0).sum())} are predicted better than by their train "
             f"mean; the median R2 is {np.median(every):.2f}, and R2 of all pooled {short(metric_of(trial, 'val/cosmoothing_r2'))}"
             "."),
        Picture(picture.getvalue(), f"Validation windows of {found['session']} at epoch {run.best_epoch(trial)} of trial "
                f"{trial.number}, recorded and as the other neurons predict them, from the best to the worst predicted, "
                "in units of the train sd"),
        Plot(predicted(scores, ids), "R2 of every hidden neuron",
             "From the best to the worst predicted; what lies below -1 is drawn there."),
        Details("Recording by recording", [Table("R2 of the neurons of each", (
            "recording", "neurons", "worst", "lower quarter", "median", "upper quarter", "best"), rows)])]


def costs(kl: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw the KL divergence (D,) of every latent, the most costly first."""
    order = np.argsort(-kl, kind="stable")
    drawn = figure("latent, the most costly first", "KL divergence (nats a frame)", height=300)
    drawn.add_bar(x=np.arange(1, len(kl) + 1), y=kl[order], marker=dict(color=WINNER), text=[names[k] for k in order],
                  textposition="none", hovertemplate="%{text}<br>%{y:.3f} nats a frame<extra></extra>")
    return drawn


def costs_by_epoch(kl: np.ndarray, names: Sequence[str], best_epoch: int) -> Figure:
    """Draw the KL divergence (E, D) of every latent over the epochs."""
    drawn, epochs = figure("epoch", "KL divergence (nats a frame)", height=320), np.arange(1, len(kl) + 1)
    order = np.argsort(-kl[min(best_epoch, len(kl)) - 1], kind="stable")
    x, y, text = [], [], []
    for k in order[NAMED:]:  # as one line with holes: a figure of many lines is slow
        x, y, text = [*x, *epochs, None], [*y, *kl[:, k], None], [*text, *[names[k]] * (len(kl) + 1)]
    if x:
        drawn.add_scatter(x=x, y=y, text=text, mode="lines", name="others", line=dict(color=FAINT, width=1),
                          connectgaps=False, hovertemplate="%{text}, epoch %{x}<br>%{y:.3f}<extra></extra>")
    for (color, dash, marker), k in zip(CODE_STYLES, order[:NAMED]):
        drawn.add_scatter(x=epochs, y=kl[:, k], mode="lines+markers", name=names[k],
                          line=dict(color=color, width=2, dash=dash), marker=dict(symbol=marker, size=6, color=color),
                          hovertemplate=names[k] + ", epoch %{x}<br>%{y:.3f}<extra></extra>")
    drawn.update_xaxes(dtick=max(1, len(kl) // 8))
    return drawn.add_vline(x=best_epoch, line=dict(color=TRIAL, width=1, dash="dash")).update_yaxes(rangemode="tozero")


def predicted(scores: Sequence[np.ndarray], ids: Sequence[str]) -> Figure:
    """Draw the R2 (N,) of every neuron of every session, from the best to the worst."""
    drawn = figure("share of the recording's neurons (%)", "R2", height=340)
    for k, (id, r2) in enumerate(zip(ids, scores)):
        y = np.sort(r2[~np.isnan(r2)])[::-1]
        color, dash = CODE_STYLES[k % len(CODE_STYLES)][0], CODE_STYLES[(k + k // 4) % len(CODE_STYLES)][1]
        drawn.add_scatter(x=100 * (np.arange(len(y)) + 0.5) / max(len(y), 1), y=np.maximum(y, -1.0), mode="lines",
                          name=plain_text(id), line=dict(color=color, width=1.5, dash=dash), customdata=y,
                          hovertemplate="R2 %{customdata:.2f}<extra>" + plain_text(id) + "</extra>")
    return drawn.add_hline(y=0.0, line=dict(color=FAINT, width=1))


def _arrays(run: Run) -> Mapping[str, Any]:
    return run.arrays(run.winner) if run.winner is not None else {}


def _nothing(run: Run) -> Text:
    if run.winner is None:
        return Text("No trial ran to its end, so there is nothing to show.")
    return Text(f"Trial {run.winner.number} has no latents of frames, its checkpoint was not kept, or an older raycal "
                "wrote it.")


def _few(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return fewer windows and neurons, the best and the worst predicted among them."""
    n = len(found["labels"])
    rows = np.unique(np.linspace(0, n - 1, min(NEURONS, n)).round().astype(int)).tolist()
    return {**found, "labels": [found["labels"][r] for r in rows],
            **{key: np.asarray(found[key])[rows] for key in ("neurons", "scores")},
            **{key: np.asarray(found[key])[:WINDOWS, rows] for key in ("target", "reconstruction")}}


def _drawn(run: Run, name: str, title: str) -> list[Any]:
    path = run.path / "figures" / f"{name}.png"
    return [Picture(path.read_bytes(), title)] if path.is_file() else []


def _traversals(run: Run) -> list[Any]:
    """Return what `raycal traverse` drew, or that it may."""
    found = sorted((run.path / "figures").glob("traverse-*.png"))
    if not found:
        return [Text("What each latent does to the neurons:"), Code(f"raycal traverse {run.place}")]
    return [Details("What each latent does to the neurons, as raycal traverse drew it", [
        Picture(p.read_bytes(), p.stem.removeprefix("traverse-").replace("-", " ").capitalize()) for p in found])]
