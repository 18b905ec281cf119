"""The 1-D VQ-VAE of calcium traces: convolutions over time, a quantizer, a mirror decoder, a behaviour head.

Neurons of a session enter and leave by a 1x1 convolution of its own; the core between is shared. Decoder and
behaviour head see the quantized vectors and nothing else. With model.linear a linear path runs beside encoder, decoder
and head, which begins as the classical code of the train part (raycal.training.start). Shapes: b windows, N neurons,
K behaviours, L frames, S = ceil(L / downsample) code steps, D code dimension, C codebooks.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from raycal.models import FAMILIES, bits_per_second, quantizers
from raycal.models.layers import (Beside, LinearHead, ReadIn, ReadOut, StepHead, doubling, frames_of, halving, pad_to,
                                  residuals)

if TYPE_CHECKING:
    from raycal.config import Config, Model
    from raycal.sessions.windows import Part

__all__ = ["OBJECTIVES", "VQVAE", "Output", "bits_per_second", "build"]

OBJECTIVES = FAMILIES["vqvae"].objectives
BEHAVIOR_LAGS = 5  # frames on either side that the linear head sees, as ridge on raw traces does


class Output(NamedTuple):
    """What the model makes of one Part."""

    reconstruction: Tensor  # (b, N, L)
    behavior: Tensor  # (b, K, L)
    indices: Tensor  # (b, S, C)
    bits: Tensor | None = None  # (b,) code length; None: of codebooks, whose counts tell


class VQVAE(nn.Module):
    """A model for sessions of these neuron counts; Part.session counts into n_neurons."""

    def __init__(self, config: Config, n_neurons: Sequence[int], n_behaviors: int):
        super().__init__()
        model, dim = config.model, config.quantizer.code_dim
        shared = config.sessions.mode == "pad"
        self.downsample, self.n_behaviors, self.behavior_weight = model.downsample, n_behaviors, config.loss.behavior
        self.codes_per_window = math.ceil(config.windows.length / model.downsample)
        channels = dim if model.linear else model.width
        self.read_in = ReadIn(n_neurons, channels, shared)
        self.encoder = _encoder(model, channels, dim)
        self.quantizer = quantizers.build(config.quantizer).sized(self.codes_per_window, len(n_neurons))
        self.decoder = _decoder(model, channels, dim)
        self.read_out = ReadOut(n_neurons, channels, shared)
        self.behavior_head = self.behavior_linear = None
        if n_behaviors:
            outputs = n_behaviors * model.downsample
            self.behavior_head = StepHead(dim, model.behavior_width, outputs, model.activation, model.dropout)
            if model.linear:
                lags = max(1, round(BEHAVIOR_LAGS / model.downsample))
                self.behavior_linear = LinearHead(n_neurons, dim, outputs, lags, shared)

    def forward(self, batch: Sequence[Part]) -> tuple[list[Output], Tensor]:
        """Return an Output a Part and the quantizer's loss; the core sees all Parts at once."""
        length, sizes = batch[0].traces.shape[-1], [len(p.traces) for p in batch]
        z = self._core(torch.cat([self.read_in(p.traces, p.session, p.valid) for p in batch]))
        found = self.quantizer(z, torch.cat([session_of(p) for p in batch]))
        frames = self._frames(found.quantized, length).split(sizes)
        behavior = [self.decode_behavior(q, p.session, length) for p, q in zip(batch, found.quantized.split(sizes))]
        bits = [None] * len(batch) if found.bits is None else found.bits.split(sizes)
        outputs = [Output(self.read_out(f, p.session), k, i, b)
                   for p, f, k, i, b in zip(batch, frames, behavior, found.indices.split(sizes), bits)]
        return outputs, found.loss

    def loss(self, batch: Sequence[Part]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the training loss and its terms, detached: "reconstruction", "quantizer", "behavior".

        Errors are means over what was observed, pooled over the Parts, in the units of the normalised batch.
        """
        outputs, quantizer = self(batch)
        reconstruction = _pooled([_squares(o.reconstruction, p.traces, p.valid) for o, p in zip(outputs, batch)])
        behavior = _pooled([_squares(o.behavior, p.behavior, ~p.behavior.isnan()) for o, p in zip(outputs, batch)])
        total = reconstruction + quantizer + self.behavior_weight * behavior
        terms = {"reconstruction": reconstruction, "quantizer": quantizer, "behavior": behavior}
        return total, {name: term.detach() for name, term in terms.items()}

    def encode(self, traces: Tensor, session: int, valid: Tensor | None = None) -> Tensor:
        """Return the latents (b, S, D) of traces (b, N, L) before quantization."""
        return self._core(self.read_in(traces, session, valid))

    def codes(self, traces: Tensor, session: int, valid: Tensor | None = None) -> Tensor:
        """Return the indices (b, S, C) of traces (b, N, L)."""
        z = self.encode(traces, session, valid)
        return self.quantizer(z, z.new_full((len(z),), session, dtype=torch.int64)).indices

    def steered(self, batches: Callable[[], Iterable[tuple[Sequence[Part], Tensor]]], keep: bool = False):
        """Return a context in which the quantizer spends its nominal rate on batches [([Part], kept frames (b, L))]."""
        def latents() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            for (part,), kept in batches():
                yield self.encode(part.traces, part.session, part.valid), session_of(part), kept.float().mean(1)

        return self.quantizer.steered(latents, keep)

    def decode(self, quantized: Tensor, session: int, length: int) -> Tensor:
        """Return traces (b, N, length) of quantized vectors (b, S, D)."""
        return self.read_out(self._frames(quantized, length), session)

    def decode_behavior(self, quantized: Tensor, session: int, length: int) -> Tensor:
        """Return behaviour (b, K, length) of quantized vectors (b, S, D)."""
        if self.behavior_head is None:
            return quantized.new_zeros(len(quantized), 0, length)
        steps = self.behavior_head(quantized.mT)
        if self.behavior_linear is not None:
            steps = steps + self.behavior_linear(quantized.mT, session)
        return frames_of(steps, self.downsample)[..., :length]

    def _core(self, x: Tensor) -> Tensor:
        return self.encoder(pad_to(x, self.downsample)).mT

    def _frames(self, quantized: Tensor, length: int) -> Tensor:
        return self.decoder(quantized.mT)[..., :length]


def build(config: Config, n_neurons: Sequence[int], n_behaviors: int,
          neurons: Sequence[Sequence[str]] | None = None) -> VQVAE:
    return VQVAE(config, n_neurons, n_behaviors)


# Only the residual blocks bend: without them encoder and decoder are a linear transform code, the classical coder
# that a stack of rectified convolutions loses to on recordings of a few hundred frames.
def _encoder(model: Model, channels: int, dim: int) -> nn.Module:
    width, step = model.width, model.downsample
    network = nn.Sequential(nn.Conv1d(channels, width, 5, padding=2), *halving(width, step), *_residuals(model),
                            nn.Conv1d(width, dim, 1))
    return Beside(halving(dim, step), network) if model.linear else network


def _decoder(model: Model, channels: int, dim: int) -> nn.Module:
    width, step = model.width, model.downsample
    network = nn.Sequential(nn.Conv1d(dim, width, 1), *_residuals(model), *doubling(width, step),
                            nn.Conv1d(width, channels, 5, padding=2))
    return Beside(doubling(dim, step), network) if model.linear else network


def _residuals(model: Model) -> list[nn.Module]:
    return residuals(model.residual_blocks, model.width, model.residual_width, model.activation, model.dropout)


def session_of(part: Part) -> Tensor:
    """Return the session (b,) int64 of each window."""
    return part.traces.new_full((len(part.traces),), part.session, dtype=torch.int64)


def _squares(prediction: Tensor, target: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor | int]:
    """Return the squared error over what was observed and how many values that is."""
    if observed is None:
        return (prediction.float() - target).square().sum(), target.numel()
    error = torch.where(observed, prediction.float() - target, 0.0)  # before the square: 0 * NaN is NaN
    return error.square().sum(), observed.sum()


def _pooled(parts: Sequence[tuple[Tensor, Tensor | int]]) -> Tensor:
    """Return total squared error / total count, 0 where nothing was observed."""
    total, count = (sum(values) for values in zip(*parts))
    return total / (count.clamp_min(1) if isinstance(count, Tensor) else max(count, 1))
