"""A trained model brought to neurons that it has never seen: what is a neuron's own is fitted, all else is held.

    other = raycal.load("runs/grvq-1/best").adapt(session)
    codes = other.codes(session)

The new session is split, scaled and cut into windows as the model's own were. Of a model with codes its train blocks
fit a read-in and a read-out, its validation blocks choose the epoch. Encoder, codebooks, decoder and behaviour head keep
every bit, so that a code means to the rest of the model what it meant before. Of a VAE `embed` fits the identities,
which decide all that is a neuron's own: how it is pooled, its loading, gain and bias.
"""
from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from raycal.config import Config
from raycal.errors import UserError, nearest
from raycal.models.layers import PerSession
from raycal.models.neurons import Identities
from raycal.sessions.behavior import having, observed, source_names
from raycal.sessions.prepare import Dataset, prepare
from raycal.sessions.select import BY_BEHAVIOR
from raycal.training import checkpoint
from raycal.training.loop import Epoch, train

if TYPE_CHECKING:
    import torch
    from torch import nn

    from raycal.inference import Trained
    from raycal.sessions.session import Session

EPOCHS, PATIENCE = 20, 5  # epochs at most, and without a better validation NMSE
SETTABLE = tuple(f"sessions.{name}" for name in ("rate", "nan", "split", "rounds", "gap", "select", "neurons"))
# a few small steps: an identity is many numbers for the few frames of a neuron, and factor analysis is near
EMBEDDING = {"training.epochs": 5, "training.patience": 0, "search.objective": "cosmoothing_r2", "optimizer.lr": 3e-4,
             "vae.masking": 0.4, "kl.schedule": "constant", "kl.weight": 1.0, "kl.free_bits": 0.0,
             "training.device": "cpu"}
# two layers need no workers and no mixed precision; NMSE is what read-in and read-out are for
FIXED = {"search.objective": "nmse", "training.patience": PATIENCE, "training.workers": 1, "training.gpus": 0.0,
         "training.precision": "float32"}


def configure(trained: Trained, epochs: int | None = None, settings: Mapping[str, Any] | None = None,
              device: str = "auto") -> Config:
    """Return the model's configuration for an adaptation; settings may be those of SETTABLE.

    Raise UserError for another setting, and where all sessions of the model share read-in and read-out.
    """
    if not trained.coded:
        raise UserError(f"--adapt: of a {trained.config.model.family} no read-in can be fitted for another recording; "
                        "train on it")
    if trained.config.sessions.mode == "pad":
        raise UserError("--adapt: a model of sessions.mode=pad has one read-in and one read-out that its sessions "
                        "share, so none can be fitted for a new one alone; train with --set sessions.mode=separate")
    for name in set(settings or {}) - set(SETTABLE):
        raise UserError(f"{name}: is settled by the model{nearest(name, SETTABLE)} (of a new recording may be set: "
                        f"{', '.join(SETTABLE)})")
    names = trained.behavior_names
    wanted = list(source_names(names) if trained.config.sessions.features else names)
    return trained.config.replace({**FIXED, "sessions.behavior": wanted, "training.epochs": epochs or EPOCHS,
                                   "training.device": device, **(settings or {})})


def prepared(config: Config, session: Session, log: Callable[[str], None] = print) -> Dataset:
    """Return the session as the model's training would see it; what is left out is said through log.

    A behaviour of the model that the session lacks is NaN: it is decoded in "sd" of training, and nothing is fitted to
    it. Raise UserError where the session cannot be split, has NaN that sessions.nan refuses, or states no rate.
    """
    seen = having(session, config.sessions.behavior)
    if config.sessions.select in BY_BEHAVIOR and not observed(seen, config.sessions.behavior):
        raise UserError(f"session {session.id}: has none of the behaviours {', '.join(config.sessions.behavior)}, by "
                        f"which sessions.select={config.sessions.select} chooses neurons; use --set "
                        "sessions.select=variance")
    dataset = prepare([seen], config.sessions, config.windows.length, log=log)
    recording = dataclasses.replace(dataset.recordings[0], fingerprint=session.fingerprint)  # as it was read
    return dataclasses.replace(dataset, recordings=(recording,))


def fit(trained: Trained, config: Config, dataset: Dataset,
        on_epoch: Callable[[Epoch], None] | None = None) -> dict[str, Any]:
    """Fit read-in and read-out; return a state as checkpoint.export gives it, of a model of this session alone.

    Raise UserError where no epoch gave a finite NMSE.
    """
    final: dict[str, Any] = {}
    for epoch in train(config, dataset, save=final.update, held=shared_weights(trained.model)):
        if on_epoch:
            on_epoch(epoch)
    if not final["best"]["epoch"]:
        raise UserError(f"session {dataset.recordings[0].id!r}: its adaptation {final['ended_by']} in the first epoch; "
                        "look at the recording with raycal sessions show")
    return {**checkpoint.export(final), "adapted_from": {"fingerprint": trained.fingerprint,
                                                         "sessions": list(trained.sessions)}}


def embed(trained: Trained, dataset: Dataset, epochs: int = EMBEDDING["training.epochs"]) -> nn.Module:
    """Return the model of a VAE for another session, whose identities are fitted on its train blocks alone.

    A neuron whose label was in the training begins with the identity it has there, others with factor analysis of the
    session, turned to the axes of the former. Every epoch counts, and the last one's weights are taken, so that the
    dataset needs no validation part.
    """
    from raycal import models
    from raycal.training.start_vae import factors, identify

    config = trained.config.replace({**FIXED, **EMBEDDING, "training.epochs": max(1, epochs)})
    final: dict[str, Any] = {}
    n, known = factors(config, [len(s["kept"]) for s in trained.data["sessions"]]), _known(trained)
    start, shared = functools.partial(identify, n=n, known=known), shared_weights(trained.model)
    model = models.build(config, dataset.n_neurons, len(dataset.behavior_names), dataset.neurons)
    model.load_state_dict(shared, strict=False)
    start(model, dataset, config)
    for _ in train(config, dataset, held=shared, until=epochs, start=start, save=final.update) if epochs else ():
        pass
    if final.get("best", {}).get("epoch"):  # else there was none, or its loss was not finite
        model.load_state_dict(final["best"]["model"])
    return model.eval()


def _known(trained: Trained) -> dict[str, torch.Tensor]:
    """Return the identity (E,) of every neuron with a label that the model was trained on."""
    identities, found = trained.model.identities, {}
    for session, entry in enumerate(trained.data["sessions"]):
        for label, row in zip(entry["neurons"], identities(session).detach().cpu(), strict=True):
            if label:
                found.setdefault(label, row)
    return found


def shared_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights and codebooks that no session has to itself, by name."""
    own = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, (PerSession, Identities)))
    own += tuple(f"quantizer.{name}" for name in (model.quantizer.per_session if hasattr(model, "quantizer") else ()))
    return {name: value for name, value in model.state_dict().items() if not name.startswith(own)}
