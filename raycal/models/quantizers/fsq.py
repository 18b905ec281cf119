"""Finite scalar quantization: a few bounded numbers, each rounded (Mentzer et al. 2023, arXiv 2309.15505).

No codebook is learned, none can die, and nothing pulls codes and latents together. Shapes: n levels of L values
each; K = their product, chosen from quantizer.codebook_size by `scalar_levels`.
"""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from raycal.models.quantizers import scalar_levels
from raycal.models.quantizers.base import Quantized, Quantizer, straight_through

if TYPE_CHECKING:
    from raycal.config import Quantizer as Settings

_MARGIN = 1e-3  # the bound reaches this share beyond the outer levels, which tanh itself never would


class FSQ(Quantizer):
    """A linear map to n numbers, tanh and rounding to L values each, a linear map back; no map where n = D.

    The gradient passes the rounding as if it were not there, and tanh and the maps as it should.
    """

    def __init__(self, settings: Settings):
        super().__init__(settings)
        sizes = scalar_levels(settings.codebook_size)
        self.project_in, self.project_out = projections(settings.code_dim, len(sizes))
        levels = torch.tensor(sizes)
        reach = (levels - 1) * (1 + _MARGIN) / 2
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)  # an even number of levels has none at 0: -2, -1, 0, 1
        basis = torch.tensor([math.prod(sizes[:i]) for i in range(len(sizes))])
        parts = {"levels": levels, "middle": levels // 2, "basis": basis, "reach": reach, "offset": offset,
                 "shift": torch.atanh(offset / reach)}  # a latent of 0 stays at 0
        for name, value in parts.items():
            self.register_buffer(name, value, persistent=False)

    def quantize(self, z: Tensor, session: Tensor) -> Quantized:
        bounded = torch.tanh(self.project_in(z) + self.shift) * self.reach - self.offset
        rounded = straight_through(bounded, bounded.round())
        digits = rounded.detach().long() + self.middle
        digits = torch.minimum(digits.clamp_min(0), self.levels - 1)  # NaN has no digit, and must give a code
        indices = (digits * self.basis).sum(-1, keepdim=True)
        return Quantized(self.project_out(rounded / self.middle), indices, z.new_zeros(()))

    def lookup(self, indices: Tensor) -> Tensor:
        digits = indices // self.basis % self.levels
        return self.project_out((digits - self.middle) / self.middle)


def projections(dim: int, inner: int) -> tuple[nn.Module, nn.Module]:
    """Return the maps from D to n numbers and back; none where they are as many."""
    if dim == inner:
        return nn.Identity(), nn.Identity()
    return nn.Linear(dim, inner), nn.Linear(inner, dim)


def build(settings: Settings) -> FSQ:
    return FSQ(settings)
