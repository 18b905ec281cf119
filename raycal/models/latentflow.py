"""A generative model in the latents of a trained VQ-VAE or VAE: what is drawn are latents, which the first decodes.

The first stage is held as it was trained, and its weights are the model's own: a saved model needs no other file.
Latents of all sessions are alike, so that there is one read-in for all; they are brought to mean 0 and variance 1.
Shapes: b windows, N neurons, K behaviours, L frames, S steps of the first stage, D latents.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from raycal.models.denoiser import Denoiser
from raycal.models.flow.objective import Objective
from raycal.models.layers import pad_to
from raycal.models.traceflow import Drawing, TraceFlow

if TYPE_CHECKING:
    from raycal.sessions.windows import Part


class FirstStage(nn.Module):
    """Traces (b, N, L) to latents (b, D, S) of mean 0 and variance 1, and back; it never trains."""

    def __init__(self, description: Mapping[str, Any]):
        """description: "config" as Config.flat has it, "n_neurons", "n_behaviors" and "neurons" of its sessions."""
        from raycal import models
        from raycal.config import Config

        super().__init__()
        config = Config().replace(description["config"])
        self.description, self.coded = dict(description), models.family(config).coded
        self.model = models.build(config, description["n_neurons"], description["n_behaviors"], description["neurons"])
        self.model.requires_grad_(False).eval()
        self.downsample = config.model.downsample if self.coded else 1
        self.dim = config.quantizer.code_dim if self.coded else config.vae.latents + config.vae.window_latents
        self.register_buffer("center", torch.zeros(self.dim, 1))
        self.register_buffer("spread", torch.ones(self.dim, 1))

    def train(self, mode: bool = True) -> FirstStage:
        """Keep the first stage in eval mode, whatever is trained around it."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, traces: Tensor, session: int, valid: Tensor | None = None) -> Tensor:
        return (self.model.encode(traces, session, valid).mT.float() - self.center) / self.spread

    @torch.no_grad()
    def decode(self, latents: Tensor, session: int, length: int) -> Tensor:
        """Return traces (b, N, length); latents of a VQ-VAE go through its codes."""
        z = (latents * self.spread + self.center).mT
        if not self.coded:
            return self.model.decode(z, session)[..., :length]
        codes = self.model.quantizer(z, torch.full((len(z),), session, device=z.device))
        return self.model.decode(codes.quantized, session, length)

    @torch.no_grad()
    def scale(self, traces: Sequence[Tensor]) -> list[Tensor]:
        """Set center and spread by train windows of every session, in their order, and return their latents."""
        raw = [self.encode(x, session) * self.spread + self.center for session, x in enumerate(traces)]
        frames = torch.cat([z.transpose(0, 1).flatten(1) for z in raw], 1)
        self.center.copy_(frames.mean(1, keepdim=True))
        self.spread.copy_(frames.std(1, keepdim=True).clamp_min(1e-3))
        return [(z - self.center) / self.spread for z in raw]


class LatentFlow(TraceFlow):
    """A TraceFlow of latents; to who trains and judges it, one of traces."""

    def __init__(self, first: FirstStage, network: Denoiser, objective: Objective, guidance_dropout: float = 0.1):
        super().__init__(network, objective, guidance_dropout)
        self.first = first

    def loss(self, batch: Sequence[Part]) -> tuple[Tensor, dict[str, Tensor]]:
        return super().loss([self._latent(p) for p in batch])

    def held_out_loss(self, parts: Sequence[Part], levels: int = 16, seed: int = 0) -> float:
        """Return `objective.held_out_loss` of the latents, which compares with that of no other first stage."""
        return super().held_out_loss([self._latent(p) for p in parts], levels, seed)

    @torch.no_grad()
    def draw(self, n: int, length: int, session: int = 0, behavior: Tensor | None = None, how: Drawing = Drawing(),
             seed: int = 0) -> Tensor:
        """Return n new windows (n, N, length) of a session, as TraceFlow.draw does."""
        steps = -(-length // self.first.downsample)
        told = None if behavior is None else self._steps(behavior)
        return self.first.decode(super().draw(n, steps, 0, told, how, seed), session, length)

    def _latent(self, part: Part) -> Part:
        return part._replace(session=0, traces=self.first.encode(part.traces, part.session, part.valid), valid=None,
                             behavior=self._steps(part.behavior))

    def _steps(self, behavior: Tensor) -> Tensor:
        """Return behaviour (b, K, L) as means over the frames of each step, (b, K, S)."""
        step = self.first.downsample
        if step == 1 or not behavior.shape[1]:
            return behavior[..., ::step]
        return pad_to(behavior, step).unflatten(-1, (-1, step)).nanmean(-1)
