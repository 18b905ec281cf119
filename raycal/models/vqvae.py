"""The 1-D VQ-VAE of calcium traces: convolutions over time, a quantizer, a mirror decoder, a behaviour head.

Neurons of a session enter and leave by a 1x1 convolution of its own; the core between is shared. Decoder and
behaviour head see the quantized vectors and nothing else. Shapes: b windows, N neurons, K behaviours, L frames,
S = ceil(L / downsample) code steps, D code dimension, C codebooks.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from raycal.models import FAMILIES, bits_per_second, quantizers
from raycal.models.layers import FrameHead, ReadIn, ReadOut, doubling, halving, pad_to, residuals

if TYPE_CHECKING:
    from raycal.config import Config, Model
    from raycal.sessions.windows import Part

__all__ = ["OBJECTIVES", "VQVAE", "Output", "bits_per_second", "build"]

OBJECTIVES = FAMILIES["vqvae"].objectives


class Output(NamedTuple):
    """What the model makes of one Part."""

    reconstruction: Tensor  # (b, N, L)
    behavior: Tensor  # (b, K, L)
    indices: Tensor  # (b, S, C)


class VQVAE(nn.Module):
    """A model for sessions of these neuron counts; Part.session counts into n_neurons."""

    def __init__(self, config: Config, n_neurons: Sequence[int], n_behaviors: int):
        super().__init__()
        model, dim = config.model, config.quantizer.code_dim
        shared = config.sessions.mode == "pad"
        self.downsample, self.n_behaviors, self.behavior_weight = model.downsample, n_behaviors, config.loss.behavior
        self.codes_per_window = math.ceil(config.windows.length / model.downsample)
        self.read_in = ReadIn(n_neurons, model.width, shared)
        self.encoder = _encoder(model, dim)
        self.quantizer = quantizers.build(config.quantizer)
        self.decoder = _decoder(model, dim)
        self.read_out = ReadOut(n_neurons, model.width, shared)
        self.behavior_head = FrameHead(dim, model.behavior_width, n_behaviors, model.downsample,
                                       model.activation, model.dropout) if n_behaviors else None

    def forward(self, batch: Sequence[Part]) -> tuple[list[Output], Tensor]:
        """Return an Output a Part and the quantizer's loss; the core sees all Parts at once."""
        length, sizes = batch[0].traces.shape[-1], [len(p.traces) for p in batch]
        z = self._core(torch.cat([self.read_in(p.traces, p.session, p.valid) for p in batch]))
        quantized, indices, loss = self.quantizer(z)
        frames = self._frames(quantized, length).split(sizes)
        behavior = self.decode_behavior(quantized, length).split(sizes)
        outputs = [Output(self.read_out(f, p.session), k, i)
                   for p, f, k, i in zip(batch, frames, behavior, indices.split(sizes))]
        return outputs, loss

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
        return self.quantizer(self.encode(traces, session, valid)).indices

    def decode(self, quantized: Tensor, session: int, length: int) -> Tensor:
        """Return traces (b, N, length) of quantized vectors (b, S, D)."""
        return self.read_out(self._frames(quantized, length), session)

    def decode_behavior(self, quantized: Tensor, length: int) -> Tensor:
        """Return behaviour (b, K, length) of quantized vectors (b, S, D)."""
        if self.behavior_head is None:
            return quantized.new_zeros(len(quantized), 0, length)
        return self.behavior_head(quantized.mT)[..., :length]

    def _core(self, x: Tensor) -> Tensor:
        return self.encoder(pad_to(x, self.downsample)).mT

    def _frames(self, quantized: Tensor, length: int) -> Tensor:
        return self.decoder(quantized.mT)[..., :length]


def build(config: Config, n_neurons: Sequence[int], n_behaviors: int) -> VQVAE:
    return VQVAE(config, n_neurons, n_behaviors)


# Only the residual blocks bend: without them encoder and decoder are a linear transform code, the classical coder
# that a stack of rectified convolutions loses to on recordings of a few hundred frames.
def _encoder(model: Model, dim: int) -> nn.Sequential:
    width = model.width
    return nn.Sequential(nn.Conv1d(width, width, 5, padding=2), *halving(width, model.downsample),
                         *_residuals(model), nn.Conv1d(width, dim, 1))


def _decoder(model: Model, dim: int) -> nn.Sequential:
    width = model.width
    return nn.Sequential(nn.Conv1d(dim, width, 1), *_residuals(model), *doubling(width, model.downsample),
                         nn.Conv1d(width, width, 5, padding=2))


def _residuals(model: Model) -> list[nn.Module]:
    return residuals(model.residual_blocks, model.width, model.residual_width, model.activation, model.dropout)


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
