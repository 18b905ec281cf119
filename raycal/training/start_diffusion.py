"""Where a generative model starts from: the best linear denoiser of each session's train part, as its base.

A network that begins at 0 beside it begins as a generator of Gaussian windows with the variances of the train part;
what it learns is what a network adds.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from raycal.metrics.blocks import cut, offsets, standardised

if TYPE_CHECKING:
    from raycal.config import Config
    from raycal.models.traceflow import TraceFlow

VALUES = 1 << 22  # of train windows of a session that the denoiser is fitted to


@torch.no_grad()
def start(model: TraceFlow, dataset: Any, config: Config) -> None:
    """Fit the model's base to train windows; draws nothing at random. Without diffusion.base nothing is set."""
    if not config.diffusion.base:
        return
    length = config.windows.length
    for session, recording in enumerate(dataset.recordings):
        x, pieces = standardised(recording, "train", config.sessions.normalize)
        windows = cut(x, offsets(pieces, length, max(2, VALUES // (length * x.shape[1]))), length)
        model.network.base.fit(session, torch.from_numpy(windows).mT)
