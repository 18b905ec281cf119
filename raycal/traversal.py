"""What each latent of a trained model does to the neurons: decoded as it goes through its range, all else held.

    raycal traverse runs/vae-20260101-1        # writes figures/traverse-*.png and figures/traverse.npz there

Shapes: M latents, V values, D latents of the model, N neurons of a session.
"""
from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from raycal.errors import UserError

if TYPE_CHECKING:
    from raycal.inference import Trained

VALUES = np.linspace(-3.0, 3.0, 13)  # sd of the aggregate posterior about its mean
MOST = 6  # latents


class Decoded(NamedTuple):
    """A session's neurons over the values of each latent."""

    id: str
    labels: tuple[str, ...]  # (N,) "" = unknown
    sd: np.ndarray  # (N,) of the train part, NaN of neurons that the model does not see
    traces: np.ndarray  # (M, V, N) in the session's own unit, NaN of the same


class Traversal(NamedTuple):
    latents: np.ndarray  # (M,) int, from the most active on
    names: tuple[str, ...]  # (M,)
    kl: np.ndarray  # (M,) nats a frame, on the validation part
    mean: np.ndarray  # (D,) of the aggregate posterior on train
    sd: np.ndarray  # (D,)
    sessions: tuple[Decoded, ...]


def traverse(trained: Trained, most: int = MOST) -> Traversal:
    """Return what the most active latents do, one at a time: VALUES sd about the mean, the others at theirs.

    The most active are those of the largest KL divergence among the ones whose mean moves. Behaviour is told to be at
    its train mean. Raise UserError where the family writes codes, an older raycal wrote the model, or no latent moves.
    """
    mean, sd, kl, active = _measured(trained)
    latents = active[np.argsort(-kl[active], kind="stable")][:most]
    z = np.broadcast_to(mean, (len(latents), len(VALUES), len(mean))).astype(np.float32)
    for row, k in enumerate(latents):
        z[row, :, k] += VALUES * sd[k]
    sessions = []
    for entry in trained.data["sessions"]:
        told = np.tile(entry["behavior_center"].numpy(), (z[..., 0].size, 1)) if trained.model.n_behaviors else None
        traces = trained.decode(z.reshape(-1, len(mean)), entry["id"], told)
        spread, labels = np.full(entry["n_neurons"], np.nan, np.float32), [""] * entry["n_neurons"]
        spread[entry["kept"]] = entry["sd"].numpy()
        for column, label in zip(entry["kept"], entry["neurons"]):
            labels[column] = label
        sessions.append(Decoded(entry["id"], tuple(labels), spread, traces.reshape(*z.shape[:2], -1)))
    return Traversal(latents, tuple(map(trained.latent_name, latents)), kl[latents], mean, sd, tuple(sessions))


def _measured(trained: Trained) -> tuple[np.ndarray, ...]:
    """Return mean, sd and KL (D,) of the latents, and those that are active."""
    from raycal.models import family
    from raycal.training.measure_latents import ACTIVE

    name, measured = trained.config.model.family, trained.arrays.get("latents")
    if (gives := family(trained.config).gives) != "latents":
        raise UserError(f"a {name} gives {gives}, no latents to go along; give a run of --space vae")
    if not measured:
        raise UserError("an older raycal wrote this model, without the mean and sd of its latents; train again")
    mean, sd, moved, kl = (np.asarray(x) for x in (*(measured[k] for k in ("mean", "sd", "moved")),
                                                   trained.arrays["kl"]))
    active = np.flatnonzero(moved > ACTIVE)
    if not len(active):
        raise UserError(f"no latent of this model moves (the largest KL divergence is {kl.max():.2g} nats a frame): "
                        "its posterior collapsed; train with a lower kl.weight, a longer kl.warmup, or kl.free_bits "
                        "above 0")
    return mean, sd, kl, active


def write(folder: pathlib.Path, trained: Trained, most: int = MOST) -> list[pathlib.Path]:
    """Write figures/traverse-*.png and figures/traverse.npz below a folder; return the paths, the .npz last.

    The .npz holds latents, names, kl (M,), values (V,) in sd, mean and sd (D,), sessions (S,) their ids, and traces_0,
    traces_1 ... (M, V, N) of each session in its own unit.
    """
    from raycal.report import pictures, traversals

    found = traverse(trained, most)
    paths = pictures.write(folder, traversals.draw(found, VALUES))
    arrays = {f"traces_{i}": s.traces for i, s in enumerate(found.sessions)}
    paths.append(folder / pictures.FOLDER / "traverse.npz")
    with open(paths[-1], "wb") as f:
        np.savez(f, latents=found.latents, names=np.array(found.names), kl=found.kl, values=VALUES, mean=found.mean,
                 sd=found.sd, sessions=np.array([s.id for s in found.sessions]), **arrays)
    return paths
