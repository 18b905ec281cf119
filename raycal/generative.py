"""What a model with latents of frames makes of them, found or drawn: traces of a session's neurons, in its own unit.

    best = raycal.load("runs/vae-1")
    traces = best.decode(best.latents(session), session)            # (T, N), what reconstruct(session) returns
    drawn = best.sample(session, session, draws=10)                 # (10, T, N), under the session's own behaviour

Shapes: T frames, N neurons, D latents, K behaviours.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raycal.errors import UserError, nearest
from raycal.seen import Seen, in_own_unit
from raycal.sessions.behavior import named

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


def sample(trained: Trained, session: Session | str, behavior: np.ndarray | Session | None = None, frames: int = 0,
           draws: int = 1, seed: int = 0) -> np.ndarray:
    """Return traces (draws, T, N) float32 of a session's neurons, of latents drawn from the prior N(0, 1).

    Frames are those of the model's rate. In the prior they are independent of each other (but for latents of a window,
    drawn anew every windows.length frames), so what goes over time in a sample, behaviour tells. As `decode` returns
    them, traces are expected ones, in the session's own unit. behavior: (T, K) as in `decode`; a Session: its own, at
    the model's rate and smoothed as in training; None: none is told, and T is `frames`. The same seed gives the same
    draws. Raise UserError where behaviour does not fit, is not there, or neither it nor frames says how many.
    """
    trained.check_latents()
    entry = entry_of(trained, session)
    told = behavior_of(trained, behavior, entry) if hasattr(behavior, "behavior_names") else behavior
    if draws < 1 or (told is None and frames < 1):
        raise UserError(f"sample: draws={draws}, frames={frames}: give at least one draw, and behavior or at least one "
                        "frame")
    if told is not None and frames not in (0, len(told)):
        raise UserError(f"sample: frames={frames} with behavior of {len(told)} frames; leave frames out")
    rng, vae = np.random.default_rng(seed), trained.config.vae
    frames, length = frames if told is None else len(told), trained.config.windows.length
    z = rng.standard_normal((draws, frames, vae.latents + vae.window_latents), np.float32)
    z[..., vae.latents:] = z[:, np.arange(frames) // length * length, vae.latents:]
    return np.stack([decode(trained, one, session, told) for one in z])


def behavior_of(trained: Trained, session: Session, entry: dict[str, Any]) -> np.ndarray:
    """Return a session's behaviour (T, K) as the model was trained on it: its rate, columns and smoothing.

    Raise UserError where the session has none of the columns.
    """
    settings, names, session = trained.config.sessions, trained.behavior_names, Seen.of(session, entry).session
    found = named(session, names, settings, entry["rate"], settings.smooth_behavior * entry["rate"])
    if names and np.isnan(found).all():
        raise UserError(f"session {session.id!r}: has none of the behaviours {', '.join(names)} that the model was "
                        "told; give an array, or leave behavior out")
    return found


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
