"""What a model with latents of frames makes of latents: traces of the neurons of a session, in its own unit.

    best = raycal.load("runs/vae-1")
    traces = best.decode(best.latents(session), session)    # what reconstruct(session) returns

Shapes: T frames, N neurons, D latents, K behaviours.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raycal.errors import UserError, nearest
from raycal.seen import in_own_unit

if TYPE_CHECKING:
    from raycal.inference import Trained
    from raycal.sessions.session import Session

FRAMES = 4096  # decoded at a time


def decode(trained: Trained, latents: np.ndarray, session: Session | str,
           behavior: np.ndarray | None = None) -> np.ndarray:
    """Return traces (T, N) float32 of latents (T, D) for a session's neurons, gain and bias of each applied.

    session: a Session, or the id of one that the model was trained on. Traces are in its own unit, the expected ones
    without noise, NaN where a latent is and for neurons that the model does not see. behavior: (T, K) in the unit it
    was trained in, columns as `behavior_names`, NaN = not told; None: none is told.
    Raise UserError of a family that writes codes, and of other shapes.
    """
    import torch

    trained.check_latents()
    entry, latents = entry_of(trained, session), np.asarray(latents, np.float32)
    size = trained.config.vae.latents + trained.config.vae.window_latents
    if latents.ndim != 2 or latents.shape[1] != size:
        raise UserError(f"latents of shape {latents.shape}: give (frames, {size}), as latents(session) returns them")
    told = None if behavior is None else _told(trained, entry, behavior, len(latents))
    model, index = trained.model, trained.index(entry)
    device, rows = next(model.parameters()).device, [np.empty((0, len(entry["kept"])), np.float32)]
    with torch.inference_mode():
        for first in range(0, len(latents), FRAMES):
            z = torch.from_numpy(latents[None, first:first + FRAMES]).to(device)
            given = None if told is None else torch.from_numpy(told.T[None, :, first:first + FRAMES]).to(device)
            rows.append(model.decode(z, index, given)[0].mT.float().cpu().numpy())
    return in_own_unit(np.concatenate(rows), entry)


def entry_of(trained: Trained, session: Session | str) -> dict[str, Any]:
    """Return what is known of a session, or of the one of that id."""
    if not isinstance(session, str):
        return trained.entry(session)
    for entry in trained.data["sessions"]:
        if entry["id"] == session:
            return entry
    raise UserError(f"session {session!r}: the model was not trained on it{nearest(session, trained.sessions)}; it "
                    f"knows {', '.join(trained.sessions)}")


def _told(trained: Trained, entry: dict[str, Any], behavior: np.ndarray, frames: int) -> np.ndarray:
    """Return behaviour (T, K) as the model is told it, checked against the frames of what it goes with."""
    names, behavior = trained.behavior_names, np.asarray(behavior, np.float32)
    if not trained.model.n_behaviors:
        raise UserError("behavior: this model is not conditioned on behaviour; leave it out, or train with "
                        "vae.condition=observed on recordings that have some")
    if behavior.shape != (frames, len(names)):
        raise UserError(f"behavior of shape {behavior.shape}: give ({frames}, {len(names)}), a frame a row and the "
                        f"columns {', '.join(names)}")
    return (behavior - entry["behavior_center"].numpy()) / entry["behavior_spread"].numpy()
