"""A generative model of windows of traces: a denoiser, what it is trained for, and how windows are drawn from it.

Shapes: b windows, N neurons, K behaviours, L frames.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from raycal.errors import UserError
from raycal.models.denoiser import Denoiser
from raycal.models.flow import samplers
from raycal.models.flow.guidance import dropped, guided, thresholded
from raycal.models.flow.objective import Objective, held_out_loss

if TYPE_CHECKING:
    from raycal.sessions.windows import Part

BATCH = 256  # windows that are drawn at a time


class Drawing(NamedTuple):
    """How windows are drawn; a comparison of models keeps it fixed."""

    sampler: str = "heun"
    evaluations: int = 32  # of the network, for each window
    guidance: float = 1.0  # 0: behaviour is ignored, 1: followed, more: exaggerated
    threshold: str = "none"  # "static": the data is clipped; "dynamic": shrunk where it overshoots
    low: Tensor | float = 0.0  # what it is clipped at, numbers or (N, 1); dynamic thresholds are +-high
    high: Tensor | float = 0.0


class TraceFlow(nn.Module):
    """guidance_dropout: share of the training windows whose behaviour is hidden, for guidance to have both."""

    def __init__(self, network: Denoiser, objective: Objective, guidance_dropout: float = 0.1):
        super().__init__()
        if not 0.0 <= guidance_dropout <= 1.0:
            raise UserError(f"guidance_dropout={guidance_dropout}: must be from 0 to 1")
        self.network, self.objective, self.guidance_dropout = network, objective, guidance_dropout

    def loss(self, batch: Sequence[Part]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the training loss and its terms, detached: "flow", the squared error before any weighting.

        Every window counts the same, whatever its session and however much of it was measured.
        """
        traces, sizes = [p.traces for p in batch], [len(p.traces) for p in batch]
        t, noise = zip(*(self.objective.draw(x) for x in traces))
        x_t = [self.objective.process.noised(x, e, at) for x, e, at in zip(traces, noise, t)]
        behavior = [dropped(p.behavior, self.guidance_dropout) for p in batch]
        answers = self.network.joint(x_t, t, behavior, [p.session for p in batch], [p.valid for p in batch])
        found = [self.objective(a, p.traces, e, at, p.valid) for a, p, e, at in zip(answers, batch, noise, t)]
        weighted, plain = (sum(e.sum() for e in errors) / sum(sizes) for errors in zip(*found))
        return weighted, {"flow": plain.detach()}

    def held_out_loss(self, parts: Sequence[Part], levels: int = 16, seed: int = 0) -> float:
        """Return `objective.held_out_loss` of all windows of the parts, each value counting the same."""
        losses = [held_out_loss(self.network, self.objective.process, p.traces, p.behavior, p.session, p.valid, levels,
                                seed) for p in parts]
        sizes = [p.traces.numel() if p.valid is None else int(p.valid.sum()) for p in parts]
        return sum(loss * n for loss, n in zip(losses, sizes)) / sum(sizes)

    @torch.no_grad()
    def draw(self, n: int, length: int, session: int = 0, behavior: Tensor | None = None, how: Drawing = Drawing(),
             seed: int = 0) -> Tensor:
        """Return n new windows (n, N, length) of a session, in the normalised unit of training.

        behavior: (n, K, length) in train-sd units, NaN = unknown; None: whatever goes with the windows. The same seed
        gives the same windows on any device, up to rounding. Raise UserError for settings that no sampler has.
        """
        samplers.check(how.sampler, how.evaluations)
        process, device = self.objective.process, next(self.parameters()).device
        shape = (n, self.network.read_in.n_neurons[session], length)
        noise = self.objective.prior.draw(shape, torch.Generator().manual_seed(seed)).to(device)
        training, windows = self.training, []
        self.eval()
        try:
            for rows in torch.arange(n, device=device).split(BATCH):
                given = None if behavior is None else behavior.to(device)[rows]
                estimate = guided(self.network, process, given, how.guidance, session)
                estimate = thresholded(estimate, process, how.threshold, how.low, how.high)
                windows.append(samplers.sample(how.sampler, estimate, process, noise[rows], how.evaluations))
        finally:
            self.train(training)
        return torch.cat(windows)
