"""What every quantizer is: latents in, codes out, gradient straight through once."""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from raycal.models import quantizers

if TYPE_CHECKING:
    from raycal.config import Quantizer as Settings


class Quantized(NamedTuple):
    quantized: Tensor  # (B, L, D)
    indices: Tensor  # (B, L, C) int64, a column a codebook: group-major, then level
    loss: Tensor  # scalar: what pulls latents and codes together, weighted


class Quantizer(nn.Module):
    """Base of all quantizers; a subclass defines `quantize` and `lookup` on float32."""

    def __init__(self, settings: Settings):
        super().__init__()
        self.codebook_sizes = quantizers.codebook_sizes(settings)
        self.bits_per_code = quantizers.bits_per_code(settings)
        self.commitment = settings.commitment

    def forward(self, z: Tensor) -> Quantized:
        """Quantize z (B, L, D) of any float type; codes are found and moved in float32."""
        with torch.autocast(z.device.type, enabled=False):  # a bf16 distance picks wrong codes
            latents = z.float()
            codes, indices, loss = self.quantize(latents)
            return Quantized(straight_through(latents, codes).to(z.dtype), indices, loss)

    def quantize(self, z: Tensor) -> Quantized:
        """Return the codes themselves, without a gradient to z; the base passes it, once for all levels."""
        raise NotImplementedError

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the vectors (B, L, D) that the indices (B, L, C) stand for."""
        raise NotImplementedError


def straight_through(z: Tensor, codes: Tensor) -> Tensor:
    """Return exactly `codes`, with dq/dz = 1 (Bengio et al. 2013, arXiv 1308.3432)."""
    return codes.detach() + (z - z.detach())
