"""SimVQ: frozen codes behind one learned linear map (Zhu et al. 2024, arXiv 2411.02038).

Every step moves the map and with it all codes, so none dies and none has to be revived.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from raycal.models.quantizers.codebook import Codebook
from raycal.models.quantizers.gradient import GradientVQ

if TYPE_CHECKING:
    from raycal.config import Quantizer as Settings


class MappedCodebook(Codebook):
    """Codes W e: e stays where the first batch put it, W begins as the identity.

    The paper draws e from a normal distribution and W at random, far from the latents; quantizer.init
    "normal" is that at their mean and spread.
    """

    def __init__(self, size: int, dim: int, settings: Settings):
        super().__init__(1, size, dim, settings)
        self.map = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.map.weight)

    def vectors(self) -> Tensor:
        return self._compared(self.map(self.codes))

    @torch.no_grad()
    def _follow(self, x: Tensor, indices: Tensor) -> None:
        self.steps += 1


def build(settings: Settings) -> GradientVQ:
    """Return gradient VQ over mapped codes: the loss is the same; decay and revive are not read."""
    return GradientVQ(settings, MappedCodebook(settings.codebook_size, settings.code_dim, settings))
