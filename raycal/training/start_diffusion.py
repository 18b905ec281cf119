"""Where a generative model starts from: the best linear denoiser of each session's train part, as its base.

A network that begins at 0 beside it begins as a generator of Gaussian windows with the variances of the train part;
what it learns is what a network adds.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from raycal.metrics.blocks import cut, offsets, standardised
from raycal.training import first_stage

if TYPE_CHECKING:
    from raycal.config import Config
    from raycal.models.traceflow import TraceFlow

VALUES = 1 << 22  # of train windows of a session that the denoiser is fitted to


@torch.no_grad()
def start(model: TraceFlow, dataset: Any, config: Config) -> None:
    """Fill the first stage, where there is one, and fit the base to train windows; draws nothing at random.

    Raise UserError where the first stage was trained on other data.
    """
    base, length = model.network.base, config.windows.length
    if hasattr(model, "first"):
        first_stage.check(config, dataset.fingerprint)
        first_stage.fill(model.first, config)
        latents = model.first.scale([_windows(r, length, config) for r in dataset.recordings])
        if base is not None:
            base.fit(0, torch.cat(latents))
    elif base is not None:
        for session, recording in enumerate(dataset.recordings):
            base.fit(session, _windows(recording, length, config))


def _windows(recording: Any, length: int, config: Config) -> torch.Tensor:
    """Return train windows (b, N, L) in time order, as the model is trained on them."""
    x, pieces = standardised(recording, "train", config.sessions.normalize)
    return torch.from_numpy(cut(x, offsets(pieces, length, max(2, VALUES // (length * x.shape[1]))), length)).mT
