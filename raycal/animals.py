"""Whole recordings held out of a training: how far a model of other animals holds for one that it has never seen.

The weights that neurons share are those of the other animals. The identities of a held-out animal's neurons are fitted
to its train blocks (raycal.adaptation.embed), as are ridge, PCA and factor analysis beside them; judged is co-smoothing
on its validation blocks, and on its test blocks when these are opened. Every function takes a Dataset of held-out
recordings and returns what it finds by their id.
"""
from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raycal.metrics import cosmoothing

if TYPE_CHECKING:
    from raycal.config import Config
    from raycal.sessions.prepare import Dataset
    from raycal.sessions.session import Session


def prepared(sessions: Sequence[Session], config: Config,
             log: Callable[[str], None] = print) -> tuple[Dataset, Dataset | None]:
    """Return the datasets of the sessions that train a model and of those held out, None without any."""
    from raycal.sessions.agreement import agree, held_out, sketch, some
    from raycal.sessions.prepare import assemble, record

    settings = config.sessions
    out = held_out([s.id for s in sessions], settings)
    ordered = [*(s for s in sessions if s.id not in out), *(s for s in sessions if s.id in out)]
    agreement = agree([sketch(s, settings) for s in ordered], settings, config.windows.length, log=log)
    made = [record(ordered[i], settings, agreement, i, log=log) for i in range(len(agreement.splits))]
    n = len(made) - len(out)
    if not out:
        return assemble(agreement, made), None
    log(said(out))
    return assemble(some(agreement, slice(n)), made[:n]), assemble(some(agreement, slice(n, None)), made[n:])


def said(ids: Sequence[str]) -> str:
    """Say which recordings are held out; sessions.held_out chooses others."""
    return (f"held out     {', '.join(ids)}: only identities are fitted to it, on its train blocks (others: --set "
            "sessions.held_out=[ID])")


def of_model(dataset: Dataset, model: bytes, part: str = "validation") -> dict[str, float]:
    """Return the co-smoothing R2 of an exported model, which never saw the recordings."""
    from raycal.adaptation import embed
    from raycal.inference import restored_model
    from raycal.training import checkpoint
    from raycal.training.evaluate import PREFIX, evaluate

    trained = restored_model(checkpoint.load(io.BytesIO(model)))
    return {id: evaluate(embed(trained, one), one, trained.config, part)[f"{PREFIX[part]}/cosmoothing_r2"]
            for id, one in _each(dataset)}


def best_sizes(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Return the latents at which PCA and factor analysis do best on validation blocks."""
    return {id: cosmoothing.best_sizes(one) for id, one in _each(dataset)}


def of_classical(dataset: Dataset, latents: int, part: str = "validation",
                 sizes: Mapping[str, Mapping[str, int]] | None = None) -> dict[str, dict[str, float]]:
    """Return the co-smoothing R2 of ridge, PCA and factor analysis; sizes: as `best_sizes`, chosen here by default."""
    sizes = best_sizes(dataset) if sizes is None else sizes
    return {id: cosmoothing.baselines(one, latents, part, sizes[id]) for id, one in _each(dataset)}


def _each(dataset: Dataset) -> Iterator[tuple[str, Any]]:
    """Yield the id of each recording and a dataset of it alone."""
    return ((recording.id, dataclasses.replace(dataset, recordings=(recording,))) for recording in dataset.recordings)
