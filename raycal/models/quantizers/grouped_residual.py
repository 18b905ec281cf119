"""Grouped residual quantization: the latent is cut into groups, each quantized in levels (arXiv 2305.02765).

Level r quantizes what the levels before it left over; the code is their sum. One group and one level
is the VQ with moving averages.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from raycal.models.quantizers.base import Quantized, Quantizer, unit
from raycal.models.quantizers.codebook import Codebook

if TYPE_CHECKING:
    from raycal.config import Quantizer as Settings


class GroupedResidual(Quantizer):
    """G groups x R levels of codebooks of K codes of dimension D / G, each moved by its averages.

    loss = commitment * mean over levels of |z - sg(q_1 + .. + q_r)|^2, averaged over elements.
    """

    def __init__(self, settings: Settings, groups: int, levels: int):
        super().__init__(settings)
        self.groups = groups
        self.levels = nn.ModuleList(Codebook(groups, settings.codebook_size, settings.code_dim // groups, settings)
                                    for _ in range(levels))

    def quantize(self, z: Tensor, session: Tensor) -> Quantized:
        x = self._cut(z)
        codes, columns, rest = [], [], x.detach()
        for level in self.levels:
            found, indices = level(rest)
            rest = rest - found
            codes.append(codes[-1] + found if codes else found)  # the sum up to this level
            columns.append(indices)
        loss = self.commitment * (x - torch.stack(codes)).square().mean()
        indices = torch.stack(columns, 1).flatten(0, 1).T.reshape(*z.shape[:2], -1)
        return Quantized(self._join(self.passed(x, codes[-1]), z.shape), indices, loss)

    def lookup(self, indices: Tensor) -> Tensor:
        columns = indices.flatten(0, 1).T.unflatten(0, (self.groups, -1))  # (G, R, M)
        codes = sum(level.lookup(columns[:, r]) for r, level in enumerate(self.levels))
        return self._join(codes, indices.shape)

    def _cut(self, z: Tensor) -> Tensor:
        """Return (G, M, d) of (B, L, D), directions by the cosine."""
        parts = z.reshape(-1, self.groups, z.shape[-1] // self.groups).transpose(0, 1).contiguous()
        return unit(parts) if self.cosine else parts

    def _join(self, codes: Tensor, shape: torch.Size) -> Tensor:
        """Return (B, L, D) of (G, M, d)."""
        return codes.transpose(0, 1).reshape(*shape[:2], -1)


def build(settings: Settings) -> GroupedResidual:
    return GroupedResidual(settings, settings.groups, settings.levels)
