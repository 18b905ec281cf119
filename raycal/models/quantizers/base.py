"""What every quantizer is: latents in, codes out, gradient passed once."""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycal.models import quantizers

if TYPE_CHECKING:
    from raycal.config import Quantizer as Settings

_EPSILON = 1e-6  # least length that a direction is taken from


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
        self.cosine = settings.distance == "cosine"
        self.passed = _PASSED[settings.gradient]

    def forward(self, z: Tensor) -> Quantized:
        """Quantize z (B, L, D) of any float type; codes are found and moved in float32."""
        with torch.autocast(z.device.type, enabled=False):  # a bf16 distance picks wrong codes
            quantized, indices, loss = self.quantize(z.float())
            return Quantized(quantized.to(z.dtype), indices, loss)

    def quantize(self, z: Tensor) -> Quantized:
        """Return exactly what `lookup` gives of the indices, with its gradient to z: `passed` once, to the sum."""
        raise NotImplementedError

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the vectors (B, L, D) that the indices (B, L, C) stand for."""
        raise NotImplementedError


def straight_through(z: Tensor, codes: Tensor) -> Tensor:
    """Return exactly `codes`, with dq/dz = 1 (Bengio et al. 2013, arXiv 1308.3432)."""
    return codes.detach() + (z - z.detach())


def rotated(z: Tensor, codes: Tensor) -> Tensor:
    """Return exactly `codes`, with dq/dz the rotation and scaling that take z (..., d) to its code (arXiv 2410.06424).

    With u, q the directions of z and its code and w that of u + q: R = 1 - 2 w w' + 2 q u' (section 4.2).
    """
    with torch.no_grad():
        length = z.norm(dim=-1, keepdim=True).clamp_min(_EPSILON)
        reach = codes.norm(dim=-1, keepdim=True).clamp_min(_EPSILON)
        u, q, scale = z / length, codes / reach, reach / length
        w = unit(u + q)
    turned = z - 2 * w * (w * z).sum(-1, keepdim=True) + 2 * q * (u * z).sum(-1, keepdim=True)
    return straight_through(scale * turned, codes)


def unit(x: Tensor) -> Tensor:
    """Return the directions of x (..., d), for codes compared by their cosine (ViT-VQGAN, arXiv 2110.04627)."""
    return F.normalize(x, dim=-1, eps=_EPSILON)


_PASSED = {"straight_through": straight_through, "rotation": rotated}
