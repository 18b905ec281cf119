"""A trained model brought to neurons that it has never seen: a read-in and a read-out are fitted, all else is held.

    other = raycal.load("runs/grvq-1/best").adapt(session)
    codes = other.codes(session)

The new session is split, scaled and cut into windows as the model's own were. Its train blocks fit the two layers, its
validation blocks choose the epoch. Encoder, codebooks, decoder and behaviour head keep every bit, so that a code means
to the rest of the model what it meant before.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from raycal.config import Config
from raycal.errors import UserError, nearest
from raycal.models.layers import PerSession
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


def shared_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights and codebooks that no session has to itself, by name."""
    own = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, PerSession))
    own += tuple(f"quantizer.{name}" for name in model.quantizer.per_session)
    return {name: value for name, value in model.state_dict().items() if not name.startswith(own)}
